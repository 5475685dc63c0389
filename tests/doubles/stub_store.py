"""An S3 server that answers every request with one error, in the form of a real one.

Real stores answer most of these errors only in states that a test cannot bring about: a full disk, overload, a bucket
that moved to another region. The XML is that of the S3 API reference ("Error responses"); SeaweedFS's answers to wrong
keys and to a missing bucket have the same elements (tests/store/test_client.py compares them).
"""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def stub_store(status: int, body: str, headers: dict[str, str] | None = None) -> Iterator[str]:
    """Yields the URL of a server that answers everything with this status, body and headers."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            for name, value in ({"content-type": "application/xml"} | (headers or {})).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def error_body(code: str, message: str = "", **elements: str) -> str:
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in elements.items())
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message>{inside}</Error>'
    )
