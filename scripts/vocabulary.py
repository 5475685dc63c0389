"""The words of a corpus and what they weigh: TF-IDF."""

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

import words
from corpus import CorpusError


def fit_vectorizer(documents: list[str]) -> tuple[TfidfVectorizer, csr_matrix]:
    """Fit TF-IDF.

    Returns:
        The fitted vectorizer, and what it makes of the documents: unit rows of shape (documents, terms).

    Raises:
        CorpusError: the documents have no terms in common.
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
    # scikit-learn's idf is ln((1 + n) / (1 + df)) + 1. Without the 1, the words of every document weigh next to nothing;
    # but a little, for a document that has no other is of the corpus still.
    idf = np.maximum(vectorizer.idf_ - 1, 0.01)
    weights = normalize(weights @ diags(idf / vectorizer.idf_))
    vectorizer.idf_ = idf
    # An address in memory, which would make the file of the same model another one in each run.
    del vectorizer._stop_words_id
    return vectorizer, weights
