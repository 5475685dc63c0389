"""Tokenization for all scripts: a translation table and a regular expression that a stock TfidfVectorizer includes.

The vectorizer first translates a document by the table, character by character, then searches for the pattern. So the
saved vectorizer loads without this file, and every Unicode form of a text has the same words in training and service.

- Letters are decomposed and case-folded: NFKD and casefold of https://www.unicode.org/reports/tr15/, the only
  normal form that a table of single characters can produce.
- Soft hyphens, zero-width and other format characters are dropped, and so are the accents of Latin, Greek and
  Cyrillic and the vowel marks of Arabic and Hebrew, which many texts omit. The marks of other scripts are essential
  and are kept.
- In a script without spaces, each letter is doubled with a space between: 包裹丢失 becomes 包 包裹 裹丢 丢失 失, of
  which the pattern takes the overlapping pairs. They need no dictionary, and find topics as well as words do: Nie et
  al., "On the use of words and n-grams for Chinese information retrieval", IRAL 2000.
- Of a Korean word the first two syllables are taken: the rest is mostly particles and endings.
- "c#" and "c++" are words. Numbers are not, nor is anything that begins with a digit, except what many documents of
  the corpus contain, such as 404 and 500 among the messages of web servers, or 3d.
"""

import functools
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable

# Prefixes of Unicode character names.
SPACELESS = (
    "BALINESE", "BOPOMOFO", "CJK", "HIRAGANA", "IDEOGRAPHIC", "JAVANESE", "KATAKANA", "KHMER", "LAO", "MYANMAR",
    "NEW TAI LUE", "TAI LE", "TAI THAM", "TAI VIET", "THAI",
)  # fmt: skip
VOICING = "COMBINING KATAKANA-HIRAGANA"  # distinguishes が from か, so it is not an accent
OPTIONAL_MARKS = ("ARABIC", "COMBINING", "HEBREW", "MONGOLIAN FREE VARIATION", "SYRIAC", "VARIATION SELECTOR")
FILLERS = "\N{ARABIC TATWEEL}\N{HANGUL CHOSEONG FILLER}\N{HANGUL JUNGSEONG FILLER}"

# The letters that Korean syllables are decomposed into; each syllable begins with an initial.
HANGUL_INITIAL = "\u1100-\u115e\ua960-\ua97c"
HANGUL_FOLLOWING = "\u1161-\u11ff\ud7b0-\ud7fb"
HANGUL_SYLLABLES = "\uac00-\ud7a3"

# Without planes 4 to 13, which are unassigned, and 15 and 16, which are private: they only take time, as do the
# surrogate, private and unassigned code points of the others.
PLANES = (0, 1, 2, 3, 14)
WITHOUT_FORMS = ("Cs", "Co", "Cn")

# Letters beyond the first 65,536 code points, without symbols. The re module compares ranges there one by one, so exact
# ranges would take ten times as long.
BEYOND = "\U00010000-\U0001cfff\U0001e000-\U0001efff\U00020000-\U0003ffff"


def preprocessor() -> Callable[[str], str]:
    """Return a function that translates a document by the table; a stock object that can be pickled."""
    return operator.methodcaller("translate", letter_table())


@functools.cache
def letter_table() -> dict[int, str]:
    """Replacements of all characters that change; and of ASCII, because a miss takes longer than a hit."""
    table = {}
    for letter in (chr(0x10000 * plane + place) for plane in PLANES for place in range(0x10000)):
        if unicodedata.category(letter) in WITHOUT_FORMS:
            continue
        folded = fold(letter)
        if folded != letter or letter.isascii():
            table[ord(letter)] = folded
    return table


def fold(letter: str) -> str:
    """The plain form of a character: none, one, or several characters."""
    if (decomposed := unicodedata.normalize("NFKD", letter)) != letter:
        return "".join(map(fold, decomposed))
    if is_left_out(letter):
        return ""
    if (lower := letter.casefold()) != letter:
        return "".join(map(fold, lower))
    return f"{letter} {letter}" if letter.isalpha() and is_spaceless(letter) else letter


def is_left_out(letter: str) -> bool:
    category = unicodedata.category(letter)
    return category == "Cf" or letter in FILLERS or (category in ("Mn", "Me") and is_optional(letter))


def is_optional(mark: str) -> bool:
    name = unicodedata.name(mark, "")
    return name.startswith(OPTIONAL_MARKS) and not name.startswith(VOICING)


def is_spaceless(letter: str) -> bool:
    """Whether a character is a letter or mark of a script without spaces, within the first 65,536 code points."""
    if letter >= "\U00010000" or not (letter.isalpha() or is_mark(letter)):
        return False
    return unicodedata.name(letter, "").startswith((*SPACELESS, VOICING))


def is_mark(letter: str) -> bool:
    return unicodedata.category(letter) in ("Mn", "Mc")


# What begins with a digit and stands alone: not a part of a date, a time, an amount or a telephone number.
NUMBER = r"(?<![\w.,:/+-])(?:{})(?!\w|[.,:/-]\d)"


def number_pattern() -> str:
    """The regular expression of a number in a translated document."""
    return NUMBER.format(r"\d\w*")


def token_pattern(numbers: tuple[str, ...] = ()) -> str:
    """The regular expression of a word in a translated document.

    Args:
        numbers: those that are words.
    """
    return "|".join([word_pattern(), *([NUMBER.format("|".join(numbers))] if numbers else [])])


@functools.cache
def word_pattern() -> str:
    """The regular expression of a word that is not a number in a translated document."""
    hangul = HANGUL_INITIAL + HANGUL_FOLLOWING
    known = letters_except(hangul)
    spaceless = set(filter(is_spaceless, known))
    others = [letter for letter in known if letter not in spaceless]
    letters = ranges(filter(str.isalpha, others)) + BEYOND
    inside = ranges(filter(is_inside, others)) + BEYOND

    # The lookbehind after the first letter finds the beginning of a word; it is faster than a \\b before it.
    word = f"[{letters}](?<![{inside}].)(?:[{inside}]+|[+#]{{0,2}})"
    pair = f"[{ranges(sorted(spaceless))}]{{2,}}"
    stem = f"[{HANGUL_INITIAL}](?<![{hangul}].)[{HANGUL_FOLLOWING}]*(?:[{HANGUL_INITIAL}][{HANGUL_FOLLOWING}]*)?"
    return "|".join([word, pair, stem])


@functools.cache
def written_pattern() -> str:
    """The regular expression of a word in a document as it is written (NFC), for scripts with spaces.

    A word in one script and a Korean particle after it are two.
    """
    hangul = HANGUL_SYLLABLES + HANGUL_INITIAL + HANGUL_FOLLOWING
    others = [letter for letter in letters_except(hangul) if not is_spaceless(letter)]
    letters = ranges(filter(str.isalpha, others)) + BEYOND
    inside = ranges(letter for letter in others if is_inside(letter) or unicodedata.category(letter) == "Cf") + BEYOND
    return f"[{hangul}]+|[{letters}][+#]{{1,2}}|[{inside}]+"


def letters_except(these: str) -> str:
    """The first 65,536 code points without those of a character class, in ascending order."""
    return re.sub(f"[{these}]", "", "".join(map(chr, range(0x10000))))


def is_inside(letter: str) -> bool:
    return letter.isalnum() or letter == "_" or is_mark(letter)


def ranges(letters: Iterable[str]) -> str:
    """Convert characters in ascending order to the ranges of a character class."""
    runs: list[list[str]] = []
    for letter in letters:
        if runs and ord(letter) == ord(runs[-1][1]) + 1:
            runs[-1][1] = letter
        else:
            runs.append([letter, letter])
    return "".join(first if first == last else f"{first}-{last}" for first, last in runs)
