"""A real store that goes down at a certain request: a proxy in front of it, which from then on closes all connections."""

import http.client
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from support.server_thread import ServerThread


class Outage(ServerThread):
    """Runs until its `with` block ends. Clients use `url` as the address of the store."""

    def __init__(self, url: str):
        outage, place = self, urlsplit(url).netloc

        class Handler(Forwarder):
            store, is_down = place, outage.is_down

        self.begin = None  # the first request that finds the store down: method, and parts of the path and of the body
        self.down = False
        super().__init__(Handler)

    def is_down(self, method: str, path: str, body: bytes) -> bool:
        if self.begin and not self.down:
            wanted, name, content = self.begin
            self.down = method == wanted and name in path and content in body
        return self.down

    def end(self):
        self.begin, self.down = None, False


class Forwarder(BaseHTTPRequestHandler):
    """Forwards requests with all their headers: the client has signed them, the Host too."""

    protocol_version = "HTTP/1.1"

    def forward(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if type(self).is_down(self.command, self.path, body):
            self.close_connection = True
            return
        connection = http.client.HTTPConnection(self.store)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name != "Expect":
                connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name not in ("Content-Length", "Transfer-Encoding"):
                self.send_header(name, value)
        length = response.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward

    def log_message(self, *_):
        pass
