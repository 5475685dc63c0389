"""The page at /ui in a real browser: Debian's Chromium, driven by Playwright, checked by axe-core."""

import contextlib
import csv
import io
import json
import re
import signal
import subprocess
import time
import unicodedata
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support.browser import barriers
from support.free_port import free_port
from support.programs import ROOT
from support.services import Service, start, stop, wait_until_ready
from support.serving_client import UNKNOWN
from training import words

playwright = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.system("chromium")

ATTACK = '<img src=x onerror="window.attacked=1"><script>window.attacked=1</script>\'"><svg onload=window.attacked=1>'
TEXT = "Creates a snapshot of the db cluster, qwertz."
ARABIC = "أنشئ نسخة snapshot من قاعدة البيانات"
CHINESE = "创建数据库集群的快照 snapshot"
MAX_DOCUMENTS = 5
PREFIX = "/serving/kserve-textclustering/textclustering"


@pytest.fixture(scope="module")
def model_with_hostile_names(artefacts, tmp_path_factory) -> Path:
    """The model of the other tests with hostile names and titles, and with a training report."""
    folder = tmp_path_factory.mktemp("hostile")
    for name in ("model.joblib", "transformer.joblib"):
        (folder / name).symlink_to(artefacts / name)
    summary = json.loads((artefacts / "clusters.json").read_text())
    summary["dataset"]["name"] = ATTACK
    for cluster in summary["clusters"]:
        cluster["name"] = f"{ATTACK} {cluster['cluster']}"
        cluster["titles"][0] = ATTACK
    (folder / "clusters.json").write_text(json.dumps(summary))
    template = (ROOT / "scripts/report/page.html.j2").read_text()
    script = re.search(r"^// The service serves.*\n.*\n", template, re.MULTILINE)[0]
    link = re.search(r'<li id="service".*</li>', template)[0]
    created = f'<meta name="created" content="{summary["created"]}">'
    (folder / "report.html").write_text(f"<!doctype html>{created}<title>Report</title>{link}<script>{script}</script>")
    return folder


def start_page(folder: Path, *options) -> Service:
    return wait_until_ready(
        start(
            "transformer.py",
            *("--transformer-path", folder / "transformer.joblib", "--model-path", folder / "model.joblib"),
            *options,
        )
    )


@pytest.fixture(scope="module")
def service(model_with_hostile_names):
    service = start_page(model_with_hostile_names, "--max-documents", MAX_DOCUMENTS)
    yield service
    stop(service)


@pytest.fixture
def open_page(browser, service):
    """Open the page, or another address, in a window of its own; errors of the page fail the test."""
    errors, contexts = [], []

    def open_in(width=1280, scheme="light", address=service.url + "/ui"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(address)
        page.wait_for_selector("#clusters-table tr[data-cluster]")
        return page

    yield open_in
    for context in contexts:
        context.close()
    assert not errors


def find(page, text: str):
    page.fill("#text", text)
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#result:not([hidden]), #texts:not([hidden]), #error:not([hidden])")
    return page


def explain(service: Service, text: str) -> dict:
    status, answer = service.post("explain", {"instances": [text]})
    assert status == 200, answer
    return answer["explanations"][0]


def get(address: str, **headers: str):
    """GET without following redirects."""

    class NoRedirect(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    request = urllib.request.Request(address, headers=headers)
    opener = urllib.request.build_opener(NoRedirect, urllib.request.ProxyHandler({}))
    try:
        return opener.open(request, timeout=60)
    except urllib.error.HTTPError as error:
        return error


def get_status(address: str) -> int | None:
    """The status of a GET, None as long as nobody listens."""
    try:
        return get(address).status
    except urllib.error.URLError:
        return None


# ------------------------------------------------------------------------------------------------------------ one text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_a_text_shows_its_cluster_its_similarity_shaded_words_and_their_shares(open_page, service, width, scheme):
    page = find(open_page(width, scheme), TEXT)
    answer = explain(service, TEXT)
    assert page.inner_text("#result h3").startswith(f"Cluster {answer['cluster']}: ")
    assert page.inner_text("#status") == f"The text is in cluster {answer['cluster']}."
    result = page.inner_text("#result")
    assert f"{answer['similarity']:.3f}" in result and f"cluster {answer['runner_up']['cluster']}" in result
    assert ", ".join(answer["top_terms"]) in result
    assert page.inner_text(".shaded") == TEXT

    strongest = answer["shares"][0]
    word = page.locator(".shaded .share", has_text=re.compile(f"^{strongest['term']}$", re.IGNORECASE)).first
    written = strongest.get("written", strongest["term"])
    assert f"{written}: {strongest['share']:.4f}" in word.get_attribute("title")
    background = word.evaluate("element => getComputedStyle(element).backgroundColor")
    assert background not in ("rgba(0, 0, 0, 0)", "transparent")
    assert page.locator(".shaded .unknown").all_inner_texts() == ["qwertz"]

    page.click("#result summary")
    rows = page.locator("#result .shares tbody tr").all_inner_texts()
    shares = [(share.get("written", share["term"]), f"{share['share']:.4f}") for share in answer["shares"]]
    assert [tuple(row.rsplit(maxsplit=1)) for row in rows] == shares and "DB" in dict(shares)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(15, 19, 24)"
    )


def test_the_scale_shows_the_quantiles_of_the_training(open_page, service, model_with_hostile_names):
    page = find(open_page(), TEXT)
    answer = explain(service, TEXT)
    summary = json.loads((model_with_hostile_names / "clusters.json").read_text())
    (quantiles,) = [c["similarity"] for c in summary["clusters"] if c["cluster"] == answer["cluster"]]
    width = page.locator(".scale").bounding_box()["width"]
    band, mark = page.locator(".scale .band").first.bounding_box(), page.locator(".scale .mark").last.bounding_box()
    assert band["width"] == pytest.approx((quantiles["0.95"] - quantiles["0.05"]) * width, abs=2)
    left = page.locator(".scale").bounding_box()["x"]
    assert mark["x"] - left == pytest.approx(answer["similarity"] * width, abs=2)
    assert f"{quantiles['0.25']:.3f} to {quantiles['0.75']:.3f}" in page.inner_text("#result")


def test_a_share_that_pulls_away_has_another_colour(open_page):
    page = open_page()
    page.route(
        "**/*:explain",
        lambda route: route.fulfill(
            json={
                "explanations": [
                    {
                        "cluster": 0,
                        "top_terms": ["a"],
                        "similarity": 0.2,
                        "runner_up": None,
                        "shares": [{"term": "snapshot", "share": 0.5}, {"term": "cluster", "share": -0.3}],
                    }
                ]
            }
        ),
    )
    find(page, "snapshot cluster")
    colours = page.locator(".shaded .share").evaluate_all(
        "all => all.map(one => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(colours)) == 2
    assert page.locator(".shaded .away").all_inner_texts() == ["cluster"]


def test_a_text_without_a_vocabulary_word_is_explained(open_page):
    page = find(open_page(), UNKNOWN)
    assert page.inner_text("#result h3") == "No cluster (-1)"
    assert "in the vocabulary" in page.inner_text("#result p >> nth=1")
    assert page.locator(".scale").count() == 0


def test_a_text_too_far_from_all_clusters_is_explained_by_the_nearest_one(open_page):
    page = open_page()
    nearest = {"cluster": 0, "top_terms": ["orbit", "moon"], "similarity": 0.21}
    rejected = {"cluster": -1, "top_terms": [], "similarity": 0.21, "min_similarity": 0.4, "nearest": [nearest]}
    answer = {**rejected, "runner_up": None, "shares": [{"term": "snapshot", "share": 0.21}]}
    page.route("**/*:explain", lambda route: route.fulfill(json={"explanations": [answer]}))
    find(page, "snapshot")
    assert page.inner_text("#result h3") == "No cluster (-1)"
    shown = page.inner_text("#result")
    assert (
        "the nearest one, cluster 0, is 0.210, and this service requires 0.4" in shown and "Top terms: orbit" in shown
    )
    assert page.locator(".scale .mark").count() == 1


@pytest.mark.parametrize(("text", "direction"), [(ARABIC, "rtl"), (CHINESE, "ltr")])
def test_texts_in_other_scripts_have_their_direction_and_their_known_words(open_page, text, direction):
    page = find(open_page(360), text)
    assert page.inner_text(".shaded") == text
    assert page.locator(".shaded .share").all_inner_texts() == ["snapshot"]
    for selector in ("#text", ".shaded"):
        assert page.locator(selector).evaluate("element => getComputedStyle(element).direction") == direction


def test_the_page_finds_the_words_that_the_training_finds(open_page):
    texts = ["Straße ΣΊΣΥΦΟΣ ςας C++ c# f# 3d a_b ﬁx İstanbul naïve co\u00adoperate", "パソコンのメモリーがない", TEXT]
    for path in sorted((ROOT / "tests/languages").glob("*.jsonl")):
        texts += [json.loads(line)["text"] for line in path.read_text().splitlines()]
    translate, pattern = words.preprocessor(), re.compile(words.token_pattern())
    expected = [[unicodedata.normalize("NFC", word) for word in pattern.findall(translate(text))] for text in texts]
    script = "async texts => { const { findWords } = await import('./ui/words.js'); return texts.map(text => findWords(text).map(({ word }) => word)); }"
    assert open_page().evaluate(script, texts) == expected


def test_each_word_of_a_phrase_is_shaded_by_the_phrase_too(open_page):
    script = "async ([text, shares]) => { const { divide } = await import('./ui/words.js'); return divide(text, new Map(shares)); }"
    shares = [["hard", 0.1], ["hard disk", 0.5], ["包裹", 0.2]]
    pieces = open_page().evaluate(script, ["Hard\u00ad disks, hard disk: 丢包裹", shares])
    assert "".join(piece["text"] for piece in pieces) == "Hard\u00ad disks, hard disk: 丢包裹"
    known = [(piece["text"], sorted(piece["terms"])) for piece in pieces if piece["terms"]]
    assert known == [
        ("Hard\u00ad", ["hard"]),
        *[("hard", ["hard", "hard disk"]), (" ", ["hard disk"]), ("disk", ["hard disk"])],
        *[("包", ["包裹"]), ("裹", ["包裹"])],
    ]


# --------------------------------------------------------------------------------------------------------- many texts


def test_one_text_per_line_gives_a_table_to_sort_copy_and_download(open_page, service):
    page = open_page()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.check("#lines")
    lines = ["=HYPERLINK() snapshot", TEXT, UNKNOWN, 'quotes, "and" commas in a queue']
    find(page, "\n".join([lines[0], "", *lines[1:]]))
    answers = [explain(service, line) for line in lines]
    rows = page.locator("#texts tbody tr")
    assert [row.locator("td").nth(1).inner_text() for row in rows.all()] == [str(a["cluster"]) for a in answers]

    page.click("#texts th:has-text('Similarity') >> nth=0 >> button")
    assert page.locator("#texts th[aria-sort=ascending]").inner_text().startswith("Similarity")
    page.click("#texts th[aria-sort] button")
    shown = [row.locator("td").nth(3).inner_text() for row in rows.all()]
    ranked = sorted((a["similarity"] for a in answers if a["similarity"] is not None), reverse=True)
    assert shown == [*(f"{similarity:.3f}" for similarity in ranked), "–"]

    page.click("#texts tbody tr:last-child button")
    assert page.inner_text("#result h3") == "No cluster (-1)"
    assert page.evaluate("document.activeElement.tagName") == "H3"

    with page.expect_download() as download:
        page.click("text=Download CSV")
    table = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8-sig"))))
    assert [row["text"] for row in table] == [f"'{lines[0]}", *lines[1:]], "no cell is a formula"
    assert [row["cluster"] for row in table] == [str(a["cluster"]) for a in answers]
    page.click("text=Copy")
    # Not wait_for_function: it polls by evaluating a string, which the page's Content-Security-Policy forbids.
    playwright.expect(page.locator("#status")).to_contain_text("Copied 4")
    copied = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert [row.split("\t")[2] for row in copied] == ["cluster", *(str(a["cluster"]) for a in answers)]


# ---------------------------------------------------------------------------------------------------- errors and limits


def test_errors_of_the_service_are_shown_as_they_are(open_page, service):
    page = open_page()
    page.check("#lines")
    find(page, "\n".join(["text"] * (MAX_DOCUMENTS + 1)))
    status, answer = service.post("explain", {"instances": ["text"] * (MAX_DOCUMENTS + 1)})
    assert page.inner_text("#error") == f"{status}: {answer['error']}"
    page.uncheck("#lines")
    find(page, TEXT)
    assert page.is_hidden("#error")


@pytest.mark.parametrize(("status", "body"), [(503, "upstream <b>connect</b> error"), (502, "")])
def test_an_answer_that_is_not_json_is_an_error_in_plain_text(open_page, status, body):
    page = open_page()
    page.route("**/*:explain", lambda route: route.fulfill(status=status, body=body))
    assert find(page, TEXT).inner_text("#error").startswith(f"{status}: {body}")


def test_a_service_that_is_gone_is_an_error(open_page):
    page = open_page()
    page.route("**/*:explain", lambda route: route.abort())
    assert find(page, TEXT).inner_text("#error").startswith("The service does not answer")


def test_a_text_that_is_too_large_is_not_sent_and_a_large_one_is_shown_in_part(open_page):
    page, sent = open_page(), []
    page.on("request", lambda request: sent.append(request.url))
    page.fill("#text", "snapshot " * 600_000)
    assert re.search(r"The text has 5\.\d MiB and this service accepts 4\.0 MiB", page.inner_text("#error"))
    assert "snapshot" not in page.input_value("#text")
    find(page, "ü" * 2_500_000)
    assert "The text has 4.8 MiB" in page.inner_text("#error")
    assert not [url for url in sent if url.endswith(":explain")]
    find(page, "snapshot " * 400_000)
    assert len(page.inner_text(".shaded").strip()) < 10_001
    assert "The first 10,000 of 3,600,000 characters" in page.inner_text("#result")


def test_an_empty_text_is_not_sent(open_page):
    page = open_page()
    page.fill("#text", "  ")
    page.click("text=Find the cluster")
    assert page.inner_text("#status") == "Enter a text first."


# ------------------------------------------------------------------------------------------------------------ security


def test_hostile_texts_and_names_stay_text(open_page):
    page = find(open_page(), f"{ATTACK} snapshot of a database cluster")
    assert ATTACK in page.inner_text("#result h3") and ATTACK in page.inner_text(".shaded")
    assert ATTACK in page.inner_text("#clusters-table") and ATTACK in page.inner_text("#subtitle")
    assert page.evaluate("window.attacked") is None
    assert page.locator("main img, main svg, body script").count() == 0
    page.click("#example")
    assert page.input_value("#text") == ATTACK


def test_the_policy_forbids_inline_scripts_and_assignments_of_markup(open_page, service):
    headers = get(service.url + "/ui").headers
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    page = open_page()
    with pytest.raises(playwright.Error, match="TrustedHTML"):
        page.evaluate("markup => { document.body.innerHTML = markup }", ATTACK)
    with pytest.raises(playwright.Error, match="TrustedScript"):
        page.evaluate("() => document.body.setAttribute('onclick', 'window.attacked=1')")
    page.evaluate("() => document.body.append(document.createElement('script'))")
    with pytest.raises(playwright.Error, match="TrustedScript"):
        page.evaluate("() => { document.body.lastChild.text = 'window.attacked=1' }")
    assert page.evaluate("window.attacked") is None


def test_the_page_loads_nothing_from_elsewhere(open_page, service, browser):
    context = browser.new_context()
    page, loaded = context.new_page(), []
    page.on("request", lambda request: loaded.append(request.url))
    page.goto(service.url + "/ui")
    page.wait_for_selector("#clusters-table tr[data-cluster]")
    context.close()
    assert len(loaded) > 4 and all(url.startswith((service.url, "data:,")) for url in loaded)


# ------------------------------------------------------------------------------------------------- clusters and model


def test_the_table_of_clusters_is_that_of_the_summary_with_live_traffic(open_page, service, model_with_hostile_names):
    summary = json.loads((model_with_hostile_names / "clusters.json").read_text())
    (number,) = service.predict([TEXT])
    page = open_page()
    rows = {int(row.get_attribute("data-cluster")): row for row in page.locator("tr[data-cluster]").all()}
    assert list(rows) == [cluster["cluster"] for cluster in summary["clusters"]]
    for cluster in summary["clusters"]:
        cells = rows[cluster["cluster"]].locator("td").all_inner_texts()
        assert cells[0] == cluster["name"] and cells[1] == ", ".join(term for term, _ in cluster["terms"])
        assert cells[2].strip() == f"{cluster['size']:,}" and cells[3].strip() == f"{100 * cluster['share']:.1f} %"
        assert cells[5].startswith(ATTACK)
    page.wait_for_selector("#traffic:has-text('documents since this process started')")
    counted = dict(re.findall(r'documents_total\{[^}]*cluster="(-?\d+)"[^}]*\} (\S+)', service.metrics()))
    total = sum(map(float, counted.values()))
    live = rows[number].locator("td").nth(4).inner_text().strip()
    assert live == f"{100 * float(counted[str(number)]) / total:.1f} %"


def test_the_model_is_described(open_page, model_with_hostile_names):
    summary = json.loads((model_with_hostile_names / "clusters.json").read_text())
    text = open_page().inner_text("#model")
    for shown in (summary["created"][:10], f"{summary['dataset']['documents']:,}", summary["versions"]["scikit-learn"]):
        assert shown in text
    for name, value in summary["metrics"].items():
        assert re.search(rf"{name.replace('_', ' ')}\s[^\t]*\t{value:.3f}", text)


def test_page_and_report_of_the_same_training_link_to_each_other(open_page, model_with_hostile_names, tmp_path):
    page = open_page()
    page.click("text=Training report")
    page.wait_for_url("**/ui/report.html")
    page.click("text=Try a text")
    page.wait_for_selector("#clusters-table tr[data-cluster]")
    assert page.url.endswith("/ui")


# ------------------------------------------------------------------------------------------------------------- address


def test_browsers_are_sent_to_the_page_and_api_clients_get_the_liveness(service):
    redirect = get(service.url + "/", Accept="text/html,application/xhtml+xml")
    assert redirect.status == 307 and redirect.headers["Location"] == "ui" and redirect.headers["Vary"] == "Accept"
    for accept in ("*/*", "application/json"):
        answer = get(service.url + "/", Accept=accept)
        assert answer.status == 200 and json.load(answer) == {"status": "alive"}
    assert get(service.url + "/ui/").headers["Location"] == "../ui"


@pytest.fixture
def proxy(service, tmp_path):
    """HAProxy with the platform's rules for paths, in front of the service instead of the ingress gateway."""
    port = free_port()
    platform = (ROOT / "provision/haproxy.cfg").read_text()
    rules = re.findall(r"^    http-re\S+ .*(?:/serving/|txn\.prefix).*$", platform, re.MULTILINE)
    assert len(rules) == 5
    (tmp_path / "haproxy.cfg").write_text(
        "\n".join(
            [
                "defaults\n    mode http\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s",
                f"frontend front\n    bind 127.0.0.1:{port}",
                *rules,
                f"    default_backend service\nbackend service\n    server transformer 127.0.0.1:{service.http_port}\n",
            ]
        )
    )
    process = subprocess.Popen(["haproxy", "-f", tmp_path / "haproxy.cfg"])
    deadline = time.monotonic() + 60
    while get_status(f"http://127.0.0.1:{port}{PREFIX}/") != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}{PREFIX}"
    process.send_signal(signal.SIGTERM)
    process.wait()


@pytest.mark.system("haproxy")
def test_the_page_works_below_the_path_of_the_platform(open_page, proxy):
    for address in ("", "/", "/ui", "/ui/"):
        page = open_page(address=proxy + address)
        assert page.url == f"{proxy}/ui"
    find(page, TEXT)
    assert page.inner_text("#result h3").startswith("Cluster ")
    page.wait_for_selector("#traffic:has-text('Live traffic')")
    page.click("text=Training report")
    page.click("text=Try a text")
    assert page.url == f"{proxy}/ui"


def test_no_ui_turns_the_page_off_and_leaves_the_report_of_another_training_out(artefacts, tmp_path):
    for name in ("model.joblib", "transformer.joblib", "clusters.json"):
        (tmp_path / name).symlink_to(artefacts / name)
    (tmp_path / "report.html").write_text('<meta name="created" content="2020-01-01T00:00:00+00:00">')
    with contextlib.closing(get_page(tmp_path)) as with_page:
        assert get(with_page.url + "/ui/report.html").status == 404
        assert json.load(get(with_page.url + "/ui/model.json"))["report"] is False
    with contextlib.closing(get_page(tmp_path, "--no-ui")) as without_page:
        assert get(without_page.url + "/ui").status == 404
        assert get(without_page.url + "/", Accept="text/html").status == 200


def get_page(folder: Path, *options) -> Service:
    service = start_page(folder, *options)
    service.close = lambda: stop(service)
    return service


# ------------------------------------------------------------------------------------------------------- accessibility


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_no_barrier(open_page, width, scheme):
    page = open_page(width, scheme)
    page.check("#lines")
    find(page, f"{TEXT}\n{UNKNOWN}\n{ARABIC}")
    page.click("#texts tbody tr:first-child button")
    page.click("#result summary")
    assert not barriers(page)


def test_the_page_works_with_the_keyboard_alone(open_page):
    page = open_page()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "text":
            break
    page.keyboard.press("Control+A")
    page.keyboard.type(TEXT)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#result .shaded")
