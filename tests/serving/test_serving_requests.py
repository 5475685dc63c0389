"""Requests that are wrong, large or unusual: what the service says to them, over REST and gRPC."""

import http.client
import json
import random
import subprocess

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from support.services import NAME
from support.serving_client import TEXT, curl, infer_over_grpc

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
    "letters that are not base64": (
        {"inputs": [tensor(data=["hello!"], parameters={"content_type": "base64"})]},
        "inputs[0].data[0] is not base64",
    ),
    "base64 of what is no text": (
        {"inputs": [tensor(data=["//79"], parameters={"content_type": "base64"})]},
        "inputs[0].data[0] is not UTF-8",
    ),
    "a picture": ({"inputs": [tensor(parameters={"content_type": "jpg"})]}, "content_type 'jpg'"),
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


def test_body_that_is_too_large_is_a_413_with_a_length_or_without(service):
    body = json.dumps({"instances": ["a" * 5_000_000]}).encode()
    for length in ([], ["-H", "Transfer-Encoding: chunked"]):
        answer = curl(
            f"{service.url}/v1/models/{NAME}:predict", "--data-binary", "@-", "--write-out", "%{http_code}", *length,
            stdin=body,
        )  # fmt: skip
        assert b"larger than 4194304 bytes" in answer and answer.endswith(b"413")


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


@pytest.mark.parametrize("fields", [{}, {"time": "2026-01-01T00:00:00Z"}])
def test_structured_cloudevent_is_answered_with_one_with_a_time_or_without(services, fields):
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"instances": [TEXT]}} | fields
    status, answer = services["in one process"].post("predict", event, "application/cloudevents+json")
    assert status == 200 and answer["data"] == {"predictions": services["in one process"].predict([TEXT])}
    assert {"specversion", "id", "source", "type"} <= answer.keys()


def test_model_versions_are_refused_over_rest_and_grpc_alike(services):
    service = services["in one process"]
    for path, body in (("", None), ("/ready", None), ("/infer", json.dumps({"inputs": [tensor()]}))):
        answer = curl(
            f"{service.url}/v2/models/{NAME}/versions/1{path}",
            "--write-out",
            "%{http_code}",
            *(["-d", body] if body else []),
        )
        assert b"leave the version out" in answer and answer.endswith(b"501")
    with grpc.insecure_channel(f"localhost:{service.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        for call, request in (
            (stub.ModelMetadata, pb.ModelMetadataRequest(name=NAME, version="1")),
            (stub.ModelReady, pb.ModelReadyRequest(name=NAME, version="1")),
            (stub.ModelInfer, pb.ModelInferRequest(model_name=NAME, model_version="1")),
        ):
            with pytest.raises(grpc.RpcError) as error:
                call(request, timeout=60)
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert "leave the version out" in error.value.details()
