"""From documents to vectors: latent semantic analysis (LSA) with a fitted pipeline."""

import unicodedata
from collections import Counter
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.pipeline import Pipeline

FEW_DOCUMENTS = 8  # constructing a sparse matrix takes longer than counting and projecting fewer


class Weights(NamedTuple):
    """Term weights of documents before idf, which is part of the projection; as in a matrix of compressed rows."""

    columns: np.ndarray  # term indices, shape (entries,)
    values: np.ndarray  # dampened counts, shape (entries,)
    ends: list[int] | np.ndarray  # the entries of document n are those from ends[n] to ends[n + 1]

    def rows(self) -> list[slice]:
        """The entries of each document."""
        return [slice(*ends) for ends in pairwise(self.ends)]

    def matrix(self, terms: int) -> csr_matrix:
        """The weights as a matrix, shape (documents, terms)."""
        matrix = csr_matrix((self.values, self.columns, self.ends), shape=(len(self.ends) - 1, terms))
        matrix.sort_indices()
        return matrix


def count(columns: list[int], ends: list[int], terms: int) -> Weights:
    """Merge the occurrences of a term in a document.

    Args:
        columns: the term index of each occurrence.
        ends: the occurrences in document n are those from ends[n] to ends[n + 1].
        terms: the number of terms.
    """
    if len(ends) > FEW_DOCUMENTS:
        occurrences = np.array(columns, np.int32), np.array(ends, np.int32)
        matrix = csr_matrix((np.ones(len(columns)), *occurrences), shape=(len(ends) - 1, terms))
        matrix.sum_duplicates()
        return Weights(matrix.indices, matrix.data, matrix.indptr)
    counts = [Counter(columns[begin:end]) for begin, end in pairwise(ends)]
    columns = [column for counted in counts for column in counted]
    values = [value for counted in counts for value in counted.values()]
    return Weights(np.array(columns, np.int32), np.array(values, float), [0, *accumulate(map(len, counts))])


class Lsa:
    """The pipeline (TF-IDF, truncated SVD, normalizer), rearranged for speed: for one document and for many.

    scikit-learn's TruncatedSVD.transform copies the components matrix on every call, which takes a hundred times as
    long as weighting and projecting a short document. Here each term's idf is multiplied into its row of the
    projection once. The norm of the TF-IDF vector is left out because the normalizer cancels it.

    Args:
        pipeline: as returned by artefacts.load_pipeline.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        vectorizer, svd, _ = (step for _, step in pipeline.steps)
        self.analyze = vectorizer.build_analyzer()
        self.vocabulary = vectorizer.vocabulary_
        self.terms = composed(vectorizer.get_feature_names_out())
        self.sublinear_tf = vectorizer.sublinear_tf
        self.idf = vectorizer.idf_ if vectorizer.use_idf else np.ones(len(self.terms))
        self.projection = np.ascontiguousarray((svd.components_ * self.idf).T)  # shape (terms, dimensions)

    @property
    def dimensions(self) -> int:
        return self.projection.shape[1]

    def weigh(self, documents: list[str]) -> Weights:
        """Count the in-vocabulary terms of documents, and dampen the counts."""
        index = self.vocabulary.get
        columns: list[int] = []
        ends = [0]
        for document in documents:
            columns += [column for term in self.analyze(document) if (column := index(term)) is not None]
            ends.append(len(columns))
        weights = count(columns, ends, len(self.projection))
        return weights._replace(values=1 + np.log(weights.values)) if self.sublinear_tf else weights

    def project(self, weights: Weights) -> np.ndarray:
        """Project documents to unit vectors, shape (documents, dimensions); zero without an in-vocabulary term."""
        if len(weights.ends) > FEW_DOCUMENTS:
            return unit_rows(weights.matrix(len(self.projection)) @ self.projection)
        sums = [weights.values[row].dot(self.projection.take(weights.columns[row], 0)) for row in weights.rows()]
        return unit_rows(np.array(sums))

    def transform(self, documents: list[str]) -> np.ndarray:
        """The unit vectors of documents, shape (documents, dimensions); zero without an in-vocabulary term."""
        return self.project(self.weigh(documents))


def unit_rows(matrix: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; zero rows stay zero. scikit-learn's normalize spends 0.1 ms on checks."""
    norms = np.sqrt(np.einsum("ij,ij->i", matrix, matrix))
    norms[norms == 0] = 1
    return matrix / norms[:, np.newaxis]


def composed(terms: np.ndarray) -> np.ndarray:
    """Compose terms (NFC) for display: the vectorizer's are decomposed, a Korean syllable into two or three letters."""
    return np.array([unicodedata.normalize("NFC", term) for term in terms], dtype=object)
