"""report.html, written by a training run and parsed as HTML."""

import itertools
import json
import os
import re
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans

from corpus.documents import Batch
from model.assigner import Assigner, TermSums
from report import page as report
from report.document_map import choose_styles
from support.services import run_training
from training.cluster_statistics import ClusterStatistics

TOPICS = {
    "hockey": ["goalie", "puck", "rink", "playoff", "skates", "referee", "overtime"],
    "space": ["orbit", "shuttle", "rocket", "lunar", "telescope", "astronaut", "launch"],
    "<b>cooking</b>": ["oven", "butter", "recipe", "flour", "simmer", "garlic", "skillet"],
}
SERVICE = "../ui"  # shown only where the service serves the report
ATTACK = "</script><script>document.title='attacked'</script><img src=x onerror=\"document.title='attacked'\">"


class Page(HTMLParser):
    """The elements of a page with their attributes, its tables, scripts and text."""

    def __init__(self, source: str):
        super().__init__()
        self.source, self.elements, self.tables, self.text, self.scripts = source, [], [], "", []
        self.in_cell = False
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.in_cell = True
        elif tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data):
        if self.lasttag == "script":
            self.scripts[-1] += data
            return
        self.text += data
        if self.in_cell:
            self.tables[-1][-1][-1] += data

    def rows(self, first_cell: str) -> list[list[str]]:
        """The rows of the only table that begins like this."""
        (table,) = [table for table in self.tables if table[0][0].strip().startswith(first_cell)]
        return [[" ".join(cell.split()) for cell in row] for row in table]


def write_corpus(path, with_labels=True):
    rng = np.random.default_rng(0)
    rows = [
        {"text": " ".join(rng.choice(words, 6)), "title": f"{ATTACK} {label} {n}", "label": label}
        for label, words in TOPICS.items()
        for n in range(30)
    ]
    path.write_text("".join(json.dumps(row if with_labels else row | {"label": None}) + "\n" for row in rows))
    return path


def train(folder, *options, **corpus):
    rows = write_corpus(folder / "corpus.jsonl", **corpus)
    run = run_training("--dataset", rows, "--clusters", "3", "--lsa", "5", "--output-dir", folder, "--report", *options)
    assert run.returncode == 0, run.stderr
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return train(folder)


@pytest.fixture(scope="module")
def summary(page, folder) -> dict:
    return json.loads((folder / "clusters.json").read_text())


def test_the_page_shows_the_numbers_of_the_summary(page, summary):
    overview = page.rows("All")[1:]
    assert [int(row[2]) for row in overview] == [cluster["size"] for cluster in summary["clusters"]]
    for cluster, row in zip(summary["clusters"], overview):
        terms = [term for term, _ in cluster["terms"]]
        assert row[1] == ", ".join(terms[:5]) + " more"
        weights = [[term, f"{weight:.4f}"] for term, weight in cluster["terms"]]
        assert [row[:2] for row in page.rows(terms[0])] == weights
    scores = {row[0]: row[1] for row in page.rows("explained variance")}
    assert len(scores) == len(summary["metrics"])
    for name, value in summary["metrics"].items():
        (shown,) = [score for title, score in scores.items() if title.startswith(name.replace("_", " "))]
        assert shown == f"{value:.3f}"
    assert dict(page.rows("clusters")) == {name: str(value) for name, value in summary["settings"].items()}


def test_the_silhouettes_of_the_clusters_average_to_the_silhouette_of_the_model(page, summary):
    silhouettes = [float(row[3]) for row in page.rows("All")[1:]]
    sizes = [cluster["size"] for cluster in summary["clusters"]]
    assert np.average(silhouettes, weights=sizes) == pytest.approx(summary["metrics"]["silhouette"], abs=1e-3)


def test_the_heat_map_counts_every_document_once(page, summary):
    header, *rows = page.rows("Cluster")
    assert sorted(header[1:]) == sorted(TOPICS)
    assert [sum(map(int, row[1:])) for row in rows] == [cluster["size"] for cluster in summary["clusters"]]
    assert np.sum([list(map(int, row[1:])) for row in rows], axis=0).tolist() == [30, 30, 30]


def test_the_page_loads_nothing_from_the_network(page):
    assert not [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object", "embed")]
    assert not [attributes for tag, attributes in page.elements if tag == "script" and "src" in attributes]
    assert all(attributes["href"].startswith(("#", SERVICE)) for tag, attributes in page.elements if tag == "a")
    assert "@import" not in page.source.partition("</style>")[0] and "url(" not in page.source.partition("</style>")[0]
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_titles_and_texts_are_escaped(page):
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert ATTACK in page.text and "<b>cooking</b>" in page.text
    assert "attacked" in page.scripts[0], "the titles are in the data of the map"
    assert "<" not in page.scripts[0]


def test_every_internal_link_has_a_target(page):
    places = {attributes.get("id") for _, attributes in page.elements}
    assert {a["href"][1:] for tag, a in page.elements if tag == "a" and a["href"] != SERVICE} <= places


def test_a_corpus_without_labels_has_no_heat_map(tmp_path):
    page = train(tmp_path, with_labels=False)
    assert "heat" not in [attributes.get("class") for _, attributes in page.elements]
    assert len(page.rows("All")) == 4


def test_the_page_stays_under_6_mb_with_titles_of_any_length_and_alphabet(monkeypatch):
    monkeypatch.setattr(report, "lay_out", lambda vectors, seed: vectors[:, :2])
    documents = 25_000
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(documents, 10))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    title = "空間" * 1_000
    titles = [f"{title}{n}" for n in range(documents)]
    model = KMeans(20, n_init=1, random_state=0).fit(vectors)
    statistics = statistics_of(model, vectors, titles)
    html = report.render_report(summary_of(model, documents), statistics, titles, model, vectors, silhouette_sample=500)
    assert len(html.encode()) < 6e6
    assert "20,000 documents on the map" in html


def test_the_page_shows_the_number_of_documents_without_an_in_vocabulary_term():
    vectors = np.eye(4).repeat(3, axis=0)
    model = KMeans(4, n_init=1, random_state=0).fit(vectors)
    titles = [f"title {n}" for n in range(12)]
    statistics = statistics_of(model, vectors, titles)
    html = report.render_report(summary_of(model, 14, unknown=2), statistics, titles, model, vectors)
    assert "12 documents on the map, without the 2 without an in-vocabulary term" in html


def statistics_of(model, vectors: np.ndarray, titles: list[str]) -> ClusterStatistics:
    rows = len(model.cluster_centers_)
    lsa = SimpleNamespace(analyze=None, vocabulary=None, sublinear_tf=None, projection=None, idf=None)
    assigned = Assigner(lsa, model.cluster_centers_, list(range(rows))).nearest(vectors)
    nothing = csr_matrix((rows, 1))
    statistics = ClusterStatistics(rows, 1)
    statistics.add(Batch(titles, titles, titles, [None] * len(titles)), assigned, TermSums(nothing, nothing))
    return statistics


def summary_of(model, documents: int, unknown: int = 0) -> dict:
    sizes = np.bincount(model.labels_, minlength=model.n_clusters)
    return {
        "created": "2026-11-24T02:30:00+00:00",
        "dataset": {"name": "made up", "documents": documents, "labels": 0, "unknown": unknown},
        "settings": {"seed": 0},
        "metrics": {"silhouette": 0.5},
        "versions": {},
        "clusters": [{"cluster": n, "size": int(size), "terms": [["term", 0.5]]} for n, size in enumerate(sizes)],
    }


def test_neighbouring_clusters_differ_in_colour_and_no_two_clusters_look_the_same():
    positions = np.column_stack([np.arange(36.0), np.zeros(36)])
    styles = choose_styles(positions)
    assert all(one["colour"] != other["colour"] for one, other in itertools.pairwise(styles))
    assert len({(style["colour"], style["marker"]) for style in styles}) == 36


def test_training_without_a_report_does_not_need_bokeh(tmp_path):
    (tmp_path / "bokeh.py").write_text("raise ImportError('bokeh was imported')")
    options = ["--dataset", write_corpus(tmp_path / "corpus.jsonl"), "--clusters", "3", "--lsa", "5"]
    run = run_training(*options, "--output-dir", tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / "report.html").exists()


def test_a_run_without_report_warns_of_an_earlier_report(tmp_path):
    (tmp_path / "report.html").write_text("earlier")
    options = ["--dataset", write_corpus(tmp_path / "corpus.jsonl"), "--clusters", "3", "--lsa", "5"]
    run = run_training(*options, "--output-dir", tmp_path)
    assert run.returncode == 0, run.stderr
    assert "report.html shows an earlier model" in run.stderr
    assert (tmp_path / "report.html").read_text() == "earlier"


@pytest.mark.system("chromium")
def test_the_browser_draws_the_map_and_chooses_the_cluster_in_the_address(page, folder, tmp_path):
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = ["chromium", *flags.split(), f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom"]
    address = f"file://{folder}/report.html#cluster-2"
    run = subprocess.run([*command, address], capture_output=True, text=True, timeout=120)
    dom = Page(run.stdout)
    assert "<title>3 clusters of" in run.stdout, "the page's own title, which the attack would have changed"
    assert any("bk-Figure" in (attributes.get("class") or "") for _, attributes in dom.elements), run.stderr
    assert re.search(r'id="chosen">Cluster 2: ', run.stdout)
