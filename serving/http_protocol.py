"""uvicorn's HTTP protocol, but it ignores requests to upgrade and disconnects slow clients."""

import asyncio
import logging
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CLIENT_TIMEOUT = 60.0  # seconds for a client to send a complete request, or to read more of a response

log = logging.getLogger("kserve.transformer")


class HttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 that ignores Upgrade and limits the time that a client may take.

    Java's HttpClient and `curl --http2` send `Upgrade: h2c`. A server may ignore it (RFC 9110, 7.8), but httptools then
    does not parse the body (uvicorn#2722). So the request is parsed again without that header.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.receive_timer: asyncio.TimerHandle | None = None
        self.write_timer: asyncio.TimerHandle | None = None

    # ---------------------------------------------------------------------------------------------------- upgrade

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as upgrade:
            if self.parser.get_method() == b"CONNECT":
                self.send_400_response("CONNECT is not supported.")
                return
            (end_of_head,) = upgrade.args
            head = self.head_without_upgrade()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
            self.data_received(head + data[end_of_head:])

    def head_without_upgrade(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in (b"upgrade", b"connection")]
        return b"\r\n".join([*lines, b"", b""])

    def on_headers_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self.cancel_receive_timer()
            super().on_message_complete()

    # ------------------------------------------------------------------------------------------------ slow clients

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.receive_timer = self.loop.call_later(CLIENT_TIMEOUT, self.request_timeout)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.receive_timer = self.receive_timer or self.loop.call_later(CLIENT_TIMEOUT, self.request_timeout)

    def request_timeout(self) -> None:
        self.receive_timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        log.info("Disconnected a client whose request did not arrive completely within %d s", CLIENT_TIMEOUT)
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.write_timer = self.loop.call_later(CLIENT_TIMEOUT, self.write_timeout)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.cancel_write_timer()

    def write_timeout(self) -> None:
        log.info("Disconnected a client that read nothing of its response for %d s", CLIENT_TIMEOUT)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.cancel_receive_timer()
        self.cancel_write_timer()
        super().connection_lost(exc)

    def cancel_receive_timer(self) -> None:
        if self.receive_timer:
            self.receive_timer.cancel()
            self.receive_timer = None

    def cancel_write_timer(self) -> None:
        if self.write_timer:
            self.write_timer.cancel()
            self.write_timer = None
