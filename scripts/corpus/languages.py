"""Warn about a corpus in several languages: its clusters would be the languages instead of the topics."""

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

SAMPLE = 2_000  # documents that are looked at
CHARACTERS = 2_000  # of each
SHARE = 0.1  # of the documents, from which on a language counts
FEW = 5  # documents of a language that may be mistakes
HITS = 2  # function words that a text needs to be recognised by

# Frequent words of languages in the Latin script.
FUNCTION_WORDS = {
    "English": "the and of to is that for with this you are was not have my it",
    "German": "der die das und nicht ist ein eine ich mit auf den von für wird dem",
    "French": "le la les des est une pas pour dans et du je vous que qui au ne",
    "Spanish": "el la los las y una por con para que mi se es del no está",
    "Portuguese": "o os um uma não do da em para com meu minha que é ao foi",
    "Italian": "il di che non è una per sono del della gli mi ho con la nel",
    "Dutch": "het een van niet ik en op mijn dat voor te de is met zijn",
    "Polish": "nie się na jest i w do z że to jak po mam od",
    "Swedish": "och att det är inte jag som på för med till har av",
    "Danish": "og det er ikke jeg på at som til med har af",
    "Czech": "je se na že nebo jsem není v s pro ale po",
    "Romanian": "și nu este în la cu pe mai din sunt",
    "Hungarian": "és nem az egy hogy van meg is de",
    "Finnish": "ja ei on että se en mutta kun",
    "Turkish": "bir ve bu için çok ile ben değil da de",
    "Indonesian": "yang dan tidak saya di ini untuk dengan ke",
    "Vietnamese": "không và là của tôi có được cho một trong",
}
LANGUAGES_OF = {word: [name for name, words in FUNCTION_WORDS.items() if word in words.split()]
                for words in FUNCTION_WORDS.values() for word in words.split()}  # fmt: skip
# Languages by the script of their letters, as Unicode names these.
SCRIPTS = {
    "HIRAGANA": "Japanese",
    "KATAKANA": "Japanese",
    "CJK": "Chinese",
    "HANGUL": "Korean",
    "THAI": "Thai",
    "CYRILLIC": "a language in Cyrillic",
    "GREEK": "Greek",
    "ARABIC": "a language in Arabic script",
    "HEBREW": "Hebrew",
    "DEVANAGARI": "a language in Devanagari",
}

log = logging.getLogger("text_clustering")


def warn_of_languages(name: str, texts: Sequence[str]) -> None:
    """Log a warning if several languages have a tenth each of the documents whose language is recognised."""
    languages = Counter(filter(None, map(language_of, texts[:: max(len(texts) // SAMPLE, 1)])))
    shares = {name: count / languages.total() for name, count in languages.most_common()}
    found = [
        f"{language} ({share:.0%})"
        for language, share in shares.items()
        if share >= SHARE and languages[language] >= FEW
    ]
    if len(found) > 1:
        log.warning(
            "%s is in several languages: %s. Clusters will be languages rather than topics: train a model for each "
            "language, or translate the texts first",
            *(name, ", ".join(found)),
        )


def language_of(text: str) -> str | None:
    """The language of a text, by its script or else by its function words; None if neither decides."""
    letters = [letter for letter in text[:CHARACTERS] if letter.isalpha()]
    scripts = Counter(unicodedata.name(letter, "").split(" ")[0] for letter in letters[::4] if letter > "\u024f")
    for script, language in SCRIPTS.items():
        if scripts[script] * 4 > len(letters) / (10 if language == "Japanese" else 2):
            return language
    words = re.findall(r"\w+", text[:CHARACTERS].casefold())
    hits = Counter(language for word in words for language in LANGUAGES_OF.get(word, ()))
    (first, most), (_, second) = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    return first if most >= HITS and most > second else None
