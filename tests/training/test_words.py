"""scripts/training/words.py: tokenization in all scripts and Unicode forms."""

import pickle
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from bench.languages import CORPORA, character_ngrams
from bench.languages import words as words_in_clusters
from corpus.source import load_corpus
from model.projection import Lsa
from training import words
from training.clustering import fit_clusters
from training.vocabulary import fit_vectorizer

FORMS = ("NFC", "NFD", "NFKC", "NFKD")
LANGUAGES = {path.stem: path for path in CORPORA}


def analyze(text: str) -> list[str]:
    return TfidfVectorizer(preprocessor=words.preprocessor(), token_pattern=words.token_pattern()).build_analyzer()(
        text
    )


def test_every_letter_has_the_same_plain_form_in_all_unicode_forms():
    plain = words.preprocessor()
    for letter in map(chr, range(sys.maxunicode + 1)):
        for form in FORMS:
            if (other := unicodedata.normalize(form, letter)) != letter:
                assert plain(other) == plain(letter), f"{ord(letter):x} {form}"


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "The TEAM_2 won 3 games, 2nd place": ["the", "team_2", "won", "games", "place"],
        "HR and IT hire: C++, C#, F#, R, Go; see #5": ["hr", "and", "it", "hire", "c++", "c#", "f#", "r", "go", "see"],
        "Päckchen Straße STRASSE ÉTÉ ΟΔΟΣ İstanbul": ["packchen", "strasse", "strasse", "ete", "οδοσ", "istanbul"],
        "so\u00adft\u200bly \ufeffﬁne Ｆｕｌｌ ①": ["softly", "fine", "full"],
        "मेरा पार्सल देर से": ["मेरा", "पार्सल", "देर", "से"],
        "كَلِمَةُ المُرُورِ كلمة المرور": ["كلمة", "المرور", "كلمة", "المرور"],
        "می\u200cخواهم میخواهم": ["میخواهم", "میخواهم"],
        "包裹丢失 iPhone手机abc": ["包裹", "裹丢", "丢失", "iphone", "手机", "abc"],
        "ガラスか ｶﾞﾗｽｶ": ["ガラ", "ラス", "スか", "ガラ", "ラス", "スカ"],
        "พัสดุ": ["พัส", "สด", "ดุ"],
        "비밀번호를 IT업체 물": ["비밀", "it", "업체", "물"],
        "👍 😡 12 3.5 ...": [],
    }.items(),
)
def test_words_of_a_text_in_all_its_forms(text, expected):
    for form in FORMS:
        found = analyze(unicodedata.normalize(form, text))
        assert [unicodedata.normalize("NFC", word) for word in found] == expected, form


@pytest.mark.parametrize("name", sorted(set(LANGUAGES) - {"arabic", "french", "spanish", "vietnamese"}))
def test_clusters_in_each_script_are_as_good_as_those_of_character_ngrams(name):
    corpus = load_corpus(str(LANGUAGES[name]))
    ngrams = max(character_ngrams(corpus, lengths, seeds=2) for lengths in ((1, 2), (2, 4)))
    assert words_in_clusters(corpus, seeds=2) >= ngrams


@pytest.mark.parametrize("topics", [["HR", "IT", "PR"], ["C++", "C#", "F#", "Go", "R"]])
def test_topics_of_one_or_two_letters_are_found(topics):
    rng = np.random.default_rng(0)
    filling = [
        "please",
        "can",
        "the",
        "team",
        "be",
        "so",
        "kind",
        "and",
        "advise",
        "on",
        "this",
        "new",
        "question",
        "as",
        "of",
        "today",
    ]
    documents = [" ".join([*rng.choice(filling, 5), topic, topic]) for topic in topics for _ in range(30)]
    labels = np.repeat(np.arange(len(topics)), 30)
    _, weights = fit_vectorizer(documents)
    assigned = fit_clusters(weights, len(topics), min(weights.shape) - 1, True, 0, False)[1].labels_
    assert len(set(zip(labels, assigned))) == len(topics)


def disguised(text: str) -> list[str]:
    """The text in the forms of other systems."""
    full_width = "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)
    forms = [unicodedata.normalize(form, text) for form in FORMS]
    return [*forms, full_width, text.upper(), "\u00ad".join(text), "\u200b".join(text), "\u200d".join(text)]


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_text_gets_one_vector_in_all_its_forms_in_service_and_batch(name):
    corpus = load_corpus(str(LANGUAGES[name]))
    vectorizer, weights = fit_vectorizer(corpus.documents)
    svd = TruncatedSVD(min(10, min(weights.shape) - 1), random_state=0).fit(weights)
    pipeline = make_pipeline(vectorizer, svd, Normalizer())
    lsa = Lsa(pipeline)
    for text in corpus.documents[::5]:
        vector = lsa.transform([text])
        for other in disguised(text):
            assert np.array_equal(lsa.transform([other]), vector), ascii(other)
        assert np.allclose(pipeline.transform(disguised(text)), vector)


def test_a_corpus_gets_one_vocabulary_in_all_its_forms():
    documents = load_corpus(str(LANGUAGES["vietnamese"])).documents
    fitted = [fit_vectorizer([disguised(text)[n] for text in documents])[0] for n in range(len(disguised("")))]
    assert len({tuple(vectorizer.vocabulary_.items()) for vectorizer in fitted}) == 1


def test_the_vectorizer_loads_without_the_code_that_created_it(tmp_path):
    vectorizer, _ = fit_vectorizer(load_corpus(str(LANGUAGES["thai"])).documents)
    (tmp_path / "vectorizer.pickle").write_bytes(pickle.dumps(vectorizer))
    code = "import pickle; print(pickle.load(open('vectorizer.pickle', 'rb')).transform(['รหัสผ่าน']).nnz > 1)"
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.strip() == "True", run.stderr
