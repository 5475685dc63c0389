"""What deploy_service.py sends through the gateway, received by a server that plays it."""

import http.server
import json
import threading

import pytest

from deployment.gateway import Gateway
from deployment.verification import show_sample

PAGES = {"/serving/ns/page/ui": (200, "text/html; charset=utf-8"), "/serving/ns/other/ui": (200, "application/json")}
CLUSTERS = [{"cluster": n, "terms": [[f"term{n}", 1.0]]} for n in (3, 5)]


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


def test_the_address_of_the_page_is_logged_where_the_gateway_maps_its_path(gateway, caplog, capsys):
    gateway, _ = gateway
    caplog.set_level("INFO")
    for host in ("other.ns.example.com", "missing.ns.example.com", "page.ns.example.com"):
        show_sample(gateway, host, [5], "term5")
    pages = [record.getMessage() for record in caplog.records if "in a browser" in record.getMessage()]
    assert pages == [f"Open {gateway.url}/serving/ns/page/ui in a browser, or send a request:"]
    assert capsys.readouterr().out.count("curl -H") == 3
    assert gateway._replace(url="http://127.0.0.1:9").find_page("page.ns.example.com") is None
