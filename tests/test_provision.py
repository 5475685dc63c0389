"""provision/: what its steps would do (dry run), what a mirror holds, and what they do to a machine of stand-ins."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import upstream_files
from upstream_files import PROVISION, STAND_INS, versions

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
    "minio",
    "prometheus",
    "haproxy",
    "python",
    "transformer",
    "lock",
    "summary",
]
PASSWORD = "correct-horse-battery"
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@pytest.fixture(scope="session")
def layer_folder(tmp_path_factory):
    """kubectl and Helm are downloaded once for all tests, and once for all runs where TEST_DOWNLOADS names a folder."""
    return os.environ.get("TEST_DOWNLOADS") or str(tmp_path_factory.mktemp("layer"))


@pytest.fixture(scope="session")
def small(tmp_path_factory, layer_folder):
    return upstream_files.small_files(tmp_path_factory.mktemp("small") / "files", layer_folder)


@pytest.fixture(scope="session")
def real(tmp_path_factory, layer_folder):
    if not shutil.which("go"):
        pytest.skip("Go is needed to get upstream's manifests out of the module proxy")
    return upstream_files.real_files(tmp_path_factory.mktemp("real") / "files", layer_folder)


class Machine:
    """A copy of the repository, a folder that is the machine's root, and stand-ins for its programs."""

    def __init__(self, folder, upstream, copy_of=None):
        self.folder = folder
        self.root = folder / "root"
        self.state = folder / "state"
        self.repository = folder / "repository"
        files, environment = upstream
        if copy_of:
            shutil.copytree(copy_of.folder, folder)
        else:
            self.state.mkdir(parents=True)
            shutil.copytree(PROVISION, self.repository / "provision")
            (self.repository / "scripts").mkdir()
            (self.repository / "scripts/requirements.txt").write_text("tiny-package==1.0\n")
            (self.repository / "transformer.Dockerfile").write_text("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\n")
            (folder / "upstream.json").write_text(json.dumps({address: str(path) for address, path in files.items()}))
            wheel(folder)
        self.environment = {
            "PATH": f"{STAND_INS}:{sys.base_prefix}/bin:{os.environ['PATH']}",
            "STAND_IN_PACKAGES": str(Path(yaml.__file__).parents[1]),
            "HOME": str(folder),
            "DESTDIR": str(self.root),
            "CACHE_DIR": str(folder / "cache"),
            "STAND_IN_STATE": str(self.state),
            "STAND_IN_UPSTREAM": str(folder / "upstream.json"),
            "MIN_MEMORY_MB": "1",
            "MIN_CPUS": "1",
            "MIN_DISK_GB": "0",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(folder),
            "PORT_MINIO": "21100",
            "PORT_CONSOLE": "21200",
            "PORT_KSERVE": "21300",
            "PORT_PROMETHEUS": "21400",
            "PROVISION_USER": "root",
            "MINIO_ROOT_PASSWORD": PASSWORD,
            **environment,
        }

    def run(self, *arguments, script="all.sh", **environment):
        return subprocess.run(
            [self.repository / "provision" / script, *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
        )

    def run_only(self, *steps, **environment):
        return self.run(*(argument for step in steps for argument in ("--only", step)), **environment)

    def calls(self, what):
        log = self.state / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.removeprefix(what + " ") for line in lines if line.startswith(what + " ")]

    def result(self):
        """What the machine is like: files below its root and the state of its stand-ins, without times and orders."""
        files = {
            str(path.relative_to(self.root)): path.read_text()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and not path.is_symlink() and "venv" not in path.parts and "bin" not in path.parts
        }
        states = {
            name: json.loads((self.state / f"{name}.json").read_text())
            for name in ("images", "node-images", "containers", "system")
        }
        objects = json.loads((self.state / "objects.json").read_text())
        states["objects"] = {key: value["document"] for key, value in objects.items()}
        return json.loads(json.dumps([files, states]).replace(str(self.folder), "FOLDER"))


def wheel(folder):
    with zipfile.ZipFile(folder / "tiny_package-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_package.py", "")
        archive.writestr(
            "tiny_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_package-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("tiny_package-1.0.dist-info/RECORD", "")


@pytest.fixture
def machine(tmp_path, small):
    return Machine(tmp_path / "machine", small)


@pytest.fixture(scope="session")
def first_steps(tmp_path_factory, small):
    machine = Machine(tmp_path_factory.mktemp("first") / "machine", small)
    done = machine.run_only("docker", "tools", "kind")
    assert done.returncode == 0, done.stderr
    return machine


@pytest.fixture
def clustered(tmp_path, small, first_steps):
    """A machine on which the cluster is there, and nothing in it."""
    return Machine(tmp_path / "clustered", small, copy_of=first_steps)


@pytest.fixture(scope="session")
def dry_run(tmp_path_factory, real):
    """Everything that a dry run of all steps prints, with upstream's real manifests."""
    machine = Machine(tmp_path_factory.mktemp("dry"), real)
    machine.dry = machine.run("--dry-run")
    assert machine.dry.returncode == 0, machine.dry.stderr
    return machine


def manifests_in(output):
    return [
        document
        for text in re.findall(r"<<'MANIFEST'\n(.*?)\nMANIFEST\n", output, re.DOTALL)
        for document in yaml.load_all(text, Loader)
        if document
    ]


@pytest.fixture(scope="session")
def manifests(dry_run):
    return manifests_in(dry_run.dry.stdout)


def name_of(manifest):
    return manifest["kind"], manifest["metadata"].get("namespace"), manifest["metadata"]["name"]


def is_type(manifest):
    return manifest["kind"] == "CustomResourceDefinition"


def workloads(manifests):
    return [m for m in manifests if m["kind"] in ("Deployment", "DaemonSet", "StatefulSet", "Job")]


# --- The scripts themselves ---


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_scripts_are_free_of_what_shellcheck_finds():
    check = subprocess.run(["shellcheck", *sorted(PROVISION.rglob("*.sh"))], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


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


def test_steps_are_run_in_the_order_of_their_names(machine):
    assert machine.run("--list").stdout.split() == STEPS


def test_help_explains_and_wrong_arguments_are_refused(machine):
    shown = machine.run("--help")
    assert shown.returncode == 0 and "--dry-run" in shown.stdout and "MIRROR_DIR" in shown.stdout
    wrong = machine.run("--only", "kserv")
    assert wrong.returncode == 2 and 'no step "kserv"' in wrong.stderr and "cert-manager" in wrong.stderr
    assert machine.run("--everything").returncode == 2
    assert machine.run(script="mirror.sh").returncode == 2


# --- Dry run, with upstream's real manifests ---


def test_dry_run_prints_every_step_in_order_and_does_nothing(dry_run):
    assert re.findall(r"^# == ([a-z-]+) ", dry_run.dry.stdout, re.MULTILINE) == STEPS
    for command in (
        "apt-get install",
        "kind create cluster",
        "kubectl apply --server-side",
        "systemctl reload-or-restart haproxy",
        "docker build",
        "kind load docker-image",
        "curl --fail",
    ):
        assert re.search(rf"^{re.escape(command)}|^env .*{re.escape(command)}", dry_run.dry.stdout, re.MULTILINE), (
            command
        )
    assert not dry_run.root.exists()
    assert {call.split()[0] for call in dry_run.calls("changed")} <= {"curl"}


def test_dry_run_is_a_script_that_bash_can_parse(dry_run):
    without_manifests = re.sub(r"(<<'MANIFEST'\n).*?\n(MANIFEST\n)", r"\1\2", dry_run.dry.stdout, flags=re.DOTALL)
    check = subprocess.run(["bash", "-n"], input=without_manifests, capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


def test_password_is_in_no_output_and_on_no_command_line(dry_run, built):
    assert PASSWORD not in dry_run.dry.stdout + dry_run.dry.stderr
    assert 'MINIO_ROOT_PASSWORD="********"' in dry_run.dry.stdout
    assert PASSWORD not in built.first.stdout + built.first.stderr
    assert not [call for call in built.calls("call") if PASSWORD in call]
    credentials = built.root / "root/minio.env"
    assert credentials.read_text() == f"AWS_ACCESS_KEY_ID=minio\nAWS_SECRET_ACCESS_KEY={PASSWORD}\n"
    assert credentials.stat().st_mode & 0o777 == 0o600


def containers_in(value, path=()):
    """Everything that has an image, wherever it stands: in a pod's template, a serving runtime, MinIO's tenant."""
    if isinstance(value, dict):
        if isinstance(value.get("image"), str):
            yield "/".join(map(str, path)), value
        for key, inner in value.items():
            yield from containers_in(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from containers_in(inner, (*path, position))


def pull_policy(container):
    """What the API server makes of a container: https://kubernetes.io/docs/concepts/containers/images/#imagepullpolicy-defaulting"""
    _, at, _ = container["image"].partition("@")
    _, _, tag = container["image"].rpartition("/")[2].partition(":")
    return container.get("imagePullPolicy") or ("IfNotPresent" if at or tag not in ("", "latest") else "Always")


@pytest.mark.parametrize(
    ("image", "policy"),
    [("auto", "Always"), ("a/b:latest", "Always"), ("a:5000/b", "Always"), ("a/b:1", "IfNotPresent")],
)
def test_image_without_a_version_would_be_pulled_each_time(image, policy):
    assert pull_policy({"image": image}) == policy
    assert pull_policy({"image": image, "imagePullPolicy": "IfNotPresent"}) == "IfNotPresent"


def test_nothing_needs_a_registry_for_an_image_that_is_in_the_node(dry_run, manifests):
    found = [(m, place, c) for m in manifests if not is_type(m) for place, c in containers_in(m)]
    assert len(found) >= 20
    wrong = [
        f"{m['metadata']['name']}: {place}: {c['image']}" for m, place, c in found if pull_policy(c) != "IfNotPresent"
    ]
    assert not wrong
    # What a controller or a webhook puts into a pod later has no policy of its own, so its image needs a version.
    later = images_named_in(dry_run.dry.stdout)
    assert later and not [i for i in later if pull_policy({"image": i}) != "IfNotPresent"]
    assert "imagePullPolicy: Always" not in dry_run.dry.stdout


def test_no_image_is_fetched_for_a_template_that_nothing_uses(dry_run):
    assert "busybox" not in dry_run.dry.stdout


def test_platform_goes_before_what_is_deployed_on_a_full_node(manifests):
    pods = {name_of(m): m["spec"]["template"]["spec"] for m in workloads(manifests)}
    pods |= {name_of(m): m["spec"] for m in manifests if m["kind"] == "Tenant"}
    assert len(pods) == 17
    assert {name: pod.get("priorityClassName") for name, pod in pods.items()} == dict.fromkeys(
        pods, "system-cluster-critical"
    )


def test_pods_of_a_service_pass_the_restricted_level_of_pod_security(manifests):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    (storage,) = [m["spec"]["container"] for m in manifests if m["kind"] == "ClusterStorageContainer"]
    (server,) = [m["spec"]["containers"][0] for m in manifests if m["kind"] == "ClusterServingRuntime"]
    for container in (storage, server):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True and context["allowPrivilegeEscalation"] is False, container["name"]
        assert context["capabilities"] == {"drop": ["ALL"]} and context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_types_are_known_to_the_cluster_before_anything_is_of_them(dry_run):
    parts = re.split(r"^until kubectl wait crd --all .*$", dry_run.dry.stdout, flags=re.MULTILINE)
    assert len(parts) > 6  # MetalLB, cert-manager, Istio, Knative, KServe, MinIO
    for part in parts[:-1]:
        assert {is_type(m) for m in manifests_in(part.rpartition("kubectl apply")[2])} == {True}
    for text in re.findall(r"<<'MANIFEST'\n(.*?)\nMANIFEST\n", dry_run.dry.stdout, re.DOTALL):
        assert len({is_type(m) for m in yaml.load_all(text, Loader) if m}) == 1


def test_all_requests_together_leave_most_of_two_cpus_free(manifests):
    def cpu(quantity):
        return float(quantity[:-1]) if str(quantity).endswith("m") else 1000 * float(quantity)

    requests = {
        m["metadata"]["name"]: sum(
            cpu(c.get("resources", {}).get("requests", {}).get("cpu", 0))
            for c in m["spec"]["template"]["spec"]["containers"]
        )
        for m in workloads(manifests)
    }
    assert sum(requests.values()) < 1000, requests
    assert max(requests.values()) <= 100, requests


def test_kserve_is_its_controller_in_knative_mode_and_the_scikit_learn_server(manifests):
    names = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    assert [n for k, n in names if k == "ClusterServingRuntime"] == ["kserve-sklearnserver"]
    assert ("Deployment", "kserve-controller-manager") in names
    assert ("CustomResourceDefinition", "inferenceservices.serving.kserve.io") in names
    assert not [n for n in names if re.search("llm|localmodel|inferencepool", "".join(n))]
    config = next(m["data"] for m in manifests if m["metadata"]["name"] == "inferenceservice-config")
    assert json.loads(config["deploy"]) == {"defaultDeploymentMode": "Knative"}
    assert all(json.loads(text) is not None for key, text in config.items() if key != "_example")


def test_knative_serves_example_com_and_asks_no_registry_for_images_of_docker_hub(manifests):
    configs = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    assert "example.com" in configs["config-domain"]
    assert "index.docker.io" in configs["config-deployment"]["registries-skipping-tag-resolving"].split(",")
    assert versions()["TRANSFORMER_IMAGE"].startswith("docker.io/") and not versions()["TRANSFORMER_IMAGE"].endswith(
        ":latest"
    )


def test_minio_has_the_services_of_the_readme(manifests):
    services = {
        m["metadata"]["name"]: m["spec"]
        for m in manifests
        if m["kind"] == "Service" and m["metadata"].get("namespace") == "tenant-tiny"
    }
    assert {name: [(p["port"], p["nodePort"]) for p in spec["ports"]] for name, spec in services.items()} == {
        "minio-service": [(9000, 30100)],
        "console-service": [(9090, 30200)],
    }
    tenant = next(m for m in manifests if m["kind"] == "Tenant")
    assert (tenant["metadata"]["name"], tenant["metadata"]["namespace"]) == ("storage-tiny", "tenant-tiny")
    assert tenant["spec"]["requestAutoCert"] is False and tenant["spec"]["image"] == versions()["MINIO_IMAGE"]


def test_prometheus_has_its_rules_a_volume_and_the_port_of_the_readme(manifests):
    ours = {m["kind"]: m for m in manifests if m["metadata"].get("namespace") == "monitoring"}
    (port,) = ours["Service"]["spec"]["ports"]
    assert port["nodePort"] == 30400
    assert sorted(ours["ConfigMap"]["data"]) == ["drift.yml", "platform.yml", "prometheus.yml"]
    spec = ours["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["image"] == versions()["PROMETHEUS_IMAGE"] and "@sha256:" in container["image"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["config"]["configMap"]["name"] == ours["ConfigMap"]["metadata"]["name"] != "prometheus"
    assert volumes["data"]["persistentVolumeClaim"]["claimName"] == ours["PersistentVolumeClaim"]["metadata"]["name"]


def test_istio_gateway_gets_its_proxy_from_a_config_map_that_names_the_image_in_full(manifests):
    injector = next(m for m in manifests if m["metadata"]["name"] == "istio-sidecar-injector")
    assert (
        json.loads(injector["data"]["values"])["global"]["proxy"]["image"]
        == f"docker.io/istio/proxyv2:{versions()['ISTIO_VERSION']}"
    )


# --- The schemas of the pinned Kubernetes ---


@pytest.fixture(scope="session")
def schemas():
    """Kubernetes' OpenAPI definitions as strict JSON schemas: a field that Kubernetes does not know is an error."""
    # Of the pinned minor version; the module proxy does not give out every patch of it.
    module = "k8s.io/kubernetes@v1.34.2"
    assert module.rpartition(".")[0].endswith(versions()["KUBECTL_VERSION"].rpartition(".")[0])
    path = upstream_files.download_of(module, "api/openapi-spec/swagger.json")
    definitions = json.loads(path.read_text())["definitions"]
    for name, definition in definitions.items():
        if "properties" in definition:
            definition["additionalProperties"] = False
        if name.endswith((".Quantity", ".IntOrString")):
            definitions[name] = {"type": ["string", "number"]}
        # A part of a resource type's own schema: anything.
        if name.startswith("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON"):
            definitions[name] = {}
    return definitions


def without_nulls(value):
    if isinstance(value, dict):
        return {key: without_nulls(v) for key, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value


def test_manifests_follow_the_schemas_of_the_pinned_kubernetes(manifests, schemas):
    import jsonschema

    names = {
        (kind["group"], kind["version"], kind["kind"]): name
        for name, definition in schemas.items()
        for kind in definition.get("x-kubernetes-group-version-kind", [])
    }
    validators, problems, checked = {}, [], 0
    for manifest in manifests:
        group, _, version = manifest["apiVersion"].rpartition("/")
        name = names.get((group, version, manifest["kind"]))
        if not name:
            assert "." in group and not group.endswith(".k8s.io"), (
                f"Kubernetes has no {manifest['apiVersion']} {manifest['kind']}"
            )
            continue
        validator = validators.setdefault(
            name, jsonschema.Draft4Validator({"$ref": f"#/definitions/{name}", "definitions": schemas})
        )
        checked += 1
        problems += [
            f"{manifest['kind']} {manifest['metadata']['name']}: {'/'.join(map(str, e.absolute_path))}: {e.message[:200]}"
            for e in validator.iter_errors(without_nulls(manifest))
        ]
    assert checked > 150
    assert not problems, "\n".join(problems)


# --- The mirror ---


@pytest.fixture(scope="session")
def mirrored(tmp_path_factory, real):
    machine = Machine(tmp_path_factory.mktemp("mirror"), real)
    machine.mirror = machine.folder / "the mirror"
    filled = machine.run(machine.mirror, script="mirror.sh", PIP_NO_INDEX="1")
    assert filled.returncode == 0, filled.stderr
    return machine


def images_named_in(text):
    """Anything that looks like an image, wherever it stands: found without provision/manifests.py, so that it can be wrong."""
    host = r"(?:[a-z0-9-]+\.)+[a-z]{2,}(?::\d+)?/[a-z0-9._/-]+(?::[A-Za-z0-9][\w.-]*@sha256:[0-9a-f]{64}|@sha256:[0-9a-f]{64}|:[A-Za-z]*[\d][\w.-]*)"
    hub = r"(?:kserve|kindest|istio|minio|metallb|library|knative)/[a-z0-9._-]+:[A-Za-z]*[\d][\w.-]*(?:@sha256:[0-9a-f]{64})?|\bbusybox:[\d.]+"
    return set(re.findall(rf"(?<![\w./@:-])(?:{host}|{hub})", text))


def test_mirror_holds_every_image_and_file_that_any_step_names(dry_run, mirrored):
    output = dry_run.dry.stdout
    archives = {
        json.loads(subprocess.run(["tar", "-xOf", a, "manifest.json"], capture_output=True, check=True).stdout)[0][
            "RepoTags"
        ][0]
        for a in (mirrored.mirror / "images").glob("*.tar")
    }
    replacements = dict(line.split() for line in (mirrored.mirror / "image-map").read_text().splitlines())
    held = {name.removeprefix("docker.io/").removeprefix("library/") for name in archives}
    # The transformer's base is not needed where the built image is.
    named = images_named_in(output) - {versions()["PYTHON_IMAGE"]}
    assert len(named) > 25 and versions()["TRANSFORMER_IMAGE"] in named
    missing = {
        i for i in named if replacements.get(i, i).removeprefix("docker.io/").removeprefix("library/") not in held
    }
    assert not missing

    urls = set(re.findall(r"^curl .* '?(https://[^ ']+)'?   # verified", output, re.MULTILINE))
    assert len(urls) == 14
    downloaded = {call.split()[-1] for call in mirrored.calls("changed") if call.startswith("curl ")}
    assert urls <= downloaded
    kept = {line.split()[1] for line in (mirrored.mirror / "files/SHA256SUMS").read_text().splitlines()}
    assert kept == {Path(p).name for p in re.findall(r"--output '?(\S+?)'? '?https", output)}
    assert (
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=mirrored.mirror / "files").returncode == 0
    )
    assert list((mirrored.mirror / "wheels").iterdir())


def test_with_a_mirror_no_step_needs_a_network_and_no_image_needs_its_digest(tmp_path, real, mirrored):
    machine = Machine(tmp_path / "machine", real)
    shown = machine.run("--dry-run", MIRROR_DIR=str(mirrored.mirror), STAND_IN_OFFLINE="1")
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


def test_platform_is_built_from_a_mirror_without_a_network(tmp_path, small):
    maker = Machine(tmp_path / "maker", small)
    mirror = tmp_path / "mirror"
    filled = maker.run(mirror, script="mirror.sh")
    assert filled.returncode == 0, filled.stderr
    machine = Machine(tmp_path / "machine", small)
    done = machine.run(MIRROR_DIR=str(mirror), STAND_IN_OFFLINE="1", PIP_NO_INDEX="", PIP_FIND_LINKS="")
    assert done.returncode == 0, done.stderr
    assert not [c for c in machine.calls("call") if re.search(r"crictl pull|docker pull|docker build|curl .*https", c)]


def test_mirror_without_a_file_or_an_unfinished_one_is_refused(machine):
    unfinished = machine.folder / "mirror"
    unfinished.mkdir()
    refused = machine.run(MIRROR_DIR=str(unfinished))
    assert refused.returncode == 1 and "holds no complete mirror" in refused.stderr
    assert not machine.calls("changed")


# --- The image map ---


def manifests_py(*arguments, text):
    return subprocess.run(
        ["python3", PROVISION / "manifests.py", *arguments], input=text, capture_output=True, text=True
    )


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


def test_images_are_found_wherever_a_manifest_names_them():
    assert manifests_py("images", text=IMAGES).stdout.split() == [
        "kserve/agent:v0.20.0",
        "quay.io/a/b:1@sha256:" + "a" * 64,
        "kserve/router:v1",
        "gcr.io/q@sha256:" + "a" * 64,
        "quay.io/jetstack/solver:v1",
        "quay.io/minio/operator-sidecar:v7",
    ]


def test_types_and_objects_are_all_that_is_in_a_manifest(real):
    files, _ = real
    text = files[upstream_files.addresses()["KSERVE"]].read_text()
    types, objects = (
        list(yaml.load_all(manifests_py(what, text=text).stdout, Loader)) for what in ("types", "objects")
    )
    everything = list(filter(None, yaml.load_all(text, Loader)))
    assert types == list(filter(is_type, everything))
    assert objects == [document for document in everything if not is_type(document)]
    assert types and objects


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


def test_users_image_map_reaches_every_step(clustered):
    (clustered.folder / "map").write_text(
        "docker.io/kserve/kserve-controller:v0.20.0 registry.local:5000/controller:1\n"
    )
    done = clustered.run_only("kserve", IMAGE_MAP=str(clustered.folder / "map"))
    assert done.returncode == 0, done.stderr
    objects = json.loads((clustered.state / "objects.json").read_text())
    controller = objects["Deployment/kserve/kserve-controller-manager"]["document"]["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert controller["image"] == "registry.local:5000/controller:1"
    assert "registry.local:5000/controller:1" in json.loads((clustered.state / "node-images.json").read_text())


# --- Running, with stand-ins for what cannot be had here ---


@pytest.fixture(scope="session")
def built(tmp_path_factory, small):
    """A machine on which everything was run once, uninterrupted."""
    machine = Machine(tmp_path_factory.mktemp("built"), small)
    machine.first = machine.run()
    assert machine.first.returncode == 0, machine.first.stderr
    return machine


def test_run_ends_with_what_runs_where_and_the_next_command(built):
    summary = built.first.stdout.partition("== summary")[2]
    for text in (
        "Kubernetes      v1.34.11",
        "KServe          v0.20.0",
        "http://localhost:21300",
        "RELEASE.2025-09-07",
        "deploy_service.py --model-path",
    ):
        assert text in summary


def test_second_run_changes_nothing(built):
    before, calls = built.result(), len(built.calls("changed"))
    again = built.run()
    assert again.returncode == 0, again.stderr
    assert built.calls("changed")[calls:] == []
    assert built.result() == before


def test_lock_records_every_file_and_then_has_the_last_word(built, tmp_path, small):
    lock = (built.root / "var/lib/mlops-poc/versions.lock").read_text()
    for name in ("kind-v0.33.0", "metallb-native-v0.16.1.yaml", "istiod-1.27.1.tgz"):
        assert re.search(rf"^[0-9a-f]{{64}}  {re.escape(name)}", lock, re.MULTILINE)
    assert "quay.io/thanos/minio" in lock
    machine = Machine(tmp_path / "machine", small)
    (machine.repository / "provision/versions.lock").write_text(
        re.sub(r"[0-9a-f]{64}  istiod", "0" * 64 + "  istiod", lock)
    )
    refused = machine.run_only("tools", "istio")
    assert (
        refused.returncode == 1
        and "istiod-1.27.1.tgz has sha256" in refused.stderr
        and "expected 000" in refused.stderr
    )


# Where each step is killed: at its first change, in its middle or just before its end.
KILLS = {
    "check": [],
    "docker": ["after apt-get install"],
    "tools": ["before curl --fail"],
    "kind": ["after half of kind create cluster", "before docker update"],
    "metallb": ["after docker exec mlops-poc-control-plane crictl pull"],
    "cert-manager": ["before kubectl apply"],
    "istio": ["before kubectl rollout status --namespace istio-system deployment/istiod"],
    "knative": ["after curl --fail"],
    "kserve": ["after kubectl rollout status"],
    "minio": ["before kubectl get secret", "before kubectl rollout status --namespace tenant-tiny"],
    "prometheus": ["after kubectl apply"],
    "haproxy": ["before systemctl reload-or-restart"],
    "python": ["before runuser --user root -- env --chdir=/ HOME"],
    "transformer": ["before kind load docker-image"],
    "lock": ["before docker exec"],
    "summary": ["before kubectl rollout status --namespace kserve"],
}


def test_platform_that_was_killed_in_every_step_ends_up_like_one_that_was_not(tmp_path, small, built):
    machine = Machine(tmp_path / "machine", small)
    assert list(KILLS) == STEPS
    for step, kills in KILLS.items():
        for kill in kills:
            killed = machine.run_only(step, STAND_IN_KILL=kill)
            assert killed.returncode == -9, f"{kill} was not reached in {step}: {killed.stdout} {killed.stderr}"
            (machine.state / "killed").unlink()
        again = machine.run_only(step)
        assert again.returncode == 0, f"{step}: {again.stderr}"
    assert machine.result() == built.result()


def test_machine_that_was_halted_comes_back(built):
    path = built.state / "containers.json"
    containers = json.loads(path.read_text())
    assert containers["mlops-poc-control-plane"]["restart"] == "unless-stopped"
    containers["mlops-poc-control-plane"]["running"] = False
    path.write_text(json.dumps(containers))
    back = built.run_only("summary")
    assert back.returncode == 0, back.stderr
    assert json.loads(path.read_text())["mlops-poc-control-plane"]["running"]


def test_pool_is_the_end_of_the_kind_networks_ipv4_subnet(clustered):
    done = clustered.run_only("metallb", "istio", "haproxy", STAND_IN_SUBNET="192.168.7.0/24")
    assert done.returncode == 0, done.stderr
    pool = json.loads((clustered.state / "objects.json").read_text())["IPAddressPool/metallb-system/kind"]["document"]
    assert pool["spec"]["addresses"] == ["192.168.7.200-192.168.7.250"]
    assert "server istio-ingressgateway 192.168.7.200:80" in (clustered.root / "etc/haproxy/haproxy.cfg").read_text()


def test_generated_password_is_kept_by_later_runs(clustered):
    first = clustered.run_only("minio", MINIO_ROOT_PASSWORD="generate")
    assert first.returncode == 0, first.stderr
    credentials = (clustered.root / "root/minio.env").read_text()
    assert re.search(r"^AWS_SECRET_ACCESS_KEY=[\w-]{32}$", credentials, re.MULTILINE)
    again = clustered.run_only("minio", MINIO_ROOT_PASSWORD="generate")
    assert again.returncode == 0 and (clustered.root / "root/minio.env").read_text() == credentials
    assert not [c for c in clustered.calls("changed") if c.startswith("kubectl delete pod")]


def test_new_password_restarts_minio(clustered):
    assert clustered.run_only("minio").returncode == 0
    assert clustered.run_only("minio", MINIO_ROOT_PASSWORD="another-password").returncode == 0
    assert [c for c in clustered.calls("changed") if c.startswith("kubectl delete pod --namespace tenant-tiny")]


# --- Errors ---


def test_unfit_machine_is_told_everything_that_is_wrong_before_anything_is_changed(machine, tmp_path):
    (tmp_path / "os-release").write_text('ID=fedora\nVERSION_ID="42"\n')
    refused = machine.run(
        MIN_MEMORY_MB="99999999",
        MIN_CPUS="9999",
        MIN_DISK_GB="9999999",
        OS_RELEASE=str(tmp_path / "os-release"),
        STAND_IN_OFFLINE="1",
    )
    assert refused.returncode == 1
    for text in (
        "fedora 42",
        "MB of memory; at least 99999999",
        "CPUs; at least 9999",
        "GB free",
        "no network: https://github.com",
    ):
        assert text in refused.stderr
    assert not machine.calls("changed") and not machine.root.exists()


def test_taken_port_is_named(machine):
    import socket

    with socket.create_server(("127.0.0.1", 21100)):
        refused = machine.run("--only", "check")
    assert refused.returncode == 1 and "port 21100 is taken" in refused.stderr


def test_no_network_in_the_middle_says_what_could_not_be_had(machine):
    assert machine.run("--only", "docker").returncode == 0
    offline = machine.run("--only", "tools", STAND_IN_OFFLINE="1")
    assert offline.returncode == 1
    assert (
        "cannot download https://github.com/kubernetes-sigs/kind" in offline.stderr and "MIRROR_DIR" in offline.stderr
    )


def test_tampered_download_is_deleted_and_not_installed(machine):
    refused = machine.run_only("tools", "metallb", METALLB_SHA256="0" * 64)
    assert refused.returncode == 1
    assert (
        "metallb-native-v0.16.1.yaml has sha256" in refused.stderr
        and "step metallb failed" in refused.stderr
        and "--from metallb" in refused.stderr
    )
    assert not list((machine.folder / "cache").rglob("metallb-native*"))


def test_tool_that_does_not_match_its_published_checksum_is_not_installed(machine):
    files = json.loads((machine.folder / "upstream.json").read_text())
    bad = machine.folder / "bad"
    bad.write_text("0" * 64)
    address = next(a for a in files if a.endswith("kubectl.sha256"))
    (machine.folder / "upstream.json").write_text(json.dumps(files | {address: str(bad)}))
    refused = machine.run_only("tools")
    assert refused.returncode == 1 and "kubectl-v1.34.11" in refused.stderr
    assert not (machine.root / "usr/local/bin/kubectl").exists()


def test_deployment_that_never_becomes_ready_is_shown_with_its_reason_and_last_words(clustered):
    # The waits of a run are minutes long; the copy that is run here waits for seconds.
    for script in (clustered.repository / "provision").glob("*-metallb.sh"):
        script.write_text(script.read_text().replace("wait_for_deployments 300", "wait_for_deployments 1"))
    failed = clustered.run_only("metallb", STAND_IN_NEVER_READY="controller")
    assert failed.returncode == 1
    for text in (
        "after 1 s still no deployment controller in metallb-system",
        "pod controller-7d9 in metallb-system is not ready: ImagePullBackOff: Back-off",
        "last words",
        "Running this step again is safe",
    ):
        assert text in failed.stderr
    assert "coredns" not in failed.stderr


def test_short_password_is_refused_before_anything_is_installed(machine):
    refused = machine.run("--only", "minio", MINIO_ROOT_PASSWORD="short")
    assert refused.returncode == 1 and "MINIO_ROOT_PASSWORD must be 8 characters at least" in refused.stderr
    assert " short" not in refused.stderr
    assert not machine.calls("changed")
