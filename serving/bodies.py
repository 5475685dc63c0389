"""Limit, decompress and transcode the bodies of requests."""

from collections.abc import Awaitable

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.request_body import BodyTooLarge, UndecodableBody, charset_of, decode_body, encoding_of


class BadBody(HTTPException):
    """The body cannot be decoded; the detail quotes headers, so it is only for the client."""


class BodyDecoder:
    """ASGI middleware that passes on every body as uncompressed UTF-8, or answers 400, 413 or 415.

    Args:
        limit: maximum size of a body in bytes, both compressed and decompressed.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            length = int(headers.get(b"content-length", self.limit + 1))
            charset = b"charset" in headers.get(b"content-type", b"").lower()
            if length > self.limit or charset or b"content-encoding" in headers:
                scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"content-encoding"]}
                receive = self.decoding(headers, receive)
        return self.app(scope, receive, send)

    def decoding(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """Decode the body on the first call, inside the application, whose handlers answer errors."""
        read = False

        async def receive_decoded() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            if int(headers.get(b"content-length", 0)) > self.limit:
                raise self.too_large()
            try:
                content_encoding = encoding_of(headers.get(b"content-encoding", b"").decode("latin-1"))
                charset = charset_of(headers.get(b"content-type", b"").decode("latin-1"))
                body = decode_body(await self.read_all(receive), content_encoding, charset, self.limit)
            except BodyTooLarge:
                raise self.too_large() from None
            except UndecodableBody as error:
                raise BadBody(error.status, error.reason, error.headers) from error
            return {"type": "http.request", "body": body, "more_body": False}

        return receive_decoded

    async def read_all(self, receive: Receive) -> bytes:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limit:
                raise self.too_large()
        return bytes(body)

    def too_large(self) -> HTTPException:
        return HTTPException(413, f"The request is larger than {self.limit} bytes: send fewer texts at a time.")
