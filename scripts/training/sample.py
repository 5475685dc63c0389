"""Read the documents that a model is fitted on, and compute their TF-IDF weights."""

import logging
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import TfidfVectorizer

from corpus.source import Corpus, CorpusError, Source, draw_sample
from training.boilerplate import drop_boilerplate
from training.cluster_count import DOCUMENTS_PER_CLUSTER
from training.progress import timed
from training.vocabulary import fit_vectorizer

log = logging.getLogger("text_clustering")


class Sample(NamedTuple):
    corpus: Corpus
    documents: int  # in the whole corpus
    vectorizer: TfidfVectorizer
    weights: csr_matrix  # TF-IDF, unit rows of shape (documents of the sample, terms)
    in_vocabulary: np.ndarray  # mask of the documents with an in-vocabulary term
    shortened: np.ndarray  # mask of the documents from which boilerplate was dropped before TF-IDF

    @property
    def is_whole_corpus(self) -> bool:
        return self.documents == len(self.corpus.documents)

    def weights_to_fit(self) -> csr_matrix:
        return self.weights[self.in_vocabulary]

    def complete_weights(self) -> csr_matrix:
        """TF-IDF of the documents with their boilerplate, as the service receives them."""
        if not self.shortened.any():
            return self.weights
        order = np.argsort(np.concatenate([np.flatnonzero(~self.shortened), np.flatnonzero(self.shortened)]))
        complete = self.vectorizer.transform(self.corpus.select(self.shortened).documents)
        return vstack([self.weights[~self.shortened], complete], format="csr")[order]


def read_sample(source: Source, size: int, clusters: int, seed: int, keep_boilerplate: bool) -> Sample:
    """Draw a sample of a corpus and fit TF-IDF on it, without boilerplate unless that is to be kept.

    Args:
        size: maximum number of documents.
        clusters: the smallest number of clusters wanted.

    Raises:
        CorpusError: the corpus cannot be read, or is too small for the clusters.
    """
    with timed(f"Reading {source.name}"):
        corpus, documents = draw_sample(source, size, seed)
    sampled = "" if documents == len(corpus.documents) else f", {len(corpus.documents)} sampled to fit the model on"
    log.info("%d documents%s", documents, sampled)
    require_different_documents(corpus, clusters)
    with timed("Fitting TF-IDF"):
        documents_to_fit = corpus.documents if keep_boilerplate else drop_boilerplate(corpus.documents, corpus.titles)
        vectorizer, weights = fit_vectorizer(documents_to_fit)
    log.info("%d terms", weights.shape[1])
    in_vocabulary = np.asarray(weights.sum(axis=1)).ravel() > 0
    if in_vocabulary.sum() < clusters:
        raise CorpusError(
            f"{corpus.name} has {in_vocabulary.sum()} documents with a term that other documents contain, fewer than "
            f"the requested {clusters} clusters: choose a smaller --clusters."
        )
    shortened = np.array([one is not other for one, other in zip(documents_to_fit, corpus.documents)])
    return Sample(corpus, documents, vectorizer, weights, in_vocabulary, shortened)


def require_different_documents(corpus: Corpus, clusters: int) -> None:
    """Check that there are enough different texts for the clusters; warn if there are few.

    Raises:
        CorpusError: there are not enough.
    """
    documents, different = len(corpus.documents), len(set(corpus.documents))
    if different == 1 < documents:
        raise CorpusError(f"All {documents} documents of {corpus.name} are the same text: there is nothing to cluster.")
    suggestion = max(different // DOCUMENTS_PER_CLUSTER, 1)
    if different < clusters:
        of_these = f", {different} of them different" if different < documents else ""
        raise CorpusError(
            f"{corpus.name} has {documents} documents{of_these}, fewer than the requested {clusters} clusters: "
            f"choose --clusters {suggestion} or so."
        )
    if different < clusters * DOCUMENTS_PER_CLUSTER:
        log.warning(
            "%d different documents are few for %d clusters: --clusters %d would have %d documents per cluster",
            *(different, clusters, suggestion, DOCUMENTS_PER_CLUSTER),
        )


def limit_dimensions(lsa: int, sample: Sample) -> int:
    """The requested dimensions of the LSA space, reduced with a warning where the sample has fewer."""
    documents, terms = int(sample.in_vocabulary.sum()), sample.weights.shape[1]
    dimensions = min(lsa, documents - 1, terms - 1)
    if dimensions < lsa:
        log.warning(
            "%d documents with %d terms have fewer than %d dimensions: using %d", documents, terms, lsa, dimensions
        )
    return dimensions
