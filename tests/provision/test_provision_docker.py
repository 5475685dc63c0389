"""The functions for images, with a real Docker engine and a real registry (Debian's docker-registry) on port 21500.

Skipped unless "docker info" works.
"""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time

import pytest

from support.upstream_files import PROVISION

ENGINE = bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
REGISTRY = "127.0.0.1:21500"
NAME = f"{REGISTRY}/mlops-poc-test/tiny"

pytestmark = [
    pytest.mark.system("docker"),
    pytest.mark.skipif(not ENGINE, reason="no Docker engine answers"),
]


def docker(*arguments):
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def step(text, **environment):
    """Run a line of a step."""
    return subprocess.run(
        ["bash", "-c", f'source "{PROVISION}/functions.sh"\n{text}'],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def digest(tmp_path_factory):
    """Run a registry with one image; yields the digest of the image."""
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry is not installed")
    folder = tmp_path_factory.mktemp("registry")
    (folder / "config.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: {REGISTRY}}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", folder / "config.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", 21500)) == 0:
                    break
            time.sleep(0.1)
        (folder / "hello").write_text("hello")
        with tarfile.open(folder / "root.tar", "w") as archive:
            archive.add(folder / "hello", "hello")
        docker("import", "--change", 'CMD ["/hello"]', str(folder / "root.tar"), f"{NAME}:1")
        pushed = docker("push", f"{NAME}:1")
        yield re.search("sha256:[0-9a-f]{64}", pushed)[0]
    finally:
        process.terminate()
        process.wait()
        forget()


def forget():
    references = [
        f"{i['Repository']}:{i['Tag']}" if i["Tag"] != "<none>" else i["ID"]
        for i in map(json.loads, docker("image", "ls", "--digests", "--format", "{{json .}}").splitlines())
        if i["Repository"] == NAME
    ]
    if references:
        docker("image", "rm", "--force", *sorted(set(references)))


def tags_in(archive):
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("manifest.json"))[0]["RepoTags"]


@pytest.mark.parametrize("suffix", [":1", "@", ":1@"])
def test_image_is_mirrored_from_a_registry_and_loaded_into_docker(tmp_path, digest, suffix):
    reference = NAME + suffix + (digest if suffix.endswith("@") else "")
    forget()
    filled = step(f"provide_image {reference}", MODE="mirror", MIRROR_DIR=str(tmp_path))
    assert filled.returncode == 0, filled.stderr
    (archive,) = (tmp_path / "images").glob("*.tar")
    replacement = reference
    if suffix.endswith("@"):
        named, replacement = (tmp_path / "image-map").read_text().split()
        assert named == reference and "@" not in replacement
    assert tags_in(archive) == [replacement]
    again = step(f"provide_image {reference}", MODE="mirror", MIRROR_DIR=str(tmp_path))
    assert again.returncode == 0 and again.stdout == ""

    forget()
    loaded = step(f"provide_image $(mapped_image {reference}) docker", MIRROR_DIR=str(tmp_path))
    assert loaded.returncode == 0, loaded.stderr
    docker("image", "inspect", replacement)
    assert f"Loaded image: {replacement}" in loaded.stdout


def test_error_names_an_image_that_cannot_be_pulled(tmp_path, digest):
    pull = step(f"sleep() {{ :; }}; provide_image {NAME}:never docker")
    assert pull.returncode == 1 and f"error: cannot pull {NAME}:never" in pull.stderr


def test_images_have_every_file_of_the_transformer_and_of_the_programs():
    """.dockerignore lists what may be copied."""
    root = PROVISION.parent
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", (root / "transformer.Dockerfile").read_text(), re.MULTILINE)
    copied = sorted({source for line in lines for source in line.split()} - {"kubectl"})  # which the step puts there
    name = "mlops-poc-test/files:1"
    lines = ["FROM scratch", *(f"COPY {source} /{source}" for source in copied), 'CMD ["/none"]']
    build = ["docker", "build", "--quiet", "--tag", name, "--file", "-", root]
    subprocess.run(build, input="\n".join(lines), check=True, capture_output=True, text=True)
    container = docker("create", name)
    try:
        exported = subprocess.run(["docker", "export", container], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
            files = {entry.name for entry in archive if entry.isfile()}
    finally:
        docker("rm", container)
        docker("image", "rm", name)
    tracked = subprocess.run(["git", "ls-files", *copied], cwd=root, check=True, capture_output=True, text=True).stdout
    assert set(tracked.split()) <= files
