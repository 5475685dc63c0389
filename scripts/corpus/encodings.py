"""Find out how the bytes of a file make characters."""

import codecs
import io
import re
from typing import BinaryIO, NamedTuple

from corpus.documents import CorpusError

CHUNK = 2**20
MARKS = [  # the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with byte order mark"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
]
# Formats that are no text although they may begin with letters: PDF, PostScript, RTF, zip (and Office), gzip.
NOT_TEXT = (b"%PDF", b"%!PS", b"{\\rtf", b"PK\x03\x04", b"\x1f\x8b")
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


class UnknownEncoding(CorpusError):
    """Bytes that make characters in none of the encodings that can be told."""


class Encoding(NamedTuple):
    codec: str
    errors: str  # what the codec does with bytes that are none of its characters
    name: str  # for the log


def detect_encoding(file: BinaryIO, name: str) -> Encoding:
    """Detect the encoding of a text file: by its byte order mark, or else by all its bytes.

    UTF-8 proves itself. What is neither that nor UTF-16 is taken for Windows-1252, the other encoding of Western
    spreadsheets, unless it holds bytes that mean nothing there, or more accented letters than a Western text has.

    Args:
        file: at its beginning; it is read to the end.

    Raises:
        UnknownEncoding: it is in none of these encodings.
    """
    head = file.read(CHUNK)
    for mark, codec, description in MARKS:
        if head.startswith(mark):
            return Encoding(codec, "strict", description)
    if codec := utf_16_without_mark(head):
        return Encoding(codec, "strict", "UTF-16 without byte order mark")
    decoder, chunk, ascii_letters, others, undefined = codecs.getincrementaldecoder("utf-8")(), head, 0, 0, False
    try:
        while chunk:
            decoder.decode(chunk)
            chunk = file.read(CHUNK)
        decoder.decode(b"", final=True)
        return Encoding("utf-8", "strict", "UTF-8")
    except UnicodeDecodeError:
        text = (chunk or b"").decode("utf-8", "replace")
        wide = len(re.findall(r"[^\x00-\x7f]", text)) - text.count("\ufffd")
        if not chunk or wide > text.count("\ufffd"):
            return Encoding("utf-8", "replace", "UTF-8 with damaged characters")
    while chunk:
        ascii_letters += len(re.findall(rb"[A-Za-z]", chunk))
        others += len(re.findall(rb"[\x80-\xff]", chunk))
        undefined |= bool(re.search(rb"[\x81\x8d\x8f\x90\x9d]", chunk))
        chunk = file.read(CHUNK)
    if undefined or others > (ascii_letters + others) / 3:
        raise UnknownEncoding(
            f"{name} is neither UTF-8 nor UTF-16 nor Windows-1252: name its encoding, such as --encoding cp1251, "
            "gb18030 or shift_jis."
        )
    return Encoding("cp1252", "strict", "Windows-1252")


def utf_16_without_mark(head: bytes) -> str | None:
    """UTF-16 by its zero bytes: every second one of most scripts' text."""
    sample = head[:4_096]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if odd > len(sample) / 8 and even < odd / 20:
        return "utf-16-le"
    if even > len(sample) / 8 and odd < even / 20:
        return "utf-16-be"
    return None


def read_text(content: bytes, name: str, codec: str | None = None) -> tuple[str, str] | None:
    """The text in the content of a file, and the name of its encoding; None where it is not plain text.

    Args:
        codec: the encoding, where it is known.

    Raises:
        UnknownEncoding: the encoding is none that can be told, or not the one that was given.
    """
    if content.startswith(NOT_TEXT):
        return None
    if codec:
        encoding = Encoding(codec, "strict", codec)
    elif not utf_16_or_32(content) and has_controls(content[:CHUNK].decode("latin-1")):
        return None
    else:
        encoding = detect_encoding(io.BytesIO(content), name)
    try:
        text = content.decode(encoding.codec, encoding.errors)
    except UnicodeDecodeError as error:
        raise UnknownEncoding(f"{name} is not {encoding.name} ({error}): name its encoding with --encoding.") from error
    return None if has_controls(text) else (text, encoding.name)


def utf_16_or_32(content: bytes) -> bool:
    return content.startswith(tuple(mark for mark, _, _ in MARKS)) or utf_16_without_mark(content) is not None


def has_controls(text: str) -> bool:
    """Whether a text has control characters, which no text has, beyond the odd one."""
    return len(CONTROLS.findall(text)) > len(text) / 1_000
