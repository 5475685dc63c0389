"""The transformer and its predictor: what clients see when the predictor is in trouble, away, or the wrong one."""

import asyncio
import concurrent.futures
import json
import re
import signal
import threading
import time
import urllib.error
import urllib.request

import grpc
import joblib
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kserve.predictor_config import PredictorConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from serving.predictor import Predictor
from support.event_loops import run_coroutine
from support.free_port import free_port
from support.services import NAME, log_of, start, start_transformer, stop, wait_until_ready
from support.serving_client import TEXT, UNKNOWN


@pytest.fixture(scope="session")
def other_model_dir(artefacts, tmp_path_factory):
    """A model of the same shape, whose clusters have other numbers."""
    folder = tmp_path_factory.mktemp("other")
    model = joblib.load(artefacts / "model.joblib")
    model.cluster_centers_ = model.cluster_centers_[::-1].copy()
    joblib.dump(model, folder / "model.joblib")
    return folder


@pytest.mark.parametrize("protocol", ["v1", "v2", "grpc-v2"])
def test_without_bypass_a_predictor_that_fails_is_reported_and_recovered_from(
    artefacts, model_dir, other_model_dir, protocol
):
    ports = {"http_port": free_port(), "grpc_port": free_port()}
    predictor = start("tests/doubles/sklearn_predictor.py", "--model_dir", model_dir, **ports)
    service = start_transformer(
        artefacts, predictor, protocol, "--predictor_request_timeout_seconds", "1", "--no-bypass"
    )
    try:
        wait_until_ready(predictor), wait_until_ready(service)
        (cluster,) = service.predict([TEXT])

        predictor.process.send_signal(signal.SIGSTOP)
        status, answer = service.post("predict", {"instances": [TEXT]})
        assert status == 504 and "did not answer within 1 s" in answer["error"]
        began = time.monotonic()
        statuses = [service.post("predict", {"instances": [TEXT]})[0] for _ in range(10)]
        assert statuses == [503] * 10 and time.monotonic() - began < 1, "known to be gone: answered at once"
        predictor.process.send_signal(signal.SIGCONT)
        eventually_predicts(service, [cluster])

        stop(predictor)
        status, answer = service.post("predict", {"instances": [TEXT]})
        assert status == 503 and "failed" in answer["error"]
        assert service.predict([UNKNOWN]) == [-1], "needs no predictor"
        assert readiness(service) == [True] * 5, "who is not ready cannot tell its clients why"

        predictor = wait_until_ready(
            start("tests/doubles/sklearn_predictor.py", "--model_dir", other_model_dir, **ports)
        )
        deadline = time.monotonic() + 60
        while "a different model" not in (answer := service.post("predict", {"instances": [TEXT]}))[1].get("error", ""):
            assert answer[0] == 503 and time.monotonic() < deadline, answer
            time.sleep(0.1)
        while figure(service, "textclustering_ready") != 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert readiness(service) == [True] * 5

        stop(predictor)
        predictor = wait_until_ready(start("tests/doubles/sklearn_predictor.py", "--model_dir", model_dir, **ports))
        eventually_predicts(service, [cluster])
        assert readiness(service) == [True] * 5
        assert figure(service, "textclustering_ready") == 1
        # The rule of errors on the platform counts them so: steps that were begun, and answers that were made.
        begun, answered = (figure(service, f"request_{step}_seconds_count") for step in ("predict", "postprocess"))
        status, _ = service.post("predict", {"instances": [5]})
        assert status == 400 and figure(service, "request_predict_seconds_count") == begun > answered > 0
        assert "Traceback" not in log_of(service)
    finally:
        stop(service), stop(predictor)


def figure(service, metric: str) -> float:
    return float(re.search(rf"^{metric}{{.*}} (\S+)$", service.metrics(), re.MULTILINE)[1])


def readiness(service) -> list[bool]:
    """What each of KServe's endpoints says, over REST and gRPC."""
    answers = []
    for path in (f"/v1/models/{NAME}", "/v2/health/ready", f"/v2/models/{NAME}/ready"):
        try:
            with urllib.request.urlopen(service.url + path, timeout=60) as response:
                answers.append(json.load(response)["ready"])
        except urllib.error.HTTPError as error:
            assert error.code == 503 and "predictor" in json.load(error)["error"]
            answers.append(False)
    with grpc.insecure_channel(f"localhost:{service.grpc_port}") as channel:
        stub = GRPCInferenceServiceStub(channel)
        answers.append(stub.ServerReady(pb.ServerReadyRequest(), timeout=60).ready)
        answers.append(stub.ModelReady(pb.ModelReadyRequest(name=NAME), timeout=60).ready)
    return answers


def eventually_predicts(service, clusters):
    deadline = time.monotonic() + 60
    while (answer := service.post("predict", {"instances": [TEXT]}))[0] != 200:
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    assert answer[1] == {"predictions": clusters}


class Clients:
    """Ten requests a second from four clients, until the end of the block; keeps the answers and the longest wait."""

    def __init__(self, service):
        self.service, self.ended = service, threading.Event()
        self.answers, self.longest = [], 0.0

    def __enter__(self):
        self.pool = concurrent.futures.ThreadPoolExecutor()
        self.clients = [self.pool.submit(self.send) for _ in range(4)]
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.pool.shutdown()
        assert [client.exception() for client in self.clients] == [None] * 4

    def send(self):
        while not self.ended.is_set():
            began = time.monotonic()
            self.answers.append(self.service.post("predict", {"instances": [TEXT]}))
            self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(0.4)

    def wait_for_more_answers(self, count: int = 12):
        wanted = len(self.answers) + count
        while len(self.answers) < wanted and not any(client.done() for client in self.clients):
            time.sleep(0.05)


def eventually(true, what: str):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def bypassed(service) -> dict[str, float]:
    """The number of bypassed requests by reason."""
    metric = r"textclustering_predictor_bypassed_total{.*reason=\"(.*?)\".*} (\S+)"
    return {reason: float(count) for reason, count in re.findall(metric, service.metrics())}


@pytest.mark.parametrize("protocol", ["v1", "grpc-v2"])
def test_the_transformer_answers_while_its_predictor_is_away_hangs_or_holds_a_different_model(
    artefacts, model_dir, other_model_dir, protocol
):
    ports = {"http_port": free_port(), "grpc_port": free_port()}
    predictor = wait_until_ready(start("tests/doubles/sklearn_predictor.py", "--model_dir", model_dir, **ports))
    service = start_transformer(artefacts, predictor, protocol)
    try:
        wait_until_ready(service)
        (cluster,) = service.predict([TEXT])
        assert bypassed(service).keys() == {"unreachable", "timeout", "error", "different model"}
        with Clients(service) as clients:
            clients.wait_for_more_answers()

            predictor.process.send_signal(signal.SIGSTOP)
            clients.wait_for_more_answers()
            assert bypassed(service)["timeout"] > 0
            predictor.process.send_signal(signal.SIGCONT)
            eventually(lambda: log_of(service).count("is used again") == 1, "recovered from SIGSTOP")

            stop(predictor)
            clients.wait_for_more_answers()
            assert bypassed(service)["unreachable"] > 0
            predictor = start("tests/doubles/sklearn_predictor.py", "--model_dir", other_model_dir, **ports)
            eventually(lambda: bypassed(service)["different model"] > 0, "the other model is found out")
            assert readiness(service) == [True] * 5 and figure(service, "textclustering_ready") == 1

            stop(predictor)
            predictor = start("tests/doubles/sklearn_predictor.py", "--model_dir", model_dir, **ports)
            eventually(lambda: log_of(service).count("is used again") == 2, "recovered from another model")
            clients.wait_for_more_answers()
        assert [answer for answer in clients.answers if answer != (200, {"predictions": [cluster]})] == []
        assert clients.longest < 5, "without bypass it is the timeout of the predictor, 10 s"
        assert log_of(service).count("The predictor is bypassed") in (3, 4, 5), "a line per change, not per request"
        assert "Traceback" not in log_of(service)
    finally:
        stop(service), stop(predictor)


def test_a_request_may_insist_on_the_predictor(artefacts, model_dir):
    """As the smoke test of a new version does."""
    predictor = wait_until_ready(start("tests/doubles/sklearn_predictor.py", "--model_dir", model_dir))
    service = start_transformer(artefacts, predictor, "v1", "--predictor_request_timeout_seconds", "2")
    try:
        wait_until_ready(service)
        stop(predictor)
        assert service.post("predict", {"instances": [TEXT]})[0] == 200
        status, answer = service.post("predict", {"instances": [TEXT]}, Predictor_Bypass="off")
        assert status == 503 and "failed" in answer["error"]
    finally:
        stop(service)


def test_a_predictor_that_has_never_passed_a_check_is_not_bypassed(artefacts, other_model_dir):
    """A new version whose predictor holds the wrong model must not become ready, nor pass for one that works."""
    predictor = wait_until_ready(start("tests/doubles/sklearn_predictor.py", "--model_dir", other_model_dir))
    service = start_transformer(artefacts, predictor, "v1")
    try:
        eventually(lambda: "a different model" in log_of(service), "the check has failed")
        assert readiness(service) == [False] * 5 and figure(service, "textclustering_ready") == 0
        status, answer = service.post("predict", {"instances": [TEXT]})
        assert status == 503 and "a different model" in answer["error"]
        assert set(bypassed(service).values()) == {0}
    finally:
        stop(service), stop(predictor)


@pytest.mark.parametrize("protocol", ["v1", "grpc-v2"])
def test_no_request_fails_while_a_predictor_is_killed_and_comes_back_within_the_time_limit(
    artefacts, model_dir, protocol
):
    ports = {"http_port": free_port(), "grpc_port": free_port()}
    predictor = start("tests/doubles/sklearn_predictor.py", "--model_dir", model_dir, **ports)
    service = start_transformer(
        artefacts, predictor, protocol, "--predictor_request_timeout_seconds", "60", "--no-bypass"
    )
    try:
        wait_until_ready(predictor), wait_until_ready(service)
        (cluster,) = service.predict([TEXT])
        with Clients(service) as clients:
            clients.wait_for_more_answers()
            stop(predictor)
            time.sleep(1)
            predictor = wait_until_ready(start("tests/doubles/sklearn_predictor.py", "--model_dir", model_dir, **ports))
            clients.wait_for_more_answers()
        assert [answer for answer in clients.answers if answer != (200, {"predictions": [cluster]})] == []
    finally:
        stop(service), stop(predictor)


def test_after_each_check_requests_go_over_new_connections():
    """A pod that is to end does so once nobody asks it any more."""
    peers = []

    async def answer(request):
        peers.append(request.transport.get_extra_info("peername"))
        return web.json_response({"predictions": [0] * len((await request.json())["instances"])})

    async def eventually(true):
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.02)

    async def ask_before_and_after_a_check():
        app = web.Application()
        app.router.add_post("/v1/models/{name}:predict", answer)
        async with TestServer(app) as server:
            config = PredictorConfig(f"127.0.0.1:{server.port}", "v1", predictor_request_timeout_seconds=1)
            predictor = Predictor(config, NAME, None, 2, bypass=False, count_bypass=print)
            for _ in range(2):
                await predictor.client.predict(np.zeros((1, 2)))
            watching = asyncio.create_task(predictor.watch())
            await eventually(lambda: predictor.client.retired)
            await predictor.client.predict(np.zeros((1, 2)))
            await eventually(lambda: not predictor.client.retired)
            watching.cancel()
            await predictor.close()

    run_coroutine(ask_before_and_after_a_check())
    before, again, check, after = peers
    assert before == again == check != after


def test_a_check_that_nobody_answers_leaves_no_request_with_a_body():
    """Knative's activator would go on holding it, as load for which a version that failed gets a pod."""
    held = []

    async def hold(request):
        held.append(request.method)
        await asyncio.sleep(60)

    async def check():
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", hold)
        async with TestServer(app) as server:
            config = PredictorConfig(f"127.0.0.1:{server.port}", "v1", predictor_request_timeout_seconds=1)
            predictor = Predictor(config, NAME, None, 2, bypass=False, count_bypass=print)
            assert not await predictor.check()
            await predictor.close()

    run_coroutine(check())
    assert held == ["GET"]


def test_transformer_is_not_ready_in_front_of_a_predictor_of_another_shape(artefacts, tmp_path):
    model = joblib.load(artefacts / "model.joblib")
    model.cluster_centers_ = model.cluster_centers_[:, 1:].copy()
    model.n_features_in_ -= 1
    joblib.dump(model, tmp_path / "model.joblib")
    predictor = wait_until_ready(start("tests/doubles/sklearn_predictor.py", "--model_dir", tmp_path))
    service = start_transformer(artefacts, predictor, "v1")
    try:
        deadline = time.monotonic() + 60
        while "features" not in log_of(service):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert readiness(service) == [False] * 5
        status, answer = service.post("predict", {"instances": [TEXT]})
        assert status == 503 and "features" in answer["error"]
    finally:
        stop(service), stop(predictor)
