"""Read e-mails: .eml files, the files of a Maildir, and mailboxes (mbox).

A document is the subject and the body; the other header lines are dropped, because the texts that users send later
have none, and because clusters of mail servers are useless.
"""

import email.policy
import mailbox
import re
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path

from corpus.documents import Document, Findings, make_document

MAILBOXES = (".mbox", ".mbx")
HEADER_BYTES = 2**16
HEADER = re.compile(rb"(?:[!-9;-~]+:[^\n]*\n(?:[ \t][^\n]*\n)*)+", re.ASCII)
# A text with From: and one of these is an e-mail, whatever the name of its file.
OF_MAILS = ("received", "message-id", "mime-version", "return-path", "delivered-to", "newsgroups", "lines", "date")
REPLY = re.compile(r"^\s*(?:(?:re|fwd?|aw|wg|sv|tr|rv)\s*(?:\[\d+\])?\s*:\s*)+", re.IGNORECASE)
SKIPPED_ELEMENTS = {"script", "style", "head", "title", "template", "noscript"}
BLOCKS = {"p", "div", "br", "li", "tr", "table", "ul", "ol", "blockquote", "h1", "h2", "h3", "h4", "h5", "h6", "hr"}


def is_mail(content: bytes) -> bool:
    """Whether a file begins with the header lines of an e-mail."""
    header = HEADER.match(content[:HEADER_BYTES].replace(b"\r\n", b"\n"))
    if not header:
        return False
    names = {line.partition(b":")[0].decode("ascii").casefold() for line in header[0].splitlines() if line[:1].strip()}
    return {"from", "subject"} <= names and not names.isdisjoint(OF_MAILS)


def is_mailbox(path: Path) -> bool:
    """Whether a file begins like a mailbox: with the line "From SENDER DATE" before the header lines."""
    with path.open("rb") as file:
        return file.readline(1_000).startswith(b"From ") and is_mail(file.read(HEADER_BYTES))


def read_mail(content: bytes, identity: str, label: str | None, findings: Findings) -> Document | None:
    """An e-mail as a document, whose title is the subject; None, and a count, if it has no text."""
    return document_of(parse_mail(content), identity, label, findings)


def read_mailbox(path: Path, name: str, label: str | None, findings: Findings) -> Iterator[Document]:
    """The e-mails of a mailbox. Their identities are the name of the file and their numbers, from 1."""
    messages = mailbox.mbox(path, create=False)
    try:
        for number, key in enumerate(messages.iterkeys(), start=1):
            message = parse_mail(messages.get_bytes(key))
            if document := document_of(message, f"{name}:{number}", label, findings):
                yield document
    finally:
        messages.close()


def parse_mail(content: bytes) -> EmailMessage:
    return message_from_bytes(content, policy=email.policy.default)


def document_of(message: EmailMessage, identity: str, label: str | None, findings: Findings) -> Document | None:
    subject = REPLY.sub("", " ".join(header_of(message, "subject").split()))
    parts = [part for part in message.walk() if not part.is_multipart()]
    findings.left_out["attachments of e-mails"] += sum(map(is_attachment, parts))
    body = body_of([part for part in parts if not is_attachment(part)])
    if not (subject + body).strip():
        findings.leave_out("e-mails without text", identity)
        return None
    findings.formats["e-mail"] += 1
    return make_document(
        identity, f"{subject}\n{body}".strip(), subject, label, findings.read_date(header_of(message, "date"))
    )


def header_of(message: EmailMessage, name: str) -> str:
    try:
        return str(message.get(name) or "")
    except (ValueError, IndexError, AttributeError, TypeError):  # what the parser raises for malformed headers
        return ""


def is_attachment(part: EmailMessage) -> bool:
    return part.get_content_maintype() != "text" or part.get_content_disposition() == "attachment"


def body_of(parts: list[EmailMessage]) -> str:
    """The plain text of an e-mail, or else the text of its HTML."""
    for kind, convert in (("plain", str), ("html", text_of_html)):
        texts = [convert(text_of(part)).strip() for part in parts if part.get_content_subtype() == kind]
        if any(texts):
            return "\n\n".join(text for text in texts if text)
    return ""


def text_of(part: EmailMessage) -> str:
    """The decoded text of a part, also where its encoding is missing, wrong or unknown."""
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return ""
    for encoding in (part.get_content_charset(), "utf-8"):
        try:
            return content.decode(encoding or "utf-8")
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode("cp1252", "replace")


class HtmlText(HTMLParser):
    """Collects the text of an HTML page, with line breaks between blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.skipped: list[str] = []  # elements without text that are open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in SKIPPED_ELEMENTS:
            self.skipped.append(tag)
        if tag == "body":
            self.skipped.clear()
        if tag in BLOCKS:
            self.texts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.skipped:
            self.skipped.remove(tag)
        if tag in BLOCKS:
            self.texts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.skipped:
            self.texts.append(re.sub(r"\s+", " ", data))


def text_of_html(page: str) -> str:
    """The text of an HTML page, one line per block."""
    parser = HtmlText()
    parser.feed(page)
    parser.close()
    lines = (line.strip() for line in "".join(parser.texts).splitlines())
    return "\n".join(line for line in lines if line)
