"""From documents to vectors: latent semantic analysis (LSA) with a fitted pipeline."""

import unicodedata

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.pipeline import Pipeline


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

    def weigh(self, documents: list[str]) -> csr_matrix:
        """Count the in-vocabulary terms and dampen the counts: weights before idf, shape (documents, terms)."""
        index = self.vocabulary.get
        columns: list[int] = []
        ends = [0]
        for document in documents:
            columns += [column for term in self.analyze(document) if (column := index(term)) is not None]
            ends.append(len(columns))
        weights = csr_matrix(
            (np.ones(len(columns)), np.array(columns, np.int32), np.array(ends, np.int32)),
            shape=(len(documents), len(self.projection)),
        )
        weights.sum_duplicates()
        if self.sublinear_tf:
            weights.data = 1 + np.log(weights.data)
        return weights

    def project(self, weights: csr_matrix) -> np.ndarray:
        """Project weights, shape (documents, terms), to unit vectors, shape (documents, dimensions).

        The vector of a document without an in-vocabulary term is zero.
        """
        return unit_rows(weights @ self.projection)

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
