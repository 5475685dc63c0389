"""Rolling versions out and back: real S3 server, real kubectl, an API server, and a stub of KServe and Knative."""

import json
import os
import re
import subprocess
import threading
import urllib.error
import urllib.request

from support.deployment import (
    kserve_module,
    label,
    pins,
    stub_kserve,
    succeeded,
    traffic,
    version,
    watch_traffic,
)

# --- Versions ---------------------------------------------------------------------------------


def test_a_new_version_takes_over_and_each_transformer_keeps_its_own_predictor(deploy, deployed, cluster, kserve):
    [first] = deployed(0)
    done = succeeded(deploy(1, ingress=kserve.ingress))
    second = version(done)
    assert traffic(cluster) == {second: 100} and f"Traffic: {second} 100 %" in done.err
    assert pins(cluster, kserve) == {first: first, second: second}


def test_canary_gets_its_share_list_shows_it_and_promote_gives_it_the_rest(deploy, cluster, kserve):
    assert "No version of textclustering yet" in succeeded(deploy(0, "--list")).err
    first = version(succeeded(deploy(0, ingress=kserve.ingress)))
    second = version(succeeded(deploy(1, "--canary", "20", ingress=kserve.ingress)))
    assert traffic(cluster) == {first: 80, second: 20}
    lines = succeeded(deploy(0, "--list")).out.splitlines()
    header = "VERSION TRAINED UPLOADED V-MEASURE ARI SILHOUETTE TRAFFIC VERDICT NUMBERS"
    assert lines[0].split() == header.split()
    assert re.fullmatch(rf"{first} +2026-11-24 02:30 +\S+ \S+ +1.000 +0.900 +0.250 +80 % +- +-", lines[1])
    assert re.fullmatch(rf"{second} .* 20 % +- +-", lines[2])
    succeeded(deploy(1, "--promote", ingress=kserve.ingress))
    assert traffic(cluster) == {second: 100}
    done = deploy(1, "--promote")
    assert done.code == 2 and "no canary to promote" in done.err
    done = deploy(1, "--canary", "20")
    assert done.code == 2 and "gets all requests already" in done.err


def test_rollback_of_a_canary_and_of_a_finished_rollout(deploy, deployed, cluster, kserve):
    [first] = deployed(0)
    done = deploy(0, "--rollback", ingress=kserve.ingress)
    assert done.code == 2 and "no previous version to return to" in done.err
    second = version(succeeded(deploy(1, "--canary", "20", ingress=kserve.ingress)))
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    assert traffic(cluster) == {first: 100}
    succeeded(deploy(1, ingress=kserve.ingress))
    assert traffic(cluster) == {second: 100}
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    assert traffic(cluster) == {first: 100}
    again = succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    assert "already" in again.err and traffic(cluster) == {first: 100}


def test_after_a_rollback_the_next_deploy_never_serves_what_was_rolled_back(deploy, deployed, cluster, kserve):
    first, second = deployed(0, 1)
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    seen = watch_traffic(kserve, cluster)
    third = version(succeeded(deploy(2, ingress=kserve.ingress)))
    assert traffic(cluster) == {third: 100}
    assert second not in seen() and {first, third} == set(seen())


def test_delete_removes_the_service_and_only_when_asked_the_artefacts(deploy, deployed, cluster, store):
    deployed(0)
    succeeded(deploy(0, "--delete"))
    for kind in ("inferenceservices", "secrets", "serviceaccounts"):
        assert "textclustering" not in cluster.kubectl("get", kind, "-n", cluster.namespace)
    assert len(store.list()) == 4
    succeeded(deploy(0, "--delete", "--delete-artefacts"))
    assert store.list() == []


def test_no_wait_returns_at_once_and_says_how_to_look(deploy, cluster, tmp_path):
    with stub_kserve(cluster, tmp_path, images=[]):
        done = succeeded(deploy(0, "--no-wait"))
    assert "kubectl get inferenceservice textclustering" in done.err and done.out == ""


# --- Nothing goes down ---------------------------------------------------------------------------


class Asking:
    """Somebody who asks all the while; `with Asking(...) as statuses`."""

    def __init__(self, kserve, cluster):
        host = f"textclustering.{cluster.namespace}.example.com"
        self.url, self.headers, self.over = f"{kserve.ingress}/v1/models/x:predict", {"Host": host}, threading.Event()
        self.statuses = []
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.over.wait(0.05):
            request = urllib.request.Request(self.url, b'{"instances": [["goal"]]}', self.headers)
            try:
                with urllib.request.urlopen(request, timeout=20) as response:
                    self.statuses.append(response.status)
            except urllib.error.HTTPError as error:
                self.statuses.append(error.code)

    def __enter__(self):
        self.thread.start()
        return self.statuses

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


def running(stub, cluster):
    """Number of pods by (component, version)."""
    return {
        (component, label(pod)): pod.replicas
        for component in ("predictor", "transformer")
        for pod in stub.pods[cluster.namespace, "textclustering", component]
        if pod.replicas
    }


def test_a_version_whose_predictor_never_starts_gets_no_request_and_gives_its_pods_back(
    deploy, deployed, cluster, kserve
):
    [first] = deployed(0)
    kserve.failing = {"predictor"}
    with Asking(kserve, cluster) as statuses:
        done = deploy(1, ingress=kserve.ingress)
    assert done.code == 1 and "CrashLoopBackOff" in done.err
    assert f"serving meanwhile: {first} 100 %" in done.err.splitlines()[-1]
    assert len(statuses) > 5 and set(statuses) == {200}
    eventually_running(kserve, cluster, first)
    kserve.failing = set()
    second = version(succeeded(deploy(1, ingress=kserve.ingress)))
    assert traffic(cluster) == {second: 100}, "the same files again are a new attempt"
    pods = len(kserve.pods[cluster.namespace, "textclustering", "predictor"])
    succeeded(deploy(1, ingress=kserve.ingress))
    assert len(kserve.pods[cluster.namespace, "textclustering", "predictor"]) == pods, "and no further one"


def test_a_first_version_whose_transformer_failed_is_tried_again_as_a_whole(deploy, cluster, kserve):
    kserve.failing = {"transformer"}
    assert deploy(0, ingress=kserve.ingress).code == 1
    kserve.failing = set()
    first = version(succeeded(deploy(0, ingress=kserve.ingress)))
    assert traffic(cluster) == {first: 100}
    assert len(kserve.pods[cluster.namespace, "textclustering", "predictor"]) == 2, "it had given its pods back"


def eventually_running(stub, cluster, *versions):
    """Both components of these versions have a pod, and no other has one."""
    wanted = {(component, version): 1 for component in ("predictor", "transformer") for version in versions}
    for _ in range(100):
        if running(stub, cluster) == wanted:
            return
        threading.Event().wait(0.1)
    assert running(stub, cluster) == wanted


def test_a_good_version_takes_over_without_a_failed_request(deploy, deployed, cluster, kserve):
    deployed(0)
    with Asking(kserve, cluster) as statuses:
        second = version(succeeded(deploy(1, ingress=kserve.ingress)))
    assert set(statuses) == {200} and traffic(cluster) == {second: 100}


def test_the_version_that_serves_and_the_one_before_keep_their_pods_and_no_other(deploy, deployed, cluster, kserve):
    first, second = deployed(0, 1)
    eventually_running(kserve, cluster, first, second)
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    eventually_running(kserve, cluster, first, second)
    third = version(succeeded(deploy(2, "--canary", "20", ingress=kserve.ingress)))
    succeeded(deploy(2, "--promote", ingress=kserve.ingress))
    eventually_running(kserve, cluster, first, third)
    kserve.failing = {"transformer"}
    assert deploy(1, ingress=kserve.ingress).code == 1
    eventually_running(kserve, cluster, first, third)


def test_a_version_that_answers_as_another_model_would_is_refused(deploy, deployed, cluster, kserve):
    [first] = deployed(0)
    kserve.misled = True
    seen = watch_traffic(kserve, cluster)
    done = deploy(1, ingress=kserve.ingress)
    assert done.code == 1 and "3 of 3 clusters are wrong" in done.err.splitlines()[-1]
    assert set(seen()) == {first} and traffic(cluster) == {first: 100}
    eventually_running(kserve, cluster, first)


def test_one_wrong_cluster_is_enough_also_where_nothing_served(deploy, cluster, kserve, monkeypatch):
    learn = kserve.learn

    def learn_all_but_one(pod, models):
        learn(pod, models)
        text, number = next(iter(pod.numbers.items()))
        pod.numbers[text] = number + 1

    monkeypatch.setattr(kserve, "learn", learn_all_but_one)
    done = deploy(0, ingress=kserve.ingress)
    assert done.code == 1 and "1 of 3 clusters are wrong" in done.err.splitlines()[-1]


def test_a_hold_that_kserve_takes_for_a_rollback_is_put_right(deploy, deployed, cluster, kserve):
    _, second = deployed(0, 1)
    kserve.route_first, kserve.starting_seconds, kserve.failing = True, 4, {"predictor"}
    done = deploy(2, ingress=kserve.ingress)
    assert (
        "KServe rolled back instead" in done.err and f"serving meanwhile: {second} 100 %" in done.err.splitlines()[-1]
    )
    kserve.failing = set()
    third = version(succeeded(deploy(2, ingress=kserve.ingress)))
    assert traffic(cluster) == {third: 100}
    succeeded(deploy(2, "--rollback", ingress=kserve.ingress))
    assert traffic(cluster) == {second: 100}


def test_without_waiting_a_new_version_stays_at_0_percent_until_it_is_asked_for(deploy, deployed, cluster, kserve):
    [first] = deployed(0)
    done = succeeded(deploy(1, "--no-wait", ingress=kserve.ingress))
    assert "It gets no requests yet" in done.err
    assert traffic(cluster) == {first: 100}
    second = version(succeeded(deploy(1, ingress=kserve.ingress)))
    assert traffic(cluster) == {second: 100}


def test_the_version_that_serves_is_not_made_again_after_another_failed_or_was_rolled_back(
    deploy, deployed, cluster, kserve
):
    first, second = deployed(0, 1)
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    assert "serves already" in succeeded(deploy(0, ingress=kserve.ingress)).err
    succeeded(deploy(1, ingress=kserve.ingress))
    kserve.failing = {"predictor"}
    assert deploy(2, ingress=kserve.ingress).code == 1
    assert "serves already" in succeeded(deploy(1, ingress=kserve.ingress)).err
    assert traffic(cluster) == {second: 100}
    assert len(kserve.pods[cluster.namespace, "textclustering", "predictor"]) == 3, "of each version one pair"
    eventually_running(kserve, cluster, first, second)  # the version before it is not forgotten


def test_promote_after_a_rollback_says_what_brings_the_version_back(deploy, deployed, cluster, kserve):
    _, second = deployed(0, 1)
    succeeded(deploy(1, "--rollback", ingress=kserve.ingress))
    done = deploy(1, "--promote")
    assert done.code == 2 and "deploy its files again to bring it back" in done.err
    succeeded(deploy(1, ingress=kserve.ingress))
    assert traffic(cluster) == {second: 100}
    assert len(kserve.pods[cluster.namespace, "textclustering", "predictor"]) == 2, "its pods were there"


def test_a_rollback_to_a_version_whose_predictor_died_names_its_pod_and_moves_no_request(
    deploy, deployed, cluster, kserve
):
    _, serving = deployed(0, 1)
    kserve.settle()
    [first, _] = kserve.pods[cluster.namespace, "textclustering", "predictor"]
    first.ready, first.failure = False, ("kserve-container", "CrashLoopBackOff", "back-off 5m0s restarting")
    kserve.core.patch_namespaced_pod_status(
        f"{first.name}-deployment", cluster.namespace, {"status": kserve_module.pod_status(first)}
    )
    done = deploy(1, "--rollback", ingress=kserve.ingress, timeout=4)
    assert done.code == 1 and f"pod {first.name}-deployment" in done.err and "CrashLoopBackOff" in done.err
    assert "not ready after" in done.err.splitlines()[-1] and "--ingress" not in done.err
    assert traffic(cluster) == {serving: 100}


def test_a_quota_is_named_at_once(deploy, cluster, kserve):
    kserve.refusal = (
        'fails to update knative service: admission webhook "validation.webhook.serving.knative.dev" denied the '
        "request: validation failed: dry run failed with admission: exceeded quota: small, requested: cpu=200m"
    )
    done = deploy(0, timeout=60)
    assert done.code == 1 and "exceeded quota: small" in done.err and "quota is used up" in done.err
    assert "not ready after 0 s" in done.err.splitlines()[-1] or "not ready after 1 s" in done.err.splitlines()[-1]


# --- Predictor and transformer in one pod ---------------------------------------------------------


def test_collocated_the_two_are_one_pod_that_rolls_out_and_back(deploy, cluster, store, tmp_path):
    with stub_kserve(cluster, tmp_path, serve=True) as stub:
        first = version(succeeded(deploy(0, "--collocate", ingress=stub.ingress, timeout=240)))
        second = version(succeeded(deploy(1, "--collocate", ingress=stub.ingress, timeout=240)))
        assert collocated_traffic(cluster) == {second: 100}
        succeeded(deploy(1, "--rollback", ingress=stub.ingress, timeout=240))
        assert collocated_traffic(cluster) == {first: 100}
        assert (cluster.namespace, "textclustering", "transformer") not in stub.pods
        done = deploy(1, ingress=stub.ingress)
        assert done.code == 2 and "one pod" in done.err and "--collocate" in done.err


def collocated_traffic(cluster):
    return traffic(cluster, "predictor")


# --- Not ready --------------------------------------------------------------------------------


def test_image_missing_says_so_and_the_previous_version_keeps_serving(deploy, deployed, cluster, kserve):
    [first] = deployed(0)
    done = deploy(1, "--transformer-image", "docker.io/mlops-poc/nothing:1", ingress=kserve.ingress)
    assert done.code == 1
    assert "ImagePullBackOff" in done.err and "docker.io/mlops-poc/nothing:1" in done.err
    assert "What to do: the image cannot be pulled" in done.err
    assert f"serving meanwhile: {first} 100 %" in done.err.splitlines()[-1]
    assert traffic(cluster) == {first: 100}
    done = deploy(1, "--rollback", ingress=kserve.ingress)
    assert done.code == 2 and f"no version has served before {first}" in done.err
    assert traffic(cluster) == {first: 100}
    second = version(succeeded(deploy(1, ingress=kserve.ingress)))
    assert traffic(cluster) == {second: 100}


def test_no_room_says_so(deploy, cluster, tmp_path):
    with stub_kserve(cluster, tmp_path, cpus=1):
        done = deploy(0, "--cpu-request", "600m", timeout=4)
        assert done.code == 1
        assert "do not fit beside what runs" in done.err
        assert "Insufficient cpu" in done.err and "lower --cpu-request" in done.err
        done = deploy(0, "--cpu-request", "2", timeout=4)
        assert done.code == 2 and "more than any node has (1000m CPU" in done.err


def test_a_storage_initializer_that_fails_shows_its_last_lines(deploy, cluster, tmp_path):
    with stub_kserve(cluster, tmp_path, download=True) as stub:
        done = deploy(0, "--minio-endpoint-cluster", "127.0.0.1:9")
        assert done.code == 1
        assert "container storage-initializer: CrashLoopBackOff" in done.err
        if cluster.api:  # a real API server asks the kubelet for logs, and there is none
            assert re.search(r"\| .*EndpointConnectionError", done.err)
            assert "check --minio-endpoint-cluster" in done.err
        succeeded(deploy(0, ingress=stub.ingress))  # the right endpoint is reason enough for new pods


def test_standard_mode_needs_no_knative_deploys_without_a_pin_and_refuses_a_canary(deploy, cluster, store, tmp_path):
    if cluster.api:
        for kind in ("revisions", "routes"):
            del cluster.api.kinds[kind]
    with stub_kserve(cluster, tmp_path, mode="Standard") as stub:
        succeeded(deploy(0, "--no-wait"))
        args = cluster.get("inferenceservice", "textclustering")["spec"]["transformer"]["containers"][0]["args"]
        assert "--predictor_host" not in args
        succeeded(deploy(0, ingress=stub.ingress))
        for flags in (["--canary", "20"], ["--rollback"]):
            done = deploy(1, *flags)
            assert done.code == 2 and "Standard mode" in done.err
        succeeded(deploy(0, "--delete", "--delete-artefacts"))
        assert store.list() == []


def test_an_ingress_that_does_not_answer_is_named(deploy, kserve):
    done = deploy(0, ingress="http://127.0.0.1:9", timeout=3)
    assert done.code == 1
    assert "http://127.0.0.1:9" in done.err and "--ingress" in done.err.splitlines()[-1]


def test_a_run_that_was_interrupted_between_predictor_and_transformer_goes_on(deploy, cluster, tmp_path):
    done = deploy(0, timeout=2)  # nobody makes a predictor of it
    assert done.code == 1 and "KServe created no predictor" in done.err.splitlines()[-1]
    assert "transformer" not in cluster.get("inferenceservice", "textclustering")["spec"]
    with stub_kserve(cluster, tmp_path) as stub:
        succeeded(deploy(0, ingress=stub.ingress))


# --- All of it for real -----------------------------------------------------------------------


def test_deploy_canary_promote_rollback_with_real_downloads_and_models(deploy, cluster, store, training_runs, tmp_path):
    """KServe's storage initializer, a scikit-learn predictor and the transformer of this repository serve it."""
    with stub_kserve(cluster, tmp_path, serve=True) as stub:
        first = succeeded(deploy(0, ingress=stub.ingress, timeout=240))
        number = json.loads(re.search(r"returns (.*) for:", first.err)[1])["predictions"][0]
        clusters = json.loads((training_runs[0] / "clusters.json").read_text())["clusters"]
        terms = ", ".join(clusters[number]["vocabulary_terms"])
        assert f"for: {terms}" in first.err and terms in first.out, "its own terms, its own cluster"
        for pod in stub.pods[cluster.namespace, "textclustering", "predictor"]:
            assert os.listdir(stub.work / cluster.namespace / pod.name) == ["model.joblib"]
        curl = subprocess.run(first.out, shell=True, capture_output=True, text=True)
        assert json.loads(curl.stdout) == {"predictions": [number]}
        succeeded(deploy(1, "--canary", "50", ingress=stub.ingress, timeout=240))
        assert pins(cluster, stub) == {key: key for key in pins(cluster, stub)} and len(pins(cluster, stub)) == 2
        for flag in ("--promote", "--rollback"):
            assert "returns" in succeeded(deploy(1, flag, ingress=stub.ingress, timeout=240)).err
        assert traffic(cluster) == {version(first): 100}
