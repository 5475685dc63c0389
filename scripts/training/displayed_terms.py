"""Choose the terms that are displayed for a cluster, and write them as people do.

The vocabulary is made for clustering: it has folded words (gebuhr), pairs of letters in scripts without spaces (パス,
スワ, ワー), the first two syllables of Korean words, and phrases beside their words. What people read is decided here and
nowhere else, from the documents that the model was fitted on; vocabulary and predictions do not depend on it.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from model.clusters import NO_CLUSTER
from model.projection import composed
from training.cluster_statistics import ClusterStatistics
from training.fitting import FittedModel
from training.sample import Sample
from training.spelling import address_words, compose, written_forms
from training.whole_words import WholeWords, is_hiragana, is_pair

TOP_TERMS = 10
CANDIDATES = 60  # terms of the vocabulary that are considered for a cluster
DISTINCT = 2  # a term is this much more frequent in the cluster than elsewhere
MOST_DISTINCT = 5  # for words of hiragana only: at least three documents of a small cluster, and none elsewhere
ELSEWHERE = 0.1  # of the documents of other clusters contain it at most: function words are in more
OWN = 0.4  # its words weigh at least this much of what they weigh in any other cluster
COHERENCE = 12  # of the mean NPMI with the other terms, compared with the logarithm of the weight
ENOUGH = 0.6  # NPMI; more does not count, or the words of a signature, which are always together, would win
APART = -0.75  # mean NPMI with the others at which even the heaviest term is left out
MOSTLY = 2 / 3  # of the documents with a word contain the phrase, which says more, or an address with the word
ARTICLE = "ال"  # Arabic, written as one word with the noun


class Term(NamedTuple):
    term: str  # of the vocabulary
    weight: float
    text: str  # as displayed
    inside: np.ndarray  # mask of the documents that contain it, shape (documents,)

    @property
    def words(self) -> list[str]:
        return self.term.split(" ")


class Collection:
    """The documents that a model was fitted on, and where the terms of its vocabulary occur in them."""

    def __init__(self, fitted: FittedModel, sample: Sample, statistics: ClusterStatistics) -> None:
        vectorizer, weights = fitted.pipeline[0], sample.weights
        self.terms: list[str] = composed(vectorizer.get_feature_names_out()).tolist()
        self.columns = {term: column for column, term in enumerate(self.terms)}
        self.preprocess, self.find_tokens = vectorizer.build_preprocessor(), vectorizer.build_tokenizer()
        presence = csr_matrix((np.ones(weights.nnz, dtype=bool), weights.indices, weights.indptr), shape=weights.shape)
        self.presence = presence.tocsc()
        self.documents = list(map(compose, sample.corpus.documents))
        self.clusters = np.full(len(self.documents), NO_CLUSTER)
        self.clusters[sample.in_vocabulary] = fitted.model.labels_
        self.weights, self.ratios = {}, {}
        for number in fitted.continuation.numbers:
            self.weights[number], self.ratios[number] = statistics.weigh_terms(number)
        self.greatest_weights = np.max(list(self.weights.values()), axis=0)

    def tokenize(self, text: str) -> list[str]:
        """The words of a text in the form of the vocabulary, whether it has them or not."""
        return [unicodedata.normalize("NFC", token) for token in self.find_tokens(self.preprocess(text))]

    def with_all(self, terms: Iterable[str]) -> np.ndarray:
        """The mask of the documents that contain all terms; shape (documents,)."""
        mask = np.ones(len(self.documents), dtype=bool)
        for column in [self.columns[term] for term in terms if term in self.columns]:
            present = np.zeros(len(self.documents), dtype=bool)
            present[self.presence.indices[slice(*self.presence.indptr[column : column + 2])]] = True
            mask &= present
        return mask

    def ratio(self, mask: np.ndarray, number: int) -> float:
        """How much more frequent something is in a cluster than elsewhere.

        Args:
            mask: of the documents that contain it.
        """
        own = self.clusters == number
        elsewhere = (np.sum(mask & ~own) + 1) / (np.sum(~own) + 2)
        return float(np.mean(mask[own]) / elsewhere) if own.any() else 0.0

    def is_typical(self, term: Term, number: int) -> bool:
        """Whether a term is much more frequent in a cluster than elsewhere, where it is rare and weighs little more."""
        others = self.clusters != number
        parts = [self.columns[part] for part in {term.term, *term.words} if part in self.columns]
        return bool(
            self.ratios[number][self.columns[term.term]] >= DISTINCT
            and np.sum(term.inside & others) <= ELSEWHERE * np.sum(others)
            and np.all(self.weights[number][parts] >= OWN * self.greatest_weights[parts])
        )


def describe_terms(fitted: FittedModel, sample: Sample, statistics: ClusterStatistics) -> dict[int, dict[str, Any]]:
    """The terms and vocabulary_terms of each cluster, as in clusters.json, by number."""
    collection = Collection(fitted, sample, statistics)
    described = {}
    for number in fitted.continuation.numbers:
        weights = collection.weights[number]
        heaviest = [place for place in np.argsort(-weights)[:CANDIDATES].tolist() if weights[place]]
        described[number] = {
            "terms": [[term.text, round(term.weight, 5)] for term in displayed_terms(collection, number, heaviest)],
            "vocabulary_terms": [collection.terms[place] for place in heaviest[:TOP_TERMS]],
        }
    return described


def displayed_terms(collection: Collection, number: int, heaviest: list[int]) -> list[Term]:
    """The ten different terms that are displayed for a cluster, the heaviest first.

    Args:
        heaviest: columns of the candidates, the heaviest first.
    """
    if not heaviest:  # a cluster without documents
        return []
    candidates = [
        Term(collection.terms[i], float(collection.weights[number][i]), "", collection.with_all([collection.terms[i]]))
        for i in heaviest
    ]
    candidates = [term for term in candidates if collection.is_typical(term, number)] or candidates
    own = collection.clusters == number
    documents = [collection.documents[place] for place in np.flatnonzero(own)]
    candidates = without_addresses(candidates, own, documents, collection.tokenize) or candidates
    candidates = rejoin(candidates, collection, number, documents) or candidates
    chosen = choose_different(candidates, own)
    return [term._replace(text=term.text or spelled(term, collection, own)) for term in chosen]


def spelled(term: Term, collection: Collection, own: np.ndarray) -> str:
    """The term as most documents of a cluster write it.

    Args:
        own: mask of the cluster's documents.
    """
    documents = [collection.documents[place] for place in np.flatnonzero(own & term.inside)]
    return written_forms([term.term], documents, collection.tokenize).get(term.term, term.term)


def without_addresses(
    candidates: list[Term], own: np.ndarray, documents: list[str], tokenize: Callable[[str], list[str]]
) -> list[Term]:
    """Leave out terms that are parts of e-mail addresses, mostly of the authors, in most documents with them.

    Args:
        own: mask of the cluster's documents.
        documents: of the cluster.
    """
    in_addresses = Counter(word for document in documents for word in address_words(document, tokenize))
    return [
        term
        for term in candidates
        if min(in_addresses[word] for word in term.words) < max(MOSTLY * np.sum(term.inside & own), 1)
    ]


def rejoin(candidates: list[Term], collection: Collection, number: int, documents: list[str]) -> list[Term]:
    """Replace pairs of letters by the whole words that they are part of; others are kept.

    Args:
        documents: of the cluster.
    """
    pairs = [term.term for term in candidates if is_pair(term.term)]
    if not pairs:
        return candidates
    whole_words, rejoined = WholeWords(documents, pairs, collection.tokenize), []
    for term in candidates:
        if not is_pair(term.term):
            rejoined.append(term)
        elif word := whole_words.take(term.term):
            inside = collection.with_all(collection.tokenize(word))
            # Measured again, because the pairs of a common word may be rare.
            if collection.ratio(inside, number) >= (MOST_DISTINCT if is_hiragana(word) else DISTINCT):
                rejoined.append(term._replace(text=whole_words.with_ending(word), inside=inside))
    return rejoined


def choose_different(candidates: list[Term], own: np.ndarray) -> list[Term]:
    """Choose up to ten of the heaviest terms that have no word in common and occur together.

    Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998) with two changes: terms that are forms of one word
    exclude each other, and terms that occur in the same documents attract each other instead of repelling, so that the
    terms make one topic.

    Args:
        candidates: the heaviest first.
        own: mask of the cluster's documents.
    """
    weights = np.array([term.weight for term in candidates])
    relevance = np.log(weights / weights.max())
    coherence = npmi(np.column_stack([term.inside for term in candidates])).clip(max=ENOUGH)
    chosen: dict[int, Term] = {}
    left = list(range(len(candidates)))
    while left and len(chosen) < TOP_TERMS:
        gains = relevance[left] + (COHERENCE * coherence[np.ix_(left, list(chosen))].mean(axis=1) if chosen else 0)
        if gains.max() < COHERENCE * APART:
            break
        best = left[int(np.argmax(gains))]
        chosen[best] = phrase_of(candidates[best], [candidates[place] for place in left], own)
        left = [place for place in left if not similar(candidates[place], chosen[best])]
    return [term for _, term in sorted(chosen.items(), key=lambda pair: pair[0])]


def npmi(inside: np.ndarray) -> np.ndarray:
    """The normalised pointwise mutual information of all pairs of terms, from -1 to 1.

    Bouma, "Normalized (pointwise) mutual information in collocation extraction", GSCL 2009.

    Args:
        inside: which documents contain which term, shape (documents, terms).

    Returns:
        Shape (terms, terms).
    """
    counts = inside.astype(np.float32)
    both = counts.T @ counts / len(counts)
    alone = counts.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(both / np.outer(alone, alone)) / -np.log(both)
    information[both == 0] = -1
    information[both == 1] = 1
    return information


def phrase_of(part: Term, phrases: list[Term], own: np.ndarray) -> Term:
    """The heaviest phrase that most of the cluster's documents with a word contain; the word itself if there is none.

    Args:
        own: mask of the cluster's documents.
    """
    for phrase in phrases:
        is_longer = part.term in phrase.words and len(phrase.words) > len(part.words)
        if is_longer and np.sum(phrase.inside & own) >= MOSTLY * np.sum(part.inside & own):
            return phrase._replace(weight=part.weight)
    return part


def similar(one: Term, other: Term) -> bool:
    """Whether terms have a word in common, such as a phrase and its part, or a plural and its singular."""
    return any(are_variants(word, another) for word in one.words for another in other.words)


def are_variants(one: str, other: str) -> bool:
    """Whether two words are forms of one word: they differ in a short ending only."""
    one, other = (word.removeprefix(ARTICLE) for word in (one, other))
    shorter, longer = sorted((one, other), key=len)
    shared = next((place for place, (a, b) in enumerate(zip(one, other)) if a != b), len(shorter))
    if longer in (shorter, shorter + "s"):
        return True
    return shared >= 4 and shared >= (0.75 if shared == 4 else 0.65) * len(longer)
