"""scripts/training/vocabulary.py: phrases of two words, in corpora where they are worth their cost."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, v_measure_score

from training import vocabulary
from training.clustering import fit_clusters
from training.vocabulary import fit_vectorizer, frequent_numbers, without_phrases

MODIFIERS = ["red", "blue", "green", "old", "new", "large", "small", "round", "square", "heavy", "light", "cheap"]
NOUNS = [
    "car",
    "house",
    "table",
    "garden",
    "window",
    "bottle",
    "camera",
    "ticket",
    "printer",
    "folder",
    "bridge",
    "carpet",
]
FILLERS = [f"filler{letter}{other}" for letter in "abcdef" for other in "abcdef"]


def corpus(documents=1_200) -> tuple[list[str], list[int]]:
    """Two topics with the same words in other pairs: red car and blue house, red house and blue table ..."""
    rng = np.random.default_rng(0)
    labels = [number % 2 for number in range(documents)]
    texts = []
    for label in labels:
        parts = [f"{MODIFIERS[n]} {NOUNS[(n + label) % len(NOUNS)]}" for n in rng.choice(len(MODIFIERS), 4, False)]
        texts.append(" ".join(word for part in parts for word in (part, *rng.choice(FILLERS, 2))))
    return texts, labels


def phrases_in(vectorizer) -> set[str]:
    return {term for term in vectorizer.get_feature_names_out() if " " in term}


def test_topics_that_differ_only_in_their_phrases_are_separated():
    documents, labels = corpus()
    vectorizer, weights = fit_vectorizer(documents)
    expected = {f"{word} {NOUNS[(n + label) % len(NOUNS)]}" for n, word in enumerate(MODIFIERS) for label in (0, 1)}
    assert phrases_in(vectorizer) == expected
    assert without_phrases(vectorizer, weights).shape == (len(documents), len(MODIFIERS) + len(NOUNS) + len(FILLERS))
    _, model, _, _ = fit_clusters(weights, 2, 30, True, 0, False)
    assert adjusted_rand_score(labels, model.labels_) > 0.9


@pytest.mark.parametrize("bound", ["FEW_DOCUMENTS", "PHRASES_UP_TO"])
def test_small_and_very_large_corpora_have_no_phrases(bound, monkeypatch):
    monkeypatch.setattr(vocabulary, bound, {"FEW_DOCUMENTS": 1_201, "PHRASES_UP_TO": 100}[bound])
    vectorizer, _ = fit_vectorizer(corpus()[0])
    assert not phrases_in(vectorizer) and vectorizer.ngram_range == (1, 1)


def test_terms_of_scripts_without_spaces_form_no_phrases():
    vectorizer, _ = fit_vectorizer(["包裹丢失 red car", "打印机卡纸 blue house", "账户密码 old table"] * 400)
    assert phrases_in(vectorizer) == {"red car", "blue house", "old table"}


NOISE = [
    "because",
    "please",
    "yesterday",
    "what",
    "and",
    "tell",
    "should",
    "like",
    "been",
    "do",
    "since",
    "need",
    "i",
    "could",
    "soon",
    "help",
    "me",
    "about",
]


@pytest.mark.parametrize("codes", [("404", "500", "302"), ("7", "8", "9", "0x80070057", "3d")])
def test_topics_that_differ_by_a_number_only_are_separated(codes):
    rng = np.random.default_rng(0)
    labels = [number % len(codes) for number in range(100)]
    texts = [f"page answers {codes[label]} {' '.join(rng.choice(NOISE, 2, False))}" for label in labels]
    vectorizer, weights = fit_vectorizer(texts)
    fitted = fit_clusters(weights, len(codes), min(weights.shape) - 1, True, 0, False)
    assert set(codes) <= set(vectorizer.get_feature_names_out())
    assert v_measure_score(labels, fitted.model.labels_) >= 0.9


def test_numbers_that_are_rare_or_parts_of_dates_times_and_amounts_are_no_terms():
    dated = [f"on 2024-05-17 at 10:30 we paid 19,99 or +49 170 {n} times" for n in range(50)]
    assert frequent_numbers(dated) == ["170"]
    assert frequent_numbers([f"error {n % 25} happened" for n in range(100)]) == []
    assert frequent_numbers(["room 12"] * 4) == []
