"""provision/: the scripts, the output of a dry run, and the contents of a mirror."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from support.provision_rehearsal import PASSWORD, Rehearsal, images_named_in, manifests_py
from support.upstream_files import PROVISION, versions

STEPS = [
    "check",
    "docker",
    "tools",
    "kind",
    "metallb",
    "cert-manager",
    "istio",
    "knative",
    "kserve",
    "haproxy",
    "minio",
    "prometheus",
    "python",
    "transformer",
    "lock",
    "summary",
]


# --- The scripts themselves ---


def test_every_image_and_version_is_pinned_and_used():
    scripts = "".join(p.read_text() for p in [*PROVISION.rglob("*.sh"), PROVISION.parent / "Vagrantfile"])
    for name, value in versions().items():
        used = (
            name in scripts
            or (name.endswith("_VERSION") and "${1^^}_VERSION" in scripts)
            or (name.startswith("PORT_") and "PORT_#{name}" in scripts)
        )
        assert used, f"{name} is used nowhere"
        assert "latest" not in value and " " not in value and '"' not in value
        if name.endswith("_IMAGE"):
            assert re.search(r":[^/]+$", value), f"{name} has no tag"
        if name.endswith("_SHA256"):
            assert re.fullmatch("[0-9a-f]{64}", value)


def test_steps_run_in_the_order_of_their_names(rehearsal):
    assert rehearsal.run("--list").stdout.split() == STEPS


def test_help_lists_the_options_and_wrong_arguments_are_rejected(rehearsal):
    shown = rehearsal.run("--help")
    assert shown.returncode == 0 and "--dry-run" in shown.stdout and "MIRROR_DIR" in shown.stdout
    wrong = rehearsal.run("--only", "kserv")
    assert wrong.returncode == 2 and 'no step "kserv"' in wrong.stderr and "cert-manager" in wrong.stderr
    assert rehearsal.run("--everything").returncode == 2
    assert rehearsal.run(script="mirror.sh").returncode == 2


def test_ctrl_c_ends_a_step_without_a_traceback(rehearsal):
    """Whenever it comes: here while Python is still starting, when it is as yet impossible to handle."""
    (rehearsal.folder / "sitecustomize.py").write_text("import os, signal\nos.killpg(0, signal.SIGINT)\n")
    interrupted = rehearsal.run("--dry-run", "--only", "kind", IMAGE_MAP="/dev/null", PYTHONPATH=str(rehearsal.folder))
    assert interrupted.returncode == 130 and "Traceback" not in interrupted.stderr
    assert "== kind" in interrupted.stdout and "kind create cluster" not in interrupted.stdout


# --- Dry run, with upstream's real manifests ---


def test_dry_run_prints_every_step_in_order_and_changes_nothing(dry_run):
    assert re.findall(r"^# == ([a-z-]+) ", dry_run, re.MULTILINE) == STEPS
    for command in (
        "apt-get install",
        "kind create cluster",
        "kubectl apply --server-side",
        "systemctl reload-or-restart haproxy",
        "docker build",
        "kind load docker-image",
        "curl --fail",
    ):
        assert re.search(rf"^{re.escape(command)}|^env .*{re.escape(command)}", dry_run, re.MULTILINE), command


def test_dry_run_is_a_script_that_bash_can_parse(dry_run):
    without_manifests = re.sub(r"(<<'MANIFEST'\n).*?\n(MANIFEST\n)", r"\1\2", dry_run, flags=re.DOTALL)
    check = subprocess.run(["bash", "-n"], input=without_manifests, capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


def test_dry_run_masks_the_password(dry_run):
    assert PASSWORD not in dry_run and 'MINIO_ROOT_PASSWORD="********"' in dry_run


def test_short_password_is_rejected_before_anything_is_installed(rehearsal):
    refused = rehearsal.run("--dry-run", "--only", "minio", MINIO_ROOT_PASSWORD="short")
    assert refused.returncode == 1 and "MINIO_ROOT_PASSWORD must be at least 8 characters" in refused.stderr
    assert " short" not in refused.stderr


# --- The mirror ---


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory, real):
    rehearsal = Rehearsal(tmp_path_factory.mktemp("mirrored") / "rehearsal", real)
    rehearsal.mirror = rehearsal.folder / "the mirror"
    filled = rehearsal.run(rehearsal.mirror, script="mirror.sh")
    assert filled.returncode == 0, filled.stderr
    assert "installing" not in filled.stdout and "creating" not in filled.stdout
    return rehearsal


def test_mirror_contains_every_image_and_file_that_any_step_uses(dry_run, mirrored):
    output = dry_run
    archives = {
        json.loads(subprocess.run(["tar", "-xOf", a, "manifest.json"], capture_output=True, check=True).stdout)[0][
            "RepoTags"
        ][0]
        for a in (mirrored.mirror / "images").glob("*.tar")
    }
    replacements = dict(line.split() for line in (mirrored.mirror / "image-map").read_text().splitlines())
    held = {name.removeprefix("docker.io/").removeprefix("library/") for name in archives}
    # With the built image, its base image is not needed.
    named = images_named_in(output) - {versions()["PYTHON_IMAGE"]}
    assert len(named) > 25 and transformer_image_in(output) in named
    missing = {
        i for i in named if replacements.get(i, i).removeprefix("docker.io/").removeprefix("library/") not in held
    }
    assert not missing

    urls = set(re.findall(r"^curl .* '?(https://[^ ']+)'?   # verified", output, re.MULTILINE))
    assert len(urls) == 14
    assert urls <= set(mirrored.internet.asked)
    kept = {line.split()[1] for line in (mirrored.mirror / "files/SHA256SUMS").read_text().splitlines()}
    assert kept == {Path(p).name for p in re.findall(r"--output '?(\S+?)'? '?https", output)}
    assert (
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=mirrored.mirror / "files").returncode == 0
    )
    assert list((mirrored.mirror / "wheels").iterdir())


def test_with_a_mirror_no_step_needs_a_network_and_no_image_its_digest(tmp_path, real, mirrored):
    rehearsal = Rehearsal(tmp_path / "rehearsal", real)
    shown = rehearsal.run("--dry-run", MIRROR_DIR=str(mirrored.mirror), **rehearsal.offline())
    assert shown.returncode == 0, shown.stderr
    assert not [i for i in images_named_in(shown.stdout) if "@sha256:" in i]
    assert (
        "crictl pull" not in shown.stdout and "docker pull" not in shown.stdout and "docker build" not in shown.stdout
    )
    loaded = {
        Path(p.strip("'")).name
        for p in re.findall(
            r"(?:kind load image-archive --name mlops-poc|docker load --input) ('.*?'|\S+)", shown.stdout
        )
    }
    assert loaded == {a.name for a in (mirrored.mirror / "images").glob("*.tar")}


def transformer_image_in(output):
    return re.search(rf"{versions()['TRANSFORMER_REPOSITORY']}:[0-9a-f]{{12}}", output)[0]


def test_changed_transformer_has_another_image_which_replaces_the_one_in_the_mirror(rehearsal):
    for step in (rehearsal.repository / "provision").glob("[0-9]*"):
        if "transformer" not in step.name:
            step.unlink()
    (rehearsal.repository / "transformer.Dockerfile").write_text(
        "FROM x AS builder\nCOPY serving serving\nCOPY --from=builder /a /b\n"
    )
    rehearsal.mirror = rehearsal.folder / "mirror"
    module = rehearsal.repository / "serving/module.py"
    module.parent.mkdir()
    archives = []
    for content in ("1", "2", "2"):
        module.write_text(content)
        shown = rehearsal.run("--dry-run", "--only", "transformer")
        filled = rehearsal.run(rehearsal.mirror, script="mirror.sh")
        assert filled.returncode == 0, filled.stderr
        (archive,) = (rehearsal.mirror / "images").glob("*sklearn-transformer*")
        assert archive.stem.rpartition("_")[2] == transformer_image_in(shown.stdout).rpartition(":")[2]
        archives.append(archive.name)
        (module.parent / "__pycache__").mkdir(exist_ok=True)
        (module.parent / "__pycache__/module.pyc").write_text(content + str(len(archives)))
    assert archives[0] != archives[1] == archives[2]


def test_mirror_that_was_filled_with_an_image_map_is_used_without_it(rehearsal):
    rehearsal.mirror = rehearsal.folder / "mirror"
    replaced = {"quay.io/metallb/controller:v0": "registry.local:5000/controller:1"}
    image_map = rehearsal.folder / "images.map"
    image_map.write_text("".join(f"{image} {replacement}\n" for image, replacement in replaced.items()))
    filled = rehearsal.run(rehearsal.mirror, script="mirror.sh", IMAGE_MAP=str(image_map))
    assert filled.returncode == 0, filled.stderr
    shown = rehearsal.run("--dry-run", MIRROR_DIR=str(rehearsal.mirror), **rehearsal.offline())
    assert shown.returncode == 0, shown.stderr
    assert (
        "image: registry.local:5000/controller:1" in shown.stdout
        and "quay.io/metallb/controller:v0" not in shown.stdout
    )
    assert "crictl pull" not in shown.stdout and "docker pull" not in shown.stdout
    missing = rehearsal.run(rehearsal.mirror, script="mirror.sh", IMAGE_MAP="/nonexistent")
    assert missing.returncode == 2 and "IMAGE_MAP" in missing.stderr


def test_incomplete_mirror_is_rejected(rehearsal):
    unfinished = rehearsal.folder / "mirror"
    unfinished.mkdir()
    refused = rehearsal.run(MIRROR_DIR=str(unfinished))
    assert refused.returncode == 1 and "is not a complete mirror" in refused.stderr
    assert not rehearsal.calls("changed")


# --- The image map ---


IMAGES = """\
image: kserve/agent:v0.20.0
  - image: "quay.io/a/b:1@sha256:{0}"
    "image" : "kserve/router:v1",
  queue-sidecar-image: gcr.io/q@sha256:{0}
  - --acme-http01-solver-image=quay.io/jetstack/solver:v1
  - name: OPERATOR_SIDECAR_IMAGE
    value: quay.io/minio/operator-sidecar:v7
    image: auto
    image: "{{{{ .ProxyImage }}}}"
                    image:
                      type: string
    kubernetes.podspec-volumes-image: "disabled"
""".format("a" * 64)


def test_images_are_found_anywhere_in_a_manifest(tmp_path):
    manifests_py("split", tmp_path, text=IMAGES)
    assert (tmp_path / "images").read_text().split() == [
        "kserve/agent:v0.20.0",
        "quay.io/a/b:1@sha256:" + "a" * 64,
        "kserve/router:v1",
        "gcr.io/q@sha256:" + "a" * 64,
        "quay.io/jetstack/solver:v1",
        "quay.io/minio/operator-sidecar:v7",
    ]


def test_image_map_replaces_whole_references_in_any_spelling(tmp_path):
    (tmp_path / "map").write_text(
        f"# mine\n\ndocker.io/kserve/agent:v0.20.0 registry.local:5000/agent:1\ngcr.io/q@sha256:{'a' * 64} gcr.io/q:x\nkserve/router:v registry.local/wrong\n"
    )
    mapped = manifests_py(
        "map", tmp_path / "map", text=IMAGES + "x: kserve/agent:v0.20.0-gpu\nimagePullPolicy: Always\n"
    ).stdout
    assert "image: registry.local:5000/agent:1\n" in mapped and "queue-sidecar-image: gcr.io/q:x\n" in mapped
    assert "kserve/agent:v0.20.0-gpu" in mapped and "wrong" not in mapped
    assert "imagePullPolicy: IfNotPresent" in mapped


def test_bad_image_map_is_explained(tmp_path):
    (tmp_path / "map").write_text("one-word\n")
    bad = manifests_py("map", tmp_path / "map", text="")
    assert bad.returncode != 0 and "line 1" in bad.stderr and "one-word" in bad.stderr
    gone = manifests_py("map", tmp_path / "gone", text="")
    assert gone.returncode != 0 and "cannot read the image map" in gone.stderr and "Traceback" not in gone.stderr
