"""No text of a request is in the log at any level; a client that mixes up the protocols gets the right address."""

import json
import logging
import re

import grpc
import pytest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from serving.log_privacy import WithoutMessages
from support.services import NAME, log_of, start, stop, wait_until_ready
from support.serving_client import curl, infer_over_grpc

SECRET = "Brumbleworth"
EVERYTHING = """
version: 1
disable_existing_loggers: false
handlers: {all: {class: logging.StreamHandler, stream: ext://sys.stderr}}
root: {handlers: [all], level: 1}
"""
LOUD = {name: {"level": 1, "propagate": True} for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "kserve")}


@pytest.fixture(scope="module")
def loud_service(artefacts, tmp_path_factory):
    """A service that logs everything that its libraries have to say."""
    config = tmp_path_factory.mktemp("log") / "log.yaml"
    config.write_text(EVERYTHING + f"loggers: {json.dumps(LOUD)}\n")
    service = start(
        "transformer.py", "--log_config_file", config,
        *("--transformer-path", artefacts / "transformer.joblib", "--model-path", artefacts / "model.joblib"),
    )  # fmt: skip
    try:
        yield wait_until_ready(service)
    finally:
        stop(service)


def tensor(**changes) -> dict:
    return {"name": "t", "shape": [1], "datatype": "BYTES", "data": [SECRET]} | changes


V1 = {
    "good": {"instances": [SECRET]},
    "no list": {"instances": SECRET},
    "two in one": {"instances": [[SECRET, SECRET]]},
    "an object": {"instances": [{SECRET: SECRET}]},
    "v2": {"inputs": [tensor()]},
    "an event of another kind": {"specversion": SECRET, "id": "1", "source": "s", "type": "t", "data": SECRET},
    "no JSON": f'{{"instances": ["{SECRET}'.encode(),
    "no UTF-8": b'{"instances": ["' + SECRET.encode() + b'\xff"]}',
}
V2 = {
    "good": {"inputs": [tensor()]},
    "data is a text": {"inputs": [tensor(data=SECRET)]},
    "shape is a text": {"inputs": [tensor(shape=[SECRET])]},
    "another shape": {"inputs": [tensor(shape=[3])]},
    "text as datatype": {"inputs": [tensor(datatype=SECRET)]},
    "a text among numbers": {"inputs": [tensor(datatype="FP32")]},
    "text as content_type": {"inputs": [tensor(parameters={"content_type": SECRET})]},
    "no base64": {"inputs": [tensor(parameters={"content_type": "base64"})]},
    "text as parameters": {"inputs": [tensor(parameters={SECRET: {SECRET: [SECRET]}})]},
    "v1": {"instances": [SECRET]},
    "no JSON": f'{{"inputs": ["{SECRET}'.encode(),
    "text in another field": {"id": [SECRET], "inputs": [tensor()]},
}
HEADERS = [
    {"content_type": "application/json"},
    {"content_type": "application/x-www-form-urlencoded"},
    {"content_type": f"application/json; charset={SECRET}"},
    {"Content_Encoding": SECRET},
    {"ce_id": "1", "ce_source": SECRET, "ce_type": SECRET, "ce_specversion": SECRET},
    {"Inference_Header_Content_Length": "5"},
]
GRPC = [
    {"contents": pb.InferTensorContents(bytes_contents=[SECRET.encode()])},
    {"shape": [3], "contents": pb.InferTensorContents(bytes_contents=[SECRET.encode()])},
    {"datatype": SECRET, "contents": pb.InferTensorContents(bytes_contents=[SECRET.encode()])},
    {"name": SECRET, "contents": pb.InferTensorContents(bytes_contents=[b"a"]), "raw_input_contents": [b"a"]},
    {"raw_input_contents": [SECRET.encode()]},
    {"parameters": {"content_type": pb.InferParameter(string_param=SECRET)}, "raw_input_contents": [b"\1\0\0\0a"]},
]


def test_no_text_of_a_request_is_in_the_log_at_any_level(loud_service):
    for headers in HEADERS:
        for body in V1.values():
            loud_service.post("predict", body, **headers), loud_service.post("explain", body, **headers)
        for body in V2.values():
            loud_service.post("infer", body, **headers)
    for request in GRPC:
        try:
            infer_over_grpc(loud_service, **request)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    log = log_of(loud_service)
    assert "400" in log and "INVALID_ARGUMENT" in log and "415" in log
    assert SECRET not in log
    assert SECRET not in loud_service.metrics()


def test_messages_of_exceptions_are_removed_from_log_records_but_not_where_they_were_raised():
    try:
        int(SECRET)
    except ValueError as error:
        record = logging.LogRecord(
            "a", logging.ERROR, "", 1, "failed: %s", (error,), (ValueError, error, error.__traceback__)
        )
    assert WithoutMessages().filter(record)
    text = logging.Formatter().format(record)
    assert SECRET not in text and "failed: builtins.ValueError" in text and "test_log_privacy.py" in text


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_a_client_that_sends_one_protocol_to_the_other_is_told_so_in_one_line(loud_service, content_type):
    status, answer = loud_service.post("infer", V1["good"], content_type)
    assert status == 400 and answer["error"].startswith("This is a v1 request: send it to /v1/models/NAME:predict.")
    status, answer = loud_service.post("predict", V2["good"], content_type)
    assert status == 400 and answer["error"].startswith("This is a v2 request: send it to /v2/models/NAME/infer.")


def test_a_malformed_v2_request_is_answered_in_one_line_that_says_where(loud_service):
    for content_type in ("application/json", "application/x-www-form-urlencoded"):
        status, answer = loud_service.post("infer", V2["data is a text"], content_type)
        assert status == 400 and re.search(r": inputs\.0\.data: Input should be a valid (array|list)$", answer["error"])


def test_grpc_requests_that_go_well_are_not_in_the_log(services):
    service = services["in one process"]
    before = len(log_of(service))
    infer_over_grpc(service, contents=pb.InferTensorContents(bytes_contents=[b"a snapshot of the database"]))
    curl(f"{service.url}/v1/models/{NAME}")
    assert log_of(service)[before:] == ""
