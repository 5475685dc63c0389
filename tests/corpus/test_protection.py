"""scripts/corpus/protection.py: no output replaces or joins the dataset, or replaces another file without --overwrite."""

import contextlib
import os

import pytest

from assignment.assignment_file import Selection, assignment_file, assignment_output
from corpus.protection import check_outputs
from failure import BadInput
from support.programs import run_program
from training.terms_file import terms_output, write_terms

TEXT = "text,label\nThe goalie stopped the puck,hockey\n"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder: in.csv, in.CSV's links, and a folder data/ with a table, all of them datasets."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/deep").mkdir(parents=True)
    for name in ("in.csv", "data/part-1.csv", "data/deep/part-2.csv"):
        (tmp_path / name).write_text(TEXT)
    (tmp_path / "soft.csv").symlink_to("in.csv")
    (tmp_path / "dangling.csv").symlink_to("data/new.csv")
    os.link(tmp_path / "in.csv", tmp_path / "hard.csv")
    (tmp_path / "link").symlink_to("data")
    return tmp_path


CLASHES = [
    ("in.csv", "in.csv"),
    ("in.csv", "./data/../in.csv"),
    ("in.csv", "soft.csv"),
    ("soft.csv", "in.csv"),
    ("in.csv", "hard.csv"),
    ("data", "data/part-1.csv"),
    ("data", "data/new.csv"),
    ("data", "link/new.csv"),
    ("link", "data/deep/new.csv"),
    ("data", "dangling.csv"),
    (".", "out.csv"),
    ("data/*.csv", "data/part-1.csv"),
    ("data/*.csv", "link/part-1.csv"),
    ("data/*.csv", "data/new.csv"),
    ("link/*.csv", "data/new.csv"),
    ("data/**/*.csv", "data/deep/new.csv"),
    ("data/**/*.csv", "data/new.csv"),
    ("data/part-?.csv", "data/part-3.csv"),
]


@pytest.mark.parametrize(("dataset", "output"), CLASHES)
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_output_that_is_or_would_be_part_of_the_dataset_is_refused(place, dataset, output, overwrite):
    with pytest.raises(BadInput, match=r"--assignments: .* --dataset .*choose another path"):
        check_outputs([dataset], assignment_output(place / output), overwrite)
    assert (place / "in.csv").read_text() == TEXT


@pytest.mark.parametrize(
    ("dataset", "output"),
    [
        ("in.csv", "out.csv"),
        ("data", "out.csv"),
        ("data", "data/.hidden/out.csv"),
        ("data/*.csv", "out.csv"),
        ("data/*.csv", "data/deep/out.csv"),
        ("data/*.csv", "data/out.jsonl"),
        ("s3://data/in.csv", "out.csv"),
        ("20newsgroups", "20newsgroups.csv"),
    ],
)
def test_an_output_elsewhere_is_accepted(place, dataset, output):
    check_outputs([dataset], assignment_output(place / output), False)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet"])
def test_an_earlier_assignment_file_is_replaced_and_another_file_only_with_overwrite(place, suffix):
    path = place / f"out{suffix}"
    path.write_bytes(b"")
    check_outputs(["in.csv"], assignment_output(path), False)
    with contextlib.suppress(OSError), assignment_file(path, Selection()):
        pass
    path.write_bytes(b"text,label\nprecious,a\n")
    with pytest.raises(BadInput, match=r"was not written by this project.*--overwrite"):
        check_outputs(["in.csv"], assignment_output(path), False)
    check_outputs(["in.csv"], assignment_output(path), True)


@pytest.mark.parametrize("output", ["data", "in.csv/out.csv", "/proc/out.csv"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(place, output):
    with pytest.raises(BadInput, match=r"is a folder|cannot be written"):
        check_outputs(["in.csv"], assignment_output(place / output), False)


def test_both_programs_refuse_before_they_read(place):
    """The table has no text column, which the programs would report if they read it."""
    for path in ("in.csv", "data/part-1.csv"):
        (place / path).write_text("precious\n")
    (place / "used").mkdir()
    (place / "used/model.joblib").write_text("of somebody else")
    for program, *options in (
        ("text_clustering.py", "--dataset", "in.csv", "--assignments", "soft.csv"),
        ("text_clustering.py", "--dataset", "data", "--output-dir", "data/model"),
        ("text_clustering.py", "--dataset", "in.csv", "--output-dir", "in.csv"),
        ("text_clustering.py", "--dataset", "in.csv", "--output-dir", "used"),
        ("assign_documents.py", "--dataset", "in.csv", "--assignments", "in.csv", "--overwrite"),
    ):
        done = run_program(f"scripts/{program}", *options, cwd=place)
        lines = [line for line in done.stderr.splitlines() if " ERROR " in line]
        assert done.returncode == 2 and len(lines) == 1 and options[2] in lines[0] and "column" not in lines[0], lines
    assert (place / "in.csv").read_text() == "precious\n"


def test_a_table_of_terms_has_no_formulas_and_replaces_only_its_like(place):
    path = place / "new folder/terms.csv"
    check_outputs(["in.csv"], terms_output(path), False)
    clusters = [{"cluster": 3, "name": "=1+1", "size": 2, "terms": [["@a", 0.5], ["b", 0.25]]}]
    write_terms(path, [*clusters, {"cluster": 5, "size": 0, "terms": []}])
    header = "cluster,cluster_name,size,rank,term,weight\r\n"
    assert path.read_bytes().decode() == header + "3,'=1+1,2,1,'@a,0.5\r\n3,'=1+1,2,2,b,0.25\r\n5,,0,1,,\r\n"
    check_outputs(["in.csv"], terms_output(path), False)
    with pytest.raises(BadInput, match=r"--assignments: .* was not written by this project"):
        check_outputs(["in.csv"], assignment_output(path), False)
    path.write_text("cluster,cluster_name,size,rank,term,weight,my notes\n")
    with pytest.raises(BadInput, match=r"--terms: .* was not written by this project.*--overwrite"):
        check_outputs(["in.csv"], terms_output(path), False)
    new = place / "new.csv"
    with pytest.raises(BadInput, match=r"--terms: .* is also the file of --assignments"):
        check_outputs(["in.csv"], [*assignment_output(new), *terms_output(place / "." / "new.csv")], False)
