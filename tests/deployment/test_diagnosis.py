"""Reasons why a pod is not ready, from real messages of the kubelet, the scheduler and the storage initializer."""

from types import SimpleNamespace

import pytest

from deployment.deployed_service import ServiceState
from deployment.diagnosis import advise, is_resolved, is_stuck, rejection, troubles, warnings
from deployment.waiting import readiness


def pod(container=None, scheduled="True", ready="False", **status):
    conditions = [{"type": "PodScheduled", "status": scheduled}, {"type": "Ready", "status": ready}]
    return {"status": {"conditions": conditions, "containerStatuses": [container] if container else [], **status}}


def running(restarts, reason="Error", code=1):
    """A container that crashed, and runs again for the moment: ready, as its readiness probe is the queue-proxy's."""
    ended = {"terminated": {"reason": reason, "exitCode": code}}
    return {
        "name": "kserve-container",
        "ready": True,
        "restartCount": restarts,
        "state": {"running": {"startedAt": "2026-11-25T10:00:00Z"}},
        "lastState": ended if restarts else {},
    }


def waiting(reason, message, last=None):
    return {
        "name": "kserve-container",
        "ready": False,
        "restartCount": 3,
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": {"terminated": last} if last else {},
    }


def test_a_container_that_crashes_after_some_seconds_is_stuck_also_while_it_runs():
    assert not is_stuck([pod(running(0))]) and not is_stuck([pod(running(1))])
    assert is_stuck([pod(running(2))])
    assert not is_stuck([pod(running(2), ready="True")])
    assert troubles(pod(running(2))) == [("kserve-container", "restarted", "(Error, exit status 1)")]
    assert troubles(pod(running(2), ready="True")) == []


def test_out_of_memory_is_reported_in_crash_loop_back_off():
    [(_, kind, message)] = troubles(
        pod(waiting("CrashLoopBackOff", "back-off 10s", {"reason": "OOMKilled", "exitCode": 137}))
    )
    assert (kind, message) == ("CrashLoopBackOff", "back-off 10s (OOMKilled, exit status 137)")
    assert "raise --memory-limit" in advise(f"{kind} {message}", "")[0]


def test_a_crash_is_not_hidden_by_a_pod_without_room():
    crash = "Error (Error, exit status 1, No module named 'm')\nBackOff: Back-off restarting failed container"
    given = advise(f"{crash}\nUnschedulable 0/1 nodes are available: 1 Insufficient cpu.", "Traceback")
    assert len(given) == 2 and "its log" in given[0] and "no node has room" in given[1]


def test_of_a_log_that_stands_for_the_reason_the_last_line_is_reported():
    log = "usage: __main__.py [-h]\n  [--http_port HTTP_PORT]\n__main__.py: error: --model_dir is required\n"
    ended = {"reason": "Error", "exitCode": 2, "message": log}
    [(_, _, message)] = troubles(pod(waiting("CrashLoopBackOff", "back-off 40s", ended)))
    assert message == "back-off 40s (Error, exit status 2, __main__.py: error: --model_dir is required)"


def test_a_pod_that_found_room_is_not_reported_to_lack_it():
    event = "FailedScheduling: 0/1 nodes are available: 1 Insufficient cpu."
    assert is_resolved(event, pod()) and not is_resolved(event, pod(scheduled="False"))
    assert not is_resolved("Failed: Failed to pull image", pod())


def test_update_conflicts_and_failed_probes_are_no_reasons():
    collided = 'Operation cannot be fulfilled on inferenceservices "x": the object has been modified; please apply'
    probe = "Readiness probe failed: HTTP probe failed with statuscode: 503"
    events = [{"reason": "InternalError", "message": text} for text in (collided, probe, "no runtime found")]
    kubectl = SimpleNamespace(get=lambda *what: {"items": events})
    assert warnings(kubectl, "x") == ["InternalError: no runtime found"]


PULL = 'ImagePullBackOff Back-off pulling image "r.example.org/t:1": ErrImagePull: '


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (PULL + "not found", "check its name, push it"),
        (PULL + "failed to authorize: 403 Forbidden", "--image-pull-secret"),
        (PULL + "pull access denied, repository does not exist or may require authorization", "--image-pull-secret"),
        (PULL + "tls: failed to verify certificate: x509: certificate signed by unknown authority", "add its CA"),
        (PULL + "no match for platform in manifest: not found", "another processor"),
        ('Unable to fetch image "r/t:1": Get "https://r/v2/": 401 Unauthorized', "--image-pull-secret"),
        ("CreateContainerError Error response from daemon: no command specified", "transformer.Dockerfile"),
        ("CreateContainerConfigError container has runAsNonRoot and image will run as root", "USER 1000"),
        ("Unschedulable 0/1 nodes are available: 1 node(s) had untolerated taint {gpu: true}.", "kubectl taint"),
        ("Unschedulable 0/1 nodes are available: 1 Insufficient memory.", "--memory-request"),
        ('pods "x" is forbidden: exceeded quota: small, requested: cpu=125m, used: cpu=1', "quota is used up"),
        ('pods "x" is forbidden: maximum memory usage per Container is 512Mi, but limit is 1Gi', "LimitRange"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": allowPrivilege', "Pod Security"),
        ("NoSupportingRuntime: No runtime found to support specified framework/version", "ClusterServingRuntimes"),
    ],
)
def test_one_piece_of_advice_for_each_cause(said, advice):
    given = advise(said, "")
    assert len(given) == 1 and advice in given[0]


@pytest.mark.parametrize(
    ("logged", "advice"),
    [
        ("botocore.exceptions.ClientError: An error occurred (403) when calling the HeadBucket", "renew them"),
        ("botocore.exceptions.SSLError: SSL validation failed: CERTIFICATE_VERIFY_FAILED", "--store-ca"),
        ('EndpointConnectionError: Could not connect to the endpoint URL: "http://minio:1"', "minio-endpoint-cluster"),
        ("exec /venv/bin/python: exec format error", "another processor"),
    ],
)
def test_the_log_of_a_container_leads_to_advice_about_the_store(logged, advice):
    given = advise("CrashLoopBackOff back-off 10s restarting failed container", logged)
    assert len(given) == 1 and advice in given[0]


def on_knative(spec: dict, predictor_ready: dict) -> dict:
    """An InferenceService whose predictor has its second revision."""
    return {
        "spec": spec,
        "status": {
            "deploymentMode": "Knative",
            "components": {"predictor": {"latestCreatedRevision": "p-00002"}},
            "conditions": [{"type": "PredictorReady", **predictor_ready}],
        },
    }


def test_a_new_revision_has_not_failed_because_the_previous_one_did():
    """Knative's state after a first revision that failed: the route still reports that there is none."""
    spec = {"predictor": {"annotations": {"mlops-poc/spec-sha256": "new"}}}
    service = on_knative(spec, {"status": "False", "message": "no ready Revision"})
    own = {"type": "Ready", "status": "Unknown"}
    revision = {"metadata": spec["predictor"], "status": {"conditions": [own]}}
    state = ServiceState(service, {"p-00002": revision}, {}, [])
    assert readiness(state, spec)["predictor"].startswith("starting")
    own |= {"status": "False", "message": "it crashes"}
    assert readiness(state, spec)["predictor"] == "failed, it crashes"


def test_a_version_that_found_room_has_not_failed():
    """Knative's state: the revision reports the lack of room until its pods are ready."""
    no_room = {"status": "False", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    spec = {"predictor": {"annotations": {"mlops-poc/spec-sha256": "new"}}}
    service = on_knative(spec, no_room)
    revision = {"metadata": spec["predictor"], "status": {"conditions": [{"type": "Ready", **no_room}]}}
    labelled = {"metadata": {**spec["predictor"], "labels": {"serving.knative.dev/revision": "p-00002"}}}
    waits, starts = ({**labelled, **pod(scheduled=scheduled)} for scheduled in ("False", "True"))
    assert readiness(ServiceState(service, {"p-00002": revision}, {}, [waits]), spec)["predictor"].startswith(
        "failed, 0/1"
    )
    assert readiness(ServiceState(service, {"p-00002": revision}, {}, [starts]), spec)["predictor"] == "starting"


def test_a_missing_runtime_is_a_rejection():
    failure = {"reason": "NoSupportingRuntime", "message": "No runtime found to support specified framework/version"}
    status = {"modelStatus": {"transitionStatus": "InvalidSpec", "lastFailureInfo": failure}}
    assert "No runtime found" in rejection(ServiceState({"status": status, "spec": {}}, {}, {}, []))
