"""Steps that are only shown (dry run) or collected (mirror), on this machine and without a right to change it."""

import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from doubles.internet import Internet
from support import upstream_files
from support.shared_files import made_once
from support.upstream_files import PROVISION, STAND_INS

PASSWORD = "correct-horse-battery"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
PACKAGES = Path(yaml.__file__).parents[1]


@pytest.fixture(scope="session")
def layer_folder(shared_folder):
    """kubectl and Helm are downloaded once for all tests, and once for all runs where TEST_DOWNLOADS names a folder."""
    folder = Path(os.environ.get("TEST_DOWNLOADS") or shared_folder / "layer")
    with made_once(folder):
        upstream_files.layer(str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def small(shared_folder, layer_folder):
    return made_files(upstream_files.small_files, shared_folder / "small", layer_folder)


@pytest.fixture(scope="session")
def real(shared_folder, layer_folder):
    if not shutil.which("go"):
        pytest.skip("Go is needed to get upstream's manifests out of the module proxy")
    return made_files(upstream_files.real_files, shared_folder / "real", layer_folder)


def made_files(make, folder, layer_folder):
    """What make(folder, layer_folder) returned to the first process that needed it."""
    made = folder.with_suffix(".json")
    with made_once(folder) as first:
        if first:
            files, environment = make(folder, layer_folder)
            made.write_text(json.dumps([{address: str(path) for address, path in files.items()}, environment]))
    return json.loads(made.read_text())


def lay_out(folder):
    """A repository with all of provision/ and placeholders for the rest; returns its path."""
    shutil.copytree(PROVISION, folder / "provision", dirs_exist_ok=True)
    (folder / "scripts").mkdir()
    (folder / "scripts/requirements.txt").write_text("tiny-package==1.0\n")
    (folder / "transformer.Dockerfile").write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n")
    return folder


def write_wheel(folder):
    with zipfile.ZipFile(folder / "tiny_package-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_package.py", "")
        archive.writestr(
            "tiny_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_package-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_package-1.0.dist-info/RECORD", "")


def calls_in(state, what):
    log = state / "calls.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.removeprefix(what + " ") for line in lines if line.startswith(what + " ")]


class Rehearsal:
    def __init__(self, folder, upstream):
        self.folder, self.state = folder, folder / "state"
        files, environment = upstream
        self.state.mkdir(parents=True)
        self.repository = lay_out(folder / "repository")
        self.internet = Internet(folder / "internet", files)
        write_wheel(folder)
        self.environment = {
            "PATH": f"{STAND_INS}:{sys.base_prefix}/bin:{os.environ['PATH']}",
            "HOME": str(folder),
            "CURL_HOME": str(self.internet.folder),
            "CACHE_DIR": str(folder / "cache"),
            "STAND_IN_STATE": str(self.state),
            "STAND_IN_PACKAGES": str(PACKAGES),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder),
            "MINIO_ROOT_PASSWORD": PASSWORD,
            **environment,
        }

    def run(self, *arguments, script="all.sh", **environment):
        return subprocess.run(
            [self.repository / "provision" / script, *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )

    def offline(self):
        return {"CURL_HOME": str(self.internet.folder / "offline"), "STAND_IN_OFFLINE": "1"}

    def calls(self, what):
        return calls_in(self.state, what)


@pytest.fixture
def rehearsal(tmp_path, small):
    return Rehearsal(tmp_path / "rehearsal", small)


@pytest.fixture(scope="session")
def dry_run(request, shared_folder):
    """The output of a dry run of all steps with upstream's real manifests; it must not change anything."""
    folder = shared_folder / "dry"
    with made_once(folder) as first:
        if first:
            rehearsal = Rehearsal(folder, request.getfixturevalue("real"))
            before = Path("/var/lib/mlops-poc").exists()
            shown = rehearsal.run("--dry-run")
            assert shown.returncode == 0, shown.stderr
            assert Path("/var/lib/mlops-poc").exists() == before
            assert not rehearsal.calls("changed")
            (folder / "stderr").write_text(shown.stderr)
            (folder / "stdout").write_text(shown.stdout)
    return (folder / "stdout").read_text()


def applied_in(output):
    """The manifests that a dry run applies, each as a tuple of its documents."""
    return [documents_in(text) for text in re.findall(r"<<'MANIFEST'\n(.*?)\nMANIFEST\n", output, re.DOTALL)]


@functools.cache
def documents_in(manifest):
    return tuple(filter(None, yaml.load_all(manifest, Loader)))


def manifests_in(output):
    return list(itertools.chain.from_iterable(applied_in(output)))


def is_type(manifest):
    return manifest["kind"] == "CustomResourceDefinition"


def manifests_py(*arguments, text):
    return subprocess.run(
        [sys.executable, PROVISION / "manifests.py", *arguments], input=text, capture_output=True, text=True
    )


def images_named_in(text):
    """Anything that looks like an image, wherever it stands: found without provision/manifests.py, so that it can be wrong."""
    host = r"(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?/[a-z0-9._/-]+(?::[A-Za-z0-9][\w.-]*@sha256:[0-9a-f]{64}|@sha256:[0-9a-f]{64}|:[A-Za-z]*[\d][\w.-]*)"
    hub = r"(?:kserve|kindest|istio|minio|metallb|library|knative)/[a-z0-9._-]+:[A-Za-z]*[\d][\w.-]*(?:@sha256:[0-9a-f]{64})?|\bbusybox:[\d.]+"
    return set(re.findall(rf"(?<![\w./@:-])(?:{host}|{hub})", text))


@pytest.fixture(scope="session")
def manifests(dry_run):
    return manifests_in(dry_run)


def state_of(state, name):
    return json.loads((state / f"{name}.json").read_text())
