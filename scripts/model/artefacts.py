"""The contract between training, service and deployment: what three files make one model, and what they say.

- model.joblib        a scikit-learn KMeans or MiniBatchKMeans, read by KServe's predictor
- transformer.joblib  the pipeline that makes its vectors: TfidfVectorizer, TruncatedSVD, Normalizer
- clusters.json       what each cluster is about, and how the other two were made

text_clustering.py writes them, transformer.py serves them, deploy_service.py uploads them. They belong together when
the sha256 sums in clusters.json are those of the other two, and fit where they are loaded when the scikit-learn there
is the one that made them.

clusters.json holds

    format      2; raised whenever an older reader would misread it
    created     when the training ended, ISO 8601 in UTC
    dataset     name; documents and labels, their numbers; unknown, the number of documents without a known term;
                left_out, what is not among the documents: numbers of rows or files, by the reason
    settings    clusters, lsa (dimensions), sample (documents that the model was fitted on), minibatch, seed
    metrics     by name, such as v_measure and silhouette; those that need labels only where the corpus has some
    versions    of python, scikit-learn, joblib, numpy and scipy
    sha256      of model.joblib and transformer.joblib
    clusters    a list of objects:
        cluster     its number, which the service answers: look a cluster up by it, not by its place in the list
        size        its number of documents
        terms       [[term, weight], ...], the heaviest first
        titles      of its most central documents
        centroid    in the space of the transformer, a number a dimension
        name        what a person calls it (name_clusters.py); optional
        continues   where it continues a cluster of an earlier model, of the same number: size of that; kept, the share
                    of its documents that are here; lost, the shares that are in others; gained, the shares of the
                    documents here that were in others; by number
        share       of the documents with a known term, had the model not seen them (baseline.py)
        similarity  of these to the centroid: cosine by quantile, "0.05", "0.25", "0.5", "0.75" and "0.95"
    baseline    what else a service is held against: unknown, the share of the documents without a known term;
                similarity, the same quantiles over all clusters
    agreement_of_halves  {} or, where the number of clusters was chosen, the share of clusters found again, by number
    lineage     {} or, of a model trained --like an earlier one: earlier, its version, created and dataset; versions,
                its and those that it continues; documents, how many both assign; agreement, the share of them that
                keep their number; next_number, which none has used yet; new, the numbers of clusters that continue
                none, with the shares of their documents by old number; gone, old numbers with size, name and terms,
                and the shares of their documents by new number (lineage.py)

version.json lies beside the three files of a version in the store. It is written last, and without it the version does
not count. It holds format, version, uploaded (ISO 8601 in UTC), sha256 by key below the version's prefix, and created,
dataset, metrics, versions and lineage of clusters.json.
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
from datetime import UTC, datetime
from pathlib import Path

from failure import BadInput

MODEL_FILE = "model.joblib"
TRANSFORMER_FILE = "transformer.joblib"
CLUSTERS_FILE = "clusters.json"
FORMAT = 2

TRAIN_AGAIN = "train again with scripts/text_clustering.py"


class ArtefactError(BadInput):
    """The files cannot be used; the message is one line that says which, why, and what to do."""


# --------------------------------------------------------------------------------------------------------- write


def summarise(**content) -> dict:
    """What clusters.json holds, but for the sha256 sums: those are known when the files are written."""
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": library_versions(),
        **content,
    }


def library_versions() -> dict:
    import joblib
    import numpy
    import scipy
    import sklearn

    libraries = {"scikit-learn": sklearn, "joblib": joblib, "numpy": numpy, "scipy": scipy}
    return {"python": platform.python_version()} | {name: module.__version__ for name, module in libraries.items()}


def save(output_dir: Path, model, pipeline, summary: dict, texts: dict | None = None):
    """Write model.joblib, transformer.joblib, clusters.json and further text files: all, or the previous ones stay.

    Everything that can fail for want of space or time happens on files beside the final ones. What remains is a few
    renames, during which Ctrl-C and SIGTERM wait; should the machine itself stop between them, the sha256 sums in
    clusters.json tell that the set is broken.

    Args:
        summary: what summarise made.
        texts: content by file name, such as that of the report.

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


def as_json(summary: dict) -> str:
    return json.dumps(summary, indent=2, ensure_ascii=False)


@contextlib.contextmanager
def replacement(output_dir: Path):
    """A new folder, whose files in the end replace their namesakes in another: all, or none after an error."""
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".text_clustering-") as folder:
        folder = Path(folder)
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
def signals_held():
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def replace_all(source: Path, target: Path):
    """Move every file of one folder over its namesake in another; when one cannot be, put the old ones back."""
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


def read_summary(path: Path) -> dict:
    """Read clusters.json.

    Raises:
        ArtefactError: it is not there, is damaged, or has another format.
    """
    try:
        summary = json.loads(path.read_bytes())
        if isinstance(summary, dict) and summary.get("sha256") and summary.get("format") != FORMAT:
            raise ArtefactError(
                f"{path} has format {summary.get('format', 1)}, and {FORMAT} is read here: "
                f"it was written by another version of text_clustering.py; {TRAIN_AGAIN}."
            )
        # Looked up here, so that what is missing is missed at the start.
        summary["versions"]["scikit-learn"], summary["sha256"][MODEL_FILE], summary["sha256"][TRANSFORMER_FILE]
        summary["settings"]["sample"], summary["baseline"]["unknown"], summary["baseline"]["similarity"]
        [
            [cluster[name] for name in ("cluster", "size", "terms", "centroid", "share", "similarity")]
            for cluster in summary["clusters"]
        ]
        return summary
    except FileNotFoundError:
        raise ArtefactError(f"{path} is not there: it is written beside the model; {TRAIN_AGAIN}.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path} is damaged, or is not a summary of text_clustering.py ({error!r}): {TRAIN_AGAIN}."
        ) from error


def check_file(path: Path):
    """Check that a file is there and is what joblib writes, without loading it: a pickle would run what is in it.

    Raises:
        ArtefactError: it is not.
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


def check_together(summary: dict, model: Path | None = None, transformer: Path | None = None) -> dict:
    """Check that model and transformer, where they are given, are those that a summary describes.

    Returns:
        The sha256 of each, by the names in the summary.

    Raises:
        ArtefactError: one is missing, is no joblib file, or is of another training run.
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


def check_scikit_learn(summary: dict, version: str, whose: str):
    """Check that a model fits the scikit-learn that is to load it.

    Raises:
        ArtefactError: it was made with another one, and might load and answer something else.
    """
    trained_with = summary["versions"]["scikit-learn"]
    if trained_with != version:
        raise ArtefactError(
            f"The model was made with scikit-learn {trained_with}, and {whose} {version}: "
            f"install scripts/requirements.txt and {TRAIN_AGAIN}."
        )


def load(path: Path, summary: dict | None):
    """Load a joblib file, after check_together and check_scikit_learn where there is a summary.

    Raises:
        ArtefactError: it is not there, cannot be loaded, or was made with another scikit-learn.
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


# ------------------------------------------------------------------------------------------------------- version


def version_name(digests: list[str]) -> str:
    """The name of a version: by the sha256 of model.joblib, transformer.joblib and clusters.json, in this order."""
    return "v" + hashlib.sha256("".join(digests).encode()).hexdigest()[:12]


def described_version(summary: dict, clusters_path: Path) -> str:
    """The name of the version that a clusters.json is of, where not all three files are at hand."""
    return version_name([summary["sha256"][MODEL_FILE], summary["sha256"][TRANSFORMER_FILE], sha256(clusters_path)])


def version_record(version: str, summary: dict, sha256_by_key: dict) -> dict:
    """What version.json holds."""
    return {
        "format": FORMAT,
        "version": version,
        "uploaded": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **{name: summary.get(name) for name in ("created", "dataset", "metrics", "versions", "lineage")},
        "sha256": sha256_by_key,
    }


def predictor_scikit_learn() -> str:
    """Version of scikit-learn in KServe's predictor image: requirements.txt is pinned to it.

    Raises:
        ArtefactError: the pin is not there.
    """
    path = Path(__file__).resolve().parents[1] / "requirements.txt"
    pin = re.search(r"^scikit-learn==([\w.]+)", path.read_text() if path.is_file() else "", re.MULTILINE)
    if not pin:
        raise ArtefactError(f"{path} does not pin scikit-learn: restore it from the repository.")
    return pin[1]
