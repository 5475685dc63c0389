"""Detect the encoding of a file."""

import codecs
import functools
import io
import itertools
import re
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import charset_normalizer

from corpus.documents import CorpusError

CHUNK = 2**20
MARKS = [  # the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8 with byte order mark"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
]
# Binary formats that may begin with letters: PDF, PostScript, RTF, zip (and Office), gzip.
NOT_TEXT = (b"%PDF", b"%!PS", b"{\\rtf", b"PK\x03\x04", b"\x1f\x8b")
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


# What guess_encoding may answer. Left alone, charset-normalizer takes short Western texts for Big5 or Baltic ones.
SINGLE_BYTE = [
    "cp1251",
    "koi8_r",
    "cp866",
    "iso8859_5",
    "cp1253",
    "cp1255",
    "cp1256",
    "iso8859_6",
    "cp874",
    "cp1250",
    "cp850",
    "mac_roman",
]
DOUBLE_BYTE = ["cp932", "euc_jp", "gb18030", "big5", "cp949"]
GUESS_BYTES = 2**16
LIKE_A_LANGUAGE = 0.1  # charset-normalizer's coherence: how much the letter frequencies are those of a language
ENOUGH = 500  # bytes above 127, to tell encodings of Chinese, Japanese and Korean by their rules
CLEARLY = 0.1  # the messier next candidate, in charset-normalizer's "chaos"


class UnknownEncoding(CorpusError):
    """The bytes are text in none of the encodings that can be detected."""


class Encoding(NamedTuple):
    codec: str
    errors: str  # how the codec treats bytes that are none of its characters
    name: str  # for the log
    guessed: bool = False


def detect_encoding(file: BinaryIO, name: str) -> Encoding:
    """Detect the encoding of a text file, by its byte order mark or else by all its bytes.

    Valid UTF-8 is UTF-8. What is neither that nor UTF-16 is Windows-1252, the other encoding of Western spreadsheets,
    unless it has bytes that are undefined there, or more accented letters than a Western text; then charset-normalizer
    guesses.

    Args:
        file: at its beginning; it is read to the end.

    Raises:
        UnknownEncoding: none of them fits.
    """
    head = file.read(CHUNK)
    for mark, codec, description in MARKS:
        if head.startswith(mark):
            return Encoding(codec, "strict", description)
    if utf_16 := utf_16_without_mark(head):
        return Encoding(utf_16, "strict", "UTF-16 without byte order mark")
    chunks = itertools.chain([head], iter(functools.partial(file.read, CHUNK), b""))
    decoder = codecs.getincrementaldecoder("utf-8")()
    chunk = b""
    try:
        for chunk in chunks:
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
        return Encoding("utf-8", "strict", "UTF-8")
    except UnicodeDecodeError as error:
        text = chunk.decode("utf-8", "replace")
        wide = len(re.findall(r"[^\x00-\x7f]", text)) - text.count("\ufffd")
        if error.reason == "unexpected end of data" or wide > text.count("\ufffd"):
            return Encoding("utf-8", "replace", "UTF-8 with damaged characters")
    return detect_8_bit_encoding(itertools.chain([chunk], chunks), name)


def detect_8_bit_encoding(chunks: Iterable[bytes], name: str) -> Encoding:
    """Windows-1252 if that is possible, or else a guess. Raises UnknownEncoding if that is too uncertain."""
    ascii_letters, others, undefined, sample = 0, 0, False, b""
    for chunk in chunks:
        ascii_letters += len(re.findall(rb"[A-Za-z]", chunk))
        others += len(re.findall(rb"[\x80-\xff]", chunk))
        undefined |= bool(re.search(rb"[\x81\x8d\x8f\x90\x9d]", chunk))
        if len(sample) < GUESS_BYTES:
            sample += b"\n".join(line for line in chunk.split(b"\n") if not line.isascii())
    if not undefined and others <= (ascii_letters + others) / 3:
        return Encoding("cp1252", "strict", "Windows-1252")
    if len(sample) > GUESS_BYTES:
        sample = sample[:GUESS_BYTES].rpartition(b"\n")[0] or sample[:GUESS_BYTES]
    codec = guess_encoding(sample)
    if codec is None:
        raise UnknownEncoding(
            f"{name} is neither UTF-8 nor UTF-16 nor Windows-1252: name its encoding, such as --encoding cp1251, "
            "gb18030 or shift_jis."
        )
    return Encoding(codec, "strict", codec, guessed=True)


def guess_encoding(sample: bytes) -> str | None:
    """The encoding of a text that is not in a Western one, or None if charset-normalizer has too little to go by."""
    candidates = list(charset_normalizer.from_bytes(sample, cp_isolation=[*SINGLE_BYTE, *DOUBLE_BYTE]))
    if not candidates:
        return None
    best, rest = candidates[0], candidates[1:]
    alone = all(other.chaos > best.chaos + CLEARLY for other in rest if other.encoding in DOUBLE_BYTE)
    enough = best.encoding in DOUBLE_BYTE and alone and sum(byte > 127 for byte in sample) >= ENOUGH
    return best.encoding if best.coherence >= LIKE_A_LANGUAGE or enough else None


def utf_16_without_mark(head: bytes) -> str | None:
    """Detect UTF-16 by its zero bytes: in most scripts every second byte."""
    sample = head[:4_096]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if odd > len(sample) / 8 and even < odd / 20:
        return "utf-16-le"
    if even > len(sample) / 8 and odd < even / 20:
        return "utf-16-be"
    return None


def read_text(content: bytes, name: str, codec: str | None = None) -> tuple[str, str] | None:
    """The text in the content of a file, and the name of its encoding; None if it is not plain text.

    Args:
        codec: the encoding if it is known.

    Raises:
        UnknownEncoding: the encoding cannot be detected, or is not the given one.
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
    """Whether a text has more than the odd control character, which plain text has not."""
    return len(CONTROLS.findall(text)) > len(text) / 1_000
