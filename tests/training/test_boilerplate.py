"""scripts/training/boilerplate.py: recurring lines do not make clusters, unless they are the text."""

import json
import random

import numpy as np
import pytest

from support.services import run_training
from support.topics import TOPICS
from training.boilerplate import drop_boilerplate, find_boilerplate

FIRMS = {
    "Northern Harbour": "quay portstead shipping vessels cargo pilots docks cranes tide anchor freight customs",
    "Meadow Dairy": "pasture cattle creamery butterfat hay silage milking barns fences clover calves tractors",
    "Castle Press": "printers bindings paperbacks typeset galley folios editions authors blurbs inks covers proofs",
}
# Three lines of words that are their own, as the names, addresses and slogans of firms are.
SIGNATURES = [
    "Kind regards\n-- \n" + "".join(f"{firm} {' '.join(words.split()[begin : begin + 4])}\n" for begin in (0, 4, 8))
    for firm, words in FIRMS.items()
]
FILLERS = [
    "about",
    "like",
    "please",
    "soon",
    "this",
    "been",
    "because",
    "yesterday",
    "need",
    "could",
    "should",
    "tell",
    "what",
    "help",
    "since",
]


def mails(each=10) -> list[dict]:
    """Mails on three topics, each with the signature of one of three firms."""
    rng = np.random.default_rng(0)
    return [
        {
            "text": f"Hello,\n{' '.join([*rng.choice(TOPICS[topic].split(), 3), *rng.choice(FILLERS, 8)])}.\n{signature}",
            "label": topic,
        }
        for topic in ("hockey", "space", "cooking")
        for signature in SIGNATURES
        for _ in range(each)
    ]


def columns(rows: list[dict]) -> tuple[list[str], list[str]]:
    return [row["text"] for row in rows], [row.get("title", "") for row in rows]


def test_signatures_are_dropped_and_the_text_stays():
    documents, titles = columns(mails())
    for before, after in zip(documents, drop_boilerplate(documents, titles)):
        assert after.splitlines() == before.splitlines()[:4]


@pytest.mark.parametrize("names", [["Smith", "Jones", "Patel", "Weber", "Rossi", "Novak"], [""]])
def test_recurring_lines_of_bulk_mail_are_its_text(names):
    letters = {topic: f"This letter is about {words}.\nPlease read all of it now." for topic, words in TOPICS.items()}
    rows = [
        {"text": f"Dear {name} {number},\n{letter}\n"}
        for letter in letters.values()
        for number in range(9)
        for name in names
    ]
    documents, titles = columns(rows)
    assert find_boilerplate(documents, titles) == set() and drop_boilerplate(documents, titles) is documents


def test_a_quoted_signature_is_dropped_like_the_signature():
    documents, titles = columns(mails())
    quoting = "Thank you\n" + "".join(f"> > {line}\n" for line in documents[0].splitlines())
    shortened = drop_boilerplate([*documents, quoting], [*titles, ""])[-1]
    assert shortened.splitlines() == quoting.splitlines()[:5]


def test_numbers_in_a_line_do_not_hide_that_it_recurs():
    documents = [
        f"{' '.join(TOPICS['law'].split()[n : n + 5])} own{n}\nTicket number {n} of 2026-11-{n}" for n in range(5)
    ]
    assert find_boilerplate(documents, [""] * 5) == {"Ticket number  of --"}


def test_the_title_is_not_boilerplate():
    title = "Goalie of the leaky pucks"
    documents = [f"{title}\n{title}\n{' '.join(5 * [chr(97 + n)])} own words" for n in range(9)]
    assert find_boilerplate(documents, [title] * 9) == set()
    assert find_boilerplate(documents, [""] * 9) == {title}


def random_word(rng: random.Random) -> str:
    return "".join(rng.choices("abcdefghij", k=9))


def test_in_a_larger_corpus_a_line_must_recur_more_often():
    line, rng = "a line of many words", random.Random(0)
    documents = [f"{' '.join(random_word(rng) for _ in range(5))}\n{line if n < 5 else ''}" for n in range(251)]
    assert find_boilerplate(documents[:250], [""] * 250) == {line}
    assert find_boilerplate(documents, [""] * 251) == set()


def test_clusters_are_topics_although_signatures_are_longer(tmp_path):
    (tmp_path / "mails.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mails()))
    options = ("--dataset", tmp_path / "mails.jsonl", "--clusters", "3")
    run = run_training(*options, "--output-dir", tmp_path / "without")
    assert run.returncode == 0, run.stderr
    assert "Boilerplate: ignored 9 lines" in run.stderr and "in 90 of 90 documents" in run.stderr, run.stderr
    summary = json.loads((tmp_path / "without/clusters.json").read_text())
    assert summary["metrics"]["v_measure"] == pytest.approx(1)
    assert not {"northern", "quay", "cattle", "galley"} & {
        term for c in summary["clusters"] for term in c["vocabulary_terms"]
    }

    run = run_training(*options, "--output-dir", tmp_path / "with", "--keep-boilerplate")
    assert run.returncode == 0 and "Boilerplate" not in run.stderr
    assert json.loads((tmp_path / "with/clusters.json").read_text())["metrics"]["v_measure"] < 0.5
