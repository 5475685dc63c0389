"""Vagrantfile, the check of the host, and the architecture diagram."""

import os
import re
import shutil
import socket
import struct
import subprocess

import pytest

from support.upstream_files import PROVISION, versions

ROOT = PROVISION.parent
vagrant = pytest.mark.system("vagrant")


def validate(tmp_path, *options, **environment):
    return subprocess.run(
        ["vagrant", "validate", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ
        | {"VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot")}
        | environment,
    )


@vagrant
@pytest.mark.parametrize(
    "settings",
    [{}, {"VM_MEMORY_MB": "16384", "VM_CPUS": "8", "HOST_PORT_KSERVE": "31300", "MINIO_ROOT_PASSWORD": "generate"}],
)
def test_vagrantfile_is_valid_for_libvirt(tmp_path, settings):
    check = validate(tmp_path, VAGRANT_DEFAULT_PROVIDER="libvirt", **settings)
    if "provider 'libvirt' could not be found" in check.stderr:
        pytest.skip("vagrant-libvirt is not installed")
    assert check.returncode == 0, check.stderr


@vagrant
def test_vagrantfile_is_valid_for_virtualbox(tmp_path):
    """Without VirtualBox, which is not in Debian, Vagrant checks everything but the provider."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    check = validate(
        tmp_path,
        "--ignore-provider",
        VAGRANT_DEFAULT_PROVIDER="virtualbox",
        MIRROR_DIR=str(mirror),
        IMAGE_MAP=str(tmp_path / "map"),
    )
    assert check.returncode == 0, check.stderr


@vagrant
def test_every_step_is_a_named_provisioner_and_the_summary_runs_at_each_start(tmp_path):
    """Let Vagrant load the Vagrantfile and print its provisioners."""
    shutil.copytree(PROVISION, tmp_path / "provision")
    before, end, after = (ROOT / "Vagrantfile").read_text().rpartition("\nend\n")
    assert end and not after
    (tmp_path / "Vagrantfile").write_text(
        before + '\n  config.vm.provisioners.each { |p| puts "provisioner #{p.name} #{p.run}" }\nend\n'
    )
    seen = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"VAGRANT_HOME": str(tmp_path / "home")},
    )
    provisioners = dict.fromkeys(re.findall(r"^provisioner (\S+) (\w+)$", seen.stdout, re.MULTILINE))
    steps = subprocess.run([PROVISION / "all.sh", "--list"], capture_output=True, text=True).stdout.split()
    assert list(provisioners) == [(step, "always" if step == "summary" else "once") for step in steps], (
        seen.stdout + seen.stderr
    )


def host_check(*arguments, **environment):
    return subprocess.run(
        [PROVISION / "host-check.sh", *arguments], capture_output=True, text=True, env=os.environ | environment
    )


@pytest.fixture
def capable(tmp_path):
    (tmp_path / "cpuinfo").write_text("flags : fpu vmx sse\n")
    (tmp_path / "meminfo").write_text("MemTotal:       16384000 kB\n")
    return {"CPUINFO": str(tmp_path / "cpuinfo"), "MEMINFO": str(tmp_path / "meminfo")}


def test_capable_host_is_accepted(capable):
    assert host_check("12288", "1", "0", "4800", "1", "21601", **capable).returncode == 0


def test_computer_with_8_gib_and_4_cpus_suffices(tmp_path, capable):
    (tmp_path / "meminfo").write_text("MemTotal:       7900000 kB\n")
    v = versions()
    sizes = [v[name] for name in ("VM_MEMORY_MB", "VM_CPUS", "MIN_DISK_GB", "MIN_MEMORY_MB", "MIN_CPUS")]
    refused = host_check(*sizes, **capable).stderr
    assert int(v["VM_CPUS"]) <= 4 and "MB of memory" not in refused


def test_check_of_the_host_reports_all_problems(tmp_path, capable):
    (tmp_path / "cpuinfo").write_text("flags : fpu sse\n")
    with socket.create_server(("127.0.0.1", 21600)):
        refused = host_check("32768", "999", "9999999", "4800", "2", "21600", "21601", **capable)
    assert refused.returncode == 1
    for text in (
        "hardware virtualisation is off",
        "needs 32768 MB of memory and this computer has 16000 MB",
        "VM_MEMORY_MB=5120 vagrant up",
        "needs 999 CPUs",
        "VM_CPUS=2 vagrant up",
        "GB of disk are free",
        "port 21600 of this computer is in use",
    ):
        assert text in refused.stderr
    assert "21601" not in refused.stderr


def test_diagram_shows_the_ports_and_fits_a_readme():
    source = (PROVISION / "diagram.dot").read_text()
    for setting in ("PORT_MINIO", "PORT_CONSOLE", "PORT_KSERVE", "PORT_PROMETHEUS"):
        assert versions()[setting] in source
    width, _ = struct.unpack(">II", (ROOT / "diagram.png").read_bytes()[16:24])
    assert 800 <= width <= 1100


@pytest.mark.system("dot")
def test_diagram_can_be_rendered(tmp_path):
    made = subprocess.run(
        ["dot", "-Tpng", PROVISION / "diagram.dot", "-o", tmp_path / "diagram.png"], capture_output=True, text=True
    )
    assert made.returncode == 0 and "Warning" not in made.stderr, made.stderr
