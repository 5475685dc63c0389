"""The firewall of the "kind" step, with nft in network namespaces: a neighbour, the machine, and a Kind node.

The rules of Docker are a double: those of Docker 20.10 (Debian 12) for a published port, after its iptables -S.
"""

import os
import re
import subprocess

import pytest

from support.provision_rehearsal import Rehearsal

BRIDGE, NODE, MACHINE, NEIGHBOUR = "br-0123456789ab", "172.18.0.2", "10.77.0.1", "10.77.0.2"
PUBLISHED, NODE_PORT = 6443, 30100

pytestmark = [
    pytest.mark.system("nft", "iptables", "ip", "unshare"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root is needed for network namespaces"),
]

DOCKER_20 = f"""
iptables -P FORWARD DROP
iptables -A FORWARD -o {BRIDGE} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A FORWARD -d {NODE}/32 ! -i {BRIDGE} -o {BRIDGE} -p tcp -m tcp --dport {PUBLISHED} -j ACCEPT
iptables -A FORWARD -i {BRIDGE} ! -o {BRIDGE} -j ACCEPT
"""


class Namespace:
    """A network namespace, as long as its first process runs."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up; echo; exec sleep 600"], stdout=subprocess.PIPE
        )
        self.process.stdout.readline()

    def run(self, script, **options):
        command = ["nsenter", f"--target={self.process.pid}", "--net", "bash", "-euc", script]
        return subprocess.run(command, capture_output=True, text=True, **options)

    def connects(self, address, port):
        return self.run(f"timeout 5 bash -c 'exec 3<>/dev/tcp/{address}/{port}'").returncode == 0

    def start(self, *command):
        return subprocess.Popen(
            ["nsenter", f"--target={self.process.pid}", "--net", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@pytest.fixture
def network():
    """A machine with a neighbour that has a route to its Kind network, and a node that listens."""
    neighbour, machine, node = namespaces = [Namespace() for _ in range(3)]
    servers = []
    try:
        setup = machine.run(f"""
            sysctl --quiet --write net.ipv4.ip_forward=1
            ip link add lan type veth peer name eth0 netns {neighbour.process.pid}
            ip address add {MACHINE}/24 dev lan
            ip link set lan up
            ip link add {BRIDGE} type bridge
            ip address add 172.18.0.1/16 dev {BRIDGE}
            ip link add node type veth peer name eth0 netns {node.process.pid}
            ip link set node master {BRIDGE} up
            ip link set {BRIDGE} up
        """)
        assert setup.returncode == 0, setup.stderr
        neighbour.run(
            f"ip address add {NEIGHBOUR}/24 dev eth0; ip link set eth0 up; ip route add 172.18.0.0/16 via {MACHINE}"
        )
        node.run(f"ip address add {NODE}/16 dev eth0; ip link set eth0 up; ip route add default via 172.18.0.1")
        for namespace, port in ((node, PUBLISHED), (node, NODE_PORT), (machine, 80), (neighbour, 443)):
            servers.append(namespace.start("python3", "-m", "http.server", str(port)))
        for namespace, port in ((node, PUBLISHED), (node, NODE_PORT), (machine, 80), (neighbour, 443)):
            waited = namespace.run(
                f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.1; done", timeout=60
            )
            assert waited.returncode == 0
        yield neighbour, machine, node
    finally:
        for process in [*servers, *(namespace.process for namespace in namespaces)]:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def rules(tmp_path_factory, small):
    """The rules that the step writes, with the addresses of Docker's first network."""
    rehearsal = Rehearsal(tmp_path_factory.mktemp("firewall") / "rehearsal", small)
    shown = rehearsal.run("--dry-run", "--only", "kind")
    assert shown.returncode == 0, shown.stderr
    return re.search(r"firewall\.nft' <<'CONTENT'\n(.*?)\nCONTENT\n", shown.stdout, re.DOTALL)[1]


@pytest.mark.parametrize(
    ("docker", "port"), [(DOCKER_20, PUBLISHED), ("true", NODE_PORT)], ids=["published", "forwarding"]
)
def test_neighbour_with_a_route_cannot_reach_the_kind_network(network, rules, docker, port):
    neighbour, machine, node = network
    assert machine.run(docker).returncode == 0
    assert neighbour.connects(NODE, port), "without the firewall, the route leads to the node"

    for _ in range(2):  # safe to repeat
        applied = machine.run("nft --file /dev/stdin", input=rules)
        assert applied.returncode == 0, applied.stderr
    assert not neighbour.connects(NODE, port)
    assert machine.connects(NODE, port)
    assert machine.connects("172.18.0.1", 80), "the machine reaches itself at the bridge's address"
    assert node.connects(NEIGHBOUR, 443), "the node reaches the network, for instance to pull images"
    assert neighbour.connects(MACHINE, 80), "the machine itself stays reachable"
    assert machine.run("nft list ruleset").stdout.count("172.18.0.0/16") == 1


def test_cluster_publishes_no_container_ports(tmp_path, small):
    """With Docker before 28, a published port is reachable past the address that it listens on."""
    shown = Rehearsal(tmp_path / "rehearsal", small).run("--dry-run", "--only", "kind")
    assert "kind create cluster" in shown.stdout and "extraPortMappings" not in shown.stdout
