"""The vocabulary of a corpus and its TF-IDF weights."""

import math
import re
from collections import Counter

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

from corpus.source import CorpusError
from training import words

FEW_DOCUMENTS = 1_000
PHRASES_UP_TO = 10_000_000  # characters of a corpus: phrases of a larger one take long to count and to serve
ASSOCIATION = 0.5
# Shares of the documents from which on a number is a term. In 20 Newsgroups 2 has 0.16, 10 has 0.06 and 1993 has 0.05.
FREQUENT_NUMBER = 0.08
FREQUENT_DIGIT = 0.2
FEWEST = 5  # documents
MOST = 2 / 3
EMPHASIS = 4  # with 2, messages of a few words that differ only by a code have a V-measure of 0.16, with 3 of 1


def fit_vectorizer(documents: list[str]) -> tuple[TfidfVectorizer, csr_matrix]:
    """Fit TF-IDF on words and, in corpora that are neither small nor very large, on phrases of two words.

    Returns:
        The fitted vectorizer, and the TF-IDF weights of the documents: unit rows of shape (documents, terms).

    Raises:
        CorpusError: the documents share no term, or every term.
    """
    few = len(documents) < FEW_DOCUMENTS
    numbers = frequent_numbers(documents)
    analysis = {"preprocessor": words.preprocessor(), "token_pattern": words.token_pattern(tuple(numbers))}
    vectorizer = TfidfVectorizer(**analysis, sublinear_tf=True, min_df=2 if few else 5, max_features=30_000)
    try:
        weights = vectorizer.fit_transform(documents)
    except ValueError as error:
        raise CorpusError(f"The documents have no terms in common to cluster them by ({error}).") from error
    documents_with_terms = np.count_nonzero(np.diff(weights.indptr))
    if np.bincount(weights.indices).min() == documents_with_terms:
        raise CorpusError("All documents have the same terms: there is nothing to distinguish them by.")
    phrases = [] if few or sum(map(len, documents)) > PHRASES_UP_TO else find_phrases(documents, vectorizer)
    if phrases:
        terms = [*vectorizer.get_feature_names_out(), *phrases]
        vectorizer = TfidfVectorizer(**analysis, sublinear_tf=True, ngram_range=(1, 2), vocabulary=terms)
        weights = vectorizer.fit_transform(documents)
    if are_codes(numbers, vectorizer, weights):
        emphasise(vectorizer, numbers)
        weights = vectorizer.transform(documents)
    return vectorizer, weights


def frequent_numbers(documents: list[str]) -> list[str]:
    """The numbers, such as status codes, that so many documents contain that topics may differ by them.

    Of the others, most are chance: years, prices and counts, whose clusters would be of no use.
    """
    translate, find = words.preprocessor(), re.compile(words.number_pattern()).findall
    counts = Counter(number for text in documents for number in set(find(translate(text))))
    least = {True: FREQUENT_DIGIT, False: FREQUENT_NUMBER}
    return sorted(
        number for number, count in counts.items() if count >= max(least[len(number) == 1] * len(documents), FEWEST)
    )


def are_codes(numbers: list[str], vectorizer: TfidfVectorizer, weights: csr_matrix) -> bool:
    """Whether most documents contain exactly one of some numbers, as messages contain one status code."""
    columns = [vectorizer.vocabulary_[number] for number in numbers if number in vectorizer.vocabulary_]
    numbers_per_document = np.diff(weights[:, columns].tocsr().indptr)
    return bool(columns) and np.mean(numbers_per_document == 1) >= MOST


def emphasise(vectorizer: TfidfVectorizer, numbers: list[str]) -> None:
    """Multiply the idf of numbers, which is low because so many documents contain them."""
    idf = vectorizer.idf_.copy()
    idf[[vectorizer.vocabulary_[number] for number in numbers if number in vectorizer.vocabulary_]] *= EMPHASIS
    vectorizer.idf_ = idf


def find_phrases(documents: list[str], vectorizer: TfidfVectorizer) -> list[str]:
    """Find collocations: adjacent words that occur far more often than by chance, such as "user pool" or "hard disk".

    The words of such a pair occur in many topics, the pair in few. The measure is normalised pointwise mutual
    information, 1 for words that occur only side by side: Bouma, "Normalized (pointwise) mutual information in
    collocation extraction", GSCL 2009. Scripts without spaces have none: their terms are pairs of letters already.

    Args:
        vectorizer: defines what a word is, and the minimum number of documents of a term.
    """
    options = {name: getattr(vectorizer, name) for name in ("preprocessor", "token_pattern", "min_df")}
    counter = CountVectorizer(**options, ngram_range=(1, 2))
    counts = np.asarray(counter.fit_transform(documents).sum(axis=0)).ravel()
    occurrences = dict(zip(counter.get_feature_names_out().tolist(), counts.tolist()))
    pairs = [term for term in occurrences if " " in term]
    length = sum(occurrences.values()) - sum(occurrences[pair] for pair in pairs)
    return [pair for pair in pairs if association(pair, occurrences, length) > ASSOCIATION]


def without_phrases(vectorizer: TfidfVectorizer, weights: csr_matrix) -> csr_matrix:
    """The columns of single words: shape (documents, words)."""
    return weights[:, [" " not in term for term in vectorizer.get_feature_names_out()]]


def association(pair: str, occurrences: dict[str, int], length: int) -> float:
    """Normalised pointwise mutual information of two words, from -1 to 1, in a corpus of `length` words."""
    first, second = pair.split(" ")
    if words.is_spaceless(first[0]) or words.is_spaceless(second[0]):
        return -1
    information = math.log(occurrences[pair] * length / (occurrences[first] * occurrences[second]))
    return information / math.log(length / occurrences[pair])
