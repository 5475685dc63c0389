"""scripts/corpus/*_rows.py and columns.py: the shapes of tables that tools write, and columns by path and number."""

import bz2
import gzip
import json
import lzma

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from corpus.source import CorpusError, Options, load_corpus

TEXTS = ["The goalie stopped the puck", 'A rocket, "lunar" orbit', "Simmer\nthe garlic"]
LABELS = ["hockey", "space", "cooking"]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS)]


def load(path, content: bytes | str, **options):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_corpus(str(path), options=Options(**options))


# What pandas writes, and what web services answer.
ORIENTATIONS = ("records", "columns", "index", "split", "table")
JSON = {orient: json.loads(pandas.DataFrame(ROWS).to_json(orient=orient)) for orient in ORIENTATIONS} | {
    "elastic": {"took": 3, "hits": {"total": {"value": 3}, "hits": [{"_id": "0", **row} for row in ROWS]}},
    "page": {"meta": {"pages": [{"number": 1}]}, "results": ROWS},
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("shape", JSON)
@pytest.mark.parametrize("chunk", [10, 2**20])
def test_json_is_read_in_every_shape_that_contains_rows(tmp_path, monkeypatch, shape, indent, chunk):
    monkeypatch.setattr("corpus.json_rows.CHUNK", chunk)
    corpus = load(tmp_path / "t.json", json.dumps(JSON[shape], indent=indent))
    assert (corpus.documents, corpus.labels, corpus.identities) == (TEXTS, LABELS, ["1", "2", "3"])


@pytest.mark.parametrize("indent", [None, 2])
def test_json_arrays_of_arrays_have_columns_by_number(tmp_path, indent):
    content = json.dumps([[row["label"], row["text"]] for row in ROWS], indent=indent)
    corpus = load(tmp_path / "t.json", content, text_column="2", label_column="1")
    assert corpus.documents == TEXTS and corpus.labels == LABELS
    with pytest.raises(CorpusError, match=r"no column 'text'; it has: .*no header line"):
        load(tmp_path / "t.json", content)


NESTED = {
    "_source.text": [
        {"_id": 1, "_source": {"text": text, "tags": {"kind": label}}} for text, label in zip(TEXTS, LABELS)
    ],
    "messages.content": [
        {
            "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": None}],
            "tags": {"kind": label},
        }
        for text, label in zip(TEXTS, LABELS)
    ],
    "ticket.comments.body": [
        {"ticket": {"comments": [{"body": text}]}, "tags": {"kind": label}} for text, label in zip(TEXTS, LABELS)
    ],
    "paragraphs": [{"paragraphs": text.split("\n"), "tags": {"kind": label}} for text, label in zip(TEXTS, LABELS)],
    "a.b": [{"a.b": text, "tags": {"kind": label}} for text, label in zip(TEXTS, LABELS)],
}


@pytest.mark.parametrize("path", NESTED)
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_columns_inside_objects_and_lists_are_named_by_their_paths(tmp_path, path, suffix):
    file, rows = tmp_path / f"t{suffix}", NESTED[path]
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    else:
        file.write_text(json.dumps(rows) if suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows))
    prefix = path.rpartition(".")[0] if path == "_source.text" else ""
    label = f"{prefix}.tags.kind" if prefix else "tags.kind"
    for name in (path, path.upper()):
        corpus = load_corpus(str(file), options=Options(text_column=name, label_column=label))
        assert corpus.documents == TEXTS and corpus.labels == LABELS
    with pytest.raises(CorpusError, match=rf"no column 'text'; it has: .*{path.replace('.', '[.]')}"):
        load_corpus(str(file))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_column_of_objects_is_refused_with_the_paths_inside_it(tmp_path, suffix):
    rows = NESTED["messages.content"]
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    else:
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(CorpusError, match=r"'messages'.*no text.*names a part of it: .*messages.content"):
        load_corpus(str(tmp_path / f"t{suffix}"), options=Options(text_column="messages"))


TYPES = [
    pyarrow.string(),
    pyarrow.large_string(),
    pyarrow.string_view(),
    pyarrow.binary(),
    pyarrow.large_binary(),
    pyarrow.binary_view(),
    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    pyarrow.list_(pyarrow.string()),
    pyarrow.large_list(pyarrow.string_view()),
]


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_texts_in_every_type_of_arrow_are_read(tmp_path, kind):
    values = [text.encode() if "binary" in str(kind) else [text] if "list" in str(kind) else text for text in TEXTS]
    column = pyarrow.array(TEXTS).dictionary_encode() if "dictionary" in str(kind) else pyarrow.array(values, kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "t.parquet")
    assert load_corpus(str(tmp_path / "t.parquet")).documents == TEXTS


def test_several_text_columns_are_joined_by_a_line_break(tmp_path):
    options = {"text_column": "Subject,description"}
    rows = [
        {"subject": "Puck", "description": "Goalie"},
        {"subject": "", "description": "Orbit"},
        {"subject": "Garlic"},
    ]
    expected = ["Puck\nGoalie", "Orbit", "Garlic"]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_corpus(str(tmp_path / "t.jsonl"), options=Options(**options)).documents == expected
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    assert load_corpus(str(tmp_path / "t.parquet"), options=Options(**options)).documents == expected
    corpus = load(tmp_path / "t.csv", "subject,description\nPuck,Goalie\n,Orbit\nGarlic,\n", **options)
    assert corpus.documents == expected
    with pytest.raises(CorpusError, match="no column 'body'"):
        load(tmp_path / "t.csv", "subject,description\nPuck,Goalie\n", text_column="subject,body")
    corpus = load(tmp_path / "t.csv", '"subject,description"\nPuck\n', text_column="subject,description")
    assert corpus.documents == ["Puck"], "a name may contain a comma"


# ------------------------------------------------------------------------------------------------------------- csv


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_table_without_header_line_has_columns_by_number(tmp_path, separator):
    content = "".join(separator.join([label, f'"{text}"']) + "\n" for text, label in zip(["a b", "c d"], LABELS))
    corpus = load(tmp_path / "t.csv", content, text_column="2", label_column="1")
    assert (corpus.documents, corpus.labels, corpus.identities) == (["a b", "c d"], LABELS[:2], ["1", "2"])


def test_tabbed_lines_of_a_text_file_have_columns_by_number(tmp_path):
    corpus = load(tmp_path / "t.txt", "a\tone text\nb\ttwo texts\n", text_column="2", label_column="1")
    assert corpus.documents == ["one text", "two texts"] and corpus.labels == ["a", "b"]


def test_a_table_without_header_line_is_refused_with_that_question(tmp_path):
    with pytest.raises(CorpusError, match=r"Has it no header line\? Then .* numbers, such as --text-column 2"):
        load(tmp_path / "t.csv", '"1","The goalie stopped the puck, in overtime, of course."\n"2","x"\n')


def test_the_likely_columns_of_a_wide_table_come_first_in_the_message(tmp_path):
    names = [f"c{n}" for n in range(90)]
    content = ",".join([*names, "Verbatim", "Comment"]) + "\n" + ",".join(["1"] * 90 + ["Tray oven", "x"]) + "\n"
    with pytest.raises(CorpusError, match="it has: Comment, Verbatim, c0"):
        load(tmp_path / "t.csv", content)


UNQUOTED = 'label\ttext\na\t"We" said it\nb\t7" pipe\nc\t"open\n'
BACKSLASH = r"""text,label
"say \"hi\", please",a
"two
lines with \"quotes\"",b
"a backslash \\",c
plain,d
"""


def test_quotes_are_read_as_they_were_written_and_an_option_overrides(tmp_path, caplog):
    caplog.set_level("INFO")
    assert load(tmp_path / "t.tsv", UNQUOTED).documents == ['"We" said it', '7" pipe', '"open']
    assert "separator tab, no quotes" in caplog.text
    expected = ['say "hi", please', 'two\nlines with "quotes"', "a backslash \\", "plain"]
    assert load(tmp_path / "t.csv", BACKSLASH).documents == expected
    assert "quotes after a backslash" in caplog.text
    assert load(tmp_path / "t.csv", 'text,label\n5" nail,a\n"x,b\n', quotes="none").documents == ['5" nail', '"x']
    assert load(tmp_path / "t.tsv", 'text\tlabel\n"a ""b"""\tx\n"c\nd"\ty\n').documents == ['a "b"', "c\nd"]


def test_a_quote_at_the_start_of_one_line_and_the_end_of_another_merges_no_lines(tmp_path):
    content = 'text\tlabel\n"start\ta\nmiddle\tb\nend"\tc\n'
    assert load(tmp_path / "t.tsv", content).documents == ['"start', "middle", 'end"']


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.txt", "t.log", "t.md"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_compressed_tables_and_texts_are_read(tmp_path, name, suffix):
    content = {"t.csv": "text\none\ntwo\n", "t.jsonl": '{"text": "one"}\n{"text": "two"}\n'}.get(
        name, "one\ntwo\n"
    ).encode()
    packed = {
        "": lambda: content,
        ".gz": lambda: gzip.compress(content[:5]) + gzip.compress(content[5:]),
        ".bz2": lambda: bz2.compress(content),
        ".xz": lambda: lzma.compress(content),
        ".zst": lambda: zstd(content[:5]) + zstd(content[5:]),
    }[suffix]()
    assert load(tmp_path / f"{name}{suffix}", packed).documents == ["one", "two"]
    if suffix:
        with pytest.raises(CorpusError, match="could not be read"):
            load(tmp_path / f"{name}{suffix}", packed[:-6])


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()
