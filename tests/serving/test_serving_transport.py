"""How requests reach the service: compressed, in other characters, from a browser, many at once, at its end."""

import asyncio
import base64
import contextlib
import functools
import gzip
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import zlib

import grpc
import psutil
import pytest
import uvicorn
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from serving import http_protocol
from serving.http_protocol import HttpProtocol
from support.event_loops import run_coroutine
from support.free_port import free_port
from support.services import NAME, start, stop, wait_until_ready
from support.serving_client import TEXT, UNKNOWN, infer_over_grpc

V1 = {"instances": [TEXT, UNKNOWN]}
V2 = {"inputs": [{"name": "t", "shape": [2], "datatype": "BYTES", "data": [TEXT, UNKNOWN]}]}
COMPRESS = {"gzip": gzip.compress, "GZIP": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}


def predictions(answer: dict) -> list[int]:
    return answer["outputs"][0]["data"] if "outputs" in answer else answer["predictions"]


# --------------------------------------------------------------------------------------------------- compression


@pytest.mark.parametrize("encoding", [*COMPRESS, "identity"])
@pytest.mark.parametrize(("verb", "body"), [("predict", V1), ("infer", V2)])
def test_compressed_body_is_decoded(service, verb, body, encoding):
    compressed = COMPRESS.get(encoding, bytes)(json.dumps(body).encode())
    for content_type in ("application/json", "application/x-www-form-urlencoded"):
        status, answer = service.post(verb, compressed, content_type, Content_Encoding=encoding)
        assert status == 200 and predictions(answer) == service.predict([TEXT, UNKNOWN])


def test_compressed_body_with_the_binary_extension_is_decoded(service):
    raw = len(TEXT).to_bytes(4, "little") + TEXT.encode()
    tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    status, answer = service.post(
        "infer", gzip.compress(header + raw), "application/octet-stream",
        Content_Encoding="gzip", Inference_Header_Content_Length=str(len(header)),
    )  # fmt: skip
    assert status == 200 and predictions(answer) == service.predict([TEXT])


def bomb() -> bytes:
    """A small body that becomes a large one: 500 times the same block, which does not refer to those before it."""
    compressor = zlib.compressobj(wbits=31)
    begin, block, end = (
        compressor.compress(part) + compressor.flush(mode)
        for part, mode in (
            (b'{"instances": ["', zlib.Z_FULL_FLUSH),
            (b"a" * 1_000_000, zlib.Z_FULL_FLUSH),
            (b'"]}', zlib.Z_FINISH),
        )
    )
    return begin + 500 * block + end


def test_limit_of_the_size_holds_for_the_decoded_body(service):
    assert len(bomb()) < 4 * 2**20
    status, answer = service.post("predict", bomb(), Content_Encoding="gzip")
    assert status == 413 and "larger than 4194304 bytes" in answer["error"]
    assert psutil.Process(service.process.pid).memory_info().rss < 1e9


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "é"])
def test_unknown_encoding_is_a_415_that_says_which_are_known(service, encoding):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(
            urllib.request.Request(
                f"{service.url}/v1/models/{NAME}:predict", b"x", {"Content-Encoding": encoding.encode()}
            )
        )
    assert error.value.code == 415 and error.value.headers["Accept-Encoding"] == "gzip, deflate"
    assert "gzip" in json.load(error.value)["error"]


@pytest.mark.parametrize(
    "broken",
    [b"{}", gzip.compress(b"{}" * 100)[:-9], gzip.compress(b"{}") + b"{}"],
    ids=["not at all", "cut off", "and more"],
)
def test_body_that_is_not_compressed_as_it_says_is_a_400(service, broken):
    status, answer = service.post("predict", broken, Content_Encoding="gzip")
    assert status == 400 and "gzip" in answer["error"]


# ---------------------------------------------------------------------------------------------------- characters


@pytest.mark.parametrize("charset", ["utf-8", '"UTF-8"', "iso-8859-1", "windows-1252", "utf-16", "shift_jis"])
@pytest.mark.parametrize(("verb", "body"), [("predict", V1), ("infer", V2)])
def test_charset_of_the_content_type_is_honoured(service, verb, body, charset):
    letters = "ソフト" if charset == "shift_jis" else "café £"
    text = json.dumps(body, ensure_ascii=False).replace(UNKNOWN, letters)
    content_type = f"application/json; charset={charset}"
    status, answer = service.post(verb, text.encode(charset.strip('"')), content_type)
    assert status == 200 and predictions(answer) == service.predict([TEXT, letters])


@pytest.mark.parametrize("charset", ["klingon", "zip", "hex", "idna", "unicode_escape", "ÿ"])
def test_unknown_charset_is_a_415_that_names_it(service, charset):
    content_type = f"application/json; charset={charset}".encode("latin-1")
    status, answer = service.post("predict", V1, content_type)
    assert status == 415 and "charset" in answer["error"]


def test_body_that_is_not_in_its_charset_is_a_400_that_names_it(service):
    status, answer = service.post("predict", b'{"instances": ["caf\xe9"]}', "application/json; charset=ascii")
    assert status == 400 and "ascii" in answer["error"]


@pytest.mark.parametrize(("verb", "body"), [("predict", V1), ("infer", V2)])
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
def test_byte_order_mark_is_no_part_of_the_body(service, verb, body, content_type):
    status, answer = service.post(verb, b"\xef\xbb\xbf" + json.dumps(body).encode(), content_type)
    assert status == 200 and predictions(answer) == service.predict([TEXT, UNKNOWN])


def test_texts_in_base64_are_decoded(service):
    encoded = [base64.b64encode(text.encode()).decode() for text in (TEXT, UNKNOWN)]
    body = {"inputs": [V2["inputs"][0] | {"data": encoded, "parameters": {"content_type": "base64"}}]}
    status, answer = service.post("infer", body)
    assert status == 200 and predictions(answer) == service.predict([TEXT, UNKNOWN])


# --------------------------------------------------------------------------------------------------- gRPC's limits


def test_limits_hold_for_grpc_too(service):
    for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
        contents = pb.InferTensorContents(bytes_contents=[b"a" * 5_000_000])
        with pytest.raises(grpc.RpcError) as error:
            infer_over_grpc(service, contents=contents, compression=compression)
        assert error.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as error:
        infer_over_grpc(service, shape=[1_025], contents=pb.InferTensorContents(bytes_contents=[b"a"] * 1_025))
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT and "1024 are allowed" in error.value.details()


def test_compressed_grpc_request_is_answered(service):
    contents = pb.InferTensorContents(bytes_contents=[TEXT.encode()])
    answer = infer_over_grpc(service, contents=contents, compression=grpc.Compression.Gzip)
    assert list(answer.outputs[0].contents.int_contents) == service.predict([TEXT])


# -------------------------------------------------------------------------------------------------------- network


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("DELETE", f"/v1/models/{NAME}", "GET, HEAD"),
        ("PUT", f"/v1/models/{NAME}:predict", "POST"),
        ("GET", f"/v1/models/{NAME}:explain", "POST"),
        ("HEAD", f"/v1/models/{NAME}:explain", "POST"),
        ("GET", f"/v2/models/{NAME}/infer", "POST"),
        ("POST", "/metrics", "GET, HEAD"),
    ],
)
def test_method_that_is_not_allowed_is_told_which_is(service, method, path, allowed):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(service.url + path, method=method))
    assert error.value.code == 405 and error.value.headers["Allow"] == allowed
    assert method == "HEAD" or "error" in json.load(error.value)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
def test_misspelt_verb_is_a_404_that_names_the_verbs(services, method):
    request = urllib.request.Request(f"{services['v1'].url}/v1/models/{NAME}:predcit", method=method)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 404
    assert method == "HEAD" or "use :predict or :explain" in json.load(error.value)["error"]


GETS = ("/", "/metrics", "/v1/models", f"/v1/models/{NAME}", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models")


@pytest.mark.parametrize("path", [*GETS, f"/v2/models/{NAME}", f"/v2/models/{NAME}/ready"])
def test_head_works_wherever_get_does(services, path):
    url = services["in one process"].url + path
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as head:
        assert head.status == 200 and int(head.headers["content-length"]) > 0 and head.read() == b""


# Java's HttpClient and curl --http2 send it.
UPGRADE = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("verb", "body"), [(f"v1/models/{NAME}:predict", V1), (f"v1/models/{NAME}:explain", V1), (f"v2/models/{NAME}/infer", V2)])  # fmt: skip
def test_request_to_upgrade_to_http2_is_answered_over_http1(services, verb, body, split, chunked):
    service = services["in one process"]
    encoded = json.dumps(body)
    if chunked:
        length, encoded = "Transfer-Encoding: chunked", f"{len(encoded):x}\r\n{encoded}\r\n0\r\n\r\n"
    else:
        length = f"Content-Length: {len(encoded)}"
    head = f"POST /{verb} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{UPGRADE}{length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.http_port), 60) as connection:
        for _ in range(2):  # the connection stays usable
            for part in (head[:90], head[90:], encoded) if split else (head + encoded,):
                connection.sendall(part.encode())
                time.sleep(0.05 * split)
            response = http.client.HTTPResponse(connection)
            response.begin()
            answer = json.loads(response.read())
            assert response.status == 200, answer
            if not verb.endswith("explain"):
                assert predictions(answer) == service.predict([TEXT, UNKNOWN])


def test_request_to_upgrade_without_a_body_is_answered(services):
    head = f"GET /v1/models/{NAME} HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n"
    for first in (head, f"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n"):
        with socket.create_connection(("127.0.0.1", services["in one process"].http_port), 60) as connection:
            connection.sendall(first.encode())
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.status == (200 if first is head else 400)


async def echo(scope, receive, send):
    """An ASGI application that answers the size of a body, or a body of that size."""
    if scope["type"] == "lifespan":
        return
    body, message = b"", {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    size = int(scope["query_string"] or 1)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": b"x" * size})


@pytest.mark.parametrize(
    "slow",
    [
        b"",
        b"POST / HTTP/1.1\r\nHost",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf",
        b"POST /?100000000 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "reads no response"],
)
def test_slow_client_is_disconnected_and_others_are_answered(monkeypatch, slow):
    monkeypatch.setattr(http_protocol, "CLIENT_TIMEOUT", 0.5)

    async def serve_and_wait():
        server = uvicorn.Server(
            uvicorn.Config(echo, http=HttpProtocol, port=free_port(), lifespan="off", log_config=None)
        )
        serving = asyncio.create_task(server._serve())
        while not server.started:
            await asyncio.sleep(0.01)
        _, writer = await asyncio.open_connection("127.0.0.1", server.config.port, limit=1_000)
        writer.write(slow)
        other_reader, other = await asyncio.open_connection("127.0.0.1", server.config.port)
        other.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await other_reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(20):
            while len(server.server_state.connections) > 1:
                await asyncio.sleep(0.05)
        assert {connection.client[1] for connection in server.server_state.connections} == {
            other.get_extra_info("sockname")[1]
        }
        server.should_exit = True
        writer.close(), other.close()
        await serving

    run_coroutine(serve_and_wait())


def test_only_this_machine_can_ask_by_default(service):
    addresses = {connection.laddr.ip.removeprefix("::ffff:") for connection in listening(service)}
    assert addresses == {"127.0.0.1"}


def listening(service) -> list:
    connections = psutil.Process(service.process.pid).connections()
    return [connection for connection in connections if connection.status == psutil.CONN_LISTEN]


def test_proxy_of_the_environment_is_not_asked_for_the_predictor(service):
    """The services were started with one, where nothing listens."""
    assert "http://127.0.0.1:9" in service.process.environment["grpc_proxy"]
    assert service.predict([TEXT]) != [-1]


@pytest.fixture(scope="module")
def open_service(artefacts, tmp_path_factory):
    """As in the image, on all interfaces; and pages of one origin may ask."""
    folder = tmp_path_factory.mktemp("pages")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        service = start(
            "transformer.py", "--host", "::", "--cors-origin", f"http://localhost:{pages.server_port}",
            *("--transformer-path", artefacts / "transformer.joblib", "--model-path", artefacts / "model.joblib"),
        )  # fmt: skip
        service.pages, service.pages_port = folder, pages.server_port
        try:
            yield wait_until_ready(service)
        finally:
            stop(service)
            pages.shutdown()


@pytest.mark.parametrize("host", ["::", "[::]", "::1", "[::1]", "0.0.0.0", "localhost"])
def test_listens_on_the_given_address_over_rest_and_grpc(artefacts, host):
    service = start(
        "transformer.py", "--host", host,
        *("--transformer-path", artefacts / "transformer.joblib", "--model-path", artefacts / "model.joblib"),
    )  # fmt: skip
    reachable = {"::": ["127.0.0.1", "::1"], "::1": ["::1"], "0.0.0.0": ["127.0.0.1"], "localhost": ["127.0.0.1"]}
    try:
        for address in reachable[host.strip("[]")]:
            deadline = time.monotonic() + 60
            for port in (service.http_port, service.grpc_port):
                while True:
                    with contextlib.suppress(OSError):
                        socket.create_connection((address, port), 1).close()
                        break
                    assert time.monotonic() < deadline and service.process.poll() is None, (host, address, port)
                    time.sleep(0.1)
    finally:
        stop(service)


REFUSED = {
    ("--host", "no.such.name.invalid"): "cannot resolve --host no.such.name.invalid",
    ("--host", "192.0.2.1"): "cannot listen on 192.0.2.1",
    ("--model_name", "a/b"): "only letters, digits",
    ("--model_name", "a:predict"): "only letters, digits",
    ("--predictor_host", "http://predictor"): "expected HOST or HOST:PORT, without http://",
    ("--predictor_host", "predictor/path"): "expected HOST or HOST:PORT",
}


@pytest.mark.parametrize(("option", "value"), REFUSED)
def test_argument_that_cannot_work_is_refused_in_a_line_with_the_reason(artefacts, option, value):
    options = ["--model-path", artefacts / "model.joblib"] if option != "--predictor_host" else []
    service = start("transformer.py", "--transformer-path", artefacts / "transformer.joblib", *options, option, value)
    try:
        assert service.process.wait(timeout=60) != 0
        log = os.pread(service.log, 100_000, 0).decode()
        assert REFUSED[option, value] in log and "Traceback" not in log
    finally:
        stop(service)


PAGE = """<!DOCTYPE html><title>asking</title><pre></pre><script>
const ask = (url, body) => fetch(url, {method: "POST", headers: {"Content-Type": "application/json"}, body})
  .then(async response => response.status + " " + await response.text(), error => "blocked: " + error.name);
Promise.all([ask(ALLOWED, GOOD), ask(ALLOWED, "{}"), ask(DEFAULT, GOOD)])
  .then(answers => document.querySelector("pre").textContent = JSON.stringify(answers));
</script>"""


@pytest.mark.system("chromium")
def test_in_a_browser_a_page_of_the_allowed_origin_can_ask_and_no_other_can(open_service, services, tmp_path):
    path, closed = f"/v1/models/{NAME}:predict", services["v1"]
    words = {
        "ALLOWED": open_service.url + path,
        "DEFAULT": closed.url + path,
        "GOOD": json.dumps({"instances": [TEXT]}),
    }
    page = functools.reduce(lambda text, word: text.replace(word, json.dumps(words[word])), words, PAGE)
    (open_service.pages / "page.html").write_text(page)
    answers = {}
    for host in ("localhost", "127.0.0.1"):  # two origins of one page
        flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
        command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path}", "--no-proxy-server", "--dump-dom"]
        address = f"http://{host}:{open_service.pages_port}/page.html"
        run = subprocess.run(
            [*command, "--virtual-time-budget=20000", address], capture_output=True, text=True, timeout=120
        )
        answers[host] = json.loads(run.stdout.partition("<pre>")[2].partition("</pre>")[0])
    good, bad, other = answers["localhost"]
    assert json.loads(good.removeprefix("200 ")) == {"predictions": open_service.predict([TEXT])}
    assert bad.startswith("400 ") and "instances" in bad, "an error can be read as well"
    assert other == "blocked: TypeError"
    assert answers["127.0.0.1"] == ["blocked: TypeError"] * 3


@pytest.mark.parametrize("origin", ["example.org", "https://example.org/", "https://example.org/page", ""])
def test_origin_that_no_browser_sends_is_refused(origin):
    service = start("transformer.py", "--model-path", "x", "--cors-origin", origin)
    try:
        assert service.process.wait(timeout=60) == 2
        assert "without a path" in os.pread(service.log, 100_000, 0).decode()
    finally:
        stop(service)


def test_port_that_is_taken_is_said_in_a_line(artefacts, services):
    taken = services["in one process"]
    for ports in ({"http_port": taken.http_port}, {"grpc_port": taken.grpc_port}):
        service = start(
            "transformer.py", "--transformer-path", artefacts / "transformer.joblib",
            "--model-path", artefacts / "model.joblib", **ports,
        )  # fmt: skip
        try:
            assert service.process.wait(timeout=60) != 0
            log = os.pread(service.log, 100_000, 0).decode()
            assert str(*ports.values()) in log and "Traceback" not in log
        finally:
            stop(service)


# --------------------------------------------------------------------------------------------- large batches, end


def ask(service, texts: list[str]) -> http.client.HTTPConnection:
    """Send a request and do not wait for its answer."""
    connection = http.client.HTTPConnection("localhost", service.http_port, timeout=120)
    body = json.dumps({"instances": texts}).encode()
    connection.request("POST", f"/v1/models/{NAME}:predict", body, {"Content-Type": "application/json"})
    return connection


def status_of(connection: http.client.HTTPConnection) -> int:
    with contextlib.closing(connection):
        response = connection.getresponse()
        response.read()
        return response.status


def has_answer(connection: http.client.HTTPConnection) -> bool:
    connection.sock.setblocking(False)
    try:
        return bool(connection.sock.recv(1, 2))  # MSG_PEEK
    except BlockingIOError:
        return False
    finally:
        connection.sock.settimeout(120)


def test_small_requests_need_not_wait_for_large_ones_and_all_are_answered_before_the_end(artefacts):
    """Forty requests of a thousand texts are under way; the order of the answers counts, not the time."""
    service = start(
        "transformer.py",
        *("--transformer-path", artefacts / "transformer.joblib", "--model-path", artefacts / "model.joblib"),
        grpc_port=free_port(),
    )
    try:
        wait_until_ready(service)
        large = [ask(service, [f"{TEXT} {n}" * 5 for n in range(1_000)]) for _ in range(40)]
        assert status_of(ask(service, [TEXT])) == 200
        done = sum(map(has_answer, large))
        assert done < 20, "a small request came through while most of the large ones were waiting"

        small = [ask(service, [TEXT]) for _ in range(30)]
        service.process.send_signal(signal.SIGTERM)
        assert [status_of(connection) for connection in small] == [200] * 30
        assert [status_of(connection) for connection in large] == [200] * 40
        assert service.process.wait(timeout=60) == 0
        assert "Traceback" not in os.pread(service.log, 1_000_000, 0).decode()
    finally:
        stop(service)
