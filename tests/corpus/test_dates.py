"""scripts/corpus/dates.py: dates in the cells of tables and in e-mails."""

import json
from datetime import UTC, date, datetime, timedelta, timezone

import pyarrow
import pyarrow.compute
import pyarrow.parquet
import pytest

from corpus.dates import read_date
from corpus.documents import CorpusError, Options
from corpus.source import Source, load_corpus

MORNING = datetime(2026, 11, 29, 8, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        MORNING,
        datetime(2026, 11, 29, 8, 30),
        datetime(2026, 11, 29, 10, 30, tzinfo=timezone(timedelta(hours=2))),
        *("2026-11-29T08:30:00Z", " 2026-11-29 08:30 ", "2026-11-29T10:30:00+02:00", "20261129T0830"),
        *("Sun, 29 Nov 2026 10:30:00 +0200", "Sun Nov 29 08:30:00 2026"),
        *(int(MORNING.timestamp()) * unit for unit in (1, 10**3, 10**6, 10**9)),
        *(f"{MORNING.timestamp():.1f}", MORNING.timestamp()),
    ],
)
def test_a_date_is_read_in_utc(value):
    assert read_date(value) == MORNING and read_date(value).tzinfo == UTC


def test_days_months_and_years_begin_at_their_first_second():
    assert (
        read_date(date(2026, 11, 29))
        == read_date("2026-11-29")
        == read_date("20261129")
        == MORNING.replace(hour=0, minute=0)
    )
    assert read_date("2026-11") == datetime(2026, 11, 1, tzinfo=UTC)
    assert read_date("2026") == read_date(2026) == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["2026-11-29", "2026-11-29 08:30", "2026-11-29T08", "2026-11-29 08:30:01.123456789"])
def test_text_that_arrow_parses_is_a_date(text):
    parsed = pyarrow.compute.cast(pyarrow.array([text]), pyarrow.timestamp("ns")).cast(
        pyarrow.timestamp("us"), safe=False
    )
    assert read_date(text) == parsed[0].as_py().replace(tzinfo=UTC)


@pytest.mark.parametrize("value", [None, "", "  ", float("nan")])
def test_an_empty_cell_has_no_date(value):
    assert read_date(value) is None


@pytest.mark.parametrize(
    "value",
    ["29.11.2026", "11/29/2026", "tomorrow", "12:30", True, [2026], 1e30, "0001-01-01T00:00+10:00", "2026-02-30"],
)
def test_anything_else_is_no_date(value):
    with pytest.raises(ValueError):
        read_date(value)


ROWS = [{"text": f"goal {n}", "Created At": f"2026-11-{n:02}"} for n in range(1, 4)]


def write(path, rows):
    if path.suffix == ".csv":
        lines = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_column_with_a_usual_name_has_the_dates_unless_another_is_named(tmp_path, suffix, caplog):
    caplog.set_level("INFO")
    days = [datetime(2026, 11, n, tzinfo=UTC) for n in range(1, 4)]
    assert load_corpus(write(tmp_path / f"t{suffix}", ROWS)).dates == days
    assert "date in 'Created At'" in caplog.text
    rows = [row | {"due": f"2027-11-{n:02}" if n > 1 else "soon"} for n, row in enumerate(ROWS, start=1)]
    source = Source(write(tmp_path / f"t{suffix}", rows), options=Options(date_column="due"))
    (batch,) = source.batches()
    assert batch.dates == [None, *(day.replace(year=2027) for day in days[1:])]
    source.findings.log(source.name)
    assert source.findings.unreadable_dates == 1 and "1 dates cannot be read, such as 'soon'" in caplog.text
    with pytest.raises(CorpusError, match=r"has no column 'when'.*--date-column"):
        load_corpus(write(tmp_path / f"t{suffix}", ROWS), options=Options(date_column="when"))


def test_parquet_dates_of_every_type_are_read(tmp_path):
    moments = pyarrow.array([1, 2], pyarrow.timestamp("ns", "UTC"))
    for name, column in {
        "ns": moments,
        "day": pyarrow.array([date(1970, 1, 1)] * 2),
        "text": pyarrow.array(["1970-01-01"] * 2),
    }.items():
        pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"], "date": column}), tmp_path / f"{name}.parquet")
        assert load_corpus(str(tmp_path / f"{name}.parquet")).dates == [datetime(1970, 1, 1, tzinfo=UTC)] * 2


def test_a_path_leads_to_dates_inside_objects(tmp_path):
    rows = [{"text": "goal", "meta": {"sent": "2026-11-29"}}, {"text": "puck", "meta": {}}]
    for suffix in (".jsonl", ".parquet"):
        corpus = load_corpus(write(tmp_path / f"t{suffix}", rows), options=Options(date_column="meta.sent"))
        assert corpus.dates == [datetime(2026, 11, 29, tzinfo=UTC), None]


def test_e_mails_have_the_date_of_their_header(tmp_path):
    header = "From: a@example.org\nSubject: goal\nMessage-ID: <1@example.org>\n"
    (tmp_path / "1.eml").write_text(f"{header}Date: Sun, 29 Nov 2026 10:30:00 +0200\n\nbody\n")
    (tmp_path / "2.eml").write_text(f"{header}Date: yesterday\n\nbody\n")
    (tmp_path / "3.eml").write_text(f"{header}\nbody\n")
    source = Source(str(tmp_path))
    (batch,) = source.batches()
    assert batch.dates == [MORNING, None, None] and source.findings.unreadable_dates == 1
