"""What the body of a request may be: how large, how compressed, in which characters."""

import io
import zlib
from email.message import Message

from starlette.exceptions import HTTPException

UNZIP = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}  # RFC 9110, 8.4.1
# Python's own notations, among its codecs for text: no charsets, and some take the square of a body's length.
NO_CHARSETS = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "unicode-escape"}


class Bodies:
    """ASGI middleware: hand every body on as plain UTF-8, or answer 413 or 415 and do not read it into memory.

    Args:
        limit: the size of a body in bytes, at most, as it came and when it is decoded.
    """

    def __init__(self, app, limit: int):
        self.app, self.limit = app, limit

    def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            length = int(headers.get(b"content-length", self.limit + 1))
            charset = b"charset" in headers.get(b"content-type", b"").lower()
            if length > self.limit or charset or b"content-encoding" in headers:
                scope = scope | {"headers": [pair for pair in scope["headers"] if pair[0] != b"content-encoding"]}
                receive = self.checked(headers, receive)
        return self.app(scope, receive, send)

    def checked(self, headers: dict, receive):
        """Read and decode the body when it is first asked for: there, an error has a handler that answers it."""
        read = False

        async def receive_checked():
            nonlocal read
            if read:
                return await receive()
            read = True
            if int(headers.get(b"content-length", 0)) > self.limit:
                raise self.too_large()
            content_encoding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
            if content_encoding not in {"", "identity", *UNZIP}:
                raise HTTPException(
                    415,
                    f"The Content-Encoding {content_encoding!r} is not understood: send gzip, deflate, or none.",
                    {"Accept-Encoding": "gzip, deflate"},
                )
            charset = charset_of(headers.get(b"content-type", b"").decode("latin-1"))
            body = await self.read_all(receive)
            if content_encoding in UNZIP:
                body = self.unzip(body, content_encoding)
            return {"type": "http.request", "body": to_utf8(body, charset), "more_body": False}

        return receive_checked

    async def read_all(self, receive) -> bytes:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limit:
                raise self.too_large()
        return bytes(body)

    def unzip(self, body: bytes, content_encoding: str) -> bytes:
        stream = zlib.decompressobj(UNZIP[content_encoding])
        try:
            decoded = stream.decompress(body, self.limit + 1)
        except zlib.error as error:
            raise HTTPException(400, f"The body is not {content_encoding}: {error}.") from error
        if len(decoded) > self.limit:
            raise self.too_large()
        if not stream.eof or stream.unused_data:
            raise HTTPException(400, f"The body is not one whole {content_encoding} stream.")
        return decoded

    def too_large(self) -> HTTPException:
        return HTTPException(413, f"The request is larger than {self.limit} bytes: send fewer texts at a time.")


def charset_of(content_type: str) -> str:
    """The charset of a Content-Type, one that Python knows.

    Raises:
        HTTPException: 415, it is not known.
    """
    header = Message()
    header["content-type"] = content_type
    charset = str(header.get_param("charset", "utf-8")).lower()
    try:
        if charset in NO_CHARSETS:
            raise LookupError
        io.TextIOWrapper(io.BytesIO(), charset)  # knows which of Python's codecs are for text
    except (LookupError, ValueError):
        raise HTTPException(415, f"The charset {charset!r} is not known: send UTF-8.") from None
    return charset


def to_utf8(body: bytes, charset: str) -> bytes:
    """Recode a body.

    Raises:
        HTTPException: 400, it is not in this charset.
    """
    if charset == "utf-8":
        return body
    try:
        return body.decode(charset).encode()
    except UnicodeError as error:
        raise HTTPException(400, f"The body is not in the charset {charset}: {error}.") from error
