"""The words of a corpus and what they weigh: TF-IDF."""

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

import words
from corpus import CorpusError


def fit_vectorizer(documents: list[str]) -> tuple[TfidfVectorizer, csr_matrix]:
    """Fit TF-IDF.

    Returns:
        The fitted vectorizer, and what it makes of the documents: unit rows of shape (documents, terms).

    Raises:
        CorpusError: the documents have no terms in common, or all of them.
    """
    vectorizer = TfidfVectorizer(
        preprocessor=words.preprocessor(),
        token_pattern=words.token_pattern(),
        sublinear_tf=True,
        min_df=5 if len(documents) >= 1_000 else 2,
        max_features=30_000,
    )
    try:
        weights = vectorizer.fit_transform(documents)
    except ValueError as error:
        raise CorpusError(f"The documents have no terms in common to cluster them by ({error}).") from error
    documents_with_terms = np.count_nonzero(np.diff(weights.indptr))
    if np.bincount(weights.indices).min() == documents_with_terms:
        raise CorpusError("All documents have the same terms: nothing tells them apart.")
    return vectorizer, weights
