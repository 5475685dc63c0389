"""kubectl, and what it says in the user's terms when it fails."""

import json
import logging
import re

import sh

from deployment.manifests import dump
from failure import BadInput, Failure
from model.artefacts import signals_held

SERVER_SIDE = ("--server-side", "--force-conflicts", "--field-manager=deploy-service", "-f", "-")
KSERVE_KIND = "inferenceservices.serving.kserve.io"
KNATIVE_KINDS = ("revisions.serving.knative.dev", "routes.serving.knative.dev")

log = logging.getLogger(__name__)


class KubectlFailed(Failure):
    """kubectl ended with an error; `stderr` is what it wrote."""

    def __init__(self, message, stderr):
        super().__init__(message)
        self.stderr = stderr


class Kubectl:
    """kubectl in one namespace. Manifests go over standard input: others can see a command line."""

    def __init__(self, namespace, context=None):
        self.namespace = namespace
        self.flags = ["--request-timeout=20s"] + ([f"--context={context}"] if context else [])

    def run(self, *args, stdin=""):
        """What kubectl prints. Raises KubectlFailed, or BadInput without kubectl or context."""
        try:
            with signals_held():  # sh forks Python, which would drop a Ctrl-C that strikes inside
                running = sh.kubectl(*args, *self.flags, _in=stdin, _bg=True, _bg_exc=False, _decode_errors="replace")
            running.wait()
        except sh.CommandNotFound:
            raise BadInput("kubectl is not installed or not in PATH: https://kubernetes.io/docs/tasks/tools/") from None
        except sh.ErrorReturnCode as error:
            raise self.failure(args[0], error.stderr.decode(errors="replace").strip()) from None
        return str(running)

    def failure(self, verb, stderr):
        """What stands behind kubectl's words, as an exception."""
        line = (stderr.splitlines() or ["no message"])[-1]
        if "context" in line and "does not exist" in line:
            return BadInput(f"{line.removeprefix('error: ')}: see kubectl config get-contexts")
        plugin = re.search(r"getting credentials: (.*)", stderr)
        if plugin:
            return KubectlFailed(
                f"kubectl cannot log in: {'; '.join([plugin[1], *words_of_plugin(stderr)])}: install the login plugin "
                "that your kubeconfig names, or log in again with it",
                stderr,
            )
        if "localhost:8080" in stderr:  # what kubectl asks when it knows of no cluster
            return BadInput(
                "kubectl knows no cluster to ask: choose a context (kubectl config use-context, or --context), or "
                "give its kubeconfig in KUBECONFIG"
            )
        if re.search(
            r"was refused|Unable to connect|no such host|i/o timeout|no route to host|deadline exceeded|"
            r"Client.Timeout|TLS handshake",
            stderr,
        ):
            return KubectlFailed(
                f"the cluster cannot be reached ({line}): is it up, and does KUBECONFIG or --context "
                "name the right one?",
                stderr,
            )
        if re.search(r"Unauthorized|must be logged in|Please enter Username", line):
            return KubectlFailed(
                "the cluster does not accept your login: log in again, or choose another --context", stderr
            )
        if "being terminated" in line:
            return KubectlFailed(self.terminating(), stderr)
        if "orbidden" in line:
            return KubectlFailed(f"the cluster does not permit it: {line}", stderr)
        return KubectlFailed(f"kubectl {verb} failed: {line}", stderr)

    def terminating(self):
        return f"namespace {self.namespace} is being deleted: wait until it is gone, or use another --namespace"

    def get(self, *what):
        """What kubectl get gives as a dict, or None when it is not there."""
        try:
            return json.loads(self.run("get", *what, "-n", self.namespace, "-o", "json"))
        except KubectlFailed as error:
            if "(NotFound)" in error.stderr:
                return None
            raise

    def apply(self, *manifests):
        for line in self.run("apply", *SERVER_SIDE, stdin=dump(*manifests)).splitlines():
            log.info("kubectl: %s", line)

    def kinds(self):
        """Those of KServe and Knative that the cluster knows. Raises Failure unless it answers and has KServe.

        The groups are asked by name: kubectl api-resources fails as a whole where any aggregated API is down.
        """
        kinds = set(self.kinds_of("serving.kserve.io/v1beta1"))
        if KSERVE_KIND not in kinds:
            raise Failure(
                "KServe is not installed in this cluster (no InferenceService kind): install it, or choose "
                "another --context"
            )
        return kinds | set(self.kinds_of("serving.knative.dev/v1"))

    def kinds_of(self, group_version):
        try:
            found = json.loads(self.run("get", "--raw", f"/apis/{group_version}"))
        except KubectlFailed as error:
            if "(NotFound)" in error.stderr:
                return []
            raise
        return [f"{kind['name']}.{group_version.partition('/')[0]}" for kind in found["resources"]]

    def has_namespace(self):
        """Whether the namespace is there. Raises Failure when it is being deleted."""
        try:
            found = json.loads(self.run("get", "namespace", self.namespace, "-o", "json"))
        except KubectlFailed as error:
            if "(NotFound)" in error.stderr:
                return False
            if "orbidden" not in error.stderr:  # one may use a namespace without seeing it
                raise
            return True
        if found["status"]["phase"] == "Terminating":
            raise Failure(self.terminating())
        return True

    def rehearse(self, *manifests):
        """Let the server check the manifests, and whether one may apply them."""
        self.run("apply", "--dry-run=server", *SERVER_SIDE, stdin=dump(*manifests))


def words_of_plugin(stderr):
    """What a login plugin wrote, or its hint how to install it, among kubectl's own words and its log."""
    others = r"\s|[EWI]\d{4} |error: |Unable to connect|It looks like you are trying|To learn more about"
    return list(dict.fromkeys(line for line in stderr.splitlines() if line and not re.match(others, line)))[:3]
