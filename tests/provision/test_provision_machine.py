"""provision/ on a real Debian 12: each step on an empty machine, repeated, and killed halfway; and its errors.

support/provision_machine.py lists the real components and the test doubles.
"""

import json
import os
import re
import signal
import socket
import time

import pytest

from support.debian_root import DebianRoot
from support.provision_machine import Machine, empty_machine, settings
from support.provision_rehearsal import PASSWORD, Rehearsal
from support.upstream_files import versions

# --- The first two steps on an empty machine ---


def test_empty_debian_passes_the_check_and_gets_its_packages(installed):
    folder = installed[0].parent
    check, docker = ((folder / f"{step}.txt").read_text() for step in ("check", "docker"))
    assert check.startswith("0\n") and "this machine is suitable" in check
    assert docker.startswith("0\n"), docker
    assert "installing docker.io" in docker and "Unpacking" not in docker


def test_apt_failure_is_reported_even_without_python(tmp_path, debian):
    root = empty_machine(tmp_path / "root", debian)
    try:
        (root.root / "etc/apt/apt.conf.d/full").write_text('DPkg::Pre-Invoke { "echo the disk is full; false"; };\n')
        refused = root.run("/vagrant/provision/all.sh", "--only", "docker", **settings())
        assert refused.returncode == 1 and root.run("python3", "--version").returncode == 127
        assert "the disk is full" in refused.stderr and "step docker failed" in refused.stderr
    finally:
        root.remove()


def test_docker_engine_runs_and_vagrant_can_use_it_and_a_second_run_changes_nothing(tmp_path, installed, debian):
    root = DebianRoot(tmp_path / "root", installed).boot()
    try:
        assert root.run("docker", "info").returncode == 0
        assert "docker" in root.run("id", "vagrant").stdout
        assert root.run("sysctl", "--values", "fs.inotify.max_user_watches").stdout.strip() == "524288"
        state = root.run("sh", "-c", "dpkg-query --show; systemctl show --property=MainPID docker haproxy").stdout
        for package in ("docker.io", "haproxy", "jq", "curl", "python3-venv", "procps"):
            assert f"\n{package}\t" in f"\n{state}"
        log = (root.root / "var/log/dpkg.log").stat().st_size
        again = root.run("/vagrant/provision/all.sh", "--only", "docker", **settings())
        assert again.returncode == 0 and "installing" not in again.stdout, again.stderr
        assert (root.root / "var/log/dpkg.log").stat().st_size == log
        assert (
            root.run("sh", "-c", "dpkg-query --show; systemctl show --property=MainPID docker haproxy").stdout == state
        )
    finally:
        root.remove()


def test_running_the_step_again_repairs_a_power_cut_during_apt(tmp_path, debian, installed):
    # Some of the packages are installed already, which spares the time of theirs; the cut leaves others half done.
    root = empty_machine(tmp_path / "root", debian, installed[:-1])
    try:
        assert root.run("apt-get", "purge", "-qq", "-y", "docker.io", "containerd", "runc", "jq").returncode == 0
        log = root.root / "var/log/dpkg.log"
        log.unlink()
        cut = root.start("/vagrant/provision/all.sh", "--only", "docker", **settings())
        deadline = time.monotonic() + 300
        while not (log.exists() and "half-installed docker.io" in log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        root.cut_power()
        assert cut.wait() != 0 and "half-installed docker.io" in log.read_text()
        root.boot()
        assert root.run("dpkg", "--audit").stdout
        again = root.run("/vagrant/provision/all.sh", "--only", "docker", **settings())
        assert again.returncode == 0, again.stderr
        assert not root.run("dpkg", "--audit").stdout
        assert root.run("docker", "info").returncode == 0
    finally:
        root.remove()


# --- All steps ---


@pytest.fixture(scope="module")
def built(tmp_path_factory, installed, small):
    """A machine on which all steps have run once, uninterrupted."""
    machine = Machine(tmp_path_factory.mktemp("built") / "machine", installed, small)
    machine.first = machine.run()
    assert machine.first.returncode == 0, machine.first.stdout + machine.first.stderr
    yield machine
    machine.remove()


def test_run_ends_with_versions_addresses_and_the_next_command(built):
    summary = built.first.stdout.partition("== summary")[2]
    for text in (
        "Kubernetes      v1.34.11",
        "KServe          v0.20.0",
        f"http://localhost:{built.environment['PORT_KSERVE']}",
        "RELEASE.2025-09-07",
        "deploy_service.py --model-path",
    ):
        assert text in summary


def test_tools_are_installed_in_their_versions(built):
    for command, version in (("kubectl version --client", "KUBECTL"), ("helm version --short", "HELM")):
        shown = built.root.run("env", *[f"{k}={v}" for k, v in built.environment.items()], *command.split()).stdout
        assert built.environment.get(f"{version}_VERSION", versions()[f"{version}_VERSION"]) in shown


def test_haproxy_runs_with_the_configuration_of_the_step(built):
    assert built.root.run("systemctl", "is-active", "haproxy").stdout == "active\n"
    url = f"http://127.0.0.1:{built.environment['PORT_KSERVE']}/"
    answer = built.root.run("curl", "--silent", "--write-out", "%{http_code}", url)
    assert answer.stdout.endswith("404")  # the gateway's status for an unknown host
    refused = built.root.run("curl", "--silent", "--header", f"Content-Length: {1 << 30}", "--data", "x", url)
    assert refused.stdout == '{"error": "the body is larger than 10485760 bytes"}'


def test_python_environment_belongs_to_the_user_and_has_the_packages(built):
    venv = built.root.root / "home/vagrant/venv"
    assert venv.stat().st_uid == (built.root.root / "home/vagrant").stat().st_uid != 0
    held = built.root.run("/home/vagrant/venv/bin/python", "-c", "import tiny_package")
    assert held.returncode == 0, held.stderr


def test_password_is_in_no_output_and_on_no_command_line(built):
    assert PASSWORD not in built.first.stdout + built.first.stderr
    assert not [call for call in built.calls("call") if PASSWORD in call]
    credentials = built.root.root / "home/vagrant/minio.env"
    assert credentials.read_text() == f"AWS_ACCESS_KEY_ID=minio\nAWS_SECRET_ACCESS_KEY={PASSWORD}\n"
    assert credentials.stat().st_mode & 0o777 == 0o600 and credentials.stat().st_uid != 0


def test_second_run_changes_nothing(built):
    pid = "systemctl show --property=MainPID,ActiveEnterTimestamp docker haproxy"
    before, calls, running = (
        built.written(with_times=True),
        len(built.calls("changed")),
        built.root.run(*pid.split()).stdout,
    )
    again = built.run()
    assert again.returncode == 0, again.stderr
    assert built.calls("changed")[calls:] == []
    assert built.written(with_times=True) == before and built.root.run(*pid.split()).stdout == running
    assert "creating" not in again.stdout and "installing" not in again.stdout and "building" not in again.stdout


def test_summary_after_a_restart_waits_until_the_services_respond(built):
    name, host = "textclustering", "textclustering.kserve-textclustering.example.com"
    parts = {"predictor": f"{name}-predictor.x.example.com", "transformer": f"{name}-transformer.x.example.com"}
    components = {part: {"url": f"http://{at}", "latestRolledoutRevision": "r"} for part, at in parts.items()}
    services = [
        {"metadata": {"name": name}, "status": {"url": f"http://{host}", "components": components}},
        {"metadata": {"name": "never-ready"}, "status": {"url": "http://never-ready.x.example.com"}},
    ]
    (built.state / "inferenceservices.json").write_text(json.dumps(services))
    containers = json.loads((built.state / "containers.json").read_text())
    assert containers["mlops-poc-control-plane"]["restart"] == "unless-stopped"
    containers["mlops-poc-control-plane"]["running"] = False
    (built.state / "containers.json").write_text(json.dumps(containers))
    built.root.cut_power()
    built.root.boot()
    built.gateway.services = {host: [503, 503, 200], **{part: [404] for part in parts.values()}}
    back = built.run_only("summary")
    assert back.returncode == 0 and not back.stderr, back.stderr
    assert json.loads((built.state / "containers.json").read_text())["mlops-poc-control-plane"]["running"]
    assert "waiting up to 180 s for the deployed services" in back.stdout
    assert all(len(left) == 1 for left in built.gateway.services.values())


# Where each step is killed: at its first change, in its middle or just before its end.
KILLS = {
    "tools": ["before curl --fail"],
    "kind": ["after half of kind create cluster", "before docker update"],
    "metallb": ["after docker exec mlops-poc-control-plane crictl pull"],
    "cert-manager": ["before kubectl apply"],
    "istio": ["before kubectl rollout status --namespace istio-system deployment/istiod"],
    "knative": ["after curl --fail"],
    "kserve": ["after kubectl rollout status"],
    "haproxy": ["before systemctl reload-or-restart"],
    "minio": ["before kubectl get secret", "before kubectl rollout status --namespace tenant-tiny"],
    "prometheus": ["after kubectl apply"],
    "python": ["before runuser --user vagrant -- env --chdir=/ HOME"],
    "transformer": ["before kind load docker-image"],
    "lock": ["before docker exec"],
    "summary": ["before kubectl rollout status --namespace kserve"],
}


def test_platform_that_was_killed_in_every_step_ends_like_an_uninterrupted_one(machine, built):
    assert list(KILLS) == machine.run("--list").stdout.split()[2:]
    for step, kills in KILLS.items():
        for kill in kills:
            killed = machine.run_only(step, STAND_IN_KILL=kill)
            assert killed.returncode == -signal.SIGKILL, (
                f"{kill} was not reached in {step}: {killed.stdout} {killed.stderr}"
            )
            (machine.state / "killed").unlink()
        again = machine.run_only(step)
        assert again.returncode == 0, f"{step}: {again.stderr}"
    killed, whole = machine.result(), built.result()
    assert [name for name in killed.keys() | whole.keys() if killed.get(name) != whole.get(name)] == []


def test_platform_is_built_from_a_mirror_without_a_network(machine, tmp_path, small):
    maker = Rehearsal(tmp_path / "maker", small)
    filled = maker.run(machine.root.root / "opt/mirror", script="mirror.sh")
    assert filled.returncode == 0, filled.stderr
    done = machine.run(MIRROR_DIR="/opt/mirror", PIP_NO_INDEX="", PIP_FIND_LINKS="", **machine.offline())
    assert done.returncode == 0, done.stderr
    assert not [c for c in machine.calls("call") if re.search(r"crictl pull|docker pull|docker build|curl .*https", c)]


def test_lock_records_every_file_and_takes_precedence(built, machine):
    lock = (built.root.root / "var/lib/mlops-poc/versions.lock").read_text()
    for name in ("kind-v0.33.0", "metallb-native-v0.16.1.yaml", "istiod-1.27.1.tgz"):
        assert re.search(rf"^[0-9a-f]{{64}}  {re.escape(name)}", lock, re.MULTILINE)
    assert "quay.io/thanos/minio" in lock
    changed = re.sub(r"[0-9a-f]{64}  istiod", "0" * 64 + "  istiod", lock)
    (machine.repository / "provision/versions.lock").write_text(changed)
    refused = machine.run_only("tools", "istio")
    assert refused.returncode == 1
    assert "istiod-1.27.1.tgz has sha256" in refused.stderr and "expected 000" in refused.stderr


# --- One step and another ---


def test_cluster_whose_node_never_became_ready_is_recreated(machine):
    broken = machine.run_only("tools", "kind", STAND_IN_NEVER_READY="node")
    assert broken.returncode == 1 and "waiting for a ready node" in broken.stderr
    assert "node mlops-poc-control-plane is not ready: container runtime network not ready" in broken.stderr
    again = machine.run_only("kind")
    assert again.returncode == 0, again.stderr
    assert "re-creating it" in again.stdout
    created = [c.split()[1] for c in machine.calls("changed") if re.match("kind (create|delete)", c)]
    assert created == ["create", "delete", "create"]


def test_users_image_map_reaches_every_step(clustered):
    (clustered.repository / "map").write_text(
        "docker.io/kserve/kserve-controller:v0.20.0 registry.local:5000/controller:1\n"
    )
    done = clustered.run_only("kserve", IMAGE_MAP="/vagrant/map")
    assert done.returncode == 0, done.stderr
    controller = clustered.objects()["Deployment/kserve/kserve-controller-manager"]["spec"]["template"]["spec"]
    assert controller["containers"][0]["image"] == "registry.local:5000/controller:1"
    assert "registry.local:5000/controller:1" in (clustered.state / "node-images").read_text().splitlines()


def test_addresses_are_of_the_kind_networks_ipv4_subnet(clustered):
    done = clustered.run_only("metallb", "istio", "haproxy", STAND_IN_SUBNET="192.168.7.0/24")
    assert done.returncode == 0, done.stderr
    assert clustered.objects()["IPAddressPool/metallb-system/kind"]["spec"]["addresses"] == [
        "192.168.7.200-192.168.7.250"
    ]
    written = (clustered.root.root / "etc/haproxy/haproxy.cfg").read_text()
    assert "server istio-ingressgateway 192.168.7.200:80" in written
    assert "server node 192.168.7.2:30100" in written


def test_cluster_that_publishes_its_ports_itself_keeps_them(clustered):
    """As every cluster of an earlier version: HAProxy could not listen on the same ports."""
    containers = json.loads((clustered.state / "containers.json").read_text())
    published = [
        {"containerPort": port, "hostPort": port, "listenAddress": "127.0.0.1"} for port in (30100, 30200, 30400)
    ]
    containers["mlops-poc-control-plane"]["ports"] = published
    (clustered.state / "containers.json").write_text(json.dumps(containers))
    done = clustered.run_only("metallb", "istio", "haproxy")
    assert done.returncode == 0 and "because an earlier version created it" in done.stdout, done.stderr
    written = (clustered.root.root / "etc/haproxy/haproxy.cfg").read_text()
    assert "frontend kserve" in written and "30100" not in written


def test_haproxy_keeps_its_configuration_if_it_rejects_the_new_one(clustered):
    assert clustered.run_only("metallb", "istio", "haproxy").returncode == 0
    clustered.root.run("sed", "-i", "s/timeout connect 5s/timeout connect soon/", "/vagrant/provision/haproxy.cfg")
    refused = clustered.run_only("haproxy")
    assert refused.returncode == 1
    assert "unexpected character 's' in 'timeout connect'" in refused.stderr and "rejects" in refused.stderr
    assert clustered.root.run("systemctl", "is-active", "haproxy").stdout == "active\n"
    clustered.root.run("mv", "/usr/sbin/haproxy", "/usr/sbin/haproxy-away")
    missing = clustered.run_only("haproxy")
    assert (
        missing.returncode == 1 and "HAProxy is not installed" in missing.stderr and "--only docker" in missing.stderr
    )


def test_later_runs_keep_a_generated_password_and_a_new_one_restarts_minio(clustered):
    first = clustered.run_only("metallb", "istio", "haproxy", "minio", MINIO_ROOT_PASSWORD="generate")
    assert first.returncode == 0, first.stderr
    credentials = (clustered.root.root / "home/vagrant/minio.env").read_text()
    assert re.search(r"^AWS_SECRET_ACCESS_KEY=[\w-]{32}$", credentials, re.MULTILINE)
    again = clustered.run_only("minio", MINIO_ROOT_PASSWORD="generate")
    assert again.returncode == 0 and (clustered.root.root / "home/vagrant/minio.env").read_text() == credentials
    restarts = "kubectl delete pod --namespace tenant-tiny"
    assert not [c for c in clustered.calls("changed") if c.startswith(restarts)]
    assert clustered.run_only("minio", MINIO_ROOT_PASSWORD="another-password").returncode == 0
    assert [c for c in clustered.calls("changed") if c.startswith(restarts)]


def test_deployment_that_never_becomes_ready_is_reported_with_reason_and_log(clustered):
    # Timeouts are minutes; in the copy that runs here they are seconds.
    for script in (clustered.repository / "provision").glob("*-metallb.sh"):
        script.write_text(script.read_text().replace("wait_for_deployments 300", "wait_for_deployments 1"))
    failed = clustered.run_only("metallb", STAND_IN_NEVER_READY="controller")
    assert failed.returncode == 1
    for text in (
        "timeout after 1 s waiting for deployment controller in metallb-system",
        "pod controller-7d9 in metallb-system is not ready: ImagePullBackOff: Back-off",
        "last words",
        "It is safe to run this step again",
    ):
        assert text in failed.stderr
    assert "coredns" not in failed.stderr


# --- Errors ---


def test_check_reports_all_problems_before_anything_is_changed(machine):
    (machine.root.root / "etc/os-release").unlink()
    (machine.root.root / "etc/os-release").write_text('ID=fedora\nVERSION_ID="42"\n')
    with socket.create_server(("127.0.0.1", int(machine.environment["PORT_CONSOLE"]))):
        refused = machine.run(MIN_MEMORY_MB="99999999", MIN_CPUS="9999", MIN_DISK_GB="9999999", **machine.offline())
    assert refused.returncode == 1
    for text in (
        "fedora 42",
        "MB of memory; at least 99999999",
        "CPUs; at least 9999",
        "GB free",
        "no network: https://github.com",
        f"port {machine.environment['PORT_CONSOLE']} is in use",
    ):
        assert text in refused.stderr
    assert not machine.calls("changed") and not (machine.root.root / "var/lib/mlops-poc").exists()


def test_only_root_can_run_it(machine):
    refused = machine.root.run("runuser", "--user", "vagrant", "--", "/vagrant/provision/all.sh", HOME="/home/vagrant")
    assert refused.returncode == 1 and "must run as root: sudo /vagrant/provision/all.sh" in refused.stderr


def test_start_after_a_failed_run_reports_how_to_continue(machine):
    """A second "vagrant up" runs only the last step."""
    refused = machine.run_only("summary")
    assert refused.returncode == 1 and not machine.calls("call")
    assert "an earlier run failed or was interrupted. Continue with: vagrant provision" in refused.stderr


def test_run_waits_for_another_run_to_finish(machine):
    earlier = machine.root.start("flock", "/run/mlops-poc.lock", "sh", "-c", "echo began; sleep 3; echo ended")
    assert earlier.stdout.readline() == "began\n"
    later = machine.run_only("check", **machine.offline())
    assert later.stdout.startswith("waiting up to 1800 s for another run") and "== check" in later.stdout
    assert earlier.communicate()[0] == "ended\n" and earlier.returncode == 0


def test_error_without_a_network_names_the_download(machine):
    offline = machine.run("--only", "tools", PROVISION_USER="root", **machine.offline())
    assert offline.returncode == 1 and "sudo /vagrant/provision/all.sh --from tools" in offline.stderr
    assert (
        "cannot download https://github.com/kubernetes-sigs/kind" in offline.stderr and "MIRROR_DIR" in offline.stderr
    )


def test_tampered_download_is_deleted_and_not_installed(machine):
    refused = machine.run_only("tools", "metallb", METALLB_SHA256="0" * 64)
    assert refused.returncode == 1
    for text in ("metallb-native-v0.16.1.yaml has sha256", "step metallb failed", "continue with: vagrant provision"):
        assert text in refused.stderr
    assert not list((machine.root.root / "var/cache").rglob("metallb-native*"))


def test_tool_that_does_not_match_its_published_checksum_is_not_installed(machine):
    bad = machine.folder / "bad"
    bad.write_text("0" * 64)
    address = next(a for a in machine.internet.files if a.endswith("kubectl.sha256"))
    machine.internet.files = machine.internet.files | {address: bad}
    refused = machine.run_only("tools")
    assert refused.returncode == 1 and "kubectl-v1.34.11" in refused.stderr
    assert not (machine.root.root / "usr/local/bin/kubectl").exists()
    assert os.path.exists(machine.root.root / "usr/local/bin/kind")
