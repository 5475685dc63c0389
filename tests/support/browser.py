"""Debian's Chromium, driven by Playwright, and axe-core, which finds barriers for people with disabilities."""

import shutil
import subprocess

import pytest

from support.programs import ROOT

AXE = ROOT / "tests/support/axe"


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as drivers:
        arguments = ["--no-sandbox", "--no-proxy-server"]
        browser = drivers.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory) -> str:
    """The source of axe-core, in the version of tests/support/axe/package-lock.json."""
    folder = tmp_path_factory.mktemp("axe")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(AXE / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if run.returncode:
        pytest.skip(f"axe-core could not be installed: {run.stderr.strip().splitlines()[-1]}")
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


def barriers(page, axe: str) -> list[tuple]:
    """What axe-core finds on a page."""
    page.evaluate(axe)
    violations = page.evaluate("axe.run()")["violations"]
    return [(v["id"], v["impact"], [node["html"][:200] for node in v["nodes"][:3]]) for v in violations]
