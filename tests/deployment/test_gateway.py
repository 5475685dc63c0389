"""What deploy_service.py sends through the gateway, received by a server that plays it."""

import http.server
import json
import shlex
import socket
import threading

import pytest

from deployment.gateway import Gateway, NoAnswer, WrongAnswer
from deployment.verification import show_sample

PAGES = {"/serving/ns/page/ui": (200, "text/html; charset=utf-8"), "/serving/ns/other/ui": (200, "application/json")}
CLUSTERS = [{"cluster": n, "vocabulary_terms": [f"term{n}"]} for n in (3, 5)]


@pytest.fixture
def gateway():
    """A gateway whose service assigns "term5" to cluster 5; it keeps the headers of the requests."""
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.headers)
            texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
            answer = json.dumps({"predictions": [int(text.removeprefix("term")) for (text,) in texts]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_GET(self):
            status, content_type = PAGES.get(self.path, (404, "text/html"))
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Gateway(f"http://127.0.0.1:{server.server_port}", "textclustering", 5), received
        server.shutdown()


def test_smoke_test_insists_on_the_predictor_and_other_requests_do_not(gateway):
    gateway, received = gateway
    gateway.smoke_test("s.example.com", CLUSTERS)
    assert gateway.predict("s.example.com", ["term3"]) == [3]
    assert [headers["Predictor-Bypass"] for headers in received] == ["off", None]
    assert {headers["Smoke-Test"] for headers in received} == {"true"}, "so that they are no texts of clients"


def test_a_minimum_similarity_that_rejects_top_terms_is_named(gateway):
    gateway, _ = gateway
    rejected = [{"cluster": 7, "vocabulary_terms": ["term-1"]}]  # the double answers -1
    with pytest.raises(
        WrongAnswer, match=r"--min-similarity 0.9 rejects the top terms of 1 of 2 .* cluster 7 \(term-1\)"
    ):
        gateway._replace(min_similarity=0.9).smoke_test("s.example.com", [*CLUSTERS[:1], *rejected])
    with pytest.raises(WrongAnswer, match="the store holds another model"):
        gateway.smoke_test("s.example.com", [*CLUSTERS[:1], *rejected])


def test_the_address_of_the_page_is_logged_where_the_gateway_maps_its_path(gateway, caplog, capsys):
    gateway, _ = gateway
    caplog.set_level("INFO")
    for host in ("other.ns.example.com", "missing.ns.example.com", "page.ns.example.com"):
        show_sample(gateway, host, [5], "term5")
    pages = [record.getMessage() for record in caplog.records if "in a browser" in record.getMessage()]
    assert pages == [f"Open {gateway.url}/serving/ns/page/ui in a browser, or send a request:"]
    assert capsys.readouterr().out.count("curl -H") == 3
    assert gateway._replace(url="http://127.0.0.1:9").find_page("page.ns.example.com") is None


def failure(url):
    with pytest.raises(NoAnswer) as raised:
        Gateway(url, "topics", timeout=1).predict("topics.a.example.com", ["goal"])
    return raised.value


def test_a_service_that_does_not_answer_in_time_is_no_wrong_gateway_address():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        error = failure(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert error.reached and "does not answer" in str(error) and "--ingress" not in str(error)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://nowhere.invalid"])
def test_a_gateway_that_cannot_be_reached_is_one(url):
    error = failure(url)
    assert not error.reached and "--ingress" in str(error)


@pytest.mark.parametrize(("status", "reached"), [(404, False), (503, True), (500, True), (200, True)])
def test_a_gateway_that_does_not_know_the_host_is_one_too(status, reached):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"a reason")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        error = failure(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    assert error.reached == reached and f"returns {status} a reason" in str(error)
    assert ("--ingress" in str(error)) != reached


def test_the_printed_command_is_quoted():
    command = Gateway("http://localhost:30300/", "topics", timeout=1).curl("topics.a.example.com", "it's $HOME; ls")
    words = shlex.split(command)
    assert words[:4] == ["curl", "-H", "Host: topics.a.example.com", "http://localhost:30300/v1/models/topics:predict"]
    assert words[-1] == '{"instances": [["it\'s $HOME; ls"]]}'
