"""A file of rows, and the documents in it that are being read."""

from pathlib import Path
from typing import NamedTuple

from corpus.documents import Findings, Options


class Table(NamedTuple):
    path: Path
    name: str  # for messages
    options: Options
    findings: Findings  # collects the detected format and the rows that are left out
