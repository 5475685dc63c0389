"""deploy_service.py --canary --analyse on a real S3 server, the real kubectl and the stub of the cluster.

What Prometheus would answer is given; tests/monitoring queries a real one, and test_whole_loop.py has all of it.
"""

import json
from types import SimpleNamespace

import pytest

import deploy_service
from deployment import manifests
from deployment.deployed_service import ServiceState
from deployment.kubectl import Kubectl
from failure import Failure
from retraining import canary as canary_module
from retraining import decision, lock
from retraining.analysis import Figures
from retraining.canary import Trial, Watch, observe
from retraining.lock import Busy, Lock
from support.deployment import succeeded, traffic, version

GOOD = Figures(100, 0, 0.02, 0.02, {})


@pytest.fixture
def analyse(deploy, deployed, kserve, monkeypatch):
    """Deploy version 1 as the canary of version 0 and analyse it; figures() returns those of canary and stable."""
    monkeypatch.setattr(deploy_service, "Watch", lambda duration: Watch(duration, duration / 3))

    def run(figures, duration="1s"):
        monkeypatch.setattr(canary_module, "fetch_figures", lambda _, __, of, ___: figures()[of.version == run.stable])
        return deploy(1, "--canary", "50", "--analyse", duration, ingress=kserve.ingress, here=True)

    [run.stable] = deployed(0)
    return run


def decision_of(store, cluster, name) -> dict:
    key = f"{cluster.namespace}/textclustering/{name}/decision.json"
    return json.loads(store.s3.get_object(Bucket=store.bucket, Key=key)["Body"].read())


def nothing_is_left(cluster):
    return not [key for key in cluster.api.objects if key[0] == "leases"]


def test_a_canary_that_does_well_is_promoted_and_the_decision_is_kept(analyse, deploy, cluster, store):
    done = succeeded(analyse(lambda: [GOOD, GOOD]))
    assert traffic(cluster) == {version(done): 100}
    kept = decision_of(store, cluster, version(done))
    assert (kept["verdict"], kept["stable"], kept["reason"]) == (
        *("promoted", analyse.stable),
        "3 of 3 measurements passed",
    )
    assert kept["details"]["canary"]["percent"] == 50
    analysis = kept["details"]["analysis"]
    assert analysis["limits"]["requests"] == 50 and len(analysis["measurements"]) == 3
    assert analysis["measurements"][0]["canary"] == {
        "requests": 100,
        "failed": 0,
        "p99": 0.02,
        "p99_at_least": 0.02,
        "drift": {},
    }
    lines = succeeded(deploy(1, "--list")).out.splitlines()
    assert " promoted " in lines[2] and " promoted " not in lines[1]
    assert nothing_is_left(cluster)


def test_a_canary_that_fails_one_request_in_ten_is_rolled_back_and_scaled_to_zero(analyse, cluster, kserve, store):
    done = analyse(lambda: [GOOD._replace(failed=10), GOOD], "2s")
    assert done.code == 1 and "10.0% of its requests fail" in done.err.splitlines()[-1]
    assert "Measurement 2 of 3 failed" in done.err and "Measurement 3" not in done.err, "it does not wait for the end"
    assert traffic(cluster) == {analyse.stable: 100}
    kept = decision_of(store, cluster, version(done))
    assert kept["verdict"] == "rolled back"
    for pods in kserve.pods.values():
        revision = cluster.get("revision", pods[-1].name)
        assert manifests.annotation(revision, manifests.MIN_SCALE_ANNOTATION) == "0"
    assert nothing_is_left(cluster)


def test_without_prometheus_the_canary_stays_and_a_person_decides(analyse, deploy, cluster, kserve, store):
    def unreachable():
        raise Failure("Prometheus does not respond")

    done = analyse(unreachable)
    assert done.code == 3 and "Prometheus does not respond" in done.err.splitlines()[-1]
    assert "decide with deploy_service.py --promote or --rollback" in done.err
    assert traffic(cluster) == {analyse.stable: 50, version(done): 50}
    assert decision_of(store, cluster, version(done))["verdict"] == "inconclusive"
    succeeded(deploy(1, "--promote", ingress=kserve.ingress))


# --- What the cluster shows while a canary is watched, without a cluster -------------------------------------------


def as_state(shares, pods=()) -> ServiceState:
    """A service whose newest version is v2, with these shares of the requests by version, and pods."""
    traffic = [{"revisionName": f"{version}-revision", "percent": share} for version, share in shares.items()]
    status = {"traffic": traffic, "latestCreatedRevision": "v2-revision"}
    service = {
        "spec": {"predictor": {"containers": [{}], "canaryTrafficPercent": shares.get("v2")}},
        "status": {"deploymentMode": "Knative", "components": {"predictor": status}},
    }
    revisions = {
        f"{version}-revision": {"metadata": {"labels": {manifests.VERSION_LABEL: version}}} for version in ("v1", "v2")
    }
    return ServiceState(service if shares else None, revisions, {}, list(pods))


def as_pod(ready=True, restarts=0, **status):
    conditions = [{"type": "Ready", "status": str(ready)}]
    container = {"name": "kserve-container", "restartCount": restarts, "state": {"running": {}}} | status
    labels = {"serving.knative.dev/revision": "v2-revision"}
    return {"metadata": {"labels": labels}, "status": {"conditions": conditions, "containerStatuses": [container]}}


BESIDE = {"v1": 80, "v2": 20}
CRASHED = as_pod(False, state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting"}})


@pytest.mark.parametrize(
    ("later", "verdict", "reason"),
    [
        (as_state(BESIDE, [as_pod()]), "promoted", "5 of 5"),
        (as_state(BESIDE, [CRASHED]), "rolled back", "no pod of its predictor is ready: CrashLoopBackOff"),
        (as_state(BESIDE), "rolled back", "no pod of its predictor is ready"),
        (as_state(BESIDE, [as_pod(restarts=1)]), "rolled back", "its containers restarted"),
        (as_state(BESIDE, [as_pod(), CRASHED]), "promoted", "5 of 5"),  # the autoscaler's second pod
        (as_state({"v1": 100}, [as_pod()]), "superseded", "somebody else changed the traffic meanwhile: v1 100 %"),
        (as_state({"v2": 100}, [as_pod()]), "superseded", "v2 100 %"),
        (as_state({}), "superseded", "the service is gone"),
        (Failure("the cluster cannot be reached"), "inconclusive", "the cluster cannot be reached"),
    ],
)
def test_what_happens_to_the_pods_or_by_a_person_meanwhile_counts(monkeypatch, later, verdict, reason):
    states = iter([as_state(BESIDE, [as_pod()])])

    def fetch():
        state = next(states, later)
        if isinstance(state, Failure):
            raise state
        return state

    deployed = SimpleNamespace(fetch=fetch, name="textclustering", kubectl=SimpleNamespace(namespace="default"))
    monkeypatch.setattr(canary_module, "fetch_figures", lambda *_: GOOD)
    trial = Trial(deployed, None, None, Watch(0.05, 0.01), 60, None)
    conclusion, _ = observe(trial, decision.start("v2", "v1", "drift"))
    assert conclusion.verdict == verdict and reason in conclusion.reason


def test_a_person_who_rolls_back_meanwhile_is_not_overruled(analyse, deploy, cluster, kserve, store):
    acted = []

    def act():
        if not acted:
            acted.append(succeeded(deploy(1, "--rollback", ingress=kserve.ingress)))
        return [GOOD, GOOD]

    done = analyse(act)
    assert done.code == 3 and "somebody else changed the traffic meanwhile" in done.err.splitlines()[-1]
    assert traffic(cluster) == {analyse.stable: 100}
    assert decision_of(store, cluster, version(done))["verdict"] == "superseded"


def test_a_canary_that_never_becomes_ready_is_a_decision_too(analyse, cluster, kserve, store):
    kserve.failing = {"transformer"}
    done = analyse(lambda: [GOOD, GOOD])
    assert done.code == 1 and "it got no requests" in done.err.splitlines()[-1]
    assert traffic(cluster) == {analyse.stable: 100}
    assert decision_of(store, cluster, version(done))["verdict"] == "rolled back"


def test_two_runs_do_not_decide_at_once_and_a_killed_one_is_taken_over(cluster, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    monkeypatch.setattr(lock, "RENEW_INTERVAL", 0.1)
    monkeypatch.setattr(lock, "DURATION", 2)
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifests.namespace(cluster.namespace)))
    kubectl = Kubectl(cluster.namespace)
    with Lock(kubectl, "textclustering"), pytest.raises(Busy, match=r"another run .* is deciding"):
        Lock(kubectl, "textclustering").__enter__()
    assert nothing_is_left(cluster)

    killed = Lock(kubectl, "textclustering")
    killed.__enter__()
    killed.stopping.set()
    killed.thread.join()
    with Lock(kubectl, "textclustering") as taken:
        taken.check()
        assert cluster.get("lease", "textclustering-retraining")["spec"]["holderIdentity"] == taken.holder
        killed.stopping.clear()
        answers = iter([False, True])
        monkeypatch.setattr(killed.stopping, "wait", lambda _: next(answers))
        killed.renew_until_stopped()
        with pytest.raises(Busy):
            killed.check()


def test_of_two_runs_that_begin_at_once_one_gets_the_lock(cluster, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    cluster.kubectl("create", "-f", "-", stdin=json.dumps(manifests.namespace(cluster.namespace)))
    kubectl = Kubectl(cluster.namespace)
    late = Lock(kubectl, "textclustering")
    monkeypatch.setattr(late, "wait_for_stale", lambda: None)  # looked before the other had created it
    with Lock(kubectl, "textclustering"), pytest.raises(Busy, match="just begun"):
        late.__enter__()
