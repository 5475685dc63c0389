"""provision/haproxy.cfg in a real HAProxy on ports 21400 to 21403, with a real Envoy in place of the Istio gateway.

HAProxy checks port 15021 of its backend's address, so Envoy listens on an address of its own, 127.0.0.21.
"""

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
import requests

from support.upstream_files import PROVISION, versions

GATEWAY, NODE, PORT, LIMIT = "127.0.0.21", "127.0.0.22", 21400, int(versions()["MAX_BODY_BYTES"])
# Forwarded ports, by the NodePort that they lead to.
PORTS = {30100: ("PORT_MINIO", 21401), 30200: ("PORT_CONSOLE", 21402), 30400: ("PORT_PROMETHEUS", 21403)}
URL = f"http://127.0.0.1:{PORT}"
HOST = "textclustering.kserve-textclustering.example.com"
ENVOY = shutil.which("envoy") or str(Path(sys.executable).parent / "envoy")

pytestmark = pytest.mark.system("haproxy")

# As Knative configures the gateway: a service is matched by its exact host name, anything else is 404.
ROUTES = {
    "virtual_hosts": [
        {
            "name": "service",
            "domains": [HOST],
            "response_headers_to_add": [
                {"header": {"key": "X-Path", "value": "%REQ(:PATH)%"}},
                {"header": {"key": "X-Expect", "value": "%REQ(EXPECT)%"}},
            ],
            "routes": [
                {
                    "match": {"prefix": "/redirect"},
                    "direct_response": {"status": 307},
                    "response_headers_to_add": [
                        {
                            "header": {"key": "Location", "value": "%REQ(X-LOCATION)%"},
                            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                        }
                    ],
                },
                {
                    "match": {"prefix": "/"},
                    "direct_response": {"status": 200, "body": {"inline_string": '{"predictions": [5]}'}},
                },
            ],
        }
    ]
}


def listener(name, port, routes):
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": routes,
        # As istiod configures the gateway: https://istio.io/latest/docs/reference/commands/pilot-discovery/
        "proxy_100_continue": True,
        "http_protocol_options": {"accept_http_10": 'PILOT_HTTP10: "true"' in (PROVISION / "61-istio.sh").read_text()},
        "http_filters": [
            # Buffers the body, so that a body above HAProxy's limit would be read in full.
            {
                "name": "buffer",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                    "max_request_bytes": 2 * LIMIT,
                },
            },
            {
                "name": "router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            },
        ],
    }
    return {
        "name": name,
        "address": {"socket_address": {"address": GATEWAY, "port_value": port}},
        "per_connection_buffer_limit_bytes": 2 * LIMIT,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


def wait_until(condition, what, attempts=300):
    for _ in range(attempts):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"no {what}")


def listens(address, port):
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


class Gateway:
    def __init__(self, folder):
        healthy = {
            "virtual_hosts": [
                {
                    "name": "health",
                    "domains": ["*"],
                    "routes": [{"match": {"path": "/healthz/ready"}, "direct_response": {"status": 200}}],
                }
            ]
        }
        self.configuration = folder / "envoy.json"
        self.configuration.write_text(
            json.dumps(
                {
                    "static_resources": {
                        "listeners": [listener("traffic", 80, ROUTES), listener("health", 15021, healthy)]
                    }
                }
            )
        )
        self.log = (folder / "envoy.log").open("wb")
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [
                ENVOY,
                "--config-path",
                self.configuration,
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "--log-level",
                "warn",
            ],
            stdout=self.log,
            stderr=self.log,
        )
        wait_until(lambda: listens(GATEWAY, 80) and listens(GATEWAY, 15021), "Envoy")

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    gateway = Gateway(tmp_path_factory.mktemp("envoy"))
    try:
        gateway.start()
        yield gateway
    finally:
        gateway.stop()


def configuration(folder, **settings):
    """Return the configuration that the step writes, with an example of the gateway's address."""
    environment = os.environ | {"CACHE_DIR": str(folder)} | settings
    shown = subprocess.run(
        [PROVISION / "all.sh", "--dry-run", "--only", "haproxy"], capture_output=True, text=True, env=environment
    )
    assert shown.returncode == 0, shown.stderr
    files = re.findall(r"'(\S+)' <<'CONTENT'\n(.*?)\nCONTENT\n", shown.stdout, re.DOTALL)
    (lua_path, lua), (_, text) = files
    (folder / "body-limit.lua").write_text(lua + "\n")
    return text.replace(lua_path, str(folder / "body-limit.lua")) + "\n"


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory, gateway):
    """Run HAProxy with provision/haproxy.cfg, without the lines that need its Debian service."""
    # HAProxy would share its port with another process that still listens, and get half of the requests.
    assert not listens("127.0.0.1", PORT), f"port {PORT} is taken"
    folder = tmp_path_factory.mktemp("haproxy")
    ports = {name: str(port) for name, port in PORTS.values()}
    text = configuration(folder, PORT_KSERVE=str(PORT), **ports)
    text = text.replace("172.18.255.200", GATEWAY).replace("172.18.0.2", NODE)
    text = re.sub(r"^    (user |group |stats socket).*\n", "", text, flags=re.MULTILINE)
    (folder / "haproxy.cfg").write_text(text.replace("log /dev/log local0", "log stdout format raw local0"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["haproxy", "-db", "-f", folder / "haproxy.cfg"], stdout=log, stderr=log)
    process.log = folder / "log"
    try:
        wait_until(lambda: listens("127.0.0.1", PORT), "HAProxy")
        wait_until(lambda: post().status_code == 200, "healthy gateway")
        yield process
    finally:
        process.terminate()
        process.wait()


def post(host=HOST, **options):
    return requests.post(
        f"{URL}/v1/models/textclustering:predict",
        headers={"Host": host, **options.pop("headers", {})},
        timeout=60,
        **options,
    )


def test_configuration_is_valid_without_warnings(tmp_path):
    (tmp_path / "haproxy.cfg").write_text(configuration(tmp_path))
    check = subprocess.run(["haproxy", "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True)
    assert check.returncode == 0 and "WARNING" not in check.stdout + check.stderr, check.stderr


@pytest.mark.parametrize("host", [HOST, f"{HOST}:{PORT}", f"{HOST}:80"])
def test_service_is_matched_by_its_host_with_and_without_a_port(haproxy, host):
    answer = post(host)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [5]})


def test_gateway_alone_returns_404_for_a_host_with_a_port(gateway):
    """Why HAProxy removes the port: Envoy as Knative configures it returns 404."""
    answer = requests.post(f"http://{GATEWAY}/", headers={"Host": f"{HOST}:30300"}, timeout=10)
    assert answer.status_code == 404


PREFIX = "/serving/kserve-textclustering/textclustering"


@pytest.mark.parametrize("path", ["/", "/ui", "/v1/models/textclustering:predict", "/a%2Fb//c?d=/serving/x/y/z"])
@pytest.mark.parametrize("host", ["localhost:30300", "192.0.2.7"])
def test_service_is_reached_by_its_path_under_any_host(haproxy, host, path):
    """For browsers, which send the address of the page as the host."""
    answer = requests.get(URL + PREFIX + path, headers={"Host": host}, timeout=60)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [5]})
    assert answer.headers["X-Path"] == path


def test_redirects_of_a_service_stay_under_its_path(haproxy):
    def location(path, header=""):
        headers = {"Host": "localhost:30300", "X-Location": header}
        return requests.get(URL + path, headers=headers, timeout=60, allow_redirects=False).headers["Location"]

    assert location(PREFIX) == f"{PREFIX}/", "relative links need the slash"
    assert location(f"{PREFIX}/redirect", "ui") == "ui"
    assert location(f"{PREFIX}/redirect", "/ui?a=/b") == f"{PREFIX}/ui?a=/b"
    assert location(f"{PREFIX}/redirect", f"http://{HOST}/ui") == f"{PREFIX}/ui"
    assert location(f"{PREFIX}/redirect", "/") == f"{PREFIX}/"
    for elsewhere in ("https://kserve.github.io/docs", "http://kserve.github.io/docs", "//kserve.github.io/docs"):
        assert location(f"{PREFIX}/redirect", elsewhere) == elsewhere
    by_host = requests.get(
        f"{URL}/redirect", headers={"Host": HOST, "X-Location": "/ui"}, timeout=60, allow_redirects=False
    )
    assert by_host.headers["Location"] == "/ui"


@pytest.mark.parametrize(
    "path",
    ["/serving/kserve-textclustering/nobody/", "/serving/textclustering", "/serving/", "/serving//textclustering/"],
)
def test_path_of_no_service_is_404(haproxy, path):
    assert requests.get(URL + path, headers={"Host": "localhost:30300"}, timeout=60).status_code == 404


def test_paths_have_the_domain_of_knative():
    knative = (PROVISION / "knative/kustomization.yaml").read_text()
    assert "\n      example.com:" in knative and "].example.com if" in (PROVISION / "haproxy.cfg").read_text()


def test_unknown_host_is_404(haproxy):
    assert post("nobody.example.com").status_code == 404


def test_body_up_to_the_limit_passes_and_a_larger_one_is_413_with_the_limit(haproxy):
    assert post(data=b"x" * LIMIT).status_code == 200
    with socket.create_connection(("127.0.0.1", PORT)) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {LIMIT + 1}\r\n\r\n".encode())
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 413") and f"larger than {LIMIT} bytes" in answer


def test_chunked_body_up_to_the_limit_passes_and_a_larger_one_is_413_with_the_limit(haproxy):
    def chunks(size):
        return (b"x" * 65_536 for _ in range(size // 65_536))

    assert LIMIT % 65_536 == 0
    assert post(data=chunks(LIMIT)).status_code == 200
    answer = send(
        head("Transfer-Encoding: chunked"),
        *(b"10000\r\n" + b"x" * 65_536 + b"\r\n" for _ in range(LIMIT // 65_536)),
        b"1\r\nx\r\n",
    )
    assert answer.startswith("HTTP/1.1 413") and f"larger than {LIMIT} bytes" in answer


def test_http_2_without_tls_cannot_bypass_the_limit(haproxy):
    """Its bodies have neither a Content-Length nor a Transfer-Encoding."""
    settings_frame = bytes(3) + b"\x04" + bytes(5)
    assert send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings_frame).startswith("HTTP/1.1 400")
    upgrade = send(
        head(
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
            "Content-Length: 0",
        )
    )
    assert upgrade.startswith("HTTP/1.1 200")


def test_http_1_0_is_accepted(haproxy):
    """ApacheBench and old load balancers send it."""
    answer = send(f"POST / HTTP/1.0\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\n{{}}".encode())
    assert answer.splitlines()[0].endswith("200 OK"), answer


@pytest.mark.parametrize(
    "body", [("Content-Length: 2", b"{}"), ("Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n")]
)
def test_expectation_is_met_here_and_not_passed_on(haproxy, body):
    """Knative's queue-proxy returns 200 instead of an error's status to a request with this header."""
    size, content = body
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as connection:
        connection.sendall(head("Expect: 100-continue", size))
        assert connection.recv(65_536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(content)
        answer = connection.recv(65_536).decode()
    assert answer.startswith("HTTP/1.1 200") and "x-expect" not in answer.lower()
    refused = send(head("Expect: 100-continue", f"Content-Length: {LIMIT + 1}"))
    assert refused.startswith("HTTP/1.1 413"), "without the body"


def head(*lines):
    return "\r\n".join(["POST / HTTP/1.1", f"Host: {HOST}", *lines, "", ""]).encode()


def send(*parts):
    """Send bytes to HAProxy; returns the start of its response."""
    with socket.create_connection(("127.0.0.1", PORT), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        return connection.recv(65_536).decode(errors="replace")


@pytest.mark.parametrize("node_port", PORTS)
def test_ports_of_minio_and_prometheus_lead_to_the_node_unchanged(haproxy, node_port):
    """A signed S3 request must arrive as it was sent, with its Host header, and may be larger than a prediction."""
    port, received = PORTS[node_port][1], []

    class Node(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.path, dict(self.headers), len(body)))
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer((NODE, node_port), Node) as node:
        thread = threading.Thread(target=node.handle_request)
        thread.start()
        headers = {"Accept-Encoding": "identity", "Host": f"localhost:{port}", "Content-Length": str(LIMIT + 1)}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/a%2Fb//c", b"x" * (LIMIT + 1), headers, method="PUT")
        assert urllib.request.urlopen(request, timeout=30).status == 200
        thread.join()
    ((path, arrived, size),) = received
    assert (path, size) == ("/a%2Fb//c", LIMIT + 1)
    assert arrived["Host"] == f"localhost:{port}" and "X-Forwarded-For" not in arrived


def test_only_failed_requests_are_logged(haproxy):
    before = haproxy.log.read_text().count("/v1/models/")
    assert post().status_code == 200
    assert post("nobody.example.com").status_code == 404
    assert post(headers={"Content-Length": str(LIMIT + 1)}).status_code == 413
    wait_until(lambda: haproxy.log.read_text().count("/v1/models/") > before, "line in the log")
    assert haproxy.log.read_text().count("/v1/models/") == before + 1


def test_gateway_that_is_down_is_503_in_json_until_it_is_back(haproxy, gateway):
    assert post().status_code == 200
    gateway.stop()
    wait_until(lambda: post().status_code == 503, "503")
    assert "kubectl get pods -n istio-system" in post().json()["error"]
    assert haproxy.poll() is None
    gateway.start()
    wait_until(lambda: post().status_code == 200, "gateway that is used again")
