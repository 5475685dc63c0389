"""Decode the body of a request: its Content-Encoding and its charset, for the service and for recorded requests."""

import io
import zlib
from email.message import Message as EmailMessage

UNZIP = {"gzip": zlib.MAX_WBITS | 16, "x-gzip": zlib.MAX_WBITS | 16, "deflate": zlib.MAX_WBITS}  # RFC 9110, 8.4.1
# Python codecs that are not charsets; decoding some takes quadratic time.
NO_CHARSETS = {"idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape", "unicode-escape"}


class UndecodableBody(ValueError):
    """The body cannot be decoded.

    Args:
        status: of the service's response: 400 or 415.
        reason: for the client; it may quote headers.
        headers: of the service's response.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


class BodyTooLarge(ValueError):
    """The decompressed body exceeds the limit."""


def encoding_of(content_encoding: str) -> str:
    """The normalised Content-Encoding. Raises UndecodableBody, 415, if it is not supported."""
    content_encoding = content_encoding.strip().lower()
    if content_encoding not in {"", "identity", *UNZIP}:
        raise UndecodableBody(
            415,
            f"The Content-Encoding {content_encoding!r} is not supported: send gzip, deflate, or none.",
            {"Accept-Encoding": "gzip, deflate"},
        )
    return content_encoding


def charset_of(content_type: str) -> str:
    """The charset of a Content-Type; default UTF-8.

    Raises:
        UndecodableBody: 415, Python does not know it.
    """
    header = EmailMessage()
    header["content-type"] = content_type
    charset = str(header.get_param("charset", "utf-8")).lower()
    try:
        if charset in NO_CHARSETS:
            raise LookupError
        io.TextIOWrapper(io.BytesIO(), charset)  # rejects codecs that are not for text
    except (LookupError, ValueError):
        raise UndecodableBody(415, f"The charset {charset!r} is not supported: send UTF-8.") from None
    return charset


def decode_body(body: bytes, content_encoding: str, charset: str, limit: int) -> bytes:
    """Decompress a body and transcode it to UTF-8.

    Args:
        content_encoding: as encoding_of returns it.
        charset: as charset_of returns it.
        limit: maximum size of the decompressed body in bytes.

    Raises:
        UndecodableBody: 400, it is not what its headers say.
        BodyTooLarge: it is larger than the limit.
    """
    if content_encoding in UNZIP:
        body = decompress(body, content_encoding, limit)
    if charset == "utf-8":
        return body
    try:
        return body.decode(charset).encode()
    except UnicodeError as error:
        raise UndecodableBody(400, f"The body is not in the charset {charset}: {error}.") from error


def decompress(body: bytes, content_encoding: str, limit: int) -> bytes:
    stream = zlib.decompressobj(UNZIP[content_encoding])
    try:
        decoded = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise UndecodableBody(400, f"The body is not {content_encoding}: {error}.") from error
    if len(decoded) > limit:
        raise BodyTooLarge
    if not stream.eof or stream.unused_data:
        raise UndecodableBody(400, f"The body is not one whole {content_encoding} stream.")
    return decoded
