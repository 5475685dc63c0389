"""Rejoin the words of scripts without spaces, of which the vocabulary has overlapping pairs of letters.

Pairs belong to one word if they occur together in the documents of a cluster: スワ grows to パスワード if most documents
with スワ continue it so on either side. Where a word ends, documents differ.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise

from training.spelling import compose
from training.words import is_mark, is_spaceless, ranges

TOGETHER = 2 / 3  # of the documents with a part contain the longer part
FEWEST = 2  # documents
LONGEST = 12  # letters of a word; what is longer is a sentence that recurs
MOSTLY = 0.5
END = "\n"  # between segments

# Japanese particles that follow a noun; other hiragana after a Chinese character are the ending of a verb or adjective.
PARTICLES = "がをにはのでともへ"
# Vowels of Thai and Lao that are written before the consonant, and those after it: no word ends or begins with them.
VOWELS_BEFORE = "\u0e40-\u0e44\u0ec0-\u0ec4"
VOWELS_AFTER = "\u0e30\u0e32\u0e33\u0e45\u0eb0\u0eb2\u0eb3"


def is_pair(term: str) -> bool:
    """Whether a term of the vocabulary is a pair of letters of a script without spaces."""
    return is_spaceless(term[0])


@cache
def patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The regular expressions of a segment, which no word exceeds, and of a letter with its marks.

    In Japanese a segment ends where the script changes.
    """
    letters: defaultdict[str, list[str]] = defaultdict(list)
    for letter in filter(is_spaceless, map(chr, range(0x10000))):
        letters[script_of(letter)].append(letter)
    katakana, hiragana, han, marks, others = (
        f"[{ranges(letters[name])}]" for name in ("KATAKANA", "HIRAGANA", "CJK", "mark", "other")
    )
    segment = (
        f"(?:{katakana}{marks}*)+|{han}{{2,}}|{han}(?:(?![{PARTICLES}]){hiragana}+)?|{hiragana}+|(?:{others}{marks}*)+"
    )
    return re.compile(segment), re.compile(f"[^{END}]{marks}*")


def script_of(letter: str) -> str:
    if is_mark(letter):
        return "mark"
    if letter in "ーｰ":  # the mark of long vowels
        return "KATAKANA"
    name = unicodedata.name(letter)
    scripts = ("KATAKANA", "HIRAGANA", "CJK")
    return "CJK" if letter in "々〆" else next((script for script in scripts if name.startswith(script)), "other")


class WholeWords:
    """Finds whole words in the documents of a cluster.

    Args:
        documents: of the cluster.
        wanted: pairs of letters of the vocabulary.
        tokenize: returns the words of a text as they are in the vocabulary.
    """

    def __init__(self, documents: Iterable[str], wanted: Iterable[str], tokenize: Callable[[str], list[str]]) -> None:
        wanted = set(wanted)
        segment, self.letter = patterns()
        self.texts: list[str] = []  # the segments of each document
        self.forms: defaultdict[str, Counter[str]] = defaultdict(Counter)  # of each pair, with numbers of documents
        for document in documents:
            segments = segment.findall(compose(document))
            self.texts.append(END.join(segments))
            found = {pair for text in set(segments) for pair in self.pairs(text, tokenize) if pair[0] in wanted}
            for term, form in found:
                self.forms[term][form] += 1
        self.remaining = self.texts  # without the words that were taken

    def pairs(self, text: str, tokenize: Callable[[str], list[str]]) -> Iterable[tuple[str, str]]:
        """Each pair of letters of a segment: as in the vocabulary, which lacks the marks of the second, and as written."""
        letters = self.letter.findall(text)
        return zip(tokenize(text), map("".join, pairwise([*letters, ""])))

    def take(self, term: str) -> str | None:
        """The word that a pair is part of; None if it is none, or mostly part of words that were taken before."""
        if term not in self.forms:
            return None
        form, _ = max(self.forms[term].items(), key=lambda pair: (pair[1], pair[0]))
        word = self.shrink(self.grow(form))
        documents = count(word, self.texts)
        is_rare = documents < max(MOSTLY * self.forms[term].total(), FEWEST)
        if is_rare or not is_word(word) or count(word, self.remaining) < MOSTLY * documents:
            return None
        self.remaining = [text.replace(word, END) for text in self.remaining]
        return word

    def with_ending(self, word: str) -> str:
        """A Japanese verb or adjective with its most frequent ending; other words unchanged."""
        if script_of(word[0]) != "CJK" or script_of(word[-1]) != "HIRAGANA":
            return word
        forms = Counter(form for text in self.texts for form in set(text.split(END)) if form.startswith(word))
        return min(forms, key=lambda form: (-forms[form], len(form), form), default=word)

    def grow(self, part: str) -> str:
        """Add the letters that most documents have before and after a part of a word."""
        word, texts = part, [text for text in self.texts if part in text]
        while longer := self.longer(word, texts):
            word, texts = longer, [text for text in texts if longer in text]
            if len(self.letter.findall(word)) > LONGEST:
                return part
        return word

    def longer(self, word: str, texts: list[str]) -> str | None:
        """The word with one more letter, if most texts have the same one."""
        letter, literal = self.letter.pattern, re.escape(word)
        found: Counter[str] = Counter()
        for find in (re.compile(letter + literal).findall, re.compile(literal + letter).findall):
            for text in texts:
                found.update(set(find(text)))
        if not found:
            return None
        longer, documents = max(found.items(), key=lambda pair: (pair[1], pair[0]))
        return longer if documents >= max(TOGETHER * len(texts), FEWEST) else None

    def shrink(self, word: str) -> str:
        """Remove letters from the ends without which the word is in many more documents."""
        while len(letters := self.letter.findall(word)) > 2:
            parts = ["".join(letters[1:]), "".join(letters[:-1])]
            shorter = max(parts, key=lambda part: count(part, self.texts))
            if count(word, self.texts) >= TOGETHER * count(shorter, self.texts):
                break
            word = shorter
        return word


def count(word: str, texts: list[str]) -> int:
    """The number of texts that contain a word."""
    return sum(word in text for text in texts)


def is_hiragana(text: str) -> bool:
    """Whether a text is hiragana only, and so most likely grammar."""
    return all(script_of(letter) == "HIRAGANA" for letter in text)


def is_word(text: str) -> bool:
    """Whether a text can be a word: most particles and endings have two letters, and some vowels are not at an end."""
    if is_hiragana(text) and len(text) < 3:
        return False
    return not re.search(f"^[{VOWELS_AFTER}]|[{VOWELS_BEFORE}]$", text)
