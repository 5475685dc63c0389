"""report.html, written by a training run and parsed as HTML."""

import csv
import itertools
import json
import os
import re
import subprocess
from collections import Counter
from datetime import date
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.cluster import hierarchy
from scipy.sparse import csr_matrix
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans

from corpus.documents import Batch
from model.assigner import Assigner, TermSums
from report.dendrogram import draw_dendrogram
from report.timeline import topics_over_time
from support.browser import barriers
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
        # One document in each month; of hockey, every third is of the last one.
        | {"created": f"{2024 + n // 12}-{n % 12 + 1:02}-15" if label != "hockey" or n % 3 else "2026-06-15T12:00Z"}
        for label, words in TOPICS.items()
        for n in range(30)
    ]
    rows[-1]["created"], rows[-2]["created"] = "Friday", None
    path.write_text("".join(json.dumps(row if with_labels else row | {"label": None}) + "\n" for row in rows))
    return path


def train(folder, *options, **corpus):
    rows = write_corpus(folder / "corpus.jsonl", **corpus)
    run = run_training("--dataset", rows, "--clusters", "3", "--lsa", "5", "--output-dir", folder, "--report", *options)
    assert run.returncode == 0, run.stderr
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report():
    from report import page  # here, because the other test processes need not load Bokeh

    return page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return train(folder, "--assignments", folder / "assignments.csv")


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


def test_the_page_shows_the_share_of_each_cluster_in_each_month_rising_ones_first(page, summary, folder):
    text = " ".join(page.text.split())
    assert "of each month, from 2024-01 to 2026-06; rising topics first" in text
    assert "88 of 90 documents have a date and are in a cluster. 1 dates cannot be read." in text
    assert summary["dataset"]["unreadable_dates"] == 1
    labels = [a["aria-label"] for _, a in page.elements if a.get("aria-label", "").startswith("Share of cluster")]
    (hockey,) = [c["cluster"] for c in summary["clusters"] if "puck" in dict(c["terms"])]
    trends = [float(re.search(r"trend (\S+) points", label)[1]) for label in labels]
    assert labels[0].startswith(f"Share of cluster {hockey}:") and trends == sorted(trends, reverse=True)
    assert trends[0] > 5 > 0 > trends[-1] and sum(trends) == pytest.approx(0, abs=0.2)
    lines = [a["points"].split() for tag, a in page.elements if tag == "polyline"]
    assert [len(line) for line in lines] == [30] * 3


def test_assignments_carry_the_dates(page, folder):
    with (folder / "assignments.csv").open(newline="") as file:
        dates = [row["date"] for row in csv.DictReader(file)]
    assert dates[:2] == ["2026-06-15T12:00:00Z", "2024-02-15T00:00:00Z"] and dates[-2:] == ["", ""]


def test_the_dendrogram_has_a_branch_for_each_join_of_the_clusters(page):
    branches = [a for tag, a in page.elements if tag == "g" and "data-clusters" in a]
    assert sorted(branches[0]["data-clusters"].split()) == ["0", "1", "2"] and len(branches) == 2
    distances = [float(a["aria-label"].rpartition(" ")[2]) for a in branches]
    assert distances == sorted(distances, reverse=True)


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


def test_the_page_stays_under_6_mb_with_titles_of_any_length_and_alphabet(report, monkeypatch):
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


def test_the_page_shows_the_number_of_documents_without_an_in_vocabulary_term(report):
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


def days_of(*texts: str, each=1, cluster=0) -> Counter:
    return Counter({(date.fromisoformat(text).toordinal(), cluster): each for text in texts})


@pytest.mark.parametrize(
    ("first", "last", "unit", "labels"),
    [
        ("2024-01-31", "2024-06-01", "month", ("2024-01", "2024-06")),
        ("2019-02-28", "2024-01-01", "month", ("2019-02", "2024-01")),
        ("2024-01-31", "2024-02-05", "day", ("2024-01-31", "2024-02-05")),
        ("2024-03-01", "2024-04-29", "day", ("2024-03-01", "2024-04-29")),
        ("2024-03-01", "2024-04-30", "week", ("2024-02-26", "2024-04-29")),
        ("2019-01-31", "2024-02-01", "year", ("2019", "2024")),
        ("1800-05-01", "2024-02-01", "year", ("1800", "2024")),
        ("2024-01-01", "2024-01-02", "day", ("2024-01-01", "2024-01-02")),
    ],
)
def test_the_unit_of_time_gives_six_to_sixty_points_where_one_does(first, last, unit, labels):
    timeline = topics_over_time(days_of(first, last), [0])
    assert (timeline["unit"], timeline["first"], timeline["last"]) == (unit, *labels)


def test_a_few_wrong_dates_do_not_stretch_the_time():
    months = [f"2024-{month:02}-10" for month in range(1, 13)]
    timeline = topics_over_time(days_of(*months, each=20) + days_of("1970-01-01", "2999-01-01", cluster=7), [7, 0])
    assert (timeline["first"], timeline["last"]) == ("2024-01", "2024-12")
    assert (timeline["documents"], timeline["outside"]) == (242, 2)
    assert topics_over_time(days_of("2024-01-01"), [0]) is None and topics_over_time(Counter(), [0]) is None


def test_the_rise_is_that_of_a_line_through_the_shares_and_periods_without_documents_have_no_point():
    by_day = Counter()
    for month in (1, 2, 3, 5, 7):
        by_day += days_of(f"2024-{month:02}-01", each=10 - month) + days_of(
            f"2024-{month:02}-02", each=month, cluster=4
        )
    rising, falling = topics_over_time(by_day, [0, 4])["charts"]
    assert (rising["cluster"], falling["cluster"]) == (4, 0)
    assert rising["rise"] == pytest.approx(0.6) and falling["rise"] == pytest.approx(-0.6)
    assert rising["highest"] == pytest.approx(0.7) and [x for x, _ in rising["points"]] == [0, 33.3, 66.7, 133.3, 200]
    assert rising["points"][-1] == (200, 0) and rising["points"][0][1] == pytest.approx(48 * 6 / 7, abs=0.1)


def test_the_dendrogram_joins_clusters_by_average_linkage_of_cosine_distances():
    centroids = np.array([[3.0, 0, 0.3], [0, 1, 0], [1, 0, 0], [0, 2, 0.8], [0, 0, 0]])
    numbers = [9, 1, 4, 2, 7]
    tree = draw_dendrogram(centroids, numbers)
    distances = pdist(centroids[:4], "cosine")
    expected = hierarchy.linkage(distances, "average")[:, 2]
    assert [branch["distance"] for branch in tree["branches"]] == pytest.approx([*expected[:2], *[1.0] * 2], abs=0.05)
    assert [set(branch["clusters"]) for branch in tree["branches"]][:2] == [{9, 4}, {1, 2}]
    assert sorted(tree["leaves"]) == sorted(numbers) and tree["height"] == 5 * 24
    for branch in tree["branches"]:  # are neighbours, so that lines do not cross
        places = sorted(tree["leaves"].index(number) for number in branch["clusters"])
        assert places == list(range(places[0], places[0] + len(places)))
    assert draw_dendrogram(centroids[:2], [0, 1]) is None


def test_neighbouring_clusters_differ_in_colour_and_no_two_clusters_look_the_same(report):
    positions = np.column_stack([np.arange(36.0), np.zeros(36)])
    styles = report.choose_styles(positions)
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


@pytest.fixture
def open_report(browser, folder, page):
    """Open the report in a window; errors of its script fail the test."""
    errors, contexts = [], []

    def open_in(width=1280, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        window = contexts[-1].new_page()
        window.on("pageerror", lambda error: errors.append(error))
        window.goto(f"file://{folder}/report.html")
        window.wait_for_selector("#search:not([hidden])")
        return window

    yield open_in
    for context in contexts:
        context.close()
    assert not errors


MUTED = "[0, 1, 2].map(n => Bokeh.documents[0].get_model_by_name('cluster ' + n).muted)"


@pytest.mark.system("chromium")
def test_a_branch_highlights_its_clusters_on_the_map_and_in_the_table(open_report):
    window = open_report()
    branch = window.locator("g[data-clusters]").last
    wanted = branch.get_attribute("data-clusters").split()
    for press in (lambda: branch.dispatch_event("click"), lambda: branch.press("Enter")):
        press()
        assert window.evaluate(MUTED) == [str(n) not in wanted for n in range(3)]
        chosen = window.locator("tr.chosen input").evaluate_all("all => all.map(one => one.value)")
        assert chosen == sorted(wanted) and branch.get_attribute("aria-pressed") == "true"
        assert window.inner_text("#chosen").startswith("Clusters ")
        branch.press(" ")
        assert window.evaluate(MUTED) == [False] * 3 and window.locator("tr.chosen").count() == 0
    window.check(f"#choose-{wanted[0]}")
    assert window.evaluate(MUTED) == [str(n) != wanted[0] for n in range(3)]
    assert branch.get_attribute("aria-pressed") == "false"


@pytest.mark.system("chromium")
def test_the_search_highlights_the_documents_whose_titles_contain_the_words(open_report):
    window = open_report()
    found = "Array.from(Bokeh.documents[0].get_model_by_name('found').data_source.get('title'))"
    titles = "[0, 1, 2].flatMap(n => Array.from(Bokeh.documents[0].get_model_by_name('cluster ' + n).data_source.get('title')))"
    expected = [title for title in window.evaluate(titles) if "script" in title and "doc" in title]
    window.fill("#words", "  DÓC\u0301 Script ")
    window.wait_for_selector("#found:not(:empty)")
    assert len(expected) == 90 and sorted(window.evaluate(found)) == sorted(expected)
    assert window.inner_text("#found").startswith("90 found: 30 in cluster ")
    assert window.evaluate(MUTED) == [True] * 3
    window.fill("#words", "unheard")
    window.wait_for_selector("#found:has-text('None found.')")
    assert window.evaluate(found) == []
    window.fill("#words", "doc")
    window.wait_for_selector("#found:has-text('90')")
    window.check("#choose-1")
    assert window.input_value("#words") == "" and window.evaluate(found) == []
    assert window.evaluate(MUTED) == [True, False, True]


@pytest.mark.system("chromium")
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_axe_finds_no_barrier_in_the_report(open_report, width, scheme):
    window = open_report(width, scheme)
    window.locator("g[data-clusters]").last.press("Enter")
    assert not barriers(window)
    assert window.evaluate("document.documentElement.scrollWidth") <= width


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
