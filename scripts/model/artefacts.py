"""Model file format and consistency checks.

- model.joblib        a scikit-learn KMeans or MiniBatchKMeans, loaded by KServe's predictor
- transformer.joblib  the pipeline that computes its vectors: TfidfVectorizer, TruncatedSVD, Normalizer
- clusters.json       a description of the clusters and of the training run

text_clustering.py writes them, transformer.py serves them, deploy_service.py uploads them. The three files belong
together if clusters.json contains the sha256 sums of the other two. They may only be loaded with the scikit-learn
version that wrote them.

clusters.json contains

    format      3; increased whenever an older reader would misread the file. Format 2 is read, too: its terms are those
                of the vocabulary, and it has no vocabulary_terms
    created     end of the training, ISO 8601 in UTC
    dataset     name; documents and labels: counts; unknown: number of documents without an in-vocabulary term;
                left_out: counts of skipped rows or files, by reason; unreadable_dates: their number, if there are any
    settings    clusters, lsa (dimensions), sample (documents that the model was fitted on), minibatch, seed
    metrics     by name, such as v_measure and silhouette; those that need labels only if the corpus has labels
    versions    of python, scikit-learn, joblib, numpy and scipy
    sha256      of model.joblib and transformer.joblib
    clusters    a list of objects:
        cluster     cluster number, as returned by the service: find a cluster by it, not by its position in the list
        size        number of documents
        terms       [[term, weight], ...] as people write them, the heaviest first (displayed_terms.py)
        vocabulary_terms  the ten heaviest as the vectorizer has them, for the smoke test of a deployment
        titles      of its most central documents
        centroid    in the vector space of the transformer, one number per dimension
        name        given by a person (name_clusters.py); optional
        continues   if it continues the cluster of an earlier model with the same number: size of the earlier cluster;
                    kept: the share of its documents that are in this cluster; lost: the shares that are in others,
                    by number; gained: the shares of this cluster's documents that were in others, by number
        share       of the documents with an in-vocabulary term, as if the model had not seen them (baseline.py)
        similarity  of these documents to the centroid: cosine by quantile, "0.05", "0.25", "0.5", "0.75" and "0.95"
    baseline    further reference values for monitoring: documents: the number of held-out texts that these and the
                shares are of, if retrain.py has trained the model; unknown: share of documents without an
                in-vocabulary term;
                similarity: the same quantiles over all clusters; rejected: the share of the documents with an
                in-vocabulary term that --min-similarity "0.05", "0.1" ... "0.95" would reject, optional
    agreement_of_halves  {} or, if the number of clusters was chosen, the share of reproduced clusters, by number
    lineage     {} or, for a model trained --like an earlier one: earlier: its version, created and dataset;
                versions: its version and those that it continues; documents: number that both assign; agreement: the
                share of them that keep their number; unassigned: documents without a term of the
                earlier vocabulary; next_number: the lowest unused number; new: the numbers of
                clusters that continue none, with the shares of their documents by old number; gone: old numbers with
                size, name and terms, and the shares of their documents by new number (lineage.py); merged: the number
                that survived, by the numbers that --merge merged into it, optional

version.json is stored beside the three files of a version. It is written last; a version without it is incomplete and
ignored. It contains format, version, uploaded (ISO 8601 in UTC), sha256 by key below the version's prefix, and
created, dataset, metrics, versions and lineage of clusters.json.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import signal
import tempfile
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from failure import BadInput

if TYPE_CHECKING:  # deploy_service.py runs without scikit-learn
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

Summary = dict[str, Any]  # the content of clusters.json

MODEL_FILE = "model.joblib"
TRANSFORMER_FILE = "transformer.joblib"
CLUSTERS_FILE = "clusters.json"
FORMAT = 3
READABLE_FORMATS = (2, 3)
CLUSTER_FIELDS = ("cluster", "size", "terms", "vocabulary_terms", "centroid", "share", "similarity")

METRIC_MEANINGS = {
    "explained_variance": "the part of the TF-IDF weights' variance that the LSA dimensions keep",
    "homogeneity": "1 when every cluster contains documents of one label only",
    "completeness": "1 when all documents of a label are in one cluster",
    "v_measure": "the harmonic mean of homogeneity and completeness",
    "adjusted_rand_index": "pairs of documents on which clusters and labels agree; 0 is chance, 1 is perfect",
    "adjusted_mutual_information": "the information that clusters and labels share; 0 is chance, 1 is perfect",
    "silhouette": "-1 to 1; above 0, documents are nearer to their own cluster than to the next one",
}

TRAIN_AGAIN = "train again with scripts/text_clustering.py"


class ArtefactError(BadInput):
    """A file cannot be used; the message is one line that names the file, the reason and a remedy."""


# --------------------------------------------------------------------------------------------------------- write


def summarise(**content: Any) -> Summary:
    """The content of clusters.json without the sha256 sums, which save adds."""
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": library_versions(),
        **content,
    }


def library_versions() -> dict[str, str]:
    import joblib
    import numpy
    import scipy
    import sklearn

    libraries = {"scikit-learn": sklearn, "joblib": joblib, "numpy": numpy, "scipy": scipy}
    return {"python": platform.python_version()} | {name: module.__version__ for name, module in libraries.items()}


def save(
    output_dir: Path,
    model: "BaseEstimator",
    pipeline: "Pipeline",
    summary: Summary,
    texts: dict[str, str] | None = None,
) -> None:
    """Write model.joblib, transformer.joblib, clusters.json and further text files atomically.

    The files are written to a temporary folder, then renamed; Ctrl-C and SIGTERM wait for the renames. If the machine
    itself stops between two of them, the sha256 sums in clusters.json reveal the mixture.

    Args:
        summary: from summarise.
        texts: content by file name, such as the report.

    Raises:
        OSError: the directory cannot be written.
    """
    import joblib

    with replacement(output_dir) as folder:
        joblib.dump(model, folder / MODEL_FILE)
        joblib.dump(pipeline, folder / TRANSFORMER_FILE)
        summary = summary | {"sha256": {name: sha256(folder / name) for name in (MODEL_FILE, TRANSFORMER_FILE)}}
        texts = {CLUSTERS_FILE: as_json(summary), **(texts or {})}
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", errors="replace")


def as_json(summary: Summary) -> str:
    return json.dumps(summary, indent=2, ensure_ascii=False)


@contextlib.contextmanager
def replacement(output_dir: Path) -> Iterator[Path]:
    """A new folder whose files finally replace those of the same names in output_dir: all, or none after an error."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".text_clustering-") as name:
        folder = Path(name)
        yield folder
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        with signals_held():
            replace_all(folder, output_dir)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the end of the block."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def replace_all(source: Path, target: Path) -> None:
    """Move all files of one folder to another, replacing those there; after an error, restore them."""
    names = [path.name for path in source.iterdir()]
    previous = source / "previous"
    previous.mkdir()
    try:
        for name in names:
            if (target / name).exists():
                os.replace(target / name, previous / name)
            os.replace(source / name, target / name)
    except OSError:
        for name in names:
            if (previous / name).exists():
                os.replace(previous / name, target / name)
        raise


# ---------------------------------------------------------------------------------------------------------- read


def read_summary(path: Path) -> Summary:
    """Read clusters.json.

    Raises:
        ArtefactError: it does not exist, is damaged, or has another format.
    """
    try:
        summary = json.loads(path.read_bytes())
        if isinstance(summary, dict) and summary.get("sha256") and summary.get("format") not in READABLE_FORMATS:
            raise ArtefactError(
                f"{path} has format {summary.get('format', 1)}, and {' or '.join(map(str, READABLE_FORMATS))} is read "
                f"here: it was written by another version of text_clustering.py; {TRAIN_AGAIN}."
            )
        upgrade(summary)
        # Looked up here so that a missing field is reported at the start.
        summary["versions"]["scikit-learn"], summary["sha256"][MODEL_FILE], summary["sha256"][TRANSFORMER_FILE]
        summary["settings"]["sample"], summary["baseline"]["unknown"], summary["baseline"]["similarity"]
        [[cluster[name] for name in CLUSTER_FIELDS] for cluster in summary["clusters"]]
        return summary
    except FileNotFoundError:
        raise ArtefactError(f"{path} is not there: it is written beside the model; {TRAIN_AGAIN}.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path} is damaged, or is not a summary of text_clustering.py ({error!r}): {TRAIN_AGAIN}."
        ) from error


def upgrade(summary: Summary) -> None:
    """Convert the content of a clusters.json of format 2 to format 3."""
    if summary["format"] == 2:
        summary["format"] = FORMAT
        for cluster in summary["clusters"]:
            cluster["vocabulary_terms"] = [term for term, _ in cluster["terms"]]


def list_terms(cluster: dict[str, Any], count: int | None = None) -> str:
    """The first top terms of a cluster, separated by commas because some are phrases."""
    return ", ".join(term for term, _ in cluster["terms"][:count])


def about(cluster: dict[str, Any]) -> str:
    """The name of a cluster, or else its first three top terms."""
    return cluster.get("name") or list_terms(cluster, 3)


def check_file(path: Path) -> None:
    """Check that a file looks like one of joblib's, without loading it: loading a pickle executes code in it.

    Raises:
        ArtefactError: the file does not exist or has another format.
    """
    if not path.is_file():
        raise ArtefactError(
            f"{path} is {'a folder' if path.is_dir() else 'not there'}: {TRAIN_AGAIN}, or give its path."
        )
    with path.open("rb") as file:
        # pickle, zlib, gzip, bz2, xz, lzma, lz4
        if not file.read(8).startswith(
            (b"\x80", b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22\x4d\x18")
        ):
            raise ArtefactError(f"{path} is not a joblib file: {TRAIN_AGAIN}.")


def check_together(summary: Summary, model: Path | None = None, transformer: Path | None = None) -> dict[str, str]:
    """Check that the given files are of the training run that a summary describes.

    Returns:
        The sha256 of each, by the names in the summary.

    Raises:
        ArtefactError: a file does not exist, is not a joblib file, or is of another training run.
    """
    paths = {name: path for name, path in ((MODEL_FILE, model), (TRANSFORMER_FILE, transformer)) if path}
    for path in paths.values():
        check_file(path)
    described, found = summary["sha256"], {name: sha256(path) for name, path in paths.items()}
    if found == {MODEL_FILE: described[TRANSFORMER_FILE], TRANSFORMER_FILE: described[MODEL_FILE]}:
        raise ArtefactError(
            "The model is given as transformer and the other way round: swap --model-path and --transformer-path."
        )
    for name, path in paths.items():
        if found[name] != described[name]:
            raise ArtefactError(
                f"{path} is not of the training run that {CLUSTERS_FILE} describes (sha256 {found[name]}): "
                f"give the three files of one run, or {TRAIN_AGAIN}."
            )
    return found


def check_scikit_learn(summary: Summary, version: str, whose: str) -> None:
    """Check that a model was trained with the scikit-learn version that is to load it.

    Args:
        version: of the scikit-learn that is to load it.
        whose: the subject for the error message, such as "this is".

    Raises:
        ArtefactError: it was trained with another version, so it might load but predict differently.
    """
    trained_with = summary["versions"]["scikit-learn"]
    if trained_with != version:
        raise ArtefactError(
            f"The model was made with scikit-learn {trained_with}, and {whose} {version}: "
            f"install scripts/requirements.txt and {TRAIN_AGAIN}."
        )


def load(path: Path, summary: Summary | None) -> Any:
    """Load a joblib file; with a summary, call check_together first.

    Raises:
        ArtefactError: the file does not exist, cannot be loaded, or was saved with another scikit-learn version.
    """
    import joblib
    import sklearn
    from sklearn.exceptions import InconsistentVersionWarning

    if summary:
        check_scikit_learn(summary, sklearn.__version__, "this is")
    check_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InconsistentVersionWarning)
        try:
            return joblib.load(path)
        except InconsistentVersionWarning as warning:
            raise ArtefactError(
                f"{path} was made with scikit-learn {warning.original_sklearn_version}, and this is "
                f"{sklearn.__version__}: {TRAIN_AGAIN}."
            ) from warning
        except Exception as error:
            raise ArtefactError(f"{path} is not a joblib file of this Python ({error}): {TRAIN_AGAIN}.") from error


def load_pipeline(path: Path, summary: Summary | None) -> "Pipeline":
    """Load transformer.joblib as load does, and check its steps.

    Raises:
        ArtefactError: as in load, or the steps are not those that projection.Lsa can rearrange.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import Normalizer

    pipeline = load(path, summary)
    steps = [step for _, step in pipeline.steps] if isinstance(pipeline, Pipeline) else [pipeline]
    if [type(step) for step in steps] != [TfidfVectorizer, TruncatedSVD, Normalizer]:
        names = ", ".join(type(step).__name__ for step in steps)
        raise ArtefactError(
            f"{path} is not a pipeline of TfidfVectorizer, TruncatedSVD and Normalizer, but of: {names}."
        )
    if steps[0].binary or steps[2].norm != "l2":
        raise ArtefactError(f"{path}: only TfidfVectorizer(binary=False) and Normalizer(norm='l2') are supported.")
    return pipeline


# ------------------------------------------------------------------------------------------------------- version


def version_name(digests: list[str]) -> str:
    """The name of a version, from the sha256 of model.joblib, transformer.joblib and clusters.json, in this order."""
    return "v" + hashlib.sha256("".join(digests).encode()).hexdigest()[:12]


def described_version(summary: Summary, clusters_path: Path) -> str:
    """The name of the version that a clusters.json belongs to; does not need the other two files."""
    return version_name([summary["sha256"][MODEL_FILE], summary["sha256"][TRANSFORMER_FILE], sha256(clusters_path)])


def version_record(version: str, summary: Summary, sha256_by_key: dict[str, str]) -> dict[str, Any]:
    """The content of version.json."""
    return {
        "format": FORMAT,
        "version": version,
        "uploaded": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **{name: summary.get(name) for name in ("created", "dataset", "metrics", "versions", "lineage")},
        "sha256": sha256_by_key,
    }


def predictor_scikit_learn() -> str:
    """The scikit-learn version of KServe's predictor image, to which requirements.txt is pinned.

    Raises:
        ArtefactError: requirements.txt does not pin it.
    """
    path = Path(__file__).resolve().parents[1] / "requirements.txt"
    pin = re.search(r"^scikit-learn==([\w.]+)", path.read_text() if path.is_file() else "", re.MULTILINE)
    if not pin:
        raise ArtefactError(f"{path} does not pin scikit-learn: restore it from the repository.")
    return pin[1]
