"""A lock in the cluster, so that only one run at a time decides about a service.

A Lease, used as client-go's leader election does (k8s.io/client-go, tools/leaderelection): its holder renews it, and
whoever finds it observes for its duration whether it is renewed. So the lock of a run that was killed is taken over, and
clocks need not agree.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from deployment.kubectl import Kubectl, KubectlFailed
from deployment.manifests import SERVICE_LABEL, KubernetesObject, dump
from deployment.polling import poll
from failure import Failure

DURATION = 60.0
RENEW_INTERVAL = 15.0
KIND = "leases.v1.coordination.k8s.io"

log = logging.getLogger(__name__)


class Busy(Failure):
    """Another run holds the lock."""


class Lock:
    """Held from the beginning to the end of its `with` block. Raises Busy if another run holds it."""

    def __init__(self, kubectl: Kubectl, service: str) -> None:
        self.kubectl, self.service, self.name = kubectl, service, f"{service}-retraining"
        self.holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self.renewed = time.monotonic()
        self.lost = False
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.renew_until_stopped, daemon=True)

    def __enter__(self) -> Self:
        stale = self.wait_for_stale()
        try:
            if stale:
                self.kubectl.run("replace", "-f", "-", stdin=dump(self.lease(stale["metadata"]["resourceVersion"])))
            else:
                self.kubectl.run("create", "-f", "-", stdin=dump(self.lease()))
        except KubectlFailed as error:
            if "AlreadyExists" in error.stderr or "Conflict" in error.stderr:
                raise Busy(f"another run has just begun to decide about {self.service}") from None
            raise
        self.renewed = time.monotonic()
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopping.set()
        self.thread.join()
        if not self.lost:
            try:
                self.kubectl.run("delete", KIND, self.name, "-n", self.kubectl.namespace, "--ignore-not-found")
            except Failure as failure:
                log.warning("The lock %s is released in %.0f s: %s", self.name, DURATION, failure)

    def check(self) -> None:
        """Raises Busy if another run has taken the lock over, which happens after a minute without the cluster."""
        if self.lost or time.monotonic() - self.renewed > DURATION:
            raise Busy(f"another run may have taken over while this one did not reach the cluster for {DURATION:.0f} s")

    def wait_for_stale(self) -> KubernetesObject | None:
        """The lease of a run that does not renew it; None if there is no lease. Raises Busy if it is renewed."""
        found = self.read()
        if found is None:
            return None
        log.info(
            "Waiting up to %.0f s to see whether the run of %s is alive", DURATION, found["spec"]["holderIdentity"]
        )
        for _ in poll(DURATION):
            latest = self.read()
            if latest is None:
                return None
            if latest["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
                raise Busy(f"another run ({latest['spec']['holderIdentity']}) is deciding about {self.service}")
        log.info("It is not: taking over")
        return found

    def read(self) -> KubernetesObject | None:
        return self.kubectl.get(KIND, self.name)

    def renew_until_stopped(self) -> None:
        while not self.stopping.wait(RENEW_INTERVAL):
            changes = [
                {"op": "test", "path": "/spec/holderIdentity", "value": self.holder},
                {"op": "add", "path": "/spec/renewTime", "value": micro_time()},
            ]
            patch = ("--type=json", f"--patch={json.dumps(changes)}")
            try:
                self.kubectl.run("patch", KIND, self.name, "-n", self.kubectl.namespace, *patch)
                self.renewed = time.monotonic()
            except Failure as error:
                log.debug("The lock was not renewed: %s", error)
                self.lost = self.lost or "NotFound" in str(error) or "rejected our request" in str(error)

    def lease(self, resource_version: str | None = None) -> KubernetesObject:
        """The lease as this run holds it; with a resource version it replaces only that state."""
        metadata = {
            "name": self.name,
            "namespace": self.kubectl.namespace,
            "labels": {SERVICE_LABEL: self.service},
            **({"resourceVersion": resource_version} if resource_version else {}),
        }
        spec = {"holderIdentity": self.holder, "leaseDurationSeconds": int(DURATION), "renewTime": micro_time()}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def micro_time() -> str:
    """Now, as a MicroTime of Kubernetes."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
