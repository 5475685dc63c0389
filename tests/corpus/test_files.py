"""scripts/corpus/files.py: which files are read, and how the others are reported."""

import logging
import os
import socket

import pyarrow
import pyarrow.parquet
import pytest

from corpus.source import CorpusError, Source, draw_sample, load_corpus

TEXT = "The goalie stopped the puck"


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


def test_pipes_sockets_and_broken_or_circular_links_are_left_out_and_counted(tmp_path, caplog):
    write(tmp_path, a__1_txt=TEXT, b__2_txt=TEXT)
    os.mkfifo(tmp_path / "a/pipe.txt")
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.path.relpath(tmp_path / "b/socket"))
    (tmp_path / "broken.txt").symlink_to("nowhere")
    (tmp_path / "circle.txt").symlink_to("circle.txt")
    (tmp_path / "good.txt").symlink_to("a/1.txt")
    source = Source(str(tmp_path))
    corpus, count = draw_sample(source, 100, 0)
    server.close()
    assert count == 3 and corpus.identities == ["good.txt", "a/1.txt", "b/2.txt"]
    assert dict(+source.findings.left_out) == {"pipes, sockets and devices": 2, "broken links": 2}
    assert "broken links: 2 (broken.txt, circle.txt)" in caplog.text


def test_a_pipe_as_dataset_is_refused_instead_of_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(CorpusError, match=r"is a pipe.*save them to a file first"):
        load_corpus(str(tmp_path / "pipe.csv"))


def test_names_of_skipped_files_are_logged_at_debug_and_three_in_the_warning(tmp_path, caplog):
    write(tmp_path, a_txt=TEXT)
    for n in range(5):
        (tmp_path / f"scan{n}.pdf").write_bytes(b"%PDF-1.7")
    with caplog.at_level(logging.DEBUG):
        load_corpus(str(tmp_path))
    warning = next(record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.endswith("files that are not plain text: 5 (scan0.pdf, scan1.pdf, scan2.pdf, ...)")
    names = [record.getMessage() for record in caplog.records if record.levelname == "DEBUG"]
    assert [name.rpartition(" ")[2] for name in names] == [f"scan{n}.pdf" for n in range(5)]
    assert caplog.text.count("pdftotext") == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a.docx", "pandoc"), ("a.pdf", "pdftotext"), ("a.ods", "CSV UTF-8"), ("a.msg", ".eml"), ("a.tar.gz", "Unpack")],
)
def test_files_of_office_programs_are_refused_with_a_hint(tmp_path, name, hint):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(CorpusError, match=rf"does not end in .csv.*{hint}"):
        load_corpus(str(tmp_path / name))


def test_several_text_files_are_a_document_each_as_in_a_folder(tmp_path, monkeypatch):
    write(tmp_path, books__a__1_txt="one\ntwo\n", books__b__2_txt="three\nfour\n", books__b__3_md="five\n")
    monkeypatch.chdir(tmp_path)
    names = ["books/a/1.txt", "books/b/2.txt", "books/b/3.md"]
    expected = (["one\ntwo\n", "three\nfour\n", "five\n"], names, ["a", "b", "b"])
    for datasets in (names, ["books/*/*.*"]):
        corpus, _ = draw_sample(Source(*datasets), 100, 0)
        assert (corpus.documents, corpus.identities, corpus.labels) == expected
    assert load_corpus("books").documents == expected[0]
    assert load_corpus("books/a/1.txt").documents == ["one", "two"], "a single file has a document per line"


def test_a_missing_file_among_several_is_refused(tmp_path):
    write(tmp_path, a_txt=TEXT)
    with pytest.raises(CorpusError, match=r"There is no file named"):
        draw_sample(Source(str(tmp_path / "a.txt"), str(tmp_path / "b.txt")), 100, 0)


def test_a_table_without_text_column_among_several_is_named_and_counted(tmp_path):
    write(tmp_path, a_csv=f"text\n{TEXT}\n", b_csv="body\nx\n", c_jsonl='{"note": "x"}\n', d_csv=f"text\n{TEXT}\n")
    pyarrow.parquet.write_table(pyarrow.table({"text": [TEXT]}), tmp_path / "e.parquet")
    with pytest.raises(CorpusError, match=r"b.csv has no column 'text'.* 2 of 5 tables lack it: b.csv, c.jsonl"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize(
    ("marker", "kind"),
    [("_delta_log/00000.json", "Delta"), (".hoodie/x", "Hudi"), ("metadata/v1.metadata.json", "Iceberg")],
)
def test_the_folder_of_a_table_of_a_data_lake_is_refused_as_one(tmp_path, marker, kind):
    for name in ("lake/part-0.parquet", f"lake/{marker}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.table({"text": [TEXT]}), tmp_path / name)
    for dataset in (tmp_path / "lake", tmp_path):
        with pytest.raises(CorpusError, match=f"lake is a {kind} table.*deleted and replaced rows"):
            load_corpus(str(dataset))


def test_html_files_are_read_as_text(tmp_path):
    write(tmp_path, a_html=f"<html><head><style>p {{}}</style></head><body><p>{TEXT}</p></body></html>", b_htm=TEXT)
    assert load_corpus(str(tmp_path)).documents == [TEXT, TEXT]
