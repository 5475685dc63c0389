"""scripts/demo.sh with an existing model and an existing Python environment."""

import os
import shutil
import signal
import socket
import subprocess

import psutil
import pytest

from support.free_port import free_port
from support.services import ROOT

REQUIREMENTS = ("scripts/requirements-image.txt", "scripts/requirements.txt")


@pytest.fixture
def repository(artefacts, tmp_path):
    for name in ("scripts", "serving"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".venv", "__pycache__"))
    shutil.copy(ROOT / "transformer.py", tmp_path)
    for name in ("model.joblib", "transformer.joblib", "clusters.json"):
        (tmp_path / name).symlink_to(artefacts / name)
    venv = tmp_path / "scripts/.venv"
    venv.mkdir()
    for name in ("bin", "lib", "pyvenv.cfg"):
        (venv / name).symlink_to(ROOT / "scripts/.venv" / name)
    with (venv / "requirements.cksum").open("w") as stamp:
        subprocess.run(f"cat {' '.join(REQUIREMENTS)} | cksum", shell=True, cwd=tmp_path, stdout=stamp, check=True)
    return tmp_path


def two_free_ports() -> int:
    while True:
        port = free_port()
        with socket.socket() as listener:
            if listener.connect_ex(("localhost", port + 1)):
                return port


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
