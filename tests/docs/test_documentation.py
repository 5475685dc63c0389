"""The README and docs/: what they name exists, and the README's commands print what it shows."""

import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sklearn.datasets import get_data_home

from support.checkout import copy_programs
from support.free_port import two_free_ports
from support.programs import ROOT, run_program

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOP_FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name != ".git")
# Files that exist after a command only, and files of other projects.
NOT_IN_THE_REPOSITORY = re.compile(r"scripts/\.venv(/.*)?|provision/versions\.lock")
FILE_NAME = re.compile(r"[\w-]+\.(py|sh|env|yml|yaml|cfg|dot|j2|toml|in)")
OUR_PROGRAM = re.compile(r"(?:\./)?((?:scripts|tests/bench)/\w+\.py|transformer\.py|provision/all\.sh)|(\w+\.py)")
NEWS_CACHE = "20news-bydate_py3.pkz"  # as sklearn.datasets.fetch_20newsgroups names it
LOG_PREFIX = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+ (\w+)\[\d+\]", re.MULTILINE)


def without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", without_blocks(page))


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Each command of a page's blocks with the output that follows it; lines that end in a backslash are joined."""
    for block in blocks(page):
        prompt = r"^(?:\S+@\S+:\S+)?\$ "
        for part in re.split(prompt, block, flags=re.MULTILINE)[1:]:
            command, _, output = part.replace("\\\n", "").partition("\n")
            yield command, output


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)[^)]*\)", without_blocks(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


def test_every_page_is_in_the_contents_and_the_contents_are_in_the_readme():
    listed = set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs/README.md").read_text()))
    assert listed == {page.name for page in PAGES if page.name != "README.md"}
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page):
    text = "\n".join([*code_spans(page), *(command for command, _ in commands(page))])
    named = re.findall(rf"(?<![\w./~-])(?:\./)?((?:{'|'.join(map(re.escape, TOP_FOLDERS))})/[\w./*-]*)", text)
    missing = [
        path for path in named if not NOT_IN_THE_REPOSITORY.fullmatch(path) and not any(ROOT.glob(path.rstrip("/.")))
    ]
    assert not missing
    assert not {span for span in code_spans(page) if FILE_NAME.fullmatch(span)} - names_in_the_repository()


@functools.cache
def names_in_the_repository() -> set[str]:
    names = set()
    for _, folders, files in os.walk(ROOT):
        folders[:] = [folder for folder in folders if folder != ".venv"]
        names.update(folders, files)
    return names


def test_each_file_in_the_folder_table_of_the_readme_is_in_the_folder_of_its_row():
    rows = re.findall(r"^\| `([\w/]+/)`[^|]* \| (.*) \|$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert {"scripts/corpus/", "scripts/training/", "scripts/deployment/"} <= {folder for folder, _ in rows}
    misplaced = [
        folder + name
        for folder, contents in rows
        for name in re.findall(r"`([\w-]+\.\w+)`", contents)
        if not (ROOT / folder / name).is_file()
    ]
    assert not misplaced


@functools.cache
def options_of(program: str) -> set[str]:
    """The options that a program's --help shows."""
    if program.endswith(".sh"):
        run = subprocess.run([ROOT / program, "--help"], cwd=ROOT, capture_output=True, text=True)
    else:
        run = run_program(program, "--help")
    assert run.returncode == 0, run.stderr
    return set(re.findall(r"--[a-zA-Z][\w-]*", run.stdout))


def program_of(words: list[str]) -> str | None:
    """The path of the program of ours that a command runs, None if it is another's."""
    for word in words:
        if match := OUR_PROGRAM.fullmatch(word):
            path = match[1] or next((str(path.relative_to(ROOT)) for path in ROOT.glob(f"*/{match[2]}")), None)
            return path or (match[2] if (ROOT / match[2]).exists() else None)
        if "=" not in word and word not in ("python", "sudo", "./scripts/.venv/bin/python"):
            return None
    return None


def options_in(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--[a-zA-Z]", word)]


def used_options() -> list[tuple[str, str | None, str]]:
    """The page, the program (None: any of ours) and the name of every option in code on a page."""
    used = []
    for page in PAGES:
        for code in [*code_spans(page), *(command for command, _ in commands(page))]:
            words = (
                shlex.split(code, comments=True) if code.count("'") % 2 == code.count('"') % 2 == 0 else code.split()
            )
            if words and (words[0].startswith("--") or program_of(words)):
                used += [(page.name, program_of(words), option) for option in options_in(words)]
    return used


def test_every_option_is_in_the_help_of_its_program():
    used = used_options()
    programs = {program for _, program, _ in used if program}
    programs |= {
        str(path.relative_to(ROOT))
        for path in (ROOT / "scripts").glob("*.py")
        if path.stem not in ("failure", "command_line", "prometheus")
    }
    programs |= {"transformer.py", "provision/all.sh"}
    options = {program: options_of(program) for program in programs}
    ours = set().union(*options.values())
    assert ("README.md", "scripts/deploy_service.py", "--canary") in used, "the search finds options"
    assert not [(page, program, option) for page, program, option in used if option not in options.get(program, ours)]


# -------------------------------------------------------------------------------------------- the README's commands


class Readme:
    """The commands of the README, run with bash in a copy of the programs."""

    def __init__(self, folder: Path, port: int):
        self.folder, self.port = folder, port
        self.commands = list(commands(ROOT / "README.md"))
        self.environment = os.environ | {
            "PATH": f"{ROOT / 'scripts/.venv/bin'}:{os.environ['PATH']}",
            "PORT": str(port),
            "no_proxy": "localhost",
        }

    def find(self, pattern: str) -> tuple[str, str]:
        """The only command that contains the pattern, with the output that the README shows."""
        ((command, output),) = [found for found in self.commands if re.search(pattern, found[0])]
        return self.on_own_port(command), self.on_own_port(output)

    def on_own_port(self, text: str) -> str:
        return text.replace("localhost:8080", f"localhost:{self.port}")

    def start(self, command: str) -> subprocess.Popen:
        return subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def output_of(self, command: str) -> str:
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command} 2>&1"],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=600,
        ).stdout


def assert_shown(shown: str, printed: str):
    """Compare an output with the README, where [...] stands for anything and the prefix of log lines differs."""
    shown, printed = (LOG_PREFIX.sub(r"\1", text).strip() for text in (shown, printed))
    pattern = "".join(".*" if part == "[...]" else re.escape(part) for part in re.split(r"(\[\.\.\.\])", shown))
    assert re.fullmatch(pattern, printed, re.DOTALL), f"the README shows\n{shown}\nand the command prints\n{printed}"


def stop(process: subprocess.Popen):
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.skipif(
    not Path(get_data_home(), NEWS_CACHE).exists(),
    reason=f"20 Newsgroups is not in scikit-learn's cache ({get_data_home()}; SCIKIT_LEARN_DATA sets another one)",
)
def test_training_demo_service_and_queries_of_the_readme_print_what_it_shows(tmp_path):
    readme = Readme(copy_programs(tmp_path), two_free_ports())
    command, shown = readme.find(r"^python \./scripts/text_clustering\.py")
    assert_shown(shown, readme.output_of(command))
    for name in re.findall(r"^- `([\w.]+)`(?=.*:)", (ROOT / "README.md").read_text(), flags=re.MULTILINE):
        assert (tmp_path / name).is_file(), f"the README says that training writes {name}"

    command, shown = readme.find(r"^\./scripts/demo\.sh")
    demo, printed = readme.start(command), ""
    try:
        for line in demo.stdout:
            printed += line
            if line.startswith("Serving"):
                break
        query, answer = next((c, o) for c, o in readme.commands if c.startswith("curl"))
        assert_shown(f"{shown.strip()}\n$ {readme.on_own_port(query)}\n{answer.strip()}\n\n[...]", printed)
    finally:
        stop(demo)

    command, _ = readme.find(r"^python transformer\.py")
    service = readme.start(f"{command} --http_port {readme.port} --grpc_port {readme.port + 1}")
    try:
        readme.output_of(
            f"curl -sS --retry 60 --retry-delay 1 --retry-connrefused http://localhost:{readme.port}/v2/health/ready"
        )
        queries = [found for found in readme.commands if found[0].startswith("curl http://localhost:8080")]
        assert len(queries) >= 3
        for query, answer in queries:
            assert_shown(
                answer.partition("\nCluster ")[0],
                readme.output_of(readme.on_own_port(query).replace("curl ", "curl -sS ", 1)),
            )
    finally:
        stop(service)
