"""scripts/corpus/source.py and the files beside it: what people have is read whole, or refused with the reason."""

import csv
import gzip
import io
import json
import logging
from pathlib import Path

import boto3
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from corpus import documents as contents
from corpus.source import CorpusError, Options, Source, draw_sample, load_corpus
from failure import Failure
from store.client import StoreError
from support.deployment import run_weed

ROWS = [
    {"text": "The goalie stopped the puck,\nin overtime", "label": "hockey", "title": "Playoffs"},
    {"text": 'A rocket; "lunar" orbit', "label": "space", "title": "Launch"},
    {"text": "Crème brûlée | simmer the garlic", "label": "cooking", "title": "Süß"},
]
HELLO_WORLD = "Привет мир"


def as_csv(separator=",", end="\r\n", header=("text", "label", "title")) -> str:
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    writer.writerows([header, *([row["text"], row["label"], row["title"]] for row in ROWS)])
    return file.getvalue()


def as_lines() -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def parquet(path, rows=ROWS):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


TABLES = {
    "excel-utf8.csv": as_csv(";").encode("utf-8-sig"),
    "excel-ansi.csv": as_csv(";").encode("cp1252"),
    "comma-ansi.CSV": as_csv().encode("cp1252"),
    "bar.csv": as_csv("|").encode(),
    "hint.csv": ("sep=;\r\n" + as_csv(";")).encode(),
    "mac.csv": as_csv(end="\n").replace("\n", "\r").replace(",\rin", ",\nin").encode(),
    "tabs.tsv": as_csv("\t").encode(),
    "tabs-utf16.csv": as_csv("\t").encode("utf-16"),
    "unicode-text.txt": as_csv("\t").encode("utf-16"),
    "utf16-no-mark.csv": as_csv().encode("utf-16-le"),
    "big-endian.csv": b"\xfe\xff" + as_csv().encode("utf-16-be"),
    "headers.csv": as_csv(header=(" TEXT ", "Label", "T itle")).encode(),
    "packed.csv.gz": gzip.compress(as_csv().encode()),
    "packed.tsv.GZ": gzip.compress(as_csv("\t").encode()),
    "lines.jsonl": as_lines().encode(),
    "lines.ndjson": as_lines().encode("utf-8-sig"),
    "lines.json": as_lines().encode("utf-16"),
    "lines.jsonl.gz": gzip.compress(as_lines().encode()),
    "array.json": json.dumps(ROWS).encode(),
    "array-pretty.json": json.dumps(ROWS, indent=1, ensure_ascii=False).encode("cp1252"),
    "array.jsonl": json.dumps(ROWS).encode(),
    "objects-pretty.json": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "array.json.gz": gzip.compress(json.dumps(ROWS).encode()),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_whole_whatever_form_it_has(tmp_path, name):
    (tmp_path / name).write_bytes(TABLES[name])
    assert_rows(load_corpus(str(tmp_path / name)))


def test_parquet_is_read_whole(tmp_path):
    parquet(tmp_path / "corpus.parquet")
    assert_rows(load_corpus(str(tmp_path / "corpus.parquet")))


def assert_rows(corpus):
    rows = list(zip(corpus.identities, corpus.documents, corpus.titles, corpus.labels))
    normal = [(i, text.replace("\r\n", "\n"), title, label) for i, text, title, label in rows]
    assert normal == [(str(n), row["text"], row["title"], row["label"]) for n, row in enumerate(ROWS, start=1)]


def test_a_text_file_has_a_document_a_line(tmp_path):
    (tmp_path / "lines.txt").write_text('first, "one"\n\nsecond\tone\n')
    corpus = load_corpus(str(tmp_path / "lines.txt"))
    assert corpus.documents == ['first, "one"', "second\tone"] and corpus.identities == ["1", "3"]


def test_what_was_detected_and_left_out_is_logged_in_a_line_each(tmp_path, caplog):
    (tmp_path / "t.csv").write_bytes("Text;Label\nGrüße;a\n;b\n  ;b\nDanke;b\n".encode("cp1252"))
    with caplog.at_level(logging.INFO):
        source = Source(str(tmp_path / "t.csv"))
        corpus, count = draw_sample(source, 100, 0)
    assert (corpus.identities, count) == (["1", "4"], 2)
    found, left_out = [record.getMessage() for record in caplog.records]
    assert found.endswith("t.csv: table, Windows-1252, separator ';', text in 'Text', label in 'Label'")
    assert left_out.endswith("t.csv: left out: rows without text: 2")
    assert source.findings.left_out["rows without text"] == 2


def test_rows_without_label_keep_the_labels_of_the_others(tmp_path):
    lines = ['{"text": "a", "label": null}', '{"text": "b", "label": " "}', '{"label": "x", "text": "c"}']
    lines += ['{"text": "d"}', '{"text": "e", "label": 7}', '{"text": null, "label": "y"}', '{"label": "y"}']
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    corpus = load_corpus(str(tmp_path / "t.jsonl"))
    assert corpus.labels == [None, None, "x", None, "7"] and corpus.documents == list("abcde")


def test_a_missing_value_as_pandas_writes_it_is_no_text(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a"}\n{"text": NaN}\n{"text": "c"}\n')
    corpus = load_corpus(str(tmp_path / "t.jsonl"))
    assert corpus.documents == ["a", "c"] and corpus.identities == ["1", "3"]


def test_missing_values_in_parquet_are_no_labels_and_no_texts(tmp_path):
    table = {"text": ["a", None, "c", "d"], "label": pyarrow.array([1.0, 2.0, float("nan"), None])}
    pyarrow.parquet.write_table(pyarrow.table(table | {"more": [0] * 4}), tmp_path / "t.parquet")
    corpus = load_corpus(str(tmp_path / "t.parquet"))
    assert corpus.documents == ["a", "c", "d"] and corpus.identities == ["1", "3", "4"] and corpus.labels is None


def test_half_a_surrogate_pair_and_a_byte_that_is_not_utf_8_are_replaced(tmp_path, caplog):
    (tmp_path / "t.jsonl").write_text('{"text": "half \\ud800 pair", "label": "\\udfff"}')
    assert load_corpus(str(tmp_path / "t.jsonl")).documents == ["half ? pair"]
    (tmp_path / "t.csv").write_bytes("text\nGrüße\nÄpfel\n".encode() + b"Na\xefve\n")
    assert load_corpus(str(tmp_path / "t.csv")).documents == ["Grüße", "Äpfel", "Na\ufffdve"]
    assert "not UTF-8" in caplog.text


REFUSED = {
    "no-text-column.csv": (b"body,label\nhello,a\n", "no column 'text'; it has: body, label. "),
    "no-text-key.jsonl": (b'{"body": "hello"}\n', "no column 'text'; it has: body. "),
    "two-text-columns.csv": (b"Text,TEXT\nhello,a\n", "has the columns Text, TEXT"),
    "text-is-a-number.jsonl": (
        b'{"text": "a"}\n{"text": 5}\n',
        "Line 2 of text-is-a-number.jsonl has in column 'text'",
    ),
    "text-is-a-list.json": (b'[{"text": [1]}]', "Row 1 of text-is-a-list.json has in column 'text'"),
    "no-object.json": (b'["hello", "world"]', 'is "hello": expected an object'),
    "not-json.jsonl": (b"hello\n", "line 1 is no JSON"),
    "half.jsonl": (b'{"text": "a"}\n{"text": "b\n', "line 2 is no JSON"),
    "half.json": (b'[{"text": "a"}, {"text": "b"', "could not be read: in or behind row 1"),
    "not-gzip.jsonl.gz": (b'{"text": "hello"}\n', "could not be read"),
    "half.csv.gz": (gzip.compress(b"text\nhello\n" * 999)[:60], "could not be read"),
    "corpus.parquet": (b"PAR1", "could not be read"),
    "empty.csv": (b"", "no document"),
    "header-only.csv": (b"text,label\n", "no document"),
    "blank.jsonl": (b'{"text": " "}\n', "no document"),
    "sheet.xlsx": (b"PK\x03\x04", "Save the sheet as CSV UTF-8"),
    "texts.zip": (b"PK\x03\x04", "Unpack it"),
    "notes.docx": (b"PK\x03\x04", "does not end in .csv"),
    "extra-cells.csv": (
        b"text,label\nfine,a\ntoo, many,b\n",
        "extra-cells.csv, line 3: 3 cells where the header has 2",
    ),
    "extra-after-long-row.csv": (b'text,label\n"two\nlines",a\n\ntoo, many,b\n', "line 5: 3 cells"),
    "extra.tsv": (b"text\tlabel\na\tb\tc\n", "line 2: 3 cells where the header has 2. Put a cell that contains a tab"),
    "open-quote.csv": (
        b'text,label\nfine,a\n"never closed,b\nfine,a\n',
        "open-quote.csv, line 3: a double quote opens",
    ),
    "open-quote-first.csv": (
        b'text,label\n"never closed,b\n"fine",a\n',
        "line 2: a double quote closes before the end",
    ),
    "cyrillic.csv": (f"text,label\n{HELLO_WORLD},a\n".encode("cp1251"), "name its encoding"),
    "shift-jis.csv": ("text,label\n日本語の文書,a\n".encode("shift_jis"), "name its encoding"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_line_that_says_where_and_why(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, reason = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError) as refused:
        load_corpus(name)
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_no_error_is_longer_than_a_screen(tmp_path):
    (tmp_path / "wide.csv").write_text(",".join(f"column {n}" for n in range(5_000)) + "\n")
    (tmp_path / "array.json").write_text(json.dumps(["word " * 100_000]))
    for name in ("wide.csv", "array.json"):
        with pytest.raises(CorpusError) as refused:
            load_corpus(str(tmp_path / name))
        assert len(str(refused.value)) < 1_000


def test_a_quote_that_never_closes_in_a_large_file_is_found_with_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr("corpus.csv_rows.LARGEST_CELL", 10_000)
    (tmp_path / "t.csv").write_text('text,label\nfine,a\n"open,b\n' + "some more text,a\n" * 5_000)
    with pytest.raises(CorpusError, match=r"line 3: a cell of more than 10000 characters"):
        load_corpus(str(tmp_path / "t.csv"))


def test_short_rows_are_read_and_told(tmp_path, caplog):
    (tmp_path / "t.csv").write_text("label,text,more\na,one\nb,two,x\nc\n")
    assert load_corpus(str(tmp_path / "t.csv")).documents == ["one", "two"]
    assert "2 rows have fewer cells than the header, the first in line 2" in caplog.text


def test_empty_cells_at_the_end_of_a_row_are_no_extra_cells(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\none,a,,\ntwo,b,,\n")
    assert load_corpus(str(tmp_path / "t.csv")).documents == ["one", "two"]


def test_options_win_over_what_is_detected(tmp_path):
    (tmp_path / "t.csv").write_bytes(f"Body text|Kind\n{HELLO_WORLD}|a\nЯ|b\n".encode("cp1251"))
    options = Options(encoding="cp1251", separator="|", text_column="bodytext", label_column="KIND")
    corpus = load_corpus(str(tmp_path / "t.csv"), options=options)
    assert corpus.documents == [HELLO_WORLD, "Я"] and corpus.labels == ["a", "b"]
    with pytest.raises(CorpusError, match=r"no column 'kinds'; it has: Body text, Kind.*--label-column"):
        load_corpus(str(tmp_path / "t.csv"), options=options._replace(label_column="kinds"))
    with pytest.raises(CorpusError, match=r"could not be read as ascii .*--encoding"):
        load_corpus(str(tmp_path / "t.csv"), options=options._replace(encoding="ascii"))


LEGACY = {"arabic": "cp1256", "chinese": "gb18030", "japanese": "shift_jis", "korean": "euc_kr", "thai": "cp874"}
RUSSIAN = "Здравствуйте, не могу войти в личный кабинет. Заказ не пришёл, деньги списаны дважды"


@pytest.mark.parametrize("language", [*LEGACY, "russian"])
def test_encodings_of_other_scripts_are_guessed_and_the_guess_is_a_warning(tmp_path, caplog, language):
    texts = [RUSSIAN]
    if language != "russian":
        path = Path(__file__).parents[1] / f"languages/{language}.jsonl"
        texts = [json.loads(line)["text"].replace('"', "") for line in path.open()]
    codec = LEGACY.get(language, "cp1251")
    texts = [text.encode(codec, "ignore").decode(codec) for text in texts]
    (tmp_path / "t.csv").write_bytes(
        "".join(f"{line}\n" for line in ["text", *(f'"{t}"' for t in texts)]).encode(codec)
    )
    assert load_corpus(str(tmp_path / "t.csv")).documents == texts
    assert "the encoding is guessed to be" in caplog.text and "--encoding overrides it" in caplog.text


# -------------------------------------------------------------------------------------------------------- folders


def write_files(folder, files: dict):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_text_files_at_every_depth_are_documents_and_their_first_folder_is_the_label(tmp_path):
    files = {"a/README.txt": "one", "a/2024/01.txt": "two", "b/x/y/z.md": "three", "loose.txt": "four"}
    corpus = load_corpus(str(write_files(tmp_path, files)))
    assert sorted(zip(corpus.identities, corpus.documents, corpus.titles, corpus.labels, strict=True), key=str) == [
        ("a/2024/01.txt", "two", "01.txt", "a"),
        ("a/README.txt", "one", "README.txt", "a"),
        ("b/x/y/z.md", "three", "z.md", "b"),
        ("loose.txt", "four", "loose.txt", None),
    ]


def test_one_folder_below_all_files_is_no_label(tmp_path, caplog):
    corpus = load_corpus(str(write_files(tmp_path, {"2024/01/a.txt": "one", "2024/02/b.txt": "two"})))
    assert corpus.labels is None and "one label only, '2024'" in caplog.text


def test_what_is_hidden_or_no_text_is_left_out_and_counted(tmp_path):
    noise = np.random.default_rng(0).bytes(5_000)
    files = {
        "a/1.txt": "one",
        "b/2.txt": "two",
        ".git/config": "x",
        "a/.DS_Store": "x",
        "__MACOSX/a.txt": "x",
        "a/Thumbs.db": noise,
        "a/desktop.ini": "[x]",
        "b/scan.pdf": b"%PDF-1.7\n1 0 obj\nendobj",
        "b/photo.jpg": noise,
        "b/data": b"\0\0\1\0" * 100,
        "b/letter.rtf": "{\\rtf1 hello}",
        "b/packed.bin.gz": gzip.compress(noise),
        "b/empty.txt": " \n",
        "b/cyrillic.txt": "Привет, мир".encode("cp1251"),
        "b/table.csv": "text\nhello\n",
    }
    (write_files(tmp_path, files) / "link").symlink_to(tmp_path / "a")
    source = Source(str(tmp_path))
    corpus, _ = draw_sample(source, 100, 0)
    assert corpus.documents == ["one", "two"]
    assert dict(+source.findings.left_out) == {
        "hidden files and folders": 2,
        "files left by an operating system": 3,
        "files that are not plain text": 5,
        "files without text": 1,
        "files whose encoding --encoding has to name": 1,
        "tables among the texts": 1,
        "links to folders": 1,
    }


def test_files_of_a_folder_are_read_each_in_its_encoding(tmp_path, caplog):
    text = "Größe und Maß für den Tisch"
    codecs = ("utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-32")
    write_files(tmp_path, {f"{codec}.txt": text.encode(codec) for codec in codecs})
    with caplog.at_level(logging.INFO):
        assert load_corpus(str(tmp_path)).documents == [text] * 6
    assert "1 x one document per file, Windows-1252" in caplog.text


def test_a_folder_without_files_is_refused(tmp_path):
    write_files(tmp_path, {".hidden": "x"})
    with pytest.raises(CorpusError, match="no files in it"):
        load_corpus(str(tmp_path))


def parts(folder):
    parquet(folder / "part-0.parquet", ROWS[:1])
    return write_files(folder, {"more/part-1.csv": as_csv(), "part-2.jsonl": as_lines(), "_SUCCESS": ""})


PART_ROWS = [
    "part-0.parquet:1",
    *(f"part-2.jsonl:{n}" for n in (1, 2, 3)),
    *(f"more/part-1.csv:{n}" for n in (1, 2, 3)),
]


def test_a_folder_of_tables_is_one_corpus(tmp_path):
    source = Source(str(parts(tmp_path)))
    corpus, count = draw_sample(source, 100, 0)
    assert corpus.identities == PART_ROWS and count == 7
    assert dict(+source.findings.left_out) == {"files that are no tables": 1}


def test_a_glob_and_several_names_are_one_corpus(tmp_path, monkeypatch):
    monkeypatch.chdir(parts(tmp_path))
    assert load_corpus("**/part-*.[cj]s*").identities == [*PART_ROWS[4:], *PART_ROWS[1:4]]
    several, _ = draw_sample(Source("part-2.jsonl", "more/part-1.csv"), 100, 0)
    assert several.identities == [*PART_ROWS[1:4], *PART_ROWS[4:]]
    with pytest.raises(CorpusError, match="No file matches"):
        load_corpus("*.tsv")


# ---------------------------------------------------------------------------------------------------------- sample


def numbered(tmp_path, documents: int) -> Source:
    (tmp_path / "numbers.txt").write_text("".join(f"document {n}\n" for n in range(documents)))
    return Source(str(tmp_path / "numbers.txt"))


def test_a_corpus_no_larger_than_the_sample_is_the_sample(tmp_path):
    corpus, count = draw_sample(numbered(tmp_path, 50), 50, 0)
    assert corpus.documents == [f"document {n}" for n in range(50)] and count == 50


def test_a_sample_is_uniform_seeded_and_in_the_order_of_the_corpus(tmp_path):
    source = numbered(tmp_path, 100)
    drawn = np.zeros(100)
    for seed in range(300):
        corpus, count = draw_sample(source, 20, seed)
        places = [int(identity) - 1 for identity in corpus.identities]
        assert len(set(places)) == 20 and places == sorted(places) and count == 100
        drawn[places] += 1
    assert drawn.min() > 30 and drawn.max() < 90  # 60 expected, deviation 7
    assert draw_sample(source, 20, 0)[0] == draw_sample(source, 20, 0)[0] != draw_sample(source, 20, 1)[0]


def test_batches_are_bounded_in_documents_and_in_characters(monkeypatch):
    monkeypatch.setattr(contents, "BATCH_DOCUMENTS", 3)
    monkeypatch.setattr(contents, "BATCH_CHARACTERS", 100)
    texts = ["short"] * 7 + ["long" * 50] * 2
    batches = list(contents.in_batches(contents.make_document(str(n), text) for n, text in enumerate(texts)))
    assert [len(batch.documents) for batch in batches] == [3, 3, 2, 1]
    assert [text for batch in batches for text in batch.documents] == texts


# --------------------------------------------------------------------------------------------------------- s3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A real S3 server with a bucket of tables, texts and one file more."""
    with run_weed(tmp_path_factory.mktemp("weed")) as server:
        keys = dict(zip(("aws_access_key_id", "aws_secret_access_key"), server.keys))
        s3 = boto3.client("s3", endpoint_url=server.url, region_name="us-east-1", **keys)
        s3.create_bucket(Bucket="tickets")
        folder = parts(tmp_path_factory.mktemp("parts"))
        texts = {"texts/a/1.txt": "one", "texts/b/2/3.txt": "two", "texts/b/.hidden/x.txt": "x", "texts/b/": ""}
        texts |= {"mail/": "", "mail/a/1.txt": "new", "mail-old/a/1.txt": "old", "mailbox.csv": "text\nmore\n"}
        for key, content in texts.items():
            s3.put_object(Bucket="tickets", Key=key, Body=content.encode())
        for path in filter(Path.is_file, folder.rglob("*")):
            s3.upload_file(str(path), "tickets", f"parts/{path.relative_to(folder)}")
        yield server


@pytest.fixture
def keys(store, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.keys[1])


def from_store(store, address):
    return load_corpus(address, options=Options(s3_endpoint=store.url))


def test_a_prefix_in_a_store_is_read_as_a_folder_would_be(store, keys):
    assert sorted(from_store(store, "s3://tickets/parts/").identities) == sorted(PART_ROWS)
    assert from_store(store, "s3://tickets/parts/part-").identities == PART_ROWS[:4]
    texts = from_store(store, "s3://tickets/texts/")
    assert list(zip(texts.identities, texts.documents, texts.labels)) == [
        ("a/1.txt", "one", "a"),
        ("b/2/3.txt", "two", "b"),
    ]


def test_a_prefix_that_is_a_folder_is_read_without_its_neighbours_also_if_a_console_created_it(store, keys):
    for address in ("s3://tickets/mail/", "s3://tickets/mail"):
        corpus = from_store(store, address)
        assert corpus.documents == ["new"] and corpus.identities == ["a/1.txt"]
    assert from_store(store, "s3://tickets/mailbox.csv").documents == ["more"]
    assert from_store(store, "s3://tickets/mail-").documents == ["old"]


def test_an_object_in_a_store_is_read_as_a_table(store, keys):
    assert_rows(from_store(store, "s3://tickets/parts/part-2.jsonl"))


@pytest.mark.parametrize("address", ["s3://tickets/none/", "s3://nowhere/parts/", "s3://"])
def test_what_a_store_does_not_have_is_refused_with_a_reason(store, keys, address):
    with pytest.raises(Failure, match=r"no files in it|no bucket nowhere|names no bucket"):
        from_store(store, address)


def test_wrong_keys_and_a_store_that_is_down_are_refused_with_a_hint(store, keys, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreError, match=r"SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY"):
        from_store(store, "s3://tickets/parts/")
    with pytest.raises(StoreError, match=r"cannot be reached.*--s3-endpoint"):
        load_corpus("s3://tickets/parts/", options=Options(s3_endpoint="http://127.0.0.1:9"))
