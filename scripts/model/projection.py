"""From a document to its vector: the fitted pipeline, arranged in memory for a few documents at a time."""

import math
import unicodedata
from collections import Counter

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer

from model.artefacts import ArtefactError


class Lsa:
    """The fitted pipeline (TF-IDF, SVD, normalizer), arranged in memory to transform a few documents quickly.

    scikit-learn's TruncatedSVD.transform copies its whole components matrix on every call, which takes a hundred
    times as long as to weigh and project a short document. Here a term's idf is multiplied into its row of the
    projection once, and the norm of the TF-IDF vector is left out because the normalizer cancels it.

    Raises:
        ArtefactError: the pipeline is not of these three steps.
    """

    def __init__(self, pipeline: Pipeline):
        steps = [step for _, step in pipeline.steps] if isinstance(pipeline, Pipeline) else [pipeline]
        if [type(step) for step in steps] != [TfidfVectorizer, TruncatedSVD, Normalizer]:
            raise ArtefactError(
                "The transformer is not a pipeline of TfidfVectorizer, TruncatedSVD and Normalizer, "
                "but of: " + ", ".join(type(step).__name__ for step in steps) + "."
            )
        vectorizer, svd, normalizer = steps
        if vectorizer.binary or normalizer.norm != "l2":
            raise ArtefactError("Only TfidfVectorizer(binary=False) and Normalizer(norm='l2') are served.")
        self.analyze = vectorizer.build_analyzer()
        self.vocabulary = vectorizer.vocabulary_
        self.terms = composed(vectorizer.get_feature_names_out())
        self.sublinear_tf = vectorizer.sublinear_tf
        self.dimensions = len(svd.components_)
        self.idf = vectorizer.idf_ if vectorizer.use_idf else np.ones(len(self.terms))
        # One row a term, shape (terms, dimensions).
        self.projection = np.ascontiguousarray((svd.components_ * self.idf).T)

    def weigh(self, document: str) -> tuple[np.ndarray, np.ndarray]:
        """Count the known terms of a document and dampen the counts: term indices, and weights before idf."""
        counts = Counter(map(self.vocabulary.get, self.analyze(document)))
        counts.pop(None, None)
        weights = counts.values()
        if self.sublinear_tf:
            weights = [1 + math.log(count) if count > 1 else 1 for count in weights]
        return np.array(list(counts), dtype=np.intp), np.array(list(weights), dtype=np.float64)

    def project(self, document: str) -> np.ndarray | None:
        """Make the unit vector of a document, shape (dimensions,); None where it has no known term."""
        indices, weights = self.weigh(document)
        # dot, not @: on arrays this small it takes half the time.
        vector = weights.dot(self.projection.take(indices, 0))
        length = math.sqrt(vector.dot(vector))
        return vector / length if length else None


def composed(terms: np.ndarray) -> np.ndarray:
    """Terms as people write them: the vectorizer's are decomposed, and a Korean syllable is of two or three letters."""
    return np.array([unicodedata.normalize("NFC", term) for term in terms], dtype=object)
