"""scripts/name_clusters.py: names files as editors save them."""

import json

import pytest

from model.artefacts import FORMAT
from support.topics import name_clusters


@pytest.fixture
def folder(tmp_path):
    """A folder with a clusters.json of two clusters."""
    clusters = [
        {
            "cluster": number,
            "size": 1,
            "terms": [["C#", 0.5], [".NET", 0.4]],
            "vocabulary_terms": ["c#", "net"],
            "centroid": [],
            "share": 0.5,
        }
        | {"similarity": {}}
        for number in (0, 4)
    ]
    summary = {
        "format": FORMAT,
        "versions": {"scikit-learn": "1.5.2"},
        "sha256": {"model.joblib": "", "transformer.joblib": ""},
        "settings": {"sample": 2},
        "baseline": {"unknown": 0, "similarity": {}},
        "clusters": clusters,
    }
    (tmp_path / "clusters.json").write_text(json.dumps(summary))
    return tmp_path


def names_after(folder, content: bytes, *options) -> dict[int, str]:
    (folder / "names.txt").write_bytes(content)
    run = name_clusters(folder / "names.txt", "--model-dir", folder, *options)
    assert run.returncode == 0, run.stderr
    clusters = json.loads((folder / "clusters.json").read_text())["clusters"]
    return {cluster["cluster"]: cluster["name"] for cluster in clusters if "name" in cluster}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("0 C# and .NET questions", "C# and .NET questions"),
        ("0 C# and .NET questions  # c#, net", "C# and .NET questions"),
        ("0 Ticket #1 of #many # a comment", "Ticket #1 of #many"),
        ("0 Ice hockey #", "Ice hockey"),
        ("0\tIce  hockey", "Ice  hockey"),
    ],
)
def test_a_comment_begins_at_a_number_sign_between_spaces(folder, line, name):
    assert names_after(folder, f"# all names\n{line}\n4  # none\n".encode()) == {0: name}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_encodings_of_notepad_are_detected(folder, encoding):
    lines = "0 Päckchen und Gebühren  # versand\r\n4 Übergröße\r\n"
    assert names_after(folder, lines.encode(encoding)) == {0: "Päckchen und Gebühren", 4: "Übergröße"}


def test_other_encodings_are_named_with_an_option(folder):
    content = "0 Шайба\n4 Космос\n".encode("cp866")
    assert names_after(folder, content, "--encoding", "cp866") == {0: "Шайба", 4: "Космос"}


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (b"%PDF-1.4 names", (), "is not a text file"),
        (b"0 One\n", ("--encoding", "klingon"), "encoding"),
        (b"0 \xff\xfe\xe9\n", ("--encoding", "utf-8"), "--encoding"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(folder, content, options, reason):
    (folder / "names.txt").write_bytes(content)
    before = (folder / "clusters.json").read_bytes()
    run = name_clusters(folder / "names.txt", "--model-dir", folder, *options)
    assert run.returncode == 2 and reason in run.stderr.splitlines()[-1] and "Traceback" not in run.stderr
    assert (folder / "clusters.json").read_bytes() == before


def test_names_written_by_the_program_are_read_back(folder):
    expected = names_after(folder, "0 C# and #hash\n4 Größe\n".encode())
    template = name_clusters("--model-dir", folder).stdout
    assert template.endswith("4 Größe  # C#, .NET\n")
    assert names_after(folder, template.encode()) == expected
