"""Limit, decompress and transcode the bodies of requests."""

import io
import zlib
from collections.abc import Awaitable
from email.message import Message as EmailMessage

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UNZIP = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}  # RFC 9110, 8.4.1
# Python codecs that are not charsets; decoding some takes quadratic time.
NO_CHARSETS = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "unicode-escape"}


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
            content_encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
            if content_encoding not in {"", "identity", *UNZIP}:
                raise BadBody(
                    415,
                    f"The Content-Encoding {content_encoding!r} is not supported: send gzip, deflate, or none.",
                    {"Accept-Encoding": "gzip, deflate"},
                )
            charset = charset_of(headers.get(b"content-type", b"").decode("latin-1"))
            body = await self.read_all(receive)
            if content_encoding in UNZIP:
                body = self.decompress(body, content_encoding)
            return {"type": "http.request", "body": to_utf8(body, charset), "more_body": False}

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

    def decompress(self, body: bytes, content_encoding: str) -> bytes:
        stream = zlib.decompressobj(UNZIP[content_encoding])
        try:
            decoded = stream.decompress(body, self.limit + 1)
        except zlib.error as error:
            raise BadBody(400, f"The body is not {content_encoding}: {error}.") from error
        if len(decoded) > self.limit:
            raise self.too_large()
        if not stream.eof or stream.unused_data:
            raise BadBody(400, f"The body is not one whole {content_encoding} stream.")
        return decoded

    def too_large(self) -> HTTPException:
        return HTTPException(413, f"The request is larger than {self.limit} bytes: send fewer texts at a time.")


def charset_of(content_type: str) -> str:
    """The charset of a Content-Type; default UTF-8.

    Raises:
        BadBody: 415, Python does not know it.
    """
    header = EmailMessage()
    header["content-type"] = content_type
    charset = str(header.get_param("charset", "utf-8")).lower()
    try:
        if charset in NO_CHARSETS:
            raise LookupError
        io.TextIOWrapper(io.BytesIO(), charset)  # rejects codecs that are not for text
    except (LookupError, ValueError):
        raise BadBody(415, f"The charset {charset!r} is not supported: send UTF-8.") from None
    return charset


def to_utf8(body: bytes, charset: str) -> bytes:
    """Transcode a body.

    Raises:
        BadBody: 400, it is not valid in this charset.
    """
    if charset == "utf-8":
        return body
    try:
        return body.decode(charset).encode()
    except UnicodeError as error:
        raise BadBody(400, f"The body is not in the charset {charset}: {error}.") from error
