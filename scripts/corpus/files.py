"""Find the files of a corpus: one table, several, a folder, or a prefix in an S3 store.

The rule for a folder, and for a prefix:

- files at every depth count, but nothing that is hidden (its name, or that of a folder above it, begins with a dot)
  and none of the files that systems leave behind (Thumbs.db ...);
- if more than half of them are tables, their rows are the documents;
- if not, every other text file is a document. Its label is the first folder on the way to it; a file that lies
  beside the folders has none.

What is left out is counted by its reason.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from corpus.bucket import Bucket
from corpus.documents import CorpusError, Document, Findings, Options, make_document
from corpus.encodings import UnknownEncoding, read_text
from corpus.tables import KIND_NAMES, Table, kind_of, read_table

LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information"}
OFFICE = (".xlsx", ".xls", ".ods")
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


Fetch = Callable[[str], AbstractContextManager[Path]]  # makes a file local for as long as it is read, by its name


def read_files(datasets: Sequence[str], options: Options, findings: Findings) -> Iterator[Document]:
    """Read the documents of a table, of several tables, of a folder, or of what a glob or an S3 address names.

    Raises:
        CorpusError: there is no such thing, or it cannot be read.
    """
    dataset = datasets[0]
    if len(datasets) > 1:  # as a shell makes them of a glob
        yield from read_tables(datasets, local, options, findings)
    elif dataset.startswith("s3://"):
        with Bucket(dataset, options.s3_endpoint) as bucket:
            yield from read_objects(bucket, options, findings)
    elif Path(dataset).is_dir():
        names = list(files_below(Path(dataset), findings))
        yield from read_folder(dataset, names, lambda name: nullcontext(Path(dataset, name)), options, findings)
    elif Path(dataset).exists():
        require_table(dataset)
        yield from read_table(Table(Path(dataset), dataset, options, findings))
    elif glob.has_magic(dataset):
        names = sorted(filter(os.path.isfile, glob.iglob(dataset, recursive=True)))
        if not names:
            raise CorpusError(f"No file matches {dataset}.")
        yield from read_tables(names, local, options, findings)
    else:
        raise CorpusError(
            f"There is no dataset and no file named {dataset}: --dataset takes 20newsgroups, aws-docs, a file, a folder "
            "or s3://bucket/prefix (see --help)."
        )


def local(name: str) -> AbstractContextManager[Path]:
    return nullcontext(Path(name))


def read_objects(bucket: Bucket, options: Options, findings: Findings) -> Iterator[Document]:
    """Read an object of a store, or what lies below a prefix, as a file or a folder would be read."""
    if bucket.holds(bucket.prefix):
        require_table(bucket.prefix)
        with bucket.fetch(bucket.prefix) as path:
            yield from read_table(Table(path, bucket.prefix, options, findings))
        return
    names = [name for name in bucket.names() if all(is_wanted(part, findings) for part in name.split("/"))]
    yield from read_folder(bucket.address, names, lambda name: bucket.fetch(bucket.folder + name), options, findings)


def require_table(name: str):
    if kind_of(name) is None:
        hint = ""
        if name.casefold().endswith(OFFICE):
            hint = " Save the sheet as CSV UTF-8."
        elif name.casefold().endswith(ARCHIVES):
            hint = " Unpack it, and give the folder."
        raise CorpusError(f"The name of {name} does not end in {KIND_NAMES}.{hint}")


def read_tables(names: Iterable[str], fetch: Fetch, options: Options, findings: Findings) -> Iterator[Document]:
    for name in names:
        require_table(name)
        with fetch(name) as path:
            for document in read_table(Table(path, name, options, findings)):
                yield document._replace(identity=f"{name}:{document.identity}")


# -------------------------------------------------------------------------------------------------------- folder


def files_below(folder: Path, findings: Findings) -> Iterator[str]:
    """The files below a folder, relative to it and in the order of their paths."""

    def stop(error: OSError):
        raise CorpusError(f"{folder} could not be read: {error}.") from error

    for place, folders, names in os.walk(folder, onerror=stop):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        findings.left_out["links to folders"] += len(links)
        folders[:] = sorted(name for name in folders if name not in links and is_wanted(name, findings))
        yield from (
            os.path.relpath(os.path.join(place, name), folder) for name in sorted(names) if is_wanted(name, findings)
        )


def is_wanted(name: str, findings: Findings) -> bool:
    if name.startswith("."):
        findings.left_out["hidden files and folders"] += 1
    elif name.casefold() in LEFT_BY_SYSTEMS or name.startswith("~$"):
        findings.left_out["files that a system left"] += 1
    else:
        return True
    return False


def read_folder(
    folder: str, names: list[str], fetch: Fetch, options: Options, findings: Findings
) -> Iterator[Document]:
    """Read the rows of the tables in a folder, or its text files; whichever there are more of."""
    if not names:
        raise CorpusError(f"{folder} has no files in it.")
    tables = list(filter(is_table, names))
    if len(tables) > len(names) / 2:
        findings.left_out["files that are no tables"] += len(names) - len(tables)
        yield from read_tables(tables, fetch, options, findings)
        return
    findings.left_out["tables among the texts"] += len(tables)
    for name in names:
        if not is_table(name) and (document := read_document(name, fetch, options, findings)):
            yield document


def is_table(name: str) -> bool:
    return kind_of(name) not in (None, "lines")


def read_document(name: str, fetch: Fetch, options: Options, findings: Findings) -> Document | None:
    """Read a text file as one document; None, and a count, where there is no text in it."""
    try:
        with fetch(name) as path:
            content = path.read_bytes()
        found = read_text(content, name, options.encoding)
    except OSError as error:
        raise CorpusError(f"{name} could not be read: {error}.") from error
    except UnknownEncoding:
        findings.left_out["files of an encoding that --encoding has to name"] += 1
        return None
    if found is None:
        findings.left_out["files that are not plain text"] += 1
        return None
    text, encoding = found
    if not text.strip():
        findings.left_out["files without text"] += 1
        return None
    findings.formats[f"a document a file, {encoding}"] += 1
    folders, _, title = name.rpartition("/")
    return make_document(name, text, title, folders.partition("/")[0])
