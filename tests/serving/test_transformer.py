"""transformer.py in all its topologies: real ModelServer, real HTTP and gRPC, requests as curl sends them."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys

import joblib
import numpy as np
import pytest
import sklearn
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from sklearn.cluster import KMeans

from model import artefacts as contract
from model import projection
from support.programs import ROOT, run_program
from support.services import NAME, log_of, start, start_transformer, stop, wait_until_ready
from support.serving_client import TEXT, UNKNOWN, curl, infer_over_grpc


@pytest.fixture(scope="session")
def expected(artefacts, corpus):
    """The cluster of each document of the corpus, by scikit-learn alone."""
    pipeline, model = joblib.load(artefacts / "transformer.joblib"), joblib.load(artefacts / "model.joblib")
    return model.predict(pipeline.transform(corpus.documents)).tolist()


# ------------------------------------------------------------------------------------------------------- answers


def test_vectors_in_memory_are_those_of_the_pipeline_over_the_whole_corpus(artefacts, corpus):
    pipeline = joblib.load(artefacts / "transformer.joblib")
    lsa = projection.Lsa(pipeline)
    expected = pipeline.transform(corpus.documents)
    one_by_one = np.concatenate([lsa.transform([document]) for document in corpus.documents])
    for vectors in (one_by_one, lsa.transform(corpus.documents)):
        np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-12)


def test_every_topology_answers_as_scikit_learn_does_over_the_whole_corpus(service, corpus, expected):
    answers = []
    for first in range(0, len(corpus.documents), 500):
        answers += service.predict(corpus.documents[first : first + 500])
    assert answers == expected


def test_v1_takes_instances_as_in_the_seed_and_as_plain_texts(service):
    (cluster,) = service.predict([TEXT])
    assert service.predict([[TEXT]]) == [cluster]
    assert service.predict([TEXT, [TEXT]]) == [cluster, cluster]


def test_document_without_a_known_term_is_in_no_cluster(service):
    (cluster,) = service.predict([TEXT])
    assert service.predict([UNKNOWN]) == [-1]
    assert service.predict([UNKNOWN, TEXT, UNKNOWN]) == [-1, cluster, -1]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_v2_rest_answers_as_v1(service, shape):
    tensor = {"name": "input-0", "shape": shape, "datatype": "BYTES", "data": [TEXT, UNKNOWN]}
    status, answer = service.post("infer", {"id": "42", "inputs": [tensor]})
    assert status == 200 and answer["id"] == "42" and answer["model_name"] == NAME
    (output,) = answer["outputs"]
    assert (output["datatype"], output["shape"], output["data"]) == ("INT32", [2], service.predict([TEXT, UNKNOWN]))


def test_v2_rest_takes_the_binary_extension(service):
    raw = len(TEXT).to_bytes(4, "little") + TEXT.encode()
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    answer = curl(
        f"{service.url}/v2/models/{NAME}/infer", "--data-binary", "@-",
        "-H", "Content-Type: application/octet-stream", "-H", f"Inference-Header-Content-Length: {len(header)}",
        stdin=header + raw,
    )  # fmt: skip
    assert json.loads(answer)["outputs"][0]["data"] == service.predict([TEXT])


def test_grpc_answers_as_v1(service):
    contents = pb.InferTensorContents(bytes_contents=[TEXT.encode(), UNKNOWN.encode()])
    (output,) = infer_over_grpc(service, shape=[2], contents=contents).outputs
    assert output.datatype == "INT32"
    assert list(output.contents.int_contents) == service.predict([TEXT, UNKNOWN])


def test_grpc_takes_raw_contents(service):
    answer = infer_over_grpc(service, raw_input_contents=[len(TEXT).to_bytes(4, "little") + TEXT.encode()])
    assert np.frombuffer(answer.raw_output_contents[0], np.int32).tolist() == service.predict([TEXT])


@pytest.mark.parametrize(
    "header", [[], ["-H", "Content-Type: application/json; charset=utf-8"], ["-H", "Content-Type:"]]
)
def test_curl_of_the_seed_works_with_any_content_type(service, header):
    body = json.dumps({"instances": [[TEXT]]})
    answer = curl(f"{service.url}/v1/models/{NAME}:predict", "-d", body, *header)
    assert json.loads(answer) == {"predictions": service.predict([TEXT])}
    body = json.dumps({"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": [TEXT]}]})
    answer = curl(f"{service.url}/v2/models/{NAME}/infer", "-d", body, *header)
    assert json.loads(answer)["outputs"][0]["data"] == service.predict([TEXT])


def test_a_request_that_went_well_is_not_in_the_log(service):
    before = len(log_of(service))
    service.predict([TEXT])
    assert log_of(service)[before:] == ""


@pytest.mark.parametrize("path", ["/v1/models/another:predict", "/v2/models/another/infer"])
def test_a_model_that_is_not_here_is_one_line_in_the_log(service, path):
    before = len(log_of(service))
    answer = curl(service.url + path, "-d", json.dumps({"instances": [TEXT], "inputs": []}))
    assert json.loads(answer) == {"error": "Model with name another does not exist."}
    assert "404 Model with name another" in log_of(service)[before:] and "Traceback" not in log_of(service)[before:]


# ---------------------------------------------------------------------------------------------------------- start


@pytest.fixture
def copied(artefacts, tmp_path):
    for name in ("model.joblib", "transformer.joblib", "clusters.json"):
        shutil.copy(artefacts / name, tmp_path)
    return tmp_path


def start_and_fail(folder) -> str:
    service = start(
        "transformer.py", "--transformer-path", folder / "transformer.joblib", "--model-path", folder / "model.joblib"
    )
    try:
        assert service.process.wait(timeout=60) == 1
        assert "Traceback" not in log_of(service)
        return log_of(service)
    finally:
        stop(service)


def change_summary(folder, change):
    path = folder / "clusters.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))


@pytest.mark.parametrize("name", ["model.joblib", "transformer.joblib"])
def test_refuses_a_file_that_is_not_the_one_of_the_summary(copied, name):
    with (copied / name).open("ab") as file:
        file.write(b"\0")
    assert re.search(
        rf"{name} is not of the training run that clusters.json describes .* train again", start_and_fail(copied)
    )


def test_refuses_another_scikit_learn(copied):
    change_summary(copied, lambda summary: summary["versions"].update({"scikit-learn": "0.24.2"}))
    assert f"scikit-learn 0.24.2, and this is {sklearn.__version__}" in start_and_fail(copied)


def test_refuses_another_scikit_learn_without_a_summary(copied):
    (copied / "clusters.json").unlink()
    pickled = (copied / "model.joblib").read_bytes()
    version = sklearn.__version__.encode()
    assert version in pickled
    (copied / "model.joblib").write_bytes(pickled.replace(version, version[:-1] + b"0"))
    assert "was made with scikit-learn" in start_and_fail(copied)


def test_refuses_a_missing_file(copied):
    (copied / "transformer.joblib").unlink()
    assert "transformer.joblib is not there" in start_and_fail(copied)


def test_refuses_a_file_that_is_not_joblib(copied):
    (copied / "clusters.json").unlink()
    (copied / "model.joblib").write_bytes(b"hello")
    assert "is not a joblib file" in start_and_fail(copied)


def test_refuses_a_summary_that_is_none(copied):
    (copied / "clusters.json").write_text("[]")
    assert "is not a summary" in start_and_fail(copied)


def test_refuses_a_model_of_another_training_run(copied):
    (copied / "clusters.json").unlink()
    joblib.dump(KMeans(2, n_init=1).fit(np.eye(3)), copied / "model.joblib")
    assert "two training runs" in start_and_fail(copied)


def test_serves_artefacts_without_a_summary_with_a_warning(copied):
    (copied / "clusters.json").unlink()
    service = start(
        "transformer.py", "--transformer-path", copied / "transformer.joblib", "--model-path", copied / "model.joblib"
    )
    try:
        wait_until_ready(service)
        assert service.predict([TEXT]) != [-1]
        assert "the model files are not checked" in log_of(service)
    finally:
        stop(service)


def test_interrupt_ends_the_server_without_a_traceback(copied):
    service = start(
        "transformer.py", "--transformer-path", copied / "transformer.joblib", "--model-path", copied / "model.joblib"
    )
    try:
        wait_until_ready(service)
        service.process.send_signal(signal.SIGINT)
        service.process.wait(timeout=30)
        assert "Traceback" not in log_of(service)
    finally:
        stop(service)


def test_needs_either_a_predictor_or_a_model():
    run = run_program("transformer.py")
    assert run.returncode == 2 and "--predictor_host" in run.stderr and "--model-path" in run.stderr


def test_image_copies_all_that_the_transformer_imports(tmp_path):
    dockerfile, _, _ = (ROOT / "transformer.Dockerfile").read_text().partition(" AS retraining-builder")
    for sources, target in re.findall(r"^COPY (?!--from)(.*) (\S+)$", dockerfile, re.MULTILINE):
        for source in (ROOT / source for source in sources.split()):
            if source.is_dir():
                shutil.copytree(source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                (tmp_path / target).mkdir(exist_ok=True)
                shutil.copy(source, tmp_path / target)
    run = subprocess.run([sys.executable, "transformer.py", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and "--no-bypass" in run.stdout, run.stderr


# --------------------------------------------------------------------------------------------- explain and metrics


def test_explanation_names_the_cluster_that_predict_answers(service, corpus, expected):
    status, answer = service.post("explain", {"instances": corpus.documents[:200]})
    assert status == 200
    assert [explanation["cluster"] for explanation in answer["explanations"]] == expected[:200]


def test_shares_of_the_terms_add_up_to_the_similarity(service, corpus):
    _, answer = service.post("explain", {"instances": corpus.documents[:200]})
    for explanation in answer["explanations"]:
        shares = [share["share"] for share in explanation["shares"]]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(explanation["similarity"], abs=1e-9)


def test_similarity_is_the_cosine_to_the_centroid(artefacts, services):
    model, pipeline = joblib.load(artefacts / "model.joblib"), joblib.load(artefacts / "transformer.joblib")
    _, answer = services["in one process"].post("explain", {"instances": [TEXT]})
    (explanation,) = answer["explanations"]
    (vector,) = pipeline.transform([TEXT])
    for part in (explanation, explanation["runner_up"]):
        centroid = model.cluster_centers_[part["cluster"]]
        assert part["similarity"] == pytest.approx(vector @ centroid / np.linalg.norm(centroid))
    nearest_two = np.argsort(np.linalg.norm(model.cluster_centers_ - vector, axis=1))[:2].tolist()
    assert [explanation["cluster"], explanation["runner_up"]["cluster"]] == nearest_two


def test_explanation_has_the_top_terms_of_the_summary(artefacts, service):
    clusters = json.loads((artefacts / "clusters.json").read_text())["clusters"]
    _, answer = service.post("explain", {"instances": [TEXT]})
    (explanation,) = answer["explanations"]
    assert explanation["top_terms"] == [term for term, _ in clusters[explanation["cluster"]]["terms"]]


def test_shares_have_the_top_terms_as_people_write_them_beside_those_of_the_vocabulary(service):
    _, answer = service.post("explain", {"instances": ["amazon cognito in a VPC, and the goalie of a gateway"]})
    written = {share["term"]: share.get("written") for share in answer["explanations"][0]["shares"]}
    assert (written["amazon cognito"], written["vpc"], written["gateway"]) == ("Amazon Cognito", "VPC", None)


def test_document_without_a_known_term_has_no_explanation(service):
    _, answer = service.post("explain", {"instances": [UNKNOWN]})
    nothing = {"cluster": -1, "top_terms": [], "similarity": None, "runner_up": None, "shares": []}
    assert answer == {"explanations": [nothing]}


def test_metrics_count_the_documents_of_each_cluster_and_their_similarity(service):
    (cluster,) = service.predict([TEXT])
    before = [metric(service, cluster), metric(service, -1), similarities(service)]
    service.predict([TEXT, TEXT, UNKNOWN])
    assert [metric(service, cluster), metric(service, -1), similarities(service)] == [
        before[0] + 2,
        before[1] + 1,
        before[2] + 2,
    ]


def metric(service, cluster) -> float:
    found = re.search(rf'textclustering_documents_total{{cluster="{cluster}",.*?}} (\S+)', service.metrics())
    return float(found[1]) if found else 0


def similarities(service) -> float:
    return sum(map(float, re.findall(r"textclustering_similarity_count{.*?} (\S+)", service.metrics())))


def test_the_similarity_of_a_good_model_has_bounds_up_to_one(service):
    """Prometheus takes a quantile beyond the last bound for that bound, so that such a model would seem to be worse."""
    service.predict([TEXT])
    bounds = {
        float(bound) for bound in re.findall(r'textclustering_similarity_bucket{.*?le="([\d.]+)"', service.metrics())
    }
    assert max(bounds) == 1 and sum(bound > 0.95 for bound in bounds) >= 4


def test_metrics_have_what_was_normal_in_the_training_under_the_version_of_the_deployment(artefacts, service):
    summary = json.loads((artefacts / "clusters.json").read_text())
    files = [artefacts / name for name in ("model.joblib", "transformer.joblib", "clusters.json")]
    version = contract.version_name([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    text, model = service.metrics(), f'model_name="{NAME}"'
    for cluster in summary["clusters"]:
        number, about = cluster["cluster"], ", ".join(term for term, _ in cluster["terms"][:3])
        labels = f'about="{about}",cluster="{number}",{model},version="{version}"'
        share = float(re.search(rf"textclustering_trained_share{{{labels}}} (\S+)", text)[1])
        assert share == pytest.approx(cluster["share"])
    assert re.search(rf"textclustering_trained_documents{{{model},.*}} {summary['settings']['sample']}.0", text)
    labels = f'cluster="",{model},quantile="0.5",version="{version}"'
    assert f"textclustering_trained_similarity{{{labels}}} {summary['baseline']['similarity']['0.5']}\n" in text
    # Also of a cluster that nobody has asked for: the rules compare every share.
    clusters = re.findall(rf'textclustering_documents_total{{cluster="(.*?)",{model},version="{version}"}}', text)
    assert sorted(map(int, clusters)) == sorted([-1, *(cluster["cluster"] for cluster in summary["clusters"])])


# ------------------------------------------------------------------------------------------------ cluster numbers


@pytest.fixture(scope="module", params=["in one process", "v1"])
def renumbered(request, artefacts, tmp_path_factory):
    """A service whose clusters have the numbers 1, 3, 5 ... in no order; what is between them is far from all texts."""
    folder, model_dir = tmp_path_factory.mktemp("renumbered"), tmp_path_factory.mktemp("model")
    summary = json.loads((artefacts / "clusters.json").read_text())
    model = joblib.load(artefacts / "model.joblib")
    centroids = np.full((2 * len(model.cluster_centers_), model.cluster_centers_.shape[1]), 1e3)
    centroids[1::2] = model.cluster_centers_
    model.cluster_centers_, model.n_clusters = centroids, len(centroids)
    joblib.dump(model, model_dir / "model.joblib")
    for cluster in summary["clusters"]:
        cluster["cluster"] = 2 * cluster["cluster"] + 1
        cluster["name"] = f"number {cluster['cluster']}"
    summary["clusters"].reverse()
    summary["sha256"]["model.joblib"] = hashlib.sha256((model_dir / "model.joblib").read_bytes()).hexdigest()
    (folder / "clusters.json").write_text(json.dumps(summary))
    shutil.copy(artefacts / "transformer.joblib", folder)
    if request.param == "in one process":
        options = ("--transformer-path", folder / "transformer.joblib", "--model-path", model_dir / "model.joblib")
        started = [start("transformer.py", *options)]
    else:
        predictor = start("tests/doubles/sklearn_predictor.py", "--model_dir", model_dir)
        started = [predictor, start_transformer(folder, predictor, request.param)]
    try:
        for service in started:
            wait_until_ready(service)
        yield service
    finally:
        for service in started:
            stop(service)


def test_answers_are_the_numbers_that_k_means_gives_its_clusters(renumbered, corpus, expected):
    assert renumbered.predict(corpus.documents[:500]) == [2 * cluster + 1 for cluster in expected[:500]]


def test_explanation_and_metrics_look_a_cluster_up_by_its_number(renumbered, services, corpus):
    body = {"instances": corpus.documents[:50]}
    _, renamed = renumbered.post("explain", body)
    _, original = services["in one process"].post("explain", body)
    for explanation in original["explanations"]:
        for part in (explanation, explanation["runner_up"]):
            part["cluster"] = 2 * part["cluster"] + 1
            part["name"] = f"number {part['cluster']}"
    assert renamed == original
    (number,) = renumbered.predict([TEXT])
    assert metric(renumbered, number) > 0 and metric(renumbered, number - 1) == 0
    assert similarities(renumbered) > 0


# ------------------------------------------------------------------------------------------------ nearest clusters


def test_the_nearest_clusters_are_those_of_k_means_in_every_protocol(renumbered, artefacts):
    model, pipeline = joblib.load(artefacts / "model.joblib"), joblib.load(artefacts / "transformer.joblib")
    (vector,) = pipeline.transform([TEXT])
    nearest = np.argsort(model.transform([vector])[0])[:3]
    numbers, names = [2 * n + 1 for n in nearest.tolist()], [f"number {2 * n + 1}" for n in nearest.tolist()]
    centroids = model.cluster_centers_[nearest]
    similarities = centroids @ vector / np.linalg.norm(centroids, axis=1)

    _, answer = renumbered.post("explain", {"instances": [TEXT, UNKNOWN], "top": 3})
    known, unknown = (explanation["nearest"] for explanation in answer["explanations"])
    assert [(cluster["cluster"], cluster["name"]) for cluster in known] == list(zip(numbers, names)) and unknown == []
    assert [cluster["similarity"] for cluster in known] == pytest.approx(similarities)

    tensor = {"name": "t", "shape": [2], "datatype": "BYTES", "data": [TEXT, UNKNOWN]}
    _, answer = renumbered.post("infer", {"inputs": [tensor], "parameters": {"top": 3}})
    contents = pb.InferTensorContents(bytes_contents=[TEXT.encode(), UNKNOWN.encode()])
    parameters = {"top": pb.InferParameter(int64_param=3)}
    over_grpc = infer_over_grpc(renumbered, shape=[2], contents=contents, parameters=parameters).outputs
    fields = {"INT32": "int_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}
    values = {output.name: list(getattr(output.contents, fields[output.datatype])) for output in over_grpc}
    values["name"] = [name.decode() for name in values["name"]]
    for output in answer["outputs"]:
        assert output["shape"] == ([2] if output["name"] == "output-0" else [2, 3])
        assert output["data"] == values[output["name"]]
    assert values["output-0"] == [numbers[0], -1] and values["nearest"] == [*numbers, -1, -1, -1]
    assert values["similarity"] == pytest.approx([*similarities, 0, 0, 0]) and values["name"] == [*names, "", "", ""]


@pytest.mark.parametrize("top", [0, -1, 2.5, "3", True, [3]])
def test_a_number_of_nearest_clusters_that_is_none_is_refused(services, top):
    service = services["in one process"]
    before = len(log_of(service))
    status, answer = service.post("explain", {"instances": [TEXT], "top": top})
    assert status == 400 and "expected a whole number above 0" in answer["error"]
    assert '"top" is something else' in log_of(service)[before:]
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
    status, answer = service.post("infer", {"inputs": [tensor], "parameters": {"top": top}})
    assert status == 400 and "top" in answer["error"]


def test_without_it_there_are_as_few_tensors_as_ever(services):
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
    _, answer = services["in one process"].post("infer", {"inputs": [tensor]})
    assert [output["name"] for output in answer["outputs"]] == ["output-0"]
