"""scripts/training/displayed_terms.py: top terms are different words, written as people write them."""

import itertools
import json
import unicodedata
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from deployment.gateway import sample_texts
from training import words
from training.displayed_terms import Term, are_variants, choose_different, without_addresses
from training.spelling import address_words, written_forms
from training.whole_words import WholeWords

LANGUAGES = Path(__file__).resolve().parents[1] / "languages"

vectorizer = TfidfVectorizer(preprocessor=words.preprocessor(), token_pattern=words.token_pattern())
analyze = vectorizer.build_analyzer()


def tokenize(text: str) -> list[str]:
    return [unicodedata.normalize("NFC", token) for token in analyze(text)]


def texts_about(language: str, label: str) -> list[str]:
    rows = map(json.loads, (LANGUAGES / f"{language}.jsonl").read_text(encoding="utf-8").splitlines())
    return [row["text"] for row in rows if row["label"] == label]


def whole_words(documents: list[str]) -> list[str]:
    """The words that the pairs of letters in a cluster's documents belong to, the most frequent first."""
    pairs = [pair for document in documents for pair in set(tokenize(document))]
    ordered = sorted(set(pairs), key=lambda pair: (-pairs.count(pair), pair))
    found = WholeWords(documents, ordered, tokenize)
    return [found.with_ending(word) for pair in ordered if (word := found.take(pair))]


@pytest.mark.parametrize(
    ("written", "term"),
    [
        ("Gebühr", "gebuhr"),
        ("iPhone", "iphone"),
        ("C++", "c++"),
        ("Ελλάδα", "ελλαδα"),
        ("R", "r"),
        ("کتاب\N{ZERO WIDTH NON-JOINER}ها", "کتابها"),
        ("Access Key", "access key"),
    ],
)
def test_a_term_is_written_as_in_most_documents_of_the_cluster(written, term):
    documents = [f"({written}), {written}", f"x {written}, 1", f"y {written} z", written.upper(), written.lower()]
    documents += [f"x {term} and {term} and {term}"]
    assert written_forms([term], documents, tokenize) == {term: written}


def test_forms_that_differ_only_in_their_encoding_count_as_one():
    documents = [unicodedata.normalize("NFD", "die Gebühr"), "Ge\N{SOFT HYPHEN}bühr", "GEBÜHR", "eine Gebühr"]
    assert written_forms(["gebuhr"], documents, tokenize) == {"gebuhr": "Gebühr"}


@pytest.mark.parametrize(
    ("documents", "form"),
    [
        (["비밀번호를 잊었어요", "비밀번호가 틀려요", "새 비밀번호", "API 비밀번호는"], "비밀번호"),
        (["택배가 왔어요", "택배를 보냈어요", "택배기사"], "택배"),
        (["API를 호출", "API가 느려요"], "API"),
    ],
)
def test_a_korean_word_is_what_its_forms_have_in_common(documents, form):
    term = tokenize(form)[0]
    assert written_forms([term], documents, tokenize) == {term: form}


@pytest.mark.parametrize(
    ("language", "label", "expected", "fragments"),
    [
        ("japanese", "login", ["ログイン", "パスワード", "アカウント"], ["ワー", "され", "ると", "ドを"]),
        ("japanese", "shipping", ["荷物", "配達", "届いた"], ["物が", "てい", "れて", "いた"]),
        ("thai", "login", ["รหัสผ่าน", "เข้าสู่ระบบ"], ["ผ่า", "สผ่", "ระบ", "งใ"]),
        ("chinese", "账单", ["退款", "信用卡"], ["用卡", "款请"]),
    ],
)
def test_pairs_of_letters_become_whole_words_without_fragments(language, label, expected, fragments):
    found = whole_words(texts_about(language, label))
    assert set(expected) <= set(found) and not set(fragments) & set(found)


def test_a_word_that_documents_always_continue_is_shown_as_a_whole():
    documents = ["请求退款被拒绝", "我想请求退款", "如何请求退款", "请求退款失败"]
    assert "请求退款" in whole_words(documents)


def test_a_sentence_that_recurs_is_not_a_word():
    documents = [f"{start}返品交換不可商品代金引換払戻対象外" for start in "甲乙丙"]
    assert all(len(word) == 2 for word in whole_words(documents))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("game", "games"), ("car", "cars"), ("battery", "batteries"), ("israel", "israelis"), ("passwort", "passworter"),
        ("الطرد", "طرد"), ("encrypt", "encryption"),
    ],
)  # fmt: skip
def test_forms_of_a_word_are_variants(one, other):
    assert are_variants(one, other) and are_variants(other, one)


@pytest.mark.parametrize(
    ("one", "other"), [("car", "card"), ("gun", "gut"), ("form", "format"), ("space", "spacecraft"), ("ide", "isa")]
)
def test_different_words_are_no_variants(one, other):
    assert not are_variants(one, other)


def term(name: str, weight: float, documents: str) -> Term:
    """A term and the documents that contain it, one character each: x contains it, - does not."""
    return Term(name, weight, "", np.array([document == "x" for document in documents]))


def chosen(*terms: Term) -> list[str]:
    """The terms that are displayed, of a cluster that has all documents but the last two."""
    own = np.arange(len(terms[0].inside)) < len(terms[0].inside) - 2
    return [choice.term for choice in choose_different(list(terms), own)]


def test_the_phrase_is_displayed_if_most_documents_with_its_word_contain_it():
    phrase, part = term("db cluster", 0.5, "xxxx------"), term("db", 0.9, "xxxxx-----")
    assert chosen(part, phrase, term("clusters", 0.4, "xxx-------")) == ["db cluster"]
    rare = term("db cluster", 0.5, "x---------")
    assert chosen(part, rare, term("cluster", 0.4, "xx--------")) == ["db", "cluster"]


def test_a_term_that_occurs_with_the_others_is_preferred_to_one_that_is_a_little_heavier():
    topic = [term(name, 1, "xxxxxx------") for name in ("orbit", "moon", "launch", "nasa", "shuttle", "probe")]
    topic += [term(name, 0.9, "xxxxx-------") for name in ("rocket", "lunar", "crater")]
    assert chosen(*topic, term("henry", 0.5, "------xx----"), term("mission", 0.3, "xxxx--------"))[-1] == "mission"
    assert chosen(*topic, term("henry", 9, "------xx----"), term("mission", 0.3, "xxxx--------"))[-1] == "henry"


def test_a_term_that_is_never_together_with_most_others_is_left_out():
    topic = [term("invoice", 1, "xxxx----"), term("refund", 0.9, "xx------"), term("card", 0.8, "--xx----")]
    assert chosen(*topic, term("account", 0.5, "----xx--")) == ["invoice", "refund", "card"]
    assert chosen(*topic, term("account", 0.5, "--x-xx--"))[-1] == "account"


def test_words_of_addresses_are_found_as_in_the_vocabulary():
    document = "Mail Jürgen.Groß@Büro.example.org, but not @home, 3 @ 5 or @\nnight: (bob@Example.org)"
    assert address_words(document, tokenize) == {"jurgen", "gross", "buro", "example", "org", "bob"}


def test_a_term_that_is_mostly_a_part_of_addresses_is_left_out():
    texts = ["cramer@optilink.com wrote: a gun", "From: cramer@optilink.com", "a gun, Cramer", "Cramer, optilink"]
    terms = [term("optilink", 1, "xx-x--"), term("cramer", 1, "xxxx--"), term("gun", 1, "x-x--x")]
    own = np.array([True] * 4 + [False] * 2)
    assert [left.term for left in without_addresses(terms, own, texts, tokenize)] == ["cramer", "gun"]


def test_displayed_terms_are_ten_different_words_and_the_clusters_differ(artefacts):
    clusters = json.loads((artefacts / "clusters.json").read_text())["clusters"]
    displayed = [[term for term, _ in cluster["terms"]] for cluster in clusters]
    for terms in displayed:
        pairs = itertools.combinations([tokenize(term) for term in terms], 2)
        assert len(terms) == 10
        assert not [pair for pair in pairs if any(are_variants(*both) for both in itertools.product(*pair))]
    words = [word for terms in displayed for term in terms for word in tokenize(term)]
    assert len(set(words)) >= 0.95 * len(words)
    assert {"ec2", "amazon", "cognito"} <= set(words) and not {"about", "can", "if", "see", "to"} & set(words)
    assert {"EC2", "Amazon Cognito"} <= {term for terms in displayed for term in terms}


def test_the_texts_of_the_smoke_test_return_the_numbers_of_their_clusters(artefacts):
    clusters = json.loads((artefacts / "clusters.json").read_text())["clusters"]
    model, pipeline = (joblib.load(artefacts / name) for name in ("model.joblib", "transformer.joblib"))
    texts = sample_texts(clusters)
    assert model.predict(pipeline.transform(texts.values())).tolist() == list(texts) == list(range(20))
