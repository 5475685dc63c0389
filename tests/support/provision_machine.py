"""A Debian 12 on which the steps run.

Real: everything that the distribution provides (apt, dpkg, systemd, HAProxy, Docker's engine, curl, Python, pip),
kubectl's rendering and Helm. Test doubles, because images cannot be pulled and a node cannot run here: kind, kubectl's
requests to a cluster, and Docker's images and containers.
"""

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from doubles.internet import Gateway, Internet, NodePort
from support import debian_root
from support.debian_root import DebianRoot
from support.free_port import free_port
from support.provision_rehearsal import PACKAGES, PASSWORD, calls_in, lay_out, state_of, write_wheel
from support.shared_files import made_once
from support.upstream_files import PROVISION, STAND_INS, TESTS

INTERCEPTORS = TESTS / "doubles/interceptors"
LIMITS = ("max_user_watches", "max_user_instances")


@pytest.fixture(scope="session")
def debian(shared_folder):
    """The folder of a Debian 12 with nothing but its init and a user; kept where TEST_DOWNLOADS names a folder."""
    if debian_root.needed():
        pytest.skip(debian_root.needed())
    folder = Path(os.environ.get("TEST_DOWNLOADS") or shared_folder) / "debian"
    with made_once(folder) as first:
        if first:
            debian_root.bootstrap(folder)
            subprocess.run(["chroot", folder, "useradd", "--create-home", "vagrant"], check=True)
            (folder / "archives").mkdir()
    limits = [Path("/proc/sys/fs/inotify") / name for name in LIMITS]
    before = [limit.read_text() for limit in limits]
    yield folder
    for root in DebianRoot.made:
        root.close()
    # The step "docker" raises them, and the kernel is this machine's.
    for limit, value in zip(limits, before):
        limit.write_text(value)


def empty_machine(folder, debian, lower=()):
    """A Debian on which nothing was done yet, booted. Packages that were downloaded before are not downloaded again."""
    root = DebianRoot(folder, [*lower, debian], binds=[TESTS, PACKAGES])
    shutil.copytree(PROVISION, root.root / "vagrant/provision", dirs_exist_ok=True)
    return root.boot()


@pytest.fixture(scope="session")
def installed(debian, shared_folder):
    """The layers of a machine after the first two steps; what these said is beside them."""
    folder = shared_folder / "installed"
    with made_once(folder) as first:
        if first:
            root = empty_machine(folder, debian)
            for step in ("check", "docker"):
                done = root.run("/vagrant/provision/all.sh", "--only", step, **settings())
                (folder / f"{step}.txt").write_text(f"{done.returncode}\n{done.stdout}{done.stderr}")
            root.run("sh", "-c", "systemctl stop docker docker.socket containerd haproxy; apt-get clean")
            root.close()
    return [folder / "upper", debian]


def settings():
    """For machines that share this one's ports, and may be smaller than the real one."""
    ports = {f"PORT_{name}": str(free_port()) for name in ("MINIO", "CONSOLE", "KSERVE", "PROMETHEUS")}
    return ports | {
        "HOME": "/root",
        "PROVISION_USER": "vagrant",
        "MIN_DISK_GB": "0",
        "MIN_MEMORY_MB": "1",
        "MIN_CPUS": "1",
    }


class Machine:
    """A machine on which the steps after "docker" are run; like: another one, whose layers it is laid over."""

    def __init__(self, folder, layers, upstream, like=None):
        self.folder = folder
        files, environment = upstream
        folder.mkdir(parents=True)
        self.internet = Internet(folder / "internet", files)
        self.gateway, self.subnet = free_gateway()
        self.root = DebianRoot(
            folder / "debian", layers, binds=[TESTS, PACKAGES, folder.parent, *environment_paths(environment)]
        )
        self.repository, self.state = self.root.root / "vagrant", self.root.root / "opt/state"
        if not like:
            lay_out(self.repository)
            self.state.mkdir(parents=True)
            (self.root.root / "opt/wheels").mkdir()
            write_wheel(self.root.root / "opt/wheels")
        self.environment = (
            settings()
            | (like.ports() if like else {})
            | {
                "CURL_HOME": str(self.internet.folder),
                "STAND_IN_STATE": "/opt/state",
                "STAND_IN_PACKAGES": str(PACKAGES),
                "STAND_IN_SUBNET": self.subnet,
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": "/opt/wheels",
                "MINIO_ROOT_PASSWORD": PASSWORD,
                **environment,
            }
        )
        needs = {30100: "Tenant/tenant-tiny/storage-tiny", 30400: "Deployment/monitoring/prometheus"}
        node_address = self.subnet.replace(".0.0/16", ".0.2")
        self.node_ports = [NodePort(node_address, port, self.state, what) for port, what in needs.items()]
        self.root.boot()

    def ports(self):
        return {name: value for name, value in self.environment.items() if name.startswith("PORT_")}

    def run(self, *arguments, **environment):
        path = f"{INTERCEPTORS}:{STAND_INS}:{debian_root.PATH}"
        return self.root.run(
            "env", f"PATH={path}", "/vagrant/provision/all.sh", *arguments, **(self.environment | environment)
        )

    def run_only(self, *steps, **environment):
        return self.run(*(argument for step in steps for argument in ("--only", step)), **environment)

    def offline(self):
        return {"CURL_HOME": str(self.internet.folder / "offline"), "STAND_IN_OFFLINE": "1"}

    def calls(self, what):
        return calls_in(self.state, what)

    def objects(self):
        return {key: value["document"] for key, value in state_of(self.state, "objects").items()}

    def written(self, with_times=False):
        """The files that the steps wrote, with their content."""
        places = (
            "etc/haproxy",
            "etc/mlops-poc",
            "etc/sysctl.d",
            "var/lib/mlops-poc",
            "home/vagrant/.kube",
            "home/vagrant/minio.env",
            "usr/local",
        )
        found = {}
        for place in places:
            top = self.root.root / place
            for path in sorted([top, *top.rglob("*")]):
                # A checksum of what is here anyway, with the ports of this machine.
                if path.is_file() and not path.is_symlink() and path.name != "haproxy.sha256":
                    stat = path.stat()
                    key = (str(path.relative_to(self.root.root)), stat.st_mode, stat.st_uid)
                    # "kind export kubeconfig" writes what is there already.
                    found[key] = path.read_bytes(), with_times and "config" not in path.name and stat.st_mtime_ns
        return found

    def result(self):
        """The final state of the machine, without times and orders."""
        states = [(self.state / name).read_text() for name in ("images", "node-images", "containers.json")]
        own = {port: name for name, port in self.ports().items()} | {self.subnet.rpartition(".0.0")[0]: "SUBNET"}
        # As words: the digits of a port may stand inside a checksum.
        words = re.compile(rf"\b({'|'.join(map(re.escape, own))})\b")

        def without_own(text: str) -> str:
            return words.sub(lambda word: own[word[1]], text)

        files = {
            str(key): without_own(content.decode(errors="replace")) for key, (content, _) in self.written().items()
        }
        return {"objects": without_own(json.dumps([states, self.objects()])), **files}

    def close(self):
        """From here on it is a layer for others."""
        self.root.close()
        for server in (self.gateway, *self.node_ports, self.internet.server):
            server.close()

    def remove(self):
        self.close()
        self.root.remove()


def free_gateway():
    """A gateway at the first address of a pool that no other machine uses now, and the subnet of that pool."""
    for number in random.sample(range(30, 250), 100):
        with contextlib.suppress(OSError):
            return Gateway(f"127.{number}.255.200"), f"127.{number}.0.0/16"
    raise AssertionError("no free address for a gateway")


def environment_paths(environment):
    """The folders of the programs that the environment names."""
    return sorted({str(Path(v).parent) for v in environment.values() if v.startswith("/") and os.path.exists(v)})


@pytest.fixture
def machine(tmp_path, installed, small):
    machine = Machine(tmp_path / "machine", installed, small)
    yield machine
    machine.remove()


@pytest.fixture(scope="session")
def first_steps(tmp_path_factory, installed, small):
    """The layers of a machine on which the cluster is there, and nothing in it."""
    machine = Machine(tmp_path_factory.mktemp("first") / "machine", installed, small)
    done = machine.run_only("tools", "kind")
    assert done.returncode == 0, done.stderr
    machine.close()
    machine.ready = [machine.root.upper, *installed]
    return machine


@pytest.fixture
def clustered(tmp_path, small, first_steps):
    machine = Machine(tmp_path / "clustered", first_steps.ready, small, like=first_steps)
    yield machine
    machine.remove()
