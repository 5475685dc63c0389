"""How people write the words of the vocabulary, which have neither capitals nor accents."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise

from training.words import HANGUL_SYLLABLES, written_pattern

KOREAN = re.compile(f"[{HANGUL_SYLLABLES}]")
INVISIBLE = re.compile("[\N{SOFT HYPHEN}\N{ZERO WIDTH SPACE}\N{WORD JOINER}\N{ZERO WIDTH NO-BREAK SPACE}]")
INSIDE = re.compile(r"\w")
SHARED = 0.8  # of the documents with the beginning of a Korean word continue it in the same way: it goes on


def compose(document: str) -> str:
    """The document in the normal form that people see, in which an accent and its letter are one character."""
    return document if document.isascii() else unicodedata.normalize("NFC", document)


def written_forms(terms: list[str], documents: list[str], tokenize: Callable[[str], list[str]]) -> dict[str, str]:
    """The form of each term that most documents use, by term; terms of scripts without spaces have none.

    Args:
        terms: words and phrases of the vocabulary.
        tokenize: returns the words of a text as they are in the vocabulary.
    """
    single = {term for term in terms if " " not in term}
    phrases = {term for term in terms if " " in term}
    words, find = Words(tokenize), re.compile(written_pattern()).findall
    forms: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for document in documents:
        if document.isascii() and not phrases:
            found = ascii_forms(document, single)
        else:
            runs = find(compose(document))
            found = {(words[run], run) for run in set(runs) if words[run] in single}
            pairs = (
                (f"{words[one]} {words[other]}", f"{one} {other}") for one, other in pairwise(runs if phrases else [])
            )
            found |= {(phrase, form) for phrase, form in pairs if phrase in phrases}
        for term, form in found:
            forms[term][INVISIBLE.sub("", form)] += 1
    return {term: most_frequent(counts) for term, counts in forms.items()}


def ascii_forms(document: str, words: set[str]) -> set[tuple[str, str]]:
    """The words that an ASCII document contains, with their forms; ten times as fast as dividing it into words."""
    lowered, found = document.lower(), set()
    for word in words:
        place = lowered.find(word)
        while place >= 0:
            end = place + len(word)
            if not INSIDE.match(lowered[place - 1 : place]) and not INSIDE.match(lowered[end : end + 1]):
                found.add((word, document[place:end]))
            place = lowered.find(word, end)
    return found


def address_words(document: str, tokenize: Callable[[str], list[str]]) -> set[str]:
    """The words of the e-mail addresses in a document, as they are in the vocabulary."""
    if "@" not in document:
        return set()
    # The last word before each @ and the first word after it, if there is no space between.
    beside = [
        word
        for before, after in pairwise(document.split("@"))
        if before[-1:].strip() and after[:1].strip()
        for word in (before.rsplit(None, 1)[-1], after.split(None, 1)[0])
    ]
    return set(tokenize(" ".join(beside))) if beside else set()


class Words(dict[str, str]):
    """The word of the vocabulary by the form in which it is written; empty for what is not one word."""

    def __init__(self, tokenize: Callable[[str], list[str]]) -> None:
        self.tokenize = tokenize

    def __missing__(self, form: str) -> str:
        words = [form.lower()] if form.isascii() else self.tokenize(form)  # the same, but faster
        self[form] = words[0] if len(words) == 1 else ""
        return self[form]


def most_frequent(forms: Counter[str]) -> str:
    form, _ = max(forms.items(), key=lambda pair: (pair[1], pair[0].islower(), pair[0]))
    return shared_beginning(forms) if KOREAN.match(form) else form


def shared_beginning(forms: Counter[str]) -> str:
    """What nearly all forms of a Korean word begin with: 비밀번호를, 비밀번호가 and 비밀번호 share 비밀번호."""
    beginning = next(iter(forms))[:2]
    while True:
        longer = Counter[str]()
        for form, count in forms.items():
            if form.startswith(beginning):
                longer[form[: len(beginning) + 1]] += count
        following, count = longer.most_common(1)[0]
        if following == beginning or count < SHARED * longer.total():
            return beginning
        beginning = following
