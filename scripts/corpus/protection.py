"""Check before anything is read that outputs can be written, and that they neither replace nor join the dataset."""

import argparse
import fnmatch
import glob
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from failure import BadInput


class Output(NamedTuple):
    """A file that a program is going to write."""

    path: Path
    option: str  # that names it
    is_own: Callable[[Path], bool]  # whether an existing file was written by a program of this project


def add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--overwrite", action="store_true", help="replace existing files even if this project did not write them"
    )


def check_outputs(datasets: Sequence[str], outputs: Iterable[Output], overwrite: bool) -> None:
    """Check the files that a program is going to write.

    Args:
        datasets: the values of --dataset.
        overwrite: whether files that this project did not write may be replaced; it never applies to the dataset.

    Raises:
        BadInput: an output cannot be written, is or would become part of the dataset, or would replace another file.
    """
    others: dict[str, str] = {}
    for path, option, is_own in outputs:
        if other := others.get(os.path.realpath(path)):
            raise BadInput(f"{option}: {path} is also the file of {other}: choose another path.")
        others[os.path.realpath(path)] = option
        for dataset in datasets:
            if reason := clash(path, dataset):
                raise BadInput(f"{option}: {path} {reason} --dataset {dataset}: choose another path.")
        check_writable(path, option)
        if path.exists() and not overwrite and path.stat().st_size and not is_own(path):
            raise BadInput(
                f"{option}: {path} exists and was not written by this project: choose another path, or replace it with "
                "--overwrite."
            )


def clash(output: Path, dataset: str) -> str | None:
    """How an output would damage a dataset, or None. Links and other spellings of a path make no difference."""
    if dataset.startswith("s3://"):
        return None
    if os.path.isdir(dataset):
        found = (os.path.join(place, name) for place, _, names in os.walk(dataset) for name in names)
        if output.exists() and any(same_file(output, path) for path in found):
            return "is one of the files of"
        return "is in the folder" if is_read_with(output, dataset) else None
    if any(same_file(output, path) for path in [dataset, *glob.iglob(dataset, recursive=True)]):
        return "is one of the files of" if glob.has_magic(dataset) else "is"
    return "would be one of the files of" if glob.has_magic(dataset) and matches(output, dataset) else None


def same_file(output: Path, path: str) -> bool:
    if output.exists() and os.path.exists(path):
        return os.path.samefile(output, path)
    return os.path.realpath(output) == os.path.realpath(path)


def is_read_with(output: Path, folder: str) -> bool:
    """Whether an output would be read as a file of a folder. Hidden files and folders are not."""
    path, root = Path(os.path.realpath(output)), os.path.realpath(folder)
    return path.is_relative_to(root) and not any(part.startswith(".") for part in path.relative_to(root).parts)


def matches(path: Path, pattern: str) -> bool:
    """Whether glob would find a file that does not exist yet."""
    parts = Path(pattern).parts
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    folder = Path(os.path.realpath(Path(*fixed)))
    place = Path(os.path.realpath(path))
    return place.is_relative_to(folder) and parts_match(place.relative_to(folder).parts, parts[len(fixed) :])


def parts_match(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(parts_match(parts[n:], pattern[1:]) for n in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and parts_match(parts[1:], pattern[1:])


def check_writable(path: Path, option: str) -> None:
    """Raises BadInput unless a file can be created at a path, or a folder for it."""
    if path.is_dir():
        raise BadInput(f"{option}: {path} is a folder: choose another path.")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise BadInput(f"{option}: {folder} cannot be written ({error.strerror}).") from error
