"""The manifests that the steps apply, rendered from the real ones of upstream."""

import json
import re
from pathlib import Path

import pytest
import yaml

from support import upstream_files
from support.provision_rehearsal import Loader, applied_in, images_named_in, is_type, manifests_in, manifests_py
from support.upstream_files import versions


def name_of(manifest):
    return manifest["kind"], manifest["metadata"].get("namespace"), manifest["metadata"]["name"]


def workloads(manifests):
    return [m for m in manifests if m["kind"] in ("Deployment", "DaemonSet", "StatefulSet", "Job")]


def containers_in(value, path=()):
    """Yield everything with an image: in a pod template, a serving runtime, MinIO's tenant."""
    if isinstance(value, dict):
        if isinstance(value.get("image"), str):
            yield "/".join(map(str, path)), value
        for key, inner in value.items():
            yield from containers_in(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from containers_in(inner, (*path, position))


def pull_policy(container):
    """Return the policy that the API server sets for a container: https://kubernetes.io/docs/concepts/containers/images/#imagepullpolicy-defaulting"""
    _, at, _ = container["image"].partition("@")
    _, _, tag = container["image"].rpartition("/")[2].partition(":")
    return container.get("imagePullPolicy") or ("IfNotPresent" if at or tag not in ("", "latest") else "Always")


@pytest.mark.parametrize(
    ("image", "policy"),
    [("auto", "Always"), ("a/b:latest", "Always"), ("a:5000/b", "Always"), ("a/b:1", "IfNotPresent")],
)
def test_image_without_a_version_is_always_pulled(image, policy):
    assert pull_policy({"image": image}) == policy
    assert pull_policy({"image": image, "imagePullPolicy": "IfNotPresent"}) == "IfNotPresent"


def test_no_image_in_the_node_is_pulled_again(dry_run, manifests):
    found = [(m, place, c) for m in manifests if not is_type(m) for place, c in containers_in(m)]
    assert len(found) >= 20
    wrong = [
        f"{m['metadata']['name']}: {place}: {c['image']}" for m, place, c in found if pull_policy(c) != "IfNotPresent"
    ]
    assert not wrong
    # Images that a controller or webhook inserts later have no policy, so they need a version.
    later = images_named_in(dry_run)
    assert later and not [i for i in later if pull_policy({"image": i}) != "IfNotPresent"]
    assert "imagePullPolicy: Always" not in dry_run


def test_no_image_is_pulled_for_an_unused_template(dry_run):
    assert "busybox" not in dry_run


def test_platform_pods_have_priority_on_a_full_node(manifests):
    pods = {name_of(m): m["spec"]["template"]["spec"] for m in workloads(manifests)}
    pods |= {name_of(m): m["spec"] for m in manifests if m["kind"] == "Tenant"}
    assert len(pods) == 17
    assert {name: pod.get("priorityClassName") for name, pod in pods.items()} == dict.fromkeys(
        pods, "system-cluster-critical"
    )


def test_pods_of_a_service_meet_the_restricted_level_of_pod_security(manifests):
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    (storage,) = [m["spec"]["container"] for m in manifests if m["kind"] == "ClusterStorageContainer"]
    (server,) = [m["spec"]["containers"][0] for m in manifests if m["kind"] == "ClusterServingRuntime"]
    for container in (storage, server):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True and context["allowPrivilegeEscalation"] is False, container["name"]
        assert context["capabilities"] == {"drop": ["ALL"]} and context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_resource_types_are_established_before_their_instances_are_applied(dry_run):
    parts = re.split(r"^until kubectl wait --for=condition=Established --timeout=30s .*$", dry_run, flags=re.MULTILINE)
    assert len(parts) > 6  # MetalLB, cert-manager, Istio, Knative, KServe, MinIO
    waited = " ".join(re.findall(r"^until kubectl wait --for=condition=Established (.*);", dry_run, re.MULTILINE))
    assert set(re.findall(r"crd/([^\s;]+)", waited)) == {
        m["metadata"]["name"] for m in manifests_in(dry_run) if is_type(m)
    }
    for part in parts[:-1]:
        assert {is_type(m) for m in manifests_in(part.rpartition("kubectl apply")[2])} == {True}
    for documents in applied_in(dry_run):
        assert len({is_type(m) for m in documents}) == 1


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


def test_kserve_has_its_controller_in_knative_mode_and_only_the_scikit_learn_server(manifests):
    names = {(m["kind"], m["metadata"]["name"]) for m in manifests}
    assert [n for k, n in names if k == "ClusterServingRuntime"] == ["kserve-sklearnserver"]
    assert ("Deployment", "kserve-controller-manager") in names
    assert ("CustomResourceDefinition", "inferenceservices.serving.kserve.io") in names
    assert not [n for n in names if re.search("llm|localmodel|inferencepool", "".join(n))]
    config = next(m["data"] for m in manifests if m["metadata"]["name"] == "inferenceservice-config")
    assert json.loads(config["deploy"]) == {"defaultDeploymentMode": "Knative"}
    assert all(json.loads(text) is not None for key, text in config.items() if key != "_example")


def test_knative_serves_example_com_and_resolves_no_tags_of_docker_hub(manifests):
    configs = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    assert "example.com" in configs["config-domain"]
    assert "index.docker.io" in configs["config-deployment"]["registries-skipping-tag-resolving"].split(",")
    assert versions()["TRANSFORMER_REPOSITORY"].startswith("docker.io/")


def test_only_the_gateway_knative_and_transformers_reach_the_activator(manifests):
    [policy] = [
        m for m in manifests if m["kind"] == "NetworkPolicy" and m["metadata"].get("namespace") == "knative-serving"
    ]
    [activator] = [m for m in workloads(manifests) if m["metadata"]["name"] == "activator"]
    pods = activator["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= pods.items()
    [rule] = policy["spec"]["ingress"]
    platform, transformers = rule["from"]
    [roles] = platform["namespaceSelector"]["matchExpressions"]
    admitted = {
        m["metadata"]["name"]
        for m in manifests
        if m["kind"] == "Namespace" and m["metadata"].get("labels", {}).get(roles["key"]) in roles["values"]
    }
    assert admitted == {"istio-system", "knative-serving"} and roles["operator"] == "In"
    assert transformers["namespaceSelector"] == {} and transformers["podSelector"] == {
        "matchLabels": {"component": "transformer"},
        "matchExpressions": [{"key": "serving.kserve.io/inferenceservice", "operator": "Exists"}],
    }


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


def test_only_services_prometheus_the_operator_and_this_machine_reach_minio(manifests):
    (policy,) = [
        m["spec"] for m in manifests if m["kind"] == "NetworkPolicy" and m["metadata"].get("namespace") == "tenant-tiny"
    ]
    assert policy["podSelector"] == {} and policy["policyTypes"] == ["Ingress"]

    def allows(port, namespace=None, labels=None, address=None):
        """NetworkPolicy's rules for the few fields that are used: a rule needs one of its peers and one of its ports."""
        return any(
            port in [entry["port"] for entry in rule["ports"]]
            and any(matches(peer, namespace, labels, address) for peer in rule["from"])
            for rule in policy["ingress"]
        )

    service, stranger = {"serving.kserve.io/inferenceservice": "textclustering"}, {"app": "stranger"}
    assert allows(9000, "kserve-textclustering", service) and allows(9000, "minio-operator", {"name": "operator"})
    assert allows(9000, "kserve-textclustering", {"mlops-poc/retraining": "textclustering"})
    assert allows(9000, "monitoring", {"app": "prometheus"}) and not allows(9000, "monitoring", stranger)
    assert not allows(9000, "kserve-textclustering", stranger) and not allows(9000, "tenant-tiny", stranger)
    assert not allows(9090, "kserve-textclustering", service)
    assert allows(9000, address="172.18.0.1") and allows(9090, address="172.18.0.1")
    assert not allows(9000, address="172.18.0.9") and not allows(9000, address="10.244.0.9")


def matches(peer, namespace, labels, address):
    if address or "ipBlock" in peer:
        return peer.get("ipBlock") == {"cidr": f"{address}/32"}
    names = peer["namespaceSelector"].get("matchLabels", {"kubernetes.io/metadata.name": namespace})
    selector = peer.get("podSelector", {})
    return (
        names == {"kubernetes.io/metadata.name": namespace}
        and selector.get("matchLabels", {}).items() <= labels.items()
        and all(term["operator"] == "Exists" and term["key"] in labels for term in selector.get("matchExpressions", []))
    )


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


def test_istio_takes_the_gateways_image_from_a_config_map_with_its_full_reference(manifests):
    injector = next(m for m in manifests if m["metadata"]["name"] == "istio-sidecar-injector")
    assert (
        json.loads(injector["data"]["values"])["global"]["proxy"]["image"]
        == f"docker.io/istio/proxyv2:{versions()['ISTIO_VERSION']}"
    )


def test_types_and_objects_together_are_the_whole_manifest(tmp_path, real):
    files, _ = real
    text = Path(files[upstream_files.addresses()["KNATIVE_SERVING_CORE"]]).read_text()
    manifests_py("split", tmp_path, text=text)
    types, objects = (
        list(yaml.load_all((tmp_path / f"{what}.yaml").read_text(), Loader)) for what in ("types", "objects")
    )
    everything = list(filter(None, yaml.load_all(text, Loader)))
    assert types == list(filter(is_type, everything))
    assert objects == [document for document in everything if not is_type(document)]
    assert types and objects


# --- The schemas of the pinned Kubernetes ---


@pytest.fixture(scope="session")
def schemas():
    """Kubernetes' OpenAPI definitions as strict JSON schemas: unknown fields are errors."""
    # Of the pinned minor version; the module proxy does not have every patch release.
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


def test_manifests_match_the_schemas_of_the_pinned_kubernetes(manifests, schemas):
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
