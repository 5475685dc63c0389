"""Find the files of a corpus: a file, several, a folder, or the objects below a prefix in an S3 store.

The rule for a folder and for a prefix:

- files at every depth count, except hidden ones (their name, or that of a folder above, begins with a dot) and those
  that operating systems leave behind (Thumbs.db ...);
- if more than half of them are tables, their rows are the documents;
- otherwise each other text file is a document, and each e-mail in a mailbox. The label is the first folder on the way
  to the file; a file beside the folders has none.

What is left out is counted by its reason.
"""

import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from corpus.bucket import Bucket
from corpus.columns import MissingColumn
from corpus.compression import DAMAGED, uncompressed, without_suffix
from corpus.documents import CorpusError, Document, Findings, Options, make_document, shorten
from corpus.encodings import UnknownEncoding, read_text
from corpus.mail import MAILBOXES, is_mail, is_mailbox, read_mail, read_mailbox, text_of_html
from corpus.table import Table
from corpus.tables import KIND_NAMES, is_table, kind_of, read_table

LEFT_BY_SYSTEMS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information"}
MAILDIR_FOLDERS = {"cur", "new", "tmp"}
HTML = (".html", ".htm")
HINTS = {
    (".xlsx", ".xls", ".xlsm", ".ods", ".numbers"): "Save the sheet as CSV UTF-8.",
    (
        ".docx",
        ".doc",
        ".odt",
        ".rtf",
        ".pages",
    ): "Save it as plain text, for example with: pandoc -t plain FILE -o FILE.txt",
    (".pdf",): "Extract its text, for example with: pdftotext FILE.pdf FILE.txt",
    (".pptx", ".ppt", ".odp"): "Save its text as .txt.",
    (".eml",): "Give the folder of the e-mails.",
    (".msg", ".pst", ".ost"): "Export the e-mails as .eml or .mbox.",
    (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar"): "Unpack it, and give the folder.",
}
# Folders that hold the files of a table together with those of its earlier states.
LAKE_TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi"}

Fetch = Callable[[str], AbstractContextManager[Path]]  # makes a file local for as long as it is read, by its name


def read_files(datasets: Sequence[str], options: Options, findings: Findings) -> Iterator[Document]:
    """Read the documents of a file, of several, of a folder, or of the files that a glob or an S3 address names.

    Raises:
        CorpusError: there is no such file, or it cannot be read.
        StoreError: the store cannot be read.
    """
    dataset = datasets[0]
    if len(datasets) > 1:  # as a shell expands a glob
        yield from read_several(datasets, options, findings)
    elif dataset.startswith("s3://"):
        with Bucket(dataset, options.s3_endpoint) as bucket:
            yield from read_objects(bucket, options, findings)
    elif Path(dataset).is_dir():
        names = list(files_below(Path(dataset), findings))
        yield from read_folder(dataset, names, lambda name: nullcontext(Path(dataset, name)), options, findings)
    elif Path(dataset).exists():
        yield from read_single(dataset, Path(dataset), options, findings)
    elif glob.has_magic(dataset):
        names = sorted(name for name in glob.iglob(dataset, recursive=True) if not os.path.isdir(name))
        if not names:
            raise CorpusError(f"No file matches {dataset}.")
        yield from read_several(names, options, findings)
    else:
        raise CorpusError(
            f"There is no dataset and no file named {dataset}: --dataset takes 20newsgroups, aws-docs, a file, a folder "
            "or s3://bucket/prefix (see --help)."
        )


def read_objects(bucket: Bucket, options: Options, findings: Findings) -> Iterator[Document]:
    """Read an object of a store, or the objects below a prefix, like a file or a folder."""
    if bucket.is_object():
        with bucket.fetch(bucket.prefix) as path:
            yield from read_single(bucket.prefix, path, options, findings)
        return
    names = list(bucket.names(options.since))
    if not names and options.since and next(bucket.names(), None):
        raise CorpusError(f"{bucket.address} has no requests that were recorded since {options.since:%F %H:%M} UTC.")
    for name in names:
        for part in name.split("/")[:-1]:
            refuse_lake_table(part, bucket.address)
    names = [name for name in names if all(is_wanted(part, findings, name) for part in name.split("/"))]
    yield from read_folder(bucket.address, names, lambda name: bucket.fetch(bucket.folder + name), options, findings)


def read_single(name: str, path: Path, options: Options, findings: Findings) -> Iterator[Document]:
    """Read a table, a mailbox, or a text file with one document per line."""
    if not path.is_file():
        raise CorpusError(
            f"{name} is a pipe, socket or device: documents are read twice, so save them to a file first."
        )
    if is_named_mailbox(name):
        with uncompressed(path) as plain:
            yield from read_mailbox(plain, name, None, findings)
    elif kind_of(name) is None:
        raise CorpusError(f"The name of {name} does not end in {KIND_NAMES}. {hint_for(name)}".strip())
    else:
        yield from read_table(Table(path, name, options, findings))


def hint_for(name: str) -> str:
    return next((hint for suffixes, hint in HINTS.items() if name.casefold().endswith(suffixes)), "")


def read_several(names: Sequence[str], options: Options, findings: Findings) -> Iterator[Document]:
    """Read the rows of tables, and other text files as one document each; the order is that of the names."""
    names = [name for name in names if is_readable(Path(name), name, findings)]
    for folder in {Path(name).parent for name in names}:
        for marker in LAKE_TABLES:
            if (folder / marker).is_dir():
                refuse_lake_table(marker, str(folder))
    root = os.path.commonpath([os.path.dirname(os.path.abspath(name)) for name in names]) if names else ""
    tables = list(filter(is_table, names))
    for name in names:
        if is_table(name):
            yield from read_one_table(name, tables, lambda name: nullcontext(Path(name)), options, findings)
        else:
            label = label_of(os.path.relpath(os.path.abspath(name), root))
            yield from read_texts(name, label, nullcontext(Path(name)), options, findings)


# --------------------------------------------------------------------------------------------------------- folder


def files_below(folder: Path, findings: Findings) -> Iterator[str]:
    """The files below a folder, relative to it and in the order of their paths."""

    def stop(error: OSError) -> None:
        raise CorpusError(f"{folder} could not be read: {error}.") from error

    for place, folders, names in os.walk(folder, onerror=stop):
        inside = Path(place).relative_to(folder)
        for name in folders:
            refuse_lake_table(name, place)
        if any(name.endswith(".metadata.json") for name in names):
            refuse_lake_table("metadata", str(Path(place).parent))
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in links:
            findings.leave_out("links to folders", str(inside / name))
        folders[:] = sorted(name for name in folders if name not in links and is_wanted(name, findings))
        for name in sorted(names):
            path = str(inside / name)
            if is_wanted(name, findings, path) and is_readable(Path(place, name), path, findings):
                yield path


def refuse_lake_table(marker: str, folder: str) -> None:
    """Raises CorpusError if a folder is one that marks a table of a data lake."""
    kind = "Iceberg" if marker == "metadata" else LAKE_TABLES.get(marker)
    if kind:
        raise CorpusError(
            f"{folder} is a {kind} table, whose folder also holds deleted and replaced rows: export its current rows "
            "with the tool that wrote it, for example as Parquet, and give that file."
        )


def is_wanted(name: str, findings: Findings, path: str | None = None) -> bool:
    if name.startswith("."):
        findings.leave_out("hidden files and folders", path or name)
    elif name.casefold() in LEFT_BY_SYSTEMS or name.startswith("~$"):
        findings.leave_out("files left by an operating system", path or name)
    else:
        return True
    return False


def is_readable(path: Path, name: str, findings: Findings) -> bool:
    """Whether a path leads to a file that can be read like one: a pipe would block forever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not path.is_symlink():
            raise CorpusError(f"There is no file named {name}.") from None
        findings.leave_out("broken links", name)
        return False
    except OSError:  # a circular link
        findings.leave_out("broken links", name)
        return False
    if not stat.S_ISREG(mode):
        findings.leave_out("folders" if stat.S_ISDIR(mode) else "pipes, sockets and devices", name)
    return stat.S_ISREG(mode)


def read_folder(
    folder: str, names: list[str], fetch: Fetch, options: Options, findings: Findings
) -> Iterator[Document]:
    """Read the rows of the tables in a folder, or its text files; whichever there are more of."""
    if not names:
        raise CorpusError(f"{folder} has no files in it.")
    tables = list(filter(is_table, names))
    if len(tables) > len(names) / 2:
        for name in names:
            if is_table(name):
                yield from read_one_table(name, tables, fetch, options, findings)
            else:
                findings.leave_out("files that are no tables", name)
        return
    for name in names:
        if is_table(name):
            findings.leave_out("tables among the texts", name)
        else:
            yield from read_texts(name, label_of(name), fetch(name), options, findings)


def read_one_table(
    name: str, tables: list[str], fetch: Fetch, options: Options, findings: Findings
) -> Iterator[Document]:
    """Read one of several tables.

    Raises:
        MissingColumn: it lacks a column; the message says how many of the tables lack one.
    """
    try:
        with fetch(name) as path:
            for document in read_table(Table(path, name, options, findings)):
                yield document._replace(identity=f"{name}:{document.identity}")
    except MissingColumn as error:
        lacking = [table for table in tables if lacks_column(table, fetch, options)]
        raise MissingColumn(
            f"{error} {len(lacking)} of {len(tables)} tables lack it: {shorten(', '.join(lacking))}."
        ) from error


def lacks_column(name: str, fetch: Fetch, options: Options) -> bool:
    try:
        with fetch(name) as path:
            next(read_table(Table(path, name, options, Findings())), None)
    except MissingColumn:
        return True
    except CorpusError:  # reported when its turn comes
        return False
    return False


def is_named_mailbox(name: str) -> bool:
    return without_suffix(name.casefold()).endswith(MAILBOXES)


def label_of(name: str) -> str | None:
    """The first folder on the way to a file; the folders of a Maildir are none."""
    folders = [part for part in Path(name).parent.parts if part not in MAILDIR_FOLDERS]
    return folders[0] if folders else None


def read_texts(
    name: str, label: str | None, file: AbstractContextManager[Path], options: Options, findings: Findings
) -> Iterator[Document]:
    """Read a text file as one document, or the e-mails of a mailbox; none, and a count, where there is no text."""
    try:
        with file as path, uncompressed(path) as plain:
            if is_named_mailbox(name) or is_mailbox(plain):
                yield from read_mailbox(plain, name, label or Path(without_suffix(name)).stem, findings)
                return
            content = plain.read_bytes()
    except (FileNotFoundError, PermissionError) as error:
        raise CorpusError(f"{name} could not be read: {error}.") from error
    except DAMAGED:
        findings.leave_out("damaged files", name)
        return
    if name.casefold().endswith(".eml") or is_mail(content):
        document = read_mail(content, name, label, findings)
    else:
        document = read_document(name, content, label, options, findings)
    if document:
        yield document


def read_document(
    name: str, content: bytes, label: str | None, options: Options, findings: Findings
) -> Document | None:
    """The content of a text file as a document; None, and a count, if there is no text in it."""
    try:
        found = read_text(content, name, options.encoding)
    except UnknownEncoding:
        findings.leave_out("files whose encoding --encoding has to name", name)
        return None
    if found is None:
        findings.leave_out("files that are not plain text", name)
        if (hint := f"{Path(name).suffix} files: {hint_for(name)}") not in findings.remarks and hint_for(name):
            findings.remarks.append(hint)
        return None
    text, encoding = found
    if name.casefold().endswith(HTML):
        text = text_of_html(text)
    if not text.strip():
        findings.leave_out("files without text", name)
        return None
    findings.formats[f"one document per file, {encoding}"] += 1
    return make_document(name, text, Path(name).name, label)
