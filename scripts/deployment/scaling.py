"""Scale revisions to zero to free their room, and restore their scale.

Knative applies changes of scaling annotations to existing revisions (reconcilePA in knative/serving,
pkg/reconciler/revision/reconcile_resources.go).
"""

import logging

from deployment.deployed_service import DeployedService, ServiceState, condition_of
from deployment.diagnosis import pods_of, revision_of
from deployment.manifests import MIN_SCALE_ANNOTATION, KubernetesObject, annotation

# A revision without requests has no metrics, and is not scaled, unless the activator's metrics are declared to be
# complete (StableAndPanicConcurrency in knative/serving, pkg/autoscaler/metrics/collector.go). 6 s is the shortest window.
WITHOUT_REQUESTS = {
    "autoscaling.knative.dev/target-burst-capacity": "-1",
    "autoscaling.knative.dev/window": "6s",
}
# Knative deletes the pods of a revision that was never ready after this deadline. Changing it re-creates each pod once,
# but without it they would stay for ten minutes.
NEVER_READY = {"serving.knative.dev/progress-deadline": "1s"}

log = logging.getLogger(__name__)


def scale_to_zero(deployed: DeployedService, state: ServiceState, revisions: list[str]) -> None:
    """Let Knative delete the pods of revisions that get no requests. This takes two to four minutes."""
    if not revisions:
        return
    never_ready = [name for name in revisions if condition_of(state.revisions.get(name), "Ready")["status"] != "True"]
    deployed.annotate_revisions(revisions, {MIN_SCALE_ANNOTATION: "0", **WITHOUT_REQUESTS})
    if never_ready:
        deployed.annotate_revisions(never_ready, NEVER_READY)
    log.info("Scaling to zero: %s", ", ".join(revisions))


def restore_scale(deployed: DeployedService, state: ServiceState, revisions: list[str]) -> None:
    """Undo scale_to_zero."""
    scaled = [name for name in revisions if annotation(state.revisions.get(name), MIN_SCALE_ANNOTATION) == "0"]
    if not scaled:
        return
    min_scale = str(state.spec[state.entry].get("minReplicas", 1))
    burst = annotation(state.spec[state.entry], "autoscaling.knative.dev/target-burst-capacity")
    deployed.annotate_revisions(
        scaled,
        {
            MIN_SCALE_ANNOTATION: min_scale,
            "autoscaling.knative.dev/target-burst-capacity": burst,
            "autoscaling.knative.dev/window": None,
        },
    )


def idle_revisions(state: ServiceState, spec: KubernetesObject) -> list[str]:
    """The revisions that have pods but get no requests, except those of the version that is being deployed."""
    used = state.used_revisions()
    new = {revision_of(pod) for pod in pods_of(state, spec)}
    found = {revision_of(pod) for pod in state.pods if "deletionTimestamp" not in pod["metadata"]}
    idle = sorted(name for name in found if name and name not in used | new and not state.is_newer_than_status(name))
    return [name for name in idle if annotation(state.revisions.get(name), MIN_SCALE_ANNOTATION) != "0"]
