"""Read the requests that a service has recorded (deploy_service.py --record-requests).

A record is an object with the fields of KServe's logger, whose JSON format this is:

    bytes            the body of the request, in base64
    contentType      its Content-Type
    metadata         its other headers that were recorded, as lists: Content-Encoding, Smoke-Test ...
    occurrenceTime   when it arrived, RFC 3339
    reqType          org.kubeflow.serving.inference.request

LogRequest in https://github.com/kserve/kserve/blob/v0.20.0/pkg/logger/types.go
"""

import base64
import binascii
import itertools
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from corpus.documents import Document, make_document
from corpus.table import Table
from model.request_body import BodyTooLarge, UndecodableBody, charset_of, decode_body, encoding_of
from model.request_texts import BadTexts, texts_of_body

RECORD_TYPE = "org.kubeflow.serving.inference."  # .request or .response
LARGEST_BODY = 64 * 2**20  # bytes, decompressed; a service accepts 4 MiB unless told otherwise


def split_records(rows: Iterator[tuple[str, Any]]) -> tuple[bool, Iterator[tuple[str, Any]]]:
    """Whether the first row is a record, and all rows."""
    first = next(rows, None)
    if first is None:
        return False, rows
    row = first[1]
    is_record = isinstance(row, dict) and "bytes" in row and str(row.get("reqType")).startswith(RECORD_TYPE)
    return is_record, itertools.chain([first], rows)


def read_records(rows: Iterable[tuple[str, Any]], table: Table) -> Iterator[Document]:
    """Read the texts of records; what is no text of a client is counted by its reason."""
    left_out = table.findings.left_out
    for number, (_, record) in enumerate(rows, start=1):
        if not isinstance(record, dict) or record.get("reqType") != f"{RECORD_TYPE}request":
            left_out["records that are no requests"] += 1
        elif is_too_old(record, table.options.since):
            left_out["requests from before --since"] += 1
        elif header(record, "Smoke-Test") == "true":
            left_out["smoke tests"] += 1
        else:
            try:
                texts = texts_of_record(record)
            except (BadTexts, UndecodableBody, BodyTooLarge, binascii.Error):
                left_out["bodies that are not requests"] += 1
                continue
            arrived = table.findings.read_date(record.get("occurrenceTime"))
            for place, text in enumerate(texts, start=1):
                identity = f"{number}.{place}" if len(texts) > 1 else str(number)
                yield make_document(identity, text, date=arrived)


def is_too_old(record: dict[str, Any], since: datetime | None) -> bool:
    """Whether a request arrived before a time. A record without a valid time counts as old."""
    if since is None:
        return False
    try:
        arrived = datetime.fromisoformat(str(record.get("occurrenceTime")))
    except ValueError:
        return True
    return (arrived if arrived.tzinfo else arrived.replace(tzinfo=UTC)) < since


def header(record: dict[str, Any], name: str) -> str:
    """A header of the request, or "" if it had none or it was not recorded."""
    metadata = record.get("metadata")
    values = metadata.get(name) if isinstance(metadata, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""


def texts_of_record(record: dict[str, Any]) -> list[str]:
    """Decode and parse the body as the service did.

    Raises:
        BadTexts, UndecodableBody, BodyTooLarge, binascii.Error: the service has refused the body, or it is no request.
    """
    body = base64.b64decode(str(record.get("bytes") or ""), validate=True)
    content_encoding = encoding_of(header(record, "Content-Encoding"))
    charset = charset_of(str(record.get("contentType") or ""))
    json_length = header(record, "Inference-Header-Content-Length")
    body = decode_body(body, content_encoding, charset, LARGEST_BODY)
    return texts_of_body(body, int(json_length) if json_length.isdecimal() else None)
