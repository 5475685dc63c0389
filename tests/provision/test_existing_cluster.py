"""The dry run as a script for a cluster that already exists."""

import re
import subprocess

from support.provision_rehearsal import state_of
from support.upstream_files import PROVISION

PAGE = PROVISION.parent / "docs/platform.md"


def test_the_documented_command_installs_kserve_with_kubectl_alone(rehearsal):
    (rehearsal.state / "containers.json").write_text('{"some-cluster": {"running": true, "files": [], "ports": []}}')
    [command] = re.findall(r"^\$ (provision/all.sh --dry-run .*\| .*)>install.sh$", PAGE.read_text(), re.MULTILINE)
    script = subprocess.run(
        ["bash", "-c", command], cwd=rehearsal.repository, env=rehearsal.environment, capture_output=True, text=True
    )
    assert script.returncode == 0, script.stderr
    before = len(rehearsal.calls("call"))

    def install():
        return subprocess.run(
            ["bash", "-e"], input=script.stdout, env=rehearsal.environment, capture_output=True, text=True
        )

    done = install()
    if done.returncode:  # as documented: a webhook that is still starting
        assert "failed calling webhook" in done.stderr, done.stderr
        done = install()
    assert done.returncode == 0, done.stderr
    assert {call.split()[0] for call in rehearsal.calls("call")[before:]} == {"kubectl"}
    deployments = [key for key in state_of(rehearsal.state, "objects") if key.startswith("Deployment/")]
    namespaces = {key.split("/")[1] for key in deployments}
    assert namespaces == {"cert-manager", "istio-system", "knative-serving", "kserve"}
