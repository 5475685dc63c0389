"""scripts/corpus/languages.py: a corpus in several languages is reported before its clusters are."""

import json
from pathlib import Path

from corpus.languages import language_of, warn_of_languages

FOLDER = Path(__file__).parents[1] / "languages"
TEXTS = {
    "German": "die Bremse vom Fahrrad macht ein Geräusch und das Rad ist verbogen",
    "Spanish": "la cadena de mi bicicleta salta cuando cambio la marcha y el freno hace ruido",
    "English": "the brake of my bicycle is loud and the wheel was bent",
    "Japanese": "自転車のブレーキから音がします",
    "a language in Cyrillic": "тормоз велосипеда шумит",
}


def test_a_language_is_recognised_by_its_script_or_its_function_words():
    assert {name: language_of(text) for name, text in TEXTS.items()} == {name: name for name in TEXTS}
    assert language_of("404 500") is None and language_of("") is None


def test_several_languages_are_a_warning_with_their_shares(caplog):
    warn_of_languages("mixed", [TEXTS["German"]] * 60 + [TEXTS["Spanish"]] * 40 + [TEXTS["English"]] * 3)
    assert "mixed is in several languages: German (58%), Spanish (39%). Clusters will be languages" in caplog.text


def test_one_language_with_some_texts_in_others_is_no_warning(caplog):
    warn_of_languages("german", [TEXTS["German"]] * 60 + [TEXTS["Spanish"]] * 3)
    for path in FOLDER.glob("*.jsonl"):
        warn_of_languages(path.name, [json.loads(line)["text"] for line in path.open()])
    assert caplog.text == ""
