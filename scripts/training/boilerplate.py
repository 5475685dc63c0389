"""Boilerplate: lines such as signatures and disclaimers, which recur in many documents on different topics."""

import logging
import operator
import string
from collections import Counter
from statistics import median

from corpus.documents import shorten

MIN_WORDS = 4  # shorter lines, such as greetings, carry little weight
MIN_DOCUMENTS = 5
MIN_SHARE = 0.02  # of the documents: lines in fewer do not make a cluster
MIN_OWN_WORDS = 5  # median of the documents with the line; bulk mail and forms have fewer words of their own

QUOTE_MARKS = "> "
WITHOUT_DIGITS = dict.fromkeys(map(ord, string.digits))

log = logging.getLogger("text_clustering")


def drop_boilerplate(documents: list[str], titles: list[str]) -> list[str]:
    """Drop the boilerplate of a corpus, and log what it is; other documents stay the same objects."""
    boilerplate = find_boilerplate(documents, titles)
    if not boilerplate:
        return documents
    shortened = [without_boilerplate(*document, boilerplate) for document in zip(documents, titles)]
    log.info(
        "Boilerplate: ignored %d lines that recur in documents on different subjects, such as %r, in %d of %d documents "
        "(--keep-boilerplate uses them)",
        *(
            len(boilerplate),
            shorten(max(boilerplate, key=len)),
            sum(map(operator.is_not, shortened, documents)),
            len(documents),
        ),
    )
    return shortened


def find_boilerplate(documents: list[str], titles: list[str]) -> set[str]:
    """Find the lines that recur in many documents whose other lines differ; returns their normal forms.

    A line is boilerplate only if the documents that contain it have a text of their own. Otherwise the recurring lines
    are the text: in bulk mail, in forms, and in copies of one document.

    Args:
        titles: of the documents; a line that repeats the title of its document does not count.
    """
    limit = max(MIN_DOCUMENTS, MIN_SHARE * len(documents))
    counts: Counter[str] = Counter()
    for document, title in zip(documents, titles):
        counts.update(body_lines(document, title))
    recurring = {line for line, count in counts.items() if count >= limit}
    candidates = {line for line in recurring if len(line.split()) >= MIN_WORDS}
    if not candidates:  # as in most corpora; the second pass takes as long as the first
        return set()
    own_words: dict[str, list[int]] = {line: [] for line in candidates}
    for document, title in zip(documents, titles):
        lines = body_lines(document, title)
        if not lines.isdisjoint(candidates):
            count = sum(len(line.split()) for line in lines - recurring)
            for line in lines & candidates:
                own_words[line].append(count)
    return {line for line, words in own_words.items() if median(words) >= MIN_OWN_WORDS}


def without_boilerplate(document: str, title: str, boilerplate: set[str]) -> str:
    """The document without boilerplate, quoted or not; the same object if it has none."""
    forms, own = [form.lstrip(QUOTE_MARKS) for form in normal_forms(document)], normal_form(title)
    if boilerplate.isdisjoint(forms):
        return document
    lines = document.splitlines(keepends=True)
    kept = [line for line, form in zip(lines, forms) if form == own or form not in boilerplate]
    return document if len(kept) == len(lines) else "".join(kept)


def body_lines(document: str, title: str) -> set[str]:
    """The normal forms of the lines that do not repeat the title."""
    return set(normal_forms(document)) - {"", normal_form(title)}


def normal_forms(document: str) -> list[str]:
    return [line.strip() for line in document.translate(WITHOUT_DIGITS).splitlines()]


def normal_form(line: str) -> str:
    """A line without numbers, which differ in copies of a line."""
    return line.translate(WITHOUT_DIGITS).strip()
