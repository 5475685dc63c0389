"""What a word is, in any script: a table of letters and a pattern, which a stock TfidfVectorizer carries with it.

The vectorizer first translates a document by the table, letter by letter, then looks for the pattern. So nothing of
this file is needed to load it, and every Unicode form of a text gives the same words, wherever they are looked for.

- Letters are those of the compatibility decomposition, without regard to case: NFKD and casefold of
  https://www.unicode.org/reports/tr15/. It is the only form that can be reached letter by letter.
- Soft hyphens, zero-width characters and other marks of the layout are dropped, and so are the accents of Latin,
  Greek and Cyrillic and the vowels of Arabic and Hebrew, which many texts leave out. The marks of other scripts are
  half of the word and stay.
- Where a script has no spaces, each letter is doubled with a space between: 包裹丢失 becomes 包 包裹 裹丢 丢失 失, of
  which the pattern takes the overlapping pairs. They need no dictionary, and find topics as well as words do: Nie et
  al., "On the use of words and n-grams for Chinese information retrieval", IRAL 2000.
- Of a Korean word the first two syllables are taken: what follows them is mostly particles and endings.
- "c#" and "c++" are words. Numbers are not, nor is what begins with one.
"""

import functools
import operator
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable

# By the beginning of their names in Unicode.
SPACELESS = (
    "BALINESE", "BOPOMOFO", "CJK", "HIRAGANA", "IDEOGRAPHIC", "JAVANESE", "KATAKANA", "KHMER", "LAO", "MYANMAR",
    "NEW TAI LUE", "TAI LE", "TAI THAM", "TAI VIET", "THAI",
)  # fmt: skip
VOICING = "COMBINING KATAKANA-HIRAGANA"  # tells が from か, and so is no accent
OPTIONAL_MARKS = ("ARABIC", "COMBINING", "HEBREW", "MONGOLIAN FREE VARIATION", "SYRIAC", "VARIATION SELECTOR")
FILLERS = "\N{ARABIC TATWEEL}\N{HANGUL CHOSEONG FILLER}\N{HANGUL JUNGSEONG FILLER}"

# The letters that Korean syllables are decomposed into; each syllable begins with one of the first.
HANGUL_INITIAL = "\u1100-\u115e\ua960-\ua97c"
HANGUL_FOLLOWING = "\u1161-\u11ff\ud7b0-\ud7fb"

# Letters beyond the first 65,536, but no symbols. Ranges there are compared one by one, so exact ones would take ten
# times as long.
BEYOND = "\U00010000-\U0001cfff\U0001e000-\U0001efff\U00020000-\U0003ffff"


def preprocessor() -> Callable[[str], str]:
    """Translate a document by the table of letters; a stock object that pickles."""
    return operator.methodcaller("translate", letter_table())


@functools.cache
def letter_table() -> dict[int, str]:
    """What becomes of each letter that does not stay as it is; and ASCII, for a miss takes longer than a hit."""
    table = {}
    for code in range(sys.maxunicode + 1):
        folded = fold(chr(code))
        if folded != chr(code) or code < 128:
            table[code] = folded
    return table


def fold(letter: str) -> str:
    """The plain form of a letter: none, one, or several letters."""
    if (decomposed := unicodedata.normalize("NFKD", letter)) != letter:
        return "".join(map(fold, decomposed))
    if is_left_out(letter):
        return ""
    if (lower := letter.casefold()) != letter:
        return "".join(map(fold, lower))
    return f"{letter} {letter}" if letter.isalpha() and is_spaceless(letter) else letter


def is_left_out(letter: str) -> bool:
    category, name = unicodedata.category(letter), unicodedata.name(letter, "")
    optional = name.startswith(OPTIONAL_MARKS) and not name.startswith(VOICING)
    return category == "Cf" or letter in FILLERS or (category in ("Mn", "Me") and optional)


def is_spaceless(letter: str) -> bool:
    """Whether it is a letter or mark of a script without spaces. The rare ones beyond the first 65,536 don't count."""
    name = unicodedata.name(letter, "")
    return letter < "\U00010000" and (letter.isalpha() or is_mark(letter)) and name.startswith((*SPACELESS, VOICING))


def is_mark(letter: str) -> bool:
    return unicodedata.category(letter) in ("Mn", "Mc")


@functools.cache
def token_pattern() -> str:
    """The pattern of a word in a document that was translated."""
    hangul = HANGUL_INITIAL + HANGUL_FOLLOWING
    known = [chr(code) for code in range(0x10000) if not re.match(f"[{hangul}]", chr(code))]
    spaceless = ranges(filter(is_spaceless, known))
    others = [letter for letter in known if not is_spaceless(letter)]
    letters = ranges(filter(str.isalpha, others)) + BEYOND
    inside = ranges(letter for letter in others if letter.isalnum() or letter == "_" or is_mark(letter)) + BEYOND

    # The look behind the first letter is for the beginning of the word; so it costs less than a \\b in front of it.
    word = f"[{letters}](?<![{inside}].)(?:[{inside}]+|[+#]{{0,2}})"
    pair = f"[{spaceless}]{{2,}}"
    stem = f"[{HANGUL_INITIAL}](?<![{hangul}].)[{HANGUL_FOLLOWING}]*(?:[{HANGUL_INITIAL}][{HANGUL_FOLLOWING}]*)?"
    return f"{word}|{pair}|{stem}"


def ranges(letters: Iterable[str]) -> str:
    """Write letters in ascending order as the ranges of a set in a pattern."""
    runs = []
    for letter in letters:
        if runs and ord(letter) == ord(runs[-1][1]) + 1:
            runs[-1][1] = letter
        else:
            runs.append([letter, letter])
    return "".join(first if first == last else f"{first}-{last}" for first, last in runs)
