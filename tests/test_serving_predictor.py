"""The transformer and its predictor: what clients see when the predictor is in trouble."""

import signal
import time

import joblib
import numpy as np
import pytest
from sklearn.cluster import KMeans

from conftest import free_port, log_of, start, start_transformer, stop, wait_until_ready
from serving_client import TEXT, UNKNOWN


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
