"""scripts/demo.sh with an existing model and an existing Python environment."""

import os
import signal
import socket
import subprocess

import psutil
import pytest

from support.checkout import copy_programs
from support.free_port import two_free_ports


@pytest.fixture
def repository(artefacts, tmp_path):
    """The programs, with a model already trained."""
    copy_programs(tmp_path)
    for name in ("model.joblib", "transformer.joblib", "clusters.json"):
        (tmp_path / name).symlink_to(artefacts / name)
    return tmp_path


def test_demo_sends_a_sample_request_listens_on_localhost_only_bypasses_the_proxy_and_stops_its_server(repository):
    port = two_free_ports()
    environment = os.environ | {"PORT": str(port), "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    demo = subprocess.Popen(
        [repository / "scripts/demo.sh"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = ""
        for line in demo.stdout:
            output += line
            if line.startswith("Serving"):
                break
        address = output.index(f"Open http://localhost:{port}/ui in a browser")
        assert address < output.index("$ curl"), "the address of the page comes first"
        assert f"$ curl --noproxy localhost http://localhost:{port}/v1/models/textclustering:predict -d" in output
        assert '{"predictions":[' in output and "\nCluster " in output, output
        (server,) = (child for child in psutil.Process(demo.pid).children() if "transformer.py" in child.cmdline())
        addresses = {connection.laddr for connection in server.connections() if connection.status == "LISTEN"}
        assert {(ip.removeprefix("::ffff:"), number) for ip, number in addresses} == {
            ("127.0.0.1", port),
            ("127.0.0.1", port + 1),
        }

        os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
        assert demo.wait(timeout=60) == 0 and not server.is_running()
        assert "Traceback" not in demo.stdout.read()
    finally:
        for child in psutil.Process(demo.pid).children() if demo.poll() is None else []:
            child.kill()
        demo.kill()


def test_demo_names_the_port_that_is_already_in_use(repository):
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        listener.listen()
        port = listener.getsockname()[1]
        for first in (port, port - 1):
            run = subprocess.run(
                [repository / "scripts/demo.sh"], env=os.environ | {"PORT": str(first)}, capture_output=True, text=True
            )
            assert run.returncode == 2 and f"port {port} is already in use" in run.stderr
