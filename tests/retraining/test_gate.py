"""How figures on held-out texts decide whether a candidate is tried, and what triggers and brakes a training."""

import base64
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from corpus.source import Source
from prometheus import Version
from retraining import decision
from retraining.baseline import measure_on
from retraining.gate import Figures, Limits, judge, measure
from retraining.split import choose_held_out, different_texts
from retraining.trigger import find_brake, find_trigger, when
from support.services import run_training
from support.topics import KEPT, corpus_of
from training.earlier_model import load_earlier_model

GOOD = Figures(200, (0.01, 0.02), (0.9, 0.9), 190, 0.97, 1.0)
NOW = datetime(2026, 11, 29, 22, tzinfo=UTC)
STABLE = Version("default", "textclustering", "v1")


def test_a_candidate_like_the_stable_version_passes_with_its_figures():
    assert judge(GOOD, Limits()) == (
        *("passed", "97.0% of 190 held-out texts keep their number, median similarity 0.900 after 0.900"),
    )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"unknown": (0.5, 0.5)}, "50.0% of the texts have no in-vocabulary term (limit 20.0%)"),  # noise
        ({"unknown": (0.05, 0.02)}, "5.0% of the texts have no in-vocabulary term, 2.0% in the stable version"),
        ({"similarity": (0.4, 0.4)}, "the median similarity is 0.400 (limit 0.500)"),
        ({"similarity": (0.8, 0.9)}, "the median similarity is 0.800, and 0.900 in the stable version"),
        ({"kept": 0.5}, "it keeps 50.0% of the cluster numbers"),
        ({"kept": 0.0, "compared": 0, "agreement": 0.0}, "it keeps 0.0% of the cluster numbers"),  # another language
        ({"agreement": 0.5}, "50.0% of the texts keep their number"),
    ],
)
def test_a_candidate_beyond_a_limit_is_rejected_with_the_reason(changed, reason):
    report = judge(GOOD._replace(**changed), Limits())
    assert report.verdict == "rejected" and reason in report.reason


@pytest.mark.parametrize("changed", [{"documents": 49}, {"compared": 49}])
def test_too_few_texts_are_inconclusive(changed):
    assert judge(GOOD._replace(**changed), Limits()).verdict == "inconclusive"


def test_one_new_text_in_five_is_held_out_and_at_most_2000_of_the_newest():
    assert choose_held_out([str(number) for number in range(10)]) == ["9", "7"]
    many = choose_held_out([str(number) for number in range(100_000)])
    assert len(many) == 2_000 and many[-1] == "96001"


def test_a_text_that_clients_repeat_is_as_new_as_its_last_occurrence(tmp_path):
    corpus = tmp_path / "texts.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("old", "often", "once", "often")))
    assert different_texts(Source(str(corpus)), NOW) == ["old", "once", "often"]


def test_of_recorded_requests_those_since_the_training_are_new(tmp_path):
    times = {
        "old": "2026-11-29T21:59:59Z",
        "new": "2026-11-29T22:00:00Z",
        "newer": "2026-11-29T23:30:00+01:00",
        "odd": "",
    }
    records = [
        {
            "bytes": base64.b64encode(json.dumps({"instances": [text]}).encode()).decode(),
            "reqType": "org.kubeflow.serving.inference.request",
            "occurrenceTime": time,
        }
        for text, time in times.items()
    ]
    (tmp_path / "records.json").write_text(json.dumps(records))
    assert different_texts(Source(str(tmp_path)), NOW) == ["new", "newer"]


@pytest.mark.parametrize(
    ("condition", "alerts", "series", "expected"),
    [
        ("drifted", {"TextsHaveDrifted (3m)": 0.31}, 1, (True, "TextsHaveDrifted (3m) with 0.31 fires for v1")),
        ("drifted", {}, 1, (False, "no drift alert fires for v1")),
        ("drifted", {}, 0, (False, "Prometheus at http://p has no metrics of v1")),
        ("now", {}, 0, (True, "requested with --when now")),
        ("30d", {}, 0, (False, "v1 is 29.0 days old")),
        ("28d", {}, 0, (True, "v1 is 29.0 days old")),
    ],
)
def test_what_triggers_a_training(condition, alerts, series, expected):
    prometheus = SimpleNamespace(url="http://p", drift_alerts=lambda _: alerts, query=lambda _: [()] * series)
    created = (NOW - timedelta(days=29)).isoformat()
    assert find_trigger(when(condition), prometheus, STABLE, created, NOW) == expected


@pytest.mark.parametrize(("hours", "brakes"), [(23, True), (25, False), (-1, True), (0, True)])
def test_the_last_decision_brakes_also_if_a_clock_is_off_by_an_hour(hours, brakes):
    made = decision.start("v2", "v1", "drift").conclude("rejected", "it keeps half")
    made = made._replace(time=(NOW - timedelta(hours=hours)).isoformat())
    assert bool(find_brake([made], 24 * 3_600, NOW)) == brakes
    assert not find_brake([], 24 * 3_600, NOW)


def test_a_corpus_in_another_language_has_none_of_the_numbers_and_is_rejected(tmp_path):
    corpora = {
        name: corpus_of(tmp_path / f"{name}.jsonl", *KEPT, seed=seed) for seed, name in enumerate(("old", "new"))
    }
    texts = [json.loads(line)["text"] for line in corpora["new"].read_text().splitlines()]
    foreign = [" ".join(f"x{word}" for word in text.split()) for text in texts]
    corpora["new"].write_text("".join(json.dumps({"text": text}) + "\n" for text in foreign))
    for name, like in (("old", ()), ("new", ("--like", tmp_path / "old"))):
        options = ("--dataset", corpora[name], "--clusters", 3, "--lsa", 20, "--output-dir", tmp_path / name)
        assert run_training(*options, *like).returncode == 0
    old, new = (load_earlier_model(tmp_path / name) for name in ("old", "new"))
    report = judge(measure(new, old, foreign), Limits())
    assert report.verdict == "rejected" and "it keeps 0.0% of the cluster numbers" in report.reason
    assert judge(measure(old, old, texts), Limits()).verdict == "passed"

    measure_on([*texts[:30], "unknown words"], tmp_path / "old")  # as the baseline for monitoring
    summary = load_earlier_model(tmp_path / "old").summary
    assert (summary["baseline"]["documents"], summary["baseline"]["unknown"]) == (31, pytest.approx(1 / 31))
    assert sum(cluster["share"] for cluster in summary["clusters"]) == pytest.approx(1)
