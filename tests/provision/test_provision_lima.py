"""lima.yaml: the same sizes and ports as provision/versions.env, and valid for the real limactl."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml

from support.shared_files import made_once
from support.upstream_files import PROVISION, download_of, versions

LIMA_YAML = PROVISION.parent / "lima.yaml"
LIMA = "github.com/lima-vm/lima@v1.2.1"
NOBODY = "65534"


@pytest.fixture(scope="module")
def template():
    return yaml.safe_load(LIMA_YAML.read_text())


def test_sizes_and_ports_are_those_of_versions_env(template):
    v = versions()
    assert template["cpus"] == int(v["VM_CPUS"])
    assert (template["memory"], template["disk"]) == (f"{v['VM_MEMORY_MB']}MiB", f"{v['VM_DISK_GB']}GiB")
    *forwarded, others = template["portForwards"]
    ports = [v[f"PORT_{name}"] for name in ("MINIO", "CONSOLE", "KSERVE", "PROMETHEUS")]
    assert forwarded == [{"guestPort": int(port), "hostIP": "127.0.0.1"} for port in ports]
    assert others == {"guestIP": "0.0.0.0", "ignore": True}


def test_both_architectures_boot_the_ubuntu_that_the_steps_support(template):
    images = {image["arch"]: image["location"] for image in template["images"]}
    assert list(images) == ["x86_64", "aarch64"]
    assert all("ubuntu-24.04-server" in location for location in images.values())


def test_provisioning_runs_all_steps_from_the_mounted_project(template):
    [mount], [step] = template["mounts"], template["provision"]
    script = Path(mount["mountPoint"]) / "provision/all.sh"
    assert step["mode"] == "system" and str(script) in step["script"]
    assert str(script) in template["message"]


@pytest.fixture(scope="module")
def limactl(shared_folder):
    """The real program, built from its Go module; kept where TEST_DOWNLOADS names a folder."""
    folder = Path(os.environ.get("TEST_DOWNLOADS") or shared_folder) / LIMA.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    with made_once(folder / "limactl") as first:
        if first:
            # Without symbols: linking them takes half of the time.
            flags = f"-s -w -X github.com/lima-vm/lima/pkg/version.Version={LIMA.rpartition('@v')[2]}"
            build = ["go", "build", "-ldflags", flags, "-o", folder / "limactl", "./cmd/limactl"]
            subprocess.run(build, cwd=download_of(LIMA, "."), env=os.environ | {"CGO_ENABLED": "0"}, check=True)
    return folder / "limactl"


def problems_of(limactl, text: str) -> list[str]:
    """The warnings and errors of `limactl validate`."""
    # It refuses to run as root, and other users cannot read pytest's folders.
    with tempfile.TemporaryDirectory() as home:
        shutil.copy(limactl, home)
        Path(home, "lima.yaml").write_text(text)
        command = [f"{home}/limactl", "validate", "lima.yaml"]
        if os.geteuid() == 0:
            shutil.chown(home, int(NOBODY))
            command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
        environment = os.environ | {"HOME": home, "LIMA_HOME": f"{home}/.lima", "USER": "nobody"}
        check = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    lines = [line for line in check.stderr.splitlines() if "level=info" not in line]
    # The default place of the project does not exist here.
    return [line for line in lines if "refers to a non-existent directory" not in line]


@pytest.mark.system("go", "setpriv")
def test_limactl_accepts_the_template_and_reports_a_misspelt_field(limactl):
    text = LIMA_YAML.read_text()
    assert problems_of(limactl, text) == []
    assert "mountPint" in problems_of(limactl, text.replace("mountPoint", "mountPint"))[0]
    assert problems_of(limactl, text.replace("64GiB", "64 hogsheads"))
