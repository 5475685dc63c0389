"""Run kubectl, and explain its errors in the user's terms."""

import json
import logging
import re

import sh

from deployment.manifests import KubernetesObject, dump
from failure import BadInput, Failure
from model.artefacts import signals_held

SERVER_SIDE = ("--server-side", "--force-conflicts", "--field-manager=deploy-service", "-f", "-")
# With their versions: for KIND.GROUP alone, each start of kubectl asks the server for all kinds of all groups.
KSERVE_KIND = "inferenceservices.v1beta1.serving.kserve.io"
REVISION_KIND, ROUTE_KIND = "revisions.v1.serving.knative.dev", "routes.v1.serving.knative.dev"
UNREACHABLE = (
    r"was refused|Unable to connect|no such host|i/o timeout|no route to host|deadline exceeded|"
    r"Client.Timeout|TLS handshake"
)

log = logging.getLogger(__name__)


class KubectlFailed(Failure):
    """kubectl ended with an error.

    Attributes:
        stderr: its error output.
        stdout: its output; of several kinds it prints those that it could read.
    """

    def __init__(self, message: str, stderr: str) -> None:
        super().__init__(message)
        self.stderr, self.stdout = stderr, ""

    @property
    def not_found(self) -> bool:
        return "(NotFound)" in self.stderr

    @property
    def conflict(self) -> bool:
        return "the object has been modified" in self.stderr

    @property
    def forbidden(self) -> bool:
        return "orbidden" in self.stderr

    @property
    def without_knative(self) -> bool:
        return bool(re.search('doesn\'t have a resource type "(revisions|routes)"', self.stderr))


class Kubectl:
    """kubectl in one namespace. Manifests go to standard input: other users can see a command line."""

    def __init__(self, namespace: str, context: str | None = None) -> None:
        self.namespace = namespace
        self.options = ["--request-timeout=20s"] + ([f"--context={context}"] if context else [])

    def run(self, *args: str, stdin: str = "") -> str:
        """Return the output of kubectl. Raises KubectlFailed, or BadInput without kubectl or context."""
        try:
            with signals_held():  # sh forks Python, which would drop a Ctrl-C that arrives in between
                running = sh.kubectl(*args, *self.options, _in=stdin, _bg=True, _bg_exc=False, _decode_errors="replace")
            running.wait()
        except sh.CommandNotFound:
            raise BadInput("kubectl is not installed or not in PATH: https://kubernetes.io/docs/tasks/tools/") from None
        except sh.ErrorReturnCode as error:
            failure = self.failure(args[0], error.stderr.decode(errors="replace").strip())
            if isinstance(failure, KubectlFailed):
                failure.stdout = error.stdout.decode(errors="replace")
            raise failure from None
        return str(running)

    def failure(self, verb: str, stderr: str) -> Failure:
        """The exception that explains an error output of kubectl."""
        line = (stderr.splitlines() or ["no message"])[-1]
        if "context" in line and "does not exist" in line:
            return BadInput(f"{line.removeprefix('error: ')}: see kubectl config get-contexts")
        plugin = re.search(r"getting credentials: (.*)", stderr)
        if plugin:
            return KubectlFailed(
                f"kubectl cannot log in: {'; '.join([plugin[1], *plugin_output(stderr)])}: install the login plugin "
                "that your kubeconfig names, or log in again with it",
                stderr,
            )
        # kubectl's default when no cluster is configured, where something else may answer, such as demo.sh
        if "localhost:8080" in stderr or "server could not find the requested resource" in line:
            return BadInput(
                "kubectl has no cluster configured, or what answers is none: choose a context (kubectl config use-context, or --context), or "
                "set KUBECONFIG to the cluster's kubeconfig"
            )
        if re.search(UNREACHABLE, stderr):
            return KubectlFailed(
                f"the cluster cannot be reached ({line}): is it up, and does KUBECONFIG or --context "
                "name the right one?",
                stderr,
            )
        if re.search(r"Unauthorized|must be logged in|Please enter Username", line):
            return KubectlFailed("the cluster rejects your login: log in again, or choose another --context", stderr)
        if 'resource type "inferenceservices"' in line:
            return Failure(
                "KServe is not installed in this cluster (no InferenceService kind): install it, or choose "
                "another --context"
            )
        if "being terminated" in line:
            return KubectlFailed(self.terminating(), stderr)
        if "orbidden" in line:
            return KubectlFailed(f"the cluster does not permit it: {line}", stderr)
        return KubectlFailed(f"kubectl {verb} failed: {line}", stderr)

    def terminating(self) -> str:
        return f"namespace {self.namespace} is being deleted: wait until it is gone, or use another --namespace"

    def get(self, *what: str) -> KubernetesObject | None:
        """The object or list that kubectl get returns, or None if it does not exist."""
        try:
            return json.loads(self.run("get", *what, "-n", self.namespace, "-o", "json"))
        except KubectlFailed as error:
            if error.not_found:
                return None
            raise

    def get_all(self, *kinds: str) -> list[KubernetesObject]:
        """The objects of these kinds in all namespaces."""
        return json.loads(self.run("get", ",".join(kinds), "--all-namespaces", "-o", "json"))["items"]

    def apply(self, *manifests: KubernetesObject) -> None:
        for line in self.run("apply", *SERVER_SIDE, stdin=dump(*manifests)).splitlines():
            log.info("kubectl: %s", line)

    def apply_if_unchanged(self, manifest: KubernetesObject, since: KubernetesObject) -> bool:
        """Apply a manifest unless its object has changed since it was read. Returns whether it was applied."""
        version = since["metadata"]["resourceVersion"]
        try:
            self.apply({**manifest, "metadata": {**manifest["metadata"], "resourceVersion": version}})
        except KubectlFailed as error:
            if error.conflict:
                return False
            raise
        return True

    def validate(self, *manifests: KubernetesObject) -> None:
        """Let the server check the manifests, and the permission to apply them, without applying them."""
        self.run("apply", "--dry-run=server", *SERVER_SIDE, stdin=dump(*manifests))


def plugin_output(stderr: str) -> list[str]:
    """The output or installation hint of a login plugin, without kubectl's own messages and log."""
    kubectl_lines = r"\s|[EWI]\d{4} |error: |Unable to connect|It looks like you are trying|To learn more about"
    return list(dict.fromkeys(line for line in stderr.splitlines() if line and not re.match(kubectl_lines, line)))[:3]
