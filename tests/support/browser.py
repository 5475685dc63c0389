"""Debian's Chromium, driven by Playwright, and axe-core, which finds barriers for people with disabilities."""

import importlib.resources
import shutil

import pytest


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as drivers:
        arguments = ["--no-sandbox", "--no-proxy-server"]
        browser = drivers.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser
        browser.close()


def barriers(page) -> list[tuple]:
    """What axe-core finds on a page."""
    page.evaluate(importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text())
    violations = page.evaluate("axe.run()")["violations"]
    return [(v["id"], v["impact"], [node["html"][:200] for node in v["nodes"][:3]]) for v in violations]
