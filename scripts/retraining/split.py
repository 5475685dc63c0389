"""Read the corpus of a retraining: the texts that are new, those that are held out, and the rest to train on."""

import argparse
import itertools
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from corpus.source import Source, source_of

HELD_OUT_SHARE = 0.2  # of the new texts
MOST_HELD_OUT = 2_000


def new_texts(options: argparse.Namespace, trained: datetime) -> list[str]:
    """The different texts of the last dataset; of recorded requests, those since the stable version was trained.

    Args:
        options: those of --dataset.

    Raises:
        CorpusError, StoreError: they cannot be read.
    """
    of_last = argparse.Namespace(**vars(options) | {"dataset": options.dataset[-1:], "since": None})
    return different_texts(source_of(of_last), max(trained, options.since or trained))


def different_texts(source: Source, since: datetime) -> list[str]:
    """The different texts, in the order in which each was read last: what clients still send is new.

    Args:
        since: of recorded requests, only those that arrived since then.
    """
    texts: dict[str, None] = {}
    for batch in source.batches():
        for text, date in zip(batch.documents, batch.dates or itertools.repeat(None)):
            if source.findings.has_records and (date is None or date < since):
                continue
            texts.pop(text, None)
            texts[text] = None
    return list(texts)


def choose_held_out(texts: Sequence[str]) -> list[str]:
    """Every second of the newest texts: one in five of all, at most 2,000.

    The newest are most like what the candidate is going to serve; it needs the others of them to learn a new topic.

    Args:
        texts: the oldest first.
    """
    count = min(round(HELD_OUT_SHARE * len(texts)), MOST_HELD_OUT)
    return list(texts[::-2])[:count]


def write_training_corpus(source: Source, held_out: Sequence[str], path: Path) -> int:
    """Write all documents, except those with a text that is held out, as JSON Lines. Returns their number.

    Raises:
        CorpusError, StoreError: they cannot be read.
        OSError: the file cannot be written.
    """
    left_out, count = set(held_out), 0
    with path.open("w", encoding="utf-8") as file:
        for batch in source.batches():
            for text, title, label in zip(batch.documents, batch.titles, batch.labels):
                if text not in left_out:
                    row = {"text": text, "title": title} | ({"label": label} if label else {})
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    count += 1
    source.findings.log(source.name)
    return count
