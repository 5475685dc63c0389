"""A port for a server that a test starts."""

import os
import secrets
import socket

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
# Below the range from which connections get theirs: no client takes a port between its choice and its server's start.
PORTS = range(20_000 + 2_000 * (WORKER % 6), 22_000 + 2_000 * (WORKER % 6))
_given = set()


def free_port() -> int:
    """Return a port on which nobody listens; never the same one twice, nor one of another worker's."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            if port not in _given and probe.connect_ex(("127.0.0.1", port)):
                _given.add(port)
                return port


def two_free_ports() -> int:
    """Return a port on which nobody listens, nor on the next one."""
    while True:
        port = free_port()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port + 1)):
                return port
