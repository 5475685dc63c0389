"""transformer.py in all its topologies: real ModelServer, real HTTP and gRPC, requests as curl sends them."""

import http.client
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import grpc
import joblib
import numpy as np
import pytest
import sklearn
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from sklearn.cluster import KMeans

import corpus as corpora
import projection
from conftest import NAME, ROOT, free_port, log_of, start, start_transformer, stop, wait_until_ready

TEXT = "Creates a snapshot of the database cluster and copies it to another region."
UNKNOWN = "qzxv wvutz 12 34"


@pytest.fixture(scope="session")
def corpus():
    return corpora.load_aws_docs()


@pytest.fixture(scope="session")
def expected(artefacts, corpus):
    """The cluster of each document of the corpus, by scikit-learn alone."""
    pipeline, model = joblib.load(artefacts / "transformer.joblib"), joblib.load(artefacts / "model.joblib")
    return model.predict(pipeline.transform(corpus.documents)).tolist()


# ------------------------------------------------------------------------------------------------------- answers


def test_vectors_in_memory_are_those_of_the_pipeline_over_the_whole_corpus(artefacts, corpus):
    pipeline = joblib.load(artefacts / "transformer.joblib")
    lsa = projection.Lsa(pipeline)
    vectors = np.array([lsa.project(document) for document in corpus.documents])
    np.testing.assert_allclose(vectors, pipeline.transform(corpus.documents), rtol=0, atol=1e-12)


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


def infer_over_grpc(service, raw_input_contents=(), **tensor):
    request = pb.ModelInferRequest(model_name=NAME, raw_input_contents=raw_input_contents)
    request.inputs.add(name="input-0", **({"datatype": "BYTES", "shape": [1]} | tensor))
    with grpc.insecure_channel(f"localhost:{service.grpc_port}") as channel:
        return GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)


def test_grpc_answers_as_v1(service):
    contents = pb.InferTensorContents(bytes_contents=[TEXT.encode(), UNKNOWN.encode()])
    (output,) = infer_over_grpc(service, shape=[2], contents=contents).outputs
    assert output.datatype == "INT32"
    assert list(output.contents.int_contents) == service.predict([TEXT, UNKNOWN])


def test_grpc_takes_raw_contents(service):
    answer = infer_over_grpc(service, raw_input_contents=[len(TEXT).to_bytes(4, "little") + TEXT.encode()])
    assert np.frombuffer(answer.raw_output_contents[0], np.int32).tolist() == service.predict([TEXT])


def curl(*options, stdin=None) -> bytes:
    return subprocess.run(
        ["curl", "--silent", "--show-error", *options], input=stdin, capture_output=True, check=True
    ).stdout


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


# ----------------------------------------------------------------------------------------------------- bad input

BAD_V1 = {
    b"": "cannot be read",
    b"{": "cannot be read",
    b"\xff\xfe": "cannot be read",
    b"[" * 5_000: "cannot be read",
    b"[]": '"instances" is missing',
    b"5": '"instances" is missing',
    b"{}": '"instances" is missing',
    b'{"instances": "a text"}': '"instances" is missing',
    b'{"instances": null}': '"instances" is missing',
    b'{"instances": []}': "is empty",
    b'{"instances": [5]}': "instances[0] is a number",
    b'{"instances": ["ok", null]}': "instances[1] is null",
    b'{"instances": [true]}': "instances[0] is a boolean",
    b'{"instances": [{"text": "a"}]}': "instances[0] is an object",
    b'{"instances": [["a", "b"]]}': "instances[0] is a list of 2",
    b'{"instances": [[]]}': "instances[0] is a list of 0",
    b'{"instances": [[["a"]]]}': "instances[0] is a list",
    b'{"instances": [""]}': "instances[0] has no text",
    b'{"instances": [" \\n\\t"]}': "instances[0] has no text",
    b'{"instances": ["\\ud800"]}': "cannot be read",
    json.dumps({"instances": ["a"] * 1_025}).encode(): "1024 are allowed",
    json.dumps({"instances": ["a" * 5_000_000]}).encode(): "larger than 4194304 bytes",
}


@pytest.mark.parametrize("verb", ["predict", "explain"])
@pytest.mark.parametrize("body", BAD_V1, ids=lambda body: body[:30])
def test_bad_v1_request_is_a_400_that_says_what_was_wrong(service, verb, body):
    status, answer = service.post(verb, body)
    assert status == 400 and BAD_V1[body] in answer["error"]


def tensor(**changes):
    return {"name": "t", "shape": [1], "datatype": "BYTES", "data": ["text"]} | changes


BAD_V2 = {
    "no inputs": ({}, "inputs"),
    "empty inputs": ({"inputs": []}, "one input tensor"),
    "two tensors": ({"inputs": [tensor(), tensor()]}, "one input tensor"),
    "numbers": ({"inputs": [tensor(datatype="FP32", data=[1.0])]}, "expected BYTES"),
    "number in bytes": ({"inputs": [tensor(data=[5])]}, "inputs[0].data[0] is a number"),
    "shape too long": ({"inputs": [tensor(shape=[2])]}, "shape"),
    "shape of no length": ({"inputs": [tensor(shape=[])]}, "shape"),
    "no documents": ({"inputs": [tensor(shape=[0], data=[])]}, "is empty"),
    "blank document": ({"inputs": [tensor(data=[" "])]}, "has no text"),
    "surrogate in the id": (
        b'{"id": "\\ud800", "inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}',
        "",
    ),
    "not an object": ([], ""),
    "not json": (b"{", ""),
}


@pytest.mark.parametrize("case", BAD_V2)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_bad_v2_request_is_a_400_that_says_what_was_wrong(service, case, content_type):
    body, reason = BAD_V2[case]
    status, answer = service.post("infer", body, content_type)
    assert status == 400 and reason in answer["error"]


@pytest.mark.parametrize(
    "broken",
    [
        {"datatype": "FP32"},
        {"raw_input_contents": [b"\x09\x00\x00\x00ab"]},
        {"raw_input_contents": [b"\x02\x00\x00\x00\xff\xfe"]},
        {"shape": [3], "contents": pb.InferTensorContents(bytes_contents=[b"a"])},
        {"contents": pb.InferTensorContents(bytes_contents=[b" "])},
        {},
    ],
)
def test_bad_grpc_request_is_an_invalid_argument(service, broken):
    with pytest.raises(grpc.RpcError) as error:
        infer_over_grpc(service, **broken)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_no_client_can_unload_the_model(service, verb):
    with pytest.raises(subprocess.CalledProcessError):
        curl("--fail", "-X", "POST", f"{service.url}/v2/repository/models/{NAME}/{verb}")
    service.predict([TEXT])


def test_body_without_a_length_is_limited_too(service):
    answer = curl(
        f"{service.url}/v1/models/{NAME}:predict", "-H", "Transfer-Encoding: chunked", "--data-binary", "@-",
        stdin=b"a" * 6_000_000,
    )  # fmt: skip
    assert b"larger than 4194304 bytes" in answer


@pytest.mark.parametrize("way", ["in one process", "v1"])
def test_five_thousand_mangled_requests_cause_no_500(services, way):
    """A fuzzer that mangles good requests: bytes, JSON values, headers and paths."""
    service, rng = services[way], random.Random(0)
    connection = http.client.HTTPConnection("localhost", service.http_port, timeout=60)
    statuses = []
    for _ in range(5_000):
        path, body, headers = mangled_request(rng)
        try:
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            response.read()
        except (http.client.HTTPException, ConnectionError):
            connection.close()
            continue
        statuses.append(response.status)
        assert response.status < 500 or response.status == 501, (path, body, headers)
    assert len(statuses) > 4_900 and statuses.count(400) > 2_000
    assert service.predict([TEXT]) != [-1]


JUNK = [
    None,
    True,
    0,
    -1,
    1e308,
    2**70,
    "",
    " ",
    "text",
    "\u0000",
    "\U0001f600",
    [],
    {},
    [[]],
    [None],
    ["a", 1],
    {"a": "b"},
]
JUNK_HEADERS = {
    "Content-Type": ["", "text/plain", "application/json", "application/octet-stream", "application/cloudevents+json", "é"],
    "Inference-Header-Content-Length": ["", "-1", "5", "99999", "x"],
    "ce-id": ["1"], "ce-type": ["t"], "ce-source": ["s"], "ce-specversion": ["1.0", "9"],
    "Accept": ["text/html"],
}  # fmt: skip


def mangled_request(rng: random.Random) -> tuple[str, bytes, dict]:
    good = {
        "/v1/models/textclustering:predict": {"instances": [["a text"], "another"]},
        "/v1/models/textclustering:explain": {"instances": ["a text"]},
        "/v2/models/textclustering/infer": {
            "id": "1", "parameters": {"a": 1}, "inputs": [tensor()], "outputs": [{"name": "output-0"}],
        },
    }  # fmt: skip
    path = rng.choice(list(good))
    body = mangle_json(good[path], rng)
    encoded = json.dumps(body).encode()
    if rng.random() < 0.3:
        position = rng.randrange(len(encoded))
        encoded = encoded[:position] + rng.randbytes(rng.randrange(4)) + encoded[position + rng.randrange(4) :]
    names = rng.sample(list(JUNK_HEADERS), rng.choice([0, 0, 1, 2, 5]))
    headers = {name: rng.choice(JUNK_HEADERS[name]).encode() for name in names}
    if rng.random() < 0.05:
        path = path.replace("textclustering", rng.choice(["", "other", "%00", "%ff", "a%2Fb"]))
    return path, encoded, headers


def mangle_json(value, rng: random.Random):
    if rng.random() < 0.2:
        return rng.choice(JUNK)
    if isinstance(value, dict):
        return {key: mangle_json(item, rng) for key, item in value.items() if rng.random() > 0.1}
    if isinstance(value, list):
        return [mangle_json(item, rng) for item in value for _ in range(rng.choice([0, 1, 1, 1, 3]))]
    return value


# ------------------------------------------------------------------------------------------ a predictor in trouble


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc-v2"])
def test_predictor_in_trouble_is_said_and_recovered_from(artefacts, model_dir, protocol):
    ports = {"http_port": free_port(), "grpc_port": free_port()}
    predictor = start("tests/sklearn_predictor.py", "--model_dir", model_dir, **ports)
    service = start_transformer(artefacts, predictor, protocol, "--predictor_request_timeout_seconds", "1")
    try:
        wait_until_ready(predictor), wait_until_ready(service)
        (cluster,) = service.predict([TEXT])

        predictor.process.send_signal(signal.SIGSTOP)
        status, answer = service.post("predict", {"instances": [TEXT]})
        assert status == 504 and "did not answer within 1 s" in answer["error"]
        predictor.process.send_signal(signal.SIGCONT)
        eventually_predicts(service, [cluster])

        stop(predictor)
        status, answer = service.post("predict", {"instances": [TEXT]})
        assert status == 503 and "failed" in answer["error"]
        assert service.predict([UNKNOWN]) == [-1], "needs no predictor"

        predictor = wait_until_ready(start("tests/sklearn_predictor.py", "--model_dir", model_dir, **ports))
        eventually_predicts(service, [cluster])
        assert "Traceback" not in log_of(service) or protocol == "grpc-v2"  # KServe's gRPC client logs its own
    finally:
        stop(service), stop(predictor)


def eventually_predicts(service, clusters):
    deadline = time.monotonic() + 10
    while (answer := service.post("predict", {"instances": [TEXT]}))[0] != 200:
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    assert answer[1] == {"predictions": clusters}


def test_predictor_of_another_model_is_a_503(artefacts, tmp_path):
    joblib.dump(KMeans(40, n_init=1).fit(np.eye(50)), tmp_path / "model.joblib")
    predictor = start("tests/sklearn_predictor.py", "--model_dir", tmp_path)
    service = start_transformer(artefacts, predictor, "v1")
    try:
        wait_until_ready(predictor), wait_until_ready(service)
        statuses = {
            service.post("predict", {"instances": [text]})[0]
            for text in ("snapshot", "role", "bucket", "user", "image")
        }
        assert 503 in statuses
    finally:
        stop(service), stop(predictor)


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
        assert "taken on trust" in log_of(service)
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
    run = subprocess.run([sys.executable, ROOT / "transformer.py"], capture_output=True, text=True)
    assert run.returncode == 2 and "--predictor_host" in run.stderr and "--model-path" in run.stderr


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
    return float(re.search(r"textclustering_similarity_count{.*?} (\S+)", service.metrics())[1])
