#!/usr/bin/env python
"""Deploy a trained model to KServe: upload, credentials, manifests, wait, ask.

    python ./scripts/deploy_service.py --model-path model.joblib --model-name textclustering \
        --namespace kserve-textclustering --transformer-path transformer.joblib \
        --transformer-image docker.io/mlops-poc/sklearn-transformer:1.0.0

A version is named after the content of its files and lies in the store under

    s3://BUCKET/NAME/VERSION/model/        model.joblib, read by the predictor
    s3://BUCKET/NAME/VERSION/transformer/  transformer.joblib and clusters.json
    s3://BUCKET/NAME/VERSION/version.json  written last: without it the version does not count

A transformer and a model mean something only together, but KServe rolls the two out one by one: in a rollout, in a
canary and after a deploy that failed, an old transformer would feed a new model and get cluster numbers that mean
nothing. Each transformer is therefore pinned to the predictor revision of its own version (pin_transformer).

Exit status: 0 done, 1 the store or the cluster failed, 2 bad input, 130 interrupted.
"""

import argparse
import base64
import hashlib
import ipaddress
import json
import logging
import os
import re
import secrets
import shlex
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # while the libraries load

import boto3
import coloredlogs
import minio
import sh
import urllib3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from minio.credentials import StaticProvider
from minio.error import MinioAdminException
from tqdm import tqdm

COMPONENTS = ("predictor", "transformer")
VERSION_LABEL = "app.kubernetes.io/version"
SPEC_ANNOTATION = "mlops-poc/spec-sha256"
STORE_ANNOTATION = "mlops-poc/store"
SERVICE_LABEL = "serving.kserve.io/inferenceservice"
# Pods in these states seldom recover, but a registry or store may hiccup: they count after a while.
STUCK = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CrashLoopBackOff"}
STUCK_SECONDS = 30

log = logging.getLogger()
interrupted, forking = threading.Event(), threading.Event()


class Failure(Exception):
    """The store or the cluster did not do what was asked; the message is one line for the user."""

    exit_code = 1


class BadInput(Failure):
    """What the user gave cannot work; the message is one line that says what to do."""

    exit_code = 2


class KubectlFailed(Failure):
    """kubectl ended with an error; `stderr` is what it wrote."""

    def __init__(self, message, stderr):
        super().__init__(message)
        self.stderr = stderr


# ------------------------------------------------------------------------------------------------------- options


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description="Upload a trained model to an S3 store and serve it with KServe.",
        epilog="Keys of the store: the flags, else AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else the AWS profile, "
        "else those of the development machine (minio, minio123). Prefer the environment: "
        "others can see a command line.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    levels = ["DEBUG", "INFO", "WARNING", "ERROR"]
    parser.add_argument("--log-level", default="INFO", type=str.upper, choices=levels, help="how much to tell")

    what = parser.add_argument_group("what to deploy").add_argument
    what("--model-path", type=Path, default="model.joblib", metavar="FILE", help="with clusters.json beside it")
    what("--transformer-path", type=Path, default="transformer.joblib", metavar="FILE", help="of the same training run")
    what("--transformer-image", metavar="IMAGE", help="made from transformer.Dockerfile; needed to deploy")
    what("--model-name", default="textclustering", metavar="NAME", help="name of the inference service")

    cluster = parser.add_argument_group("where it runs").add_argument
    cluster("--namespace", default="kserve-textclustering", help="created if it is not there")
    cluster("--context", help="kubectl context; KUBECONFIG works too")
    cluster("--ingress", default="http://localhost:30300", metavar="URL", help="the ingress gateway as seen from here")
    cluster("--cpu-request", default="100m", metavar="CPU", help="of each container")
    cluster("--cpu-limit", default="1", metavar="CPU", help="of each container")
    cluster("--memory-request", default="512Mi", metavar="MEM", help="of each container")
    cluster("--memory-limit", default="1Gi", metavar="MEM", help="of each container")
    cluster("--wait", action=argparse.BooleanOptionalAction, default=True, help="wait until the service answers")
    cluster("--timeout", type=positive_int, default=600, metavar="SECONDS", help="how long to wait at most")

    store = parser.add_argument_group("the S3 store").add_argument
    store("--bucket", help="created if it is not there; the model's name if not given")
    store("--minio-endpoint", default="http://localhost:30100", metavar="URL", help="the store as seen from here")
    store(
        "--minio-endpoint-cluster",
        default="minio-service.tenant-tiny:9000",
        metavar="HOST:PORT",
        help="the store as seen from the cluster",
    )
    store("--access-key", help="see below")
    store("--secret-key", help="see below")

    actions = parser.add_argument_group("versions")
    action = actions.add_mutually_exclusive_group().add_argument
    action("--dry-run", action="store_true", help="print the manifests, the secret masked, and touch nothing")
    action("--canary", type=percentage, metavar="PERCENT", help="deploy, and give the new version this share only")
    action("--promote", action="store_true", help="give the canary all requests")
    action("--rollback", action="store_true", help="return to the previous version")
    action("--list", action="store_true", help="list the versions with their metrics and traffic")
    action("--delete", action="store_true", help="remove the service and its credentials; the artefacts stay")
    actions.add_argument("--delete-artefacts", action="store_true", help="with --delete: remove all versions as well")

    options = parser.parse_args(argv)
    options.bucket = options.bucket or options.model_name
    if not (options.transformer_image or options.promote or options.rollback or options.list or options.delete):
        parser.error("--transformer-image is needed: build it from transformer.Dockerfile")
    if bool(options.access_key) != bool(options.secret_key):
        parser.error("--access-key and --secret-key belong together: give both or none")
    if options.delete_artefacts and not options.delete:
        parser.error("--delete-artefacts goes with --delete")
    if options.canary and not options.wait:
        parser.error("--canary has to wait until the new version is ready: leave out --no-wait")
    return options


def positive_int(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def percentage(text):
    if not text.isdecimal() or not 1 <= int(text) <= 99:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 99")
    return int(text)


def check_names(options):
    """Check names by the rules of KServe, Kubernetes, Knative and S3.

    https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1beta1/inference_service_validation.go
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    quantity, image = r"\d+(\.\d+)?(m|[kMGT]i?)?", r"[a-z0-9][\w.\-/:@]*"
    rules = {
        # The longest label made of it is the host name prev-NAME-transformer: 63 characters at most.
        "model_name": (
            r"[a-z]([-a-z0-9]{0,44}[a-z0-9])?",
            "at most 46 lower-case letters, digits and '-', starting with a letter and not ending with '-'",
        ),
        "namespace": (
            r"(?!kube-)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
            "at most 63 lower-case letters, digits and '-', not starting or ending with '-', nor starting with kube-",
        ),
        "bucket": (
            r"(?!xn--|sthree-|amzn-s3-demo-)(?!.*\.\.)(?!.*(-s3alias|--ol-s3|--x-s3|\.mrap)$)"
            r"[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]",
            "3 to 63 lower-case letters, digits, '-' and '.', "
            "starting and ending with a letter or digit, and no prefix or suffix that S3 reserves",
        ),
        "minio_endpoint": (r"https?://[^/\s]+/?", "http://HOST:PORT"),
        "minio_endpoint_cluster": (r"(https?://)?[^/\s]+/?", "HOST:PORT"),
        "ingress": (r"https?://[^/\s]+/?", "http://HOST:PORT"),
        "transformer_image": (image, "an image name such as docker.io/mlops-poc/sklearn-transformer:1.0.0"),
        **dict.fromkeys(
            ("cpu_request", "cpu_limit", "memory_request", "memory_limit"),
            (quantity, "a Kubernetes quantity such as 100m, 1 or 512Mi"),
        ),
    }
    for name, (pattern, form) in rules.items():
        value, flag = getattr(options, name), "--" + name.replace("_", "-")
        if value is not None and not re.fullmatch(pattern, value):
            raise BadInput(f"{flag} {value!r} is not allowed: it takes {form}")
        # KServe takes a host name that contains it for one of those that it made before 0.11.
        if name in ("model_name", "namespace") and "-default" in value:
            raise BadInput(f"{flag} {value!r} is not allowed: KServe cannot route names that contain '-default'")
    if is_ip_address(options.bucket):
        raise BadInput(f"--bucket {options.bucket!r} is not allowed: an IP address is no bucket name")


def is_ip_address(text):
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# ----------------------------------------------------------------------------------------------------- artefacts


class Artefacts(NamedTuple):
    """The files of a training run: `files` maps the key under the version's prefix to path and sha256."""

    version: str
    about: dict  # clusters.json
    files: dict


def check_artefacts(model_path, transformer_path):
    """Check that the files belong together and fit the predictor image.

    Raises BadInput when one is missing, is no joblib file, is not what clusters.json describes, or was made with
    another scikit-learn than the predictor's.
    """
    clusters_path, train = model_path.with_name("clusters.json"), "train again with scripts/text_clustering.py"
    for path in (model_path, transformer_path):
        if not path.is_file():
            raise BadInput(f"{path} is not there: {train}, or give its path")
        if not looks_like_joblib(path):
            raise BadInput(f"{path} is not a joblib file: {train}")
    try:
        about = json.loads(clusters_path.read_text(encoding="utf-8"))
        described = [about["sha256"][name] for name in ("model.joblib", "transformer.joblib")]
        trained_with = about["versions"]["scikit-learn"]
        [(cluster["cluster"], cluster["terms"]) for cluster in about["clusters"]]
    except FileNotFoundError:
        raise BadInput(f"{clusters_path} is not there: it is written beside the model; {train}") from None
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{clusters_path} is damaged or from another program: {train}") from None

    found = [sha256(model_path), sha256(transformer_path)]
    if found == described[::-1]:
        raise BadInput(
            "the model is given as transformer and the other way round: swap --model-path and --transformer-path"
        )
    for path, digest, expected in zip((model_path, transformer_path), found, described):
        if digest != expected:
            raise BadInput(
                f"{path} is not of the training run that {clusters_path} describes: "
                f"give the three files of one run, or {train}"
            )
    if trained_with != predictor_scikit_learn():
        raise BadInput(
            f"{model_path} was made with scikit-learn {trained_with}, but KServe's predictor has "
            f"{predictor_scikit_learn()}: install scripts/requirements.txt and {train}"
        )
    files = {
        "model/model.joblib": (model_path, found[0]),
        "transformer/transformer.joblib": (transformer_path, found[1]),
        "transformer/clusters.json": (clusters_path, sha256(clusters_path)),
    }
    content = "".join(digest for _, digest in files.values())
    return Artefacts("v" + hashlib.sha256(content.encode()).hexdigest()[:12], about, files)


def looks_like_joblib(path):
    """By its first bytes (pickle, zlib, gzip, bz2, xz, lzma, lz4): loading a pickle would run what is in it."""
    with path.open("rb") as file:
        return file.read(8).startswith(
            (b"\x80", b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22\x4d\x18")
        )


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def predictor_scikit_learn():
    """Version of scikit-learn in KServe's predictor image: requirements.txt is pinned to it."""
    path = Path(__file__).with_name("requirements.txt")
    pin = re.search(r"^scikit-learn==([\w.]+)", path.read_text() if path.is_file() else "", re.MULTILINE)
    if not pin:
        raise BadInput(f"{path} does not pin scikit-learn: restore it from the repository")
    return pin[1]


# ----------------------------------------------------------------------------------------------------- the store


class Store:
    """The bucket, and in it the prefix of one model. Raises Failure with the reason in the user's terms."""

    def __init__(self, options):
        self.endpoint, self.bucket = options.minio_endpoint.rstrip("/"), options.bucket
        self.prefix = f"{options.model_name}/"
        self.access_key, self.secret_key, self.token, self.keys_from = find_keys(options)
        self.s3 = self.client(self.access_key, self.secret_key, self.token)

    def client(self, access_key, secret_key, token=None):
        config = Config(
            connect_timeout=5,
            read_timeout=20,
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 3, "mode": "standard"},
        )
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=region(),
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=token,
            config=config,
        )

    def call(self, function, *args, absent=(), **kwargs):
        """Call boto3. The error codes in `absent` give None, all others a Failure."""
        try:
            return function(*args, **kwargs)
        except ClientError as error:
            code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
            if code in absent:
                return None
            keys = f"the keys {self.keys_from} (access key {self.access_key})"
            if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"):
                raise Failure(f"the store at {self.endpoint} refuses {keys}: {code}") from None
            if code in ("BucketAlreadyExists", "AccessDenied", "AllAccessDisabled"):
                raise Failure(
                    f"bucket {self.bucket} at {self.endpoint} is owned by someone else, or {keys} may not "
                    f"use it ({code}): choose another --bucket or other keys"
                ) from None
            raise Failure(f"the store at {self.endpoint} answered {code}: {message}") from None
        except (BotoCoreError, boto3.exceptions.Boto3Error, urllib3.exceptions.HTTPError) as error:
            raise Failure(
                f"the store at {self.endpoint} cannot be reached or broke off: {str(error).splitlines()[0]}"
            ) from None

    def create_bucket(self):
        # A GET: the answer to a HEAD would not say why it is refused.
        if self.call(self.s3.list_objects_v2, Bucket=self.bucket, MaxKeys=1, absent=["NoSuchBucket"]) is None:
            place = {} if region() == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region()}}
            self.call(self.s3.create_bucket, Bucket=self.bucket, absent=["BucketAlreadyOwnedByYou"], **place)
            log.info("Created bucket: %s", self.bucket)

    def read(self, key):
        """Content of an object, or None when it is not there."""
        return self.call(
            lambda: self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read(), absent=["NoSuchKey", "NoSuchBucket"]
        )

    def sha256(self, key):
        """sha256 of what the store gives back, or None when it is not there."""
        content = self.read(key)
        return content and hashlib.sha256(content).hexdigest()

    def upload(self, artefacts):
        """Upload and verify a version. version.json comes last and makes it count."""
        root = f"{self.prefix}{artefacts.version}/"
        record = json.loads(self.read(root + "version.json") or "{}")
        if record and all(self.sha256(root + key) == record["sha256"][key] for key in artefacts.files):
            log.info("Version %s is in the store: nothing to upload", artefacts.version)
            return
        for key, (path, digest) in artefacts.files.items():
            with (
                path.open("rb") as content,
                tqdm(
                    desc=path.name,
                    total=path.stat().st_size,
                    unit="B",
                    unit_scale=True,
                    leave=False,
                    disable=not sys.stderr.isatty(),
                ) as bar,
            ):
                self.call(self.s3.upload_fileobj, content, self.bucket, root + key, Callback=bar.update)
            if self.sha256(root + key) != digest:
                raise Failure(
                    f"the store gives back something else for {root}{key} than was uploaded from {path}: "
                    "look after the store, then run this again"
                )
            log.info("Uploaded %s to s3://%s/%s%s", path, self.bucket, root, key)
        record = {
            "version": artefacts.version,
            "uploaded": datetime.now(UTC).isoformat(timespec="seconds"),
            **{name: artefacts.about.get(name) for name in ("created", "dataset", "metrics", "versions")},
            "sha256": {key: digest for key, (_, digest) in artefacts.files.items()},
        }
        self.call(
            self.s3.put_object,
            Bucket=self.bucket,
            Key=root + "version.json",
            Body=json.dumps(record, indent=2).encode(),
            ContentType="application/json",
        )

    def keys(self):
        def collect():
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            return [item["Key"] for page in pages for item in page.get("Contents", [])]

        return self.call(collect, absent=["NoSuchBucket"]) or []

    def versions(self):
        """What version.json says of each complete version, oldest upload first."""
        records = [json.loads(self.read(key)) for key in self.keys() if key.endswith("/version.json")]
        return sorted(records, key=lambda record: record["uploaded"])

    def delete_artefacts(self):
        keys = self.keys()
        for key in keys:
            self.call(self.s3.delete_object, Bucket=self.bucket, Key=key)
        log.info("Deleted %d objects under s3://%s/%s", len(keys), self.bucket, self.prefix)


def region():
    return boto3.Session().region_name or "us-east-1"


def find_keys(options):
    """(access key, secret key, session token or None, where they come from)."""
    if options.access_key:
        return options.access_key, options.secret_key, None, "given with --access-key"
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # nobody to ask but on EC2: it would take seconds
    try:
        found = boto3.Session().get_credentials()
    except BotoCoreError as error:
        raise BadInput(f"the AWS profile gives no keys: {error}") from None
    if found is None:
        return "minio", "minio123", None, "of the development machine"
    where = "in AWS_ACCESS_KEY_ID" if found.method == "env" else "of the AWS profile"
    return found.access_key, found.secret_key, found.token, where


# ----------------------------------------------------------------------------------- credentials of the service


def service_credentials(options, store, cluster):
    """Keys that the service reads the bucket with: (access key, secret key).

    They are those of a MinIO user who can only read this bucket, made through MinIO's admin API and kept as long as
    they work; or, where that cannot be had, the caller's own, with a warning.
    """
    current = cluster.secret_keys()
    if current and current[0].startswith(f"kserve-{options.model_name}-") and can_read(store, *current):
        return current
    user, secret = f"kserve-{options.model_name}-{secrets.token_hex(4)}", secrets.token_urlsafe(30)
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
                "Resource": [f"arn:aws:s3:::{options.bucket}"],
            },
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{options.bucket}/*"]},
        ],
    }
    try:
        admin = minio_admin(store)
        admin.account_info()  # a read first: another S3 server takes the writes below for uploads
        admin.policy_add(user, policy=policy)
        admin.user_add(user, secret)
        admin.policy_set(user, user=user)
    except (MinioAdminException, urllib3.exceptions.HTTPError, ValueError) as error:
        why = "these keys may not create users" if "AccessDenied" in str(error) else "the store has no MinIO admin API"
        if store.token:
            raise BadInput(f"{why}, and temporary AWS keys would expire in the service: use keys that last") from None
        log.warning("The service reads the store with your own keys (access key %s): %s", store.access_key, why)
        return store.access_key, store.secret_key
    log.info("Created store user %s, which can only read bucket %s", user, options.bucket)
    return user, secret


def minio_admin(store):
    scheme, host = store.endpoint.split("://")
    return minio.MinioAdmin(
        endpoint=host,
        secure=scheme == "https",
        http_client=urllib3.PoolManager(timeout=10, retries=False),
        credentials=StaticProvider(store.access_key, store.secret_key, store.token),
    )


def can_read(store, *keys):
    try:
        store.client(*keys).list_objects_v2(Bucket=store.bucket, MaxKeys=1)
    except ClientError:
        return False
    return True


def delete_service_user(options, store, cluster):
    current = cluster.secret_keys()
    if current and current[0].startswith(f"kserve-{options.model_name}-"):
        try:
            minio_admin(store).user_remove(current[0])
            minio_admin(store).policy_remove(current[0])
            log.info("Deleted store user %s", current[0])
        except (MinioAdminException, urllib3.exceptions.HTTPError, ValueError):
            log.warning("Store user %s could not be deleted: delete it with the store's own tools", current[0])


# ----------------------------------------------------------------------------------------------------- manifests


class ManifestDumper(yaml.SafeDumper):
    """YAML as kubectl reads it: it takes 12e4 for a number, where PyYAML sees no need for quotes."""

    def ignore_aliases(self, data):
        return True


ManifestDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if re.match(r"[-+.]?\d", text) else None
    ),
)


def dump(*manifests):
    return yaml.dump_all(manifests, Dumper=ManifestDumper, sort_keys=False)


def namespace_manifest(options):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": options.namespace}}


def credentials_manifests(options, keys=None):
    """Secret and ServiceAccount; without keys the Secret holds its annotations only.

    https://github.com/kserve/kserve/blob/v0.20.0/pkg/credentials/s3/s3_secret.go
    """
    place = {"name": options.model_name, "namespace": options.namespace}
    scheme, _, endpoint = options.minio_endpoint_cluster.rpartition("://")
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            **place,
            "annotations": {
                "serving.kserve.io/s3-endpoint": endpoint.rstrip("/"),
                "serving.kserve.io/s3-usehttps": "1" if scheme == "https" else "0",
                "serving.kserve.io/s3-region": region(),
                "serving.kserve.io/s3-useanoncredential": "false",
            },
        },
    }
    if keys:
        secret["data"] = {
            name: base64.b64encode(key.encode()).decode()
            for name, key in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys)
        }
    return [
        secret,
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": place, "secrets": [{"name": options.model_name}]},
    ]


def inference_service(options, version, access_key=None):
    """The InferenceService of a version, its transformer not yet pinned.

    It names endpoint and user of the store: KServe hands them to a pod when it is made, so that others need new pods.
    """
    root = f"s3://{options.bucket}/{options.model_name}/{version}"
    container = {
        "resources": {
            "requests": {"cpu": options.cpu_request, "memory": options.memory_request},
            "limits": {"cpu": options.cpu_limit, "memory": options.memory_limit},
        },
        "securityContext": {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    store = options.minio_endpoint_cluster + (f" as {access_key}" if access_key else "")
    component = {
        "labels": {VERSION_LABEL: version},
        "annotations": {STORE_ANNOTATION: store},
        "serviceAccountName": options.model_name,
        "minReplicas": 1,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    predictor = {
        **component,
        "model": {
            "modelFormat": {"name": "sklearn"},
            "protocolVersion": "v1",
            "storageUri": f"{root}/model/",
            **container,
        },
    }
    transformer = {
        **component,
        "containers": [
            {
                "name": "kserve-container",
                "image": options.transformer_image,
                # More than one worker breaks a KServe transformer: it scales by replicas.
                "args": ["--model_name", options.model_name, "--predictor_protocol", "v1", "--workers", "1"],
                "env": [{"name": "STORAGE_URI", "value": f"{root}/transformer/"}],
                **container,
            }
        ],
    }
    return sign(
        {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": options.model_name, "namespace": options.namespace},
            "spec": {"predictor": predictor, "transformer": transformer},
        }
    )


def sign(service):
    """Annotate each component with a digest of itself, which its revisions and pods carry too."""
    for spec in service["spec"].values():
        spec["annotations"] = {STORE_ANNOTATION: spec["annotations"][STORE_ANNOTATION]}
        digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
        spec["annotations"][SPEC_ANNOTATION] = digest[:16]
    return service


def signature(item):
    return (item or {}).get("metadata", item or {}).get("annotations", {}).get(SPEC_ANNOTATION)


def pin_transformer(service, revision):
    """Let the transformer call one revision of the predictor, whatever the traffic split says.

    Knative gives each revision a Kubernetes service of its own name. The name must be the full one: Knative's
    activator, which stands in for a revision that is scaled down, finds the revision by it
    (knative/serving, pkg/activator/handler/context_handler.go).
    """
    host = f"{revision}.{service['metadata']['namespace']}.svc.cluster.local"
    service["spec"]["transformer"]["containers"][0]["args"] += ["--predictor_host", host]
    return sign(service)


def dry_run(options, version):
    secret, account = credentials_manifests(options)
    masked = (
        "# data, masked here; keys that the cluster has already stay as they are:\n"
        "#   AWS_ACCESS_KEY_ID: '********'\n#   AWS_SECRET_ACCESS_KEY: '********'\n---\n"
    )
    print(
        dump(namespace_manifest(options))
        + "---\n"
        + dump(secret)
        + masked
        + dump(account, inference_service(options, version)),
        end="",
    )


# --------------------------------------------------------------------------------------------------- the cluster


class View(NamedTuple):
    """What the cluster shows of the service at one moment."""

    service: dict | None
    revisions: dict  # Knative's, by name
    pods: list

    @property
    def status(self):
        return (self.service or {}).get("status", {})

    @property
    def on_knative(self):
        return self.status.get("deploymentMode") in ("Knative", "Serverless")

    @property
    def canary(self):
        """Share of the newest version in percent: None when it gets everything, 0 after a rollback."""
        return (self.service or {"spec": {}})["spec"].get("transformer", {}).get("canaryTrafficPercent")

    def component(self, name):
        return self.status.get("components", {}).get(name, {})

    def condition(self, kind):
        return next(
            (found for found in self.status.get("conditions", []) if found["type"] == kind),
            {"type": kind, "status": "Unknown"},
        )

    def traffic(self):
        """Share of the requests by version, in percent."""
        if not self.service or "transformer" not in self.service["spec"]:
            return {}
        if not self.on_knative:
            return {self.service["spec"]["transformer"].get("labels", {}).get(VERSION_LABEL, "?"): 100}
        shares = {}
        for target in self.component("transformer").get("traffic", []):
            labels = self.revisions.get(target.get("revisionName"), {"metadata": {}})["metadata"].get("labels", {})
            version = labels.get(VERSION_LABEL, "?")
            shares[version] = shares.get(version, 0) + target.get("percent", 0)
        return {version: share for version, share in shares.items() if share}


def in_words(shares):
    return ", ".join(f"{version} {share} %" for version, share in shares.items())


class Cluster:
    """One inference service in one namespace, through kubectl.

    Manifests go over standard input: others can see a command line.
    """

    SERVER_SIDE = ("--server-side", "--force-conflicts", "--field-manager=deploy-service", "-f", "-")

    def __init__(self, options):
        self.name, self.namespace = options.model_name, options.namespace
        self.kinds, self.has_namespace = (), True
        self.flags = ["--request-timeout=20s"] + ([f"--context={options.context}"] if options.context else [])

    def kubectl(self, *args, stdin=""):
        """Run kubectl and return what it prints. Raises KubectlFailed, or BadInput without kubectl or context."""
        try:
            forking.set()
            running = sh.kubectl(*args, *self.flags, _in=stdin, _bg=True, _bg_exc=False)
            forking.clear()
            if interrupted.is_set():
                raise KeyboardInterrupt
            running.wait()
            return str(running)
        except sh.CommandNotFound:
            raise BadInput("kubectl is not installed or not in PATH: https://kubernetes.io/docs/tasks/tools/") from None
        except sh.ErrorReturnCode as error:
            stderr = error.stderr.decode(errors="replace").strip()
        line = (stderr.splitlines() or ["no message"])[-1]
        if "context" in line and "does not exist" in line:
            raise BadInput(f"{line.removeprefix('error: ')}: see kubectl config get-contexts")
        if re.search(
            r"was refused|Unable to connect|no such host|i/o timeout|no route to host|deadline exceeded|"
            r"Client.Timeout|TLS handshake",
            stderr,
        ):
            raise KubectlFailed(
                f"the cluster cannot be reached ({line}): is it up, and does KUBECONFIG or --context "
                "name the right one?",
                stderr,
            )
        if re.search(r"Unauthorized|must be logged in|Please enter Username", line):
            raise KubectlFailed(
                "the cluster does not accept your login: log in again, or choose another --context", stderr
            )
        if "being terminated" in line:
            raise KubectlFailed(self.terminating(), stderr)
        if "orbidden" in line:
            raise KubectlFailed(f"the cluster does not permit it: {line}", stderr)
        raise KubectlFailed(f"kubectl {args[0]} failed: {line}", stderr)

    def terminating(self):
        return f"namespace {self.namespace} is being deleted: wait until it is gone, or use another --namespace"

    def get(self, *what):
        """What kubectl get gives as a dict, or None when it is not there."""
        try:
            return json.loads(self.kubectl("get", *what, "-n", self.namespace, "-o", "json"))
        except KubectlFailed as error:
            if "(NotFound)" in error.stderr:
                return None
            raise

    def look(self):
        """A View: one call, so that its parts fit together."""
        kinds = [
            kind
            for kind in ("inferenceservices.serving.kserve.io", "revisions.serving.knative.dev", "pods")
            if kind in self.kinds
        ]
        found = {"InferenceService": {}, "Revision": {}, "Pod": {}}
        for item in self.get(",".join(kinds))["items"]:
            if self.name in (item["metadata"]["name"], item["metadata"].get("labels", {}).get(SERVICE_LABEL)):
                found[item["kind"]][item["metadata"]["name"]] = item
        return View(found["InferenceService"].get(self.name), found["Revision"], list(found["Pod"].values()))

    def apply(self, *manifests):
        for line in self.kubectl("apply", *self.SERVER_SIDE, stdin=dump(*manifests)).splitlines():
            log.info("kubectl: %s", line)

    def check(self):
        """Raise Failure unless the cluster answers and has KServe."""
        self.kinds = set(self.kubectl("api-resources", "-o", "name").split())
        if "inferenceservices.serving.kserve.io" not in self.kinds:
            raise Failure(
                "KServe is not installed in this cluster (no InferenceService kind): install it, or choose "
                "another --context"
            )

    def rehearse(self, *manifests):
        """Let the server check the manifests, and whether one may apply them, where the namespace exists."""
        try:
            found = json.loads(self.kubectl("get", "namespace", self.namespace, "-o", "json"))
        except KubectlFailed as error:
            if "(NotFound)" in error.stderr:
                self.has_namespace = False
                return
            if "orbidden" not in error.stderr:  # one may use a namespace without seeing it
                raise
            found = {}
        if found.get("status", {}).get("phase") == "Terminating":
            raise Failure(self.terminating())
        self.kubectl("apply", "--dry-run=server", *self.SERVER_SIDE, stdin=dump(*manifests))

    def secret_keys(self):
        """(access key, secret key) that the service has, or None."""
        data = (self.get("secret", self.name) or {}).get("data", {})
        keys = [
            base64.b64decode(data.get(name, "")).decode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        ]
        return tuple(keys) if all(keys) else None

    def set_canary(self, percent):
        """Give the newest revisions this share of the requests, or all with None."""
        patch = {"spec": {name: {"canaryTrafficPercent": percent} for name in COMPONENTS}}
        self.kubectl(
            "patch",
            "inferenceservice",
            self.name,
            "-n",
            self.namespace,
            "--type=merge",
            "--field-manager=deploy-service",
            f"--patch={json.dumps(patch)}",
        )

    def delete(self):
        for kind in ("inferenceservice", "serviceaccount", "secret"):
            done = self.kubectl("delete", kind, self.name, "-n", self.namespace, "--ignore-not-found")
            log.info("kubectl: %s", done.strip() or f"no {kind} {self.name}")


# ------------------------------------------------------------------------------------------------------ roll out


def deploy(options):
    artefacts = check_artefacts(options.model_path, options.transformer_path)
    version = artefacts.version
    log.info("Using model %s from %s, version %s", options.model_name, options.model_path, version)
    if options.dry_run:
        return dry_run(options, version)

    cluster, store = Cluster(options), Store(options)
    cluster.check()
    before = cluster.look()
    if options.canary:
        check_canary(before, cluster.name, version)
    cluster.rehearse(*credentials_manifests(options), inference_service(options, version))
    store.create_bucket()
    store.upload(artefacts)
    keys = service_credentials(options, store, cluster)
    cluster.apply(
        *([] if cluster.has_namespace else [namespace_manifest(options)]), *credentials_manifests(options, keys)
    )
    view = roll_out(cluster, before, inference_service(options, version, keys[0]), options)
    if view is None:
        return log.info(
            "Not waiting: kubectl get inferenceservice %s -n %s tells when it is ready",
            options.model_name,
            options.namespace,
        )
    log.info("Traffic: %s", in_words(view.traffic()))
    # While a canary runs, nobody knows whose cluster numbers an answer holds.
    return ask(options, view, {} if options.canary else artefacts.about)


def check_canary(view, name, version):
    if not view.traffic():
        raise BadInput(f"there is no {name} to try a canary against: deploy without --canary first")
    if not view.on_knative:
        raise BadInput(f"{name} runs in KServe's Standard mode, which has no canary: deploy without --canary")
    if view.traffic().get(version) == 100:
        raise BadInput(f"version {version} gets all requests already: train another one to try it as canary")


def roll_out(cluster, before, service, options):
    """Apply the predictor, then the transformer pinned to it, and wait. Returns a View, None with --no-wait.

    The requests stay with the version that has them until the new pair is ready. Where a canary runs or was rolled
    back, the newest revisions get 0 percent meanwhile: without it KServe would give them everything.
    """
    held = before.canary is not None
    starting = {"canaryTrafficPercent": 0 if held else options.canary} if held or options.canary else {}
    spec = service["spec"]
    kept = {name: part for name, part in (before.service or {"spec": {}})["spec"].items() if name == "transformer"}
    cluster.apply({**service, "spec": {**kept, "predictor": {**spec["predictor"], **starting}}})
    revision = predictor_revision(cluster, signature(spec["predictor"]), options.timeout)
    if revision:
        pin_transformer(service, revision)
    cluster.apply({**service, "spec": {name: {**spec[name], **starting} for name in COMPONENTS}})
    if not options.wait and not held:
        return None
    wait_until_ready(cluster, spec, options.timeout)
    if held:
        cluster.set_canary(options.canary)
    version = spec["transformer"]["labels"][VERSION_LABEL]
    return wait_for_traffic(cluster, version, options.canary or 100, options.timeout)


def predictor_revision(cluster, wanted, timeout):
    """Name of the Knative revision made of the predictor, or None in KServe's Standard mode."""
    for _ in poll(timeout):
        view = cluster.look()
        name = view.component("predictor").get("latestCreatedRevision")
        if view.on_knative and signature(view.revisions.get(name)) == wanted:
            return name
        if view.status.get("deploymentMode") and not view.on_knative:
            return None
    raise Failure(f"KServe made no predictor of {cluster.name} in {timeout} s: {unmet_conditions(view)}")


def poll(timeout):
    """Yield the seconds gone, soon at first and then every two seconds, until `timeout` is over."""
    start, pause = time.monotonic(), 0.25
    while (gone := time.monotonic() - start) < timeout:
        yield gone
        time.sleep(pause)
        pause = min(2, pause * 1.5)


def wait_until_ready(cluster, spec, timeout):
    """Tell what changes until all is ready. Raises Failure, the reasons logged, when it is stuck or too late."""
    told, stuck_since = {}, None
    for gone in poll(timeout):
        view = cluster.look()
        states = readiness(view, spec)
        for part, state in states.items():
            if told.get(part) != state:
                log.info("%s: %s", part, state)
        if set(states.values()) == {"ready"}:
            return
        told, stuck = states, is_stuck(view, spec, states)
        stuck_since = (gone if stuck_since is None else stuck_since) if stuck else None
        if stuck and gone - stuck_since >= STUCK_SECONDS:
            break
    for line in explain(cluster, view, spec):
        log.error("%s", line)
    shares = view.traffic()
    serving = f"; serving meanwhile: {in_words(shares)}" if view.on_knative and shares else ""
    raise Failure(f"{cluster.name} is not ready after {gone:.0f} s, see the reasons above{serving}")


def readiness(view, spec):
    """State of predictor, transformer and ingress in words: ready, or what is missing."""
    states = {}
    for name in COMPONENTS:
        condition, status = view.condition(f"{name.capitalize()}Ready"), view.component(name)
        if view.on_knative:
            created = status.get("latestCreatedRevision")
            current = signature(view.revisions.get(created)) == signature(spec[name])
            ready = current and status.get("latestReadyRevision") == created
        else:
            current, ready = True, any(is_ready(pod) for pod in view.pods if signature(pod) == signature(spec[name]))
        if ready and condition["status"] == "True":
            states[name] = "ready"
        elif current and condition["status"] == "False":
            states[name] = f"failed, {reason(condition)}"
        else:
            states[name] = ", ".join(filter(None, ("starting", reason(condition) if current else "")))
    ingress = view.condition("IngressReady")
    done = ingress["status"] == view.condition("Ready")["status"] == "True"
    return {**states, "ingress": "ready" if done else ", ".join(filter(None, ("waiting", reason(ingress))))}


def reason(condition):
    """First line of what a condition says of itself, maybe nothing."""
    return (condition.get("message") or condition.get("reason") or "").strip().partition("\n")[0]


def is_ready(pod):
    return any(
        found["type"] == "Ready" and found["status"] == "True" for found in pod.get("status", {}).get("conditions", [])
    )


def is_stuck(view, spec, states):
    return any(state.startswith("failed") for state in states.values()) or any(
        kind in STUCK for pod in our_pods(view, spec) for _, kind, _ in troubles(pod)
    )


def wait_for_traffic(cluster, version, share, timeout):
    """Wait until a version gets `share` percent of the requests. Returns a View."""
    for _ in poll(timeout):
        view = cluster.look()
        if view.traffic().get(version) == share and view.condition("Ready")["status"] == "True":
            return view
    raise Failure(
        f"version {version} is ready, but does not get {share} % of the requests after {timeout} s: "
        f"{in_words(view.traffic())}; {unmet_conditions(view)}"
    )


# ---------------------------------------------------------------------------------------------- why it is not ready

ADVICE = {
    r"ImagePull|ErrImage|InvalidImageName|Failed to pull image|Unable to fetch image": "the image cannot be had: check its name, push it, or load it into the cluster's nodes",
    r"Insufficient (cpu|memory)": "no node has room: lower --cpu-request or --memory-request, or remove other services",
    r"OOMKilled": "it ran out of memory: raise --memory-limit",
    r"CreateContainerConfigError": "the image must name a numeric user other than root (USER 1000)",
    r"403|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied": "the store refuses the service's keys: run this again to renew them",
    r"EndpointConnectionError|Could not connect|Connection refused|Name or service not known": "the store cannot be reached from the cluster: check --minio-endpoint-cluster",
    r"exceeded quota": "the namespace's quota is used up: lower the requests or raise the quota",
}


def explain(cluster, view, spec):
    """Why the service is not ready, line by line: from its pods, or else from KServe's conditions and events."""
    lines = []
    for pod in our_pods(view, spec):
        name = pod["metadata"]["name"]
        for container, kind, message in troubles(pod):
            lines.append(f"pod {name}{f', container {container}' if container else ''}: {kind} {message}".strip())
            lines += [f"  | {line}" for line in last_log_lines(cluster, name, container)]
        if not is_ready(pod):
            lines += [f"pod {name}: {line}" for line in warnings(cluster, name)]
    lines = lines or [unmet_conditions(view), *warnings(cluster, cluster.name)]
    text = "\n".join(lines)
    return lines + [f"What to do: {advice}" for pattern, advice in ADVICE.items() if re.search(pattern, text)]


def our_pods(view, spec):
    """The pods of the version that is being deployed, not those that serve meanwhile."""
    wanted = {signature(spec[name]) for name in COMPONENTS}
    newest = {view.component(name).get("latestCreatedRevision") for name in COMPONENTS}
    return [
        pod
        for pod in view.pods
        if signature(pod) in wanted
        and (not view.on_knative or pod["metadata"]["labels"].get("serving.knative.dev/revision") in newest)
    ]


def troubles(pod):
    """What keeps a pod from being ready, as (container or None, kind, message)."""
    status, found = pod.get("status", {}), []
    for condition in status.get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            found.append((None, condition.get("reason", ""), condition.get("message", "")))
    for container in status.get("initContainerStatuses", []) + status.get("containerStatuses", []):
        waiting, ended = (container.get("state", {}).get(state) for state in ("waiting", "terminated"))
        if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
            found.append((container["name"], waiting.get("reason", ""), waiting.get("message", "")))
        elif ended and ended.get("exitCode"):
            found.append((container["name"], ended.get("reason", ""), f"exit status {ended['exitCode']}"))
    return found


def last_log_lines(cluster, pod, container, count=10):
    for previous in ([], ["--previous"]) if container else ():
        try:
            text = cluster.kubectl("logs", pod, "-n", cluster.namespace, "-c", container, f"--tail={count}", *previous)
        except KubectlFailed:  # the container never started
            continue
        if text.strip():
            return text.rstrip().splitlines()
    return []


def warnings(cluster, name):
    """The last events of kind Warning about a pod or the service."""
    events = cluster.get("events", "--field-selector", f"involvedObject.name={name},type=Warning")["items"]
    lines = [f"{event['reason']}: {event['message'].strip()}".splitlines()[0] for event in events]
    return list(dict.fromkeys(lines))[-3:]


def unmet_conditions(view):
    unmet = [
        f"{found['type']}: {reason(found)}"
        for found in view.status.get("conditions", [])
        if found["status"] != "True" and found["type"] not in ("Ready", "Stopped")
    ]
    return "; ".join(unmet) or "KServe says nothing about it; is its controller running?"


# ----------------------------------------------------------------------------------------------------------- ask


def ask(options, view, about):
    """Have one document clustered through the ingress, and print how to do it again."""
    clusters = {
        cluster["cluster"]: " ".join(term for term, _ in cluster["terms"][:10]) for cluster in about.get("clusters", [])
    }
    body = json.dumps({"instances": [[next(iter(clusters.values()), "The team won the game")]]})
    host = view.status["url"].split("://")[1]
    url = f"{options.ingress.rstrip('/')}/v1/models/{options.model_name}:predict"
    http, problem = urllib3.PoolManager(timeout=20, retries=False), "no answer"
    for _ in poll(min(60, options.timeout)):  # a new route takes a moment to reach the gateway
        try:
            response = http.request("POST", url, body=body, headers={"Host": host, "Content-Type": "application/json"})
        except urllib3.exceptions.HTTPError as error:
            problem = str(error).rpartition(": ")[2]
            continue
        problem = f"{response.status} {' '.join(response.data.decode(errors='replace').split())[:300]}"
        if response.status not in (404, 502, 503, 504):
            break
    else:
        raise Failure(
            f"{options.model_name} is ready, but {url} with Host {host} does not answer ({problem}): "
            "give the ingress gateway's address with --ingress"
        )
    try:
        numbers = json.loads(response.data)["predictions"]
    except (ValueError, KeyError, TypeError):
        raise Failure(f"{options.model_name} is ready, but {url} with Host {host} answers {problem}") from None
    log.info("%s answers: %s", options.model_name, problem.partition(" ")[2])
    for number in numbers:
        if number in clusters:
            log.info("Cluster %s: %s", number, clusters[number])
    print(f"curl -H {shlex.quote(f'Host: {host}')} {url} \\\n  -d {shlex.quote(body)}")


# ------------------------------------------------------------------------------- promote, roll back, list, delete


def deployed(cluster):
    cluster.check()
    view = cluster.look()
    if not view.traffic():
        raise BadInput(
            f"there is no inference service {cluster.name} in namespace {cluster.namespace}: "
            "check --model-name and --namespace, or deploy it first"
        )
    return view


def promote(options):
    cluster = Cluster(options)
    view = deployed(cluster)
    if not view.canary:
        raise BadInput(f"{cluster.name} has no canary to promote: deploy one with --canary PERCENT")
    cluster.set_canary(None)
    newest = view.service["spec"]["transformer"]["labels"][VERSION_LABEL]
    view = wait_for_traffic(cluster, newest, 100, options.timeout)
    log.info("Traffic: %s", in_words(view.traffic()))
    ask(options, view, {})


def roll_back(options):
    """Give everything to the version before the newest.

    canaryTrafficPercent 0 is KServe's way: from a canary it returns to the version that had all requests, and from
    a finished rollout to the one before (PropagateStatus in KServe's inference_service_status.go).
    """
    cluster = Cluster(options)
    view = deployed(cluster)
    if not view.on_knative:
        raise BadInput(
            f"{cluster.name} runs in KServe's Standard mode, which keeps no previous version: "
            "deploy the earlier files again"
        )
    status = view.component("transformer")
    newest = status["latestCreatedRevision"]
    if (
        view.canary is None
        and newest == status.get("latestRolledoutRevision")
        and not status.get("previousRolledoutRevision")
    ):
        raise BadInput(f"{cluster.name} has had one version only: there is nothing to return to")
    if view.canary == 0:
        log.info("Rolled back already")
    cluster.set_canary(0)
    for _ in poll(options.timeout):
        view = cluster.look()
        served = [
            target["revisionName"]
            for target in view.component("transformer").get("traffic", [])
            if target.get("percent")
        ]
        if served and newest not in served:
            break
    else:
        raise Failure(
            f"the requests still go to {in_words(view.traffic())} after {options.timeout} s: {unmet_conditions(view)}"
        )
    log.info("Traffic: %s", in_words(view.traffic()))
    ask(options, view, {})


def list_versions(options):
    cluster = Cluster(options)
    cluster.check()
    shares, records = cluster.look().traffic(), Store(options).versions()
    known = [record["version"] for record in records]
    records += [{"version": version} for version in shares if version not in known]
    if not records:
        return log.info("No version of %s yet", options.model_name)
    row = "{:<14} {:<17} {:<17} {:>9} {:>6} {:>10} {:>8}"
    print(row.format("VERSION", "TRAINED", "UPLOADED", "V-MEASURE", "ARI", "SILHOUETTE", "TRAFFIC"))
    for record in records:
        dates = [(record.get(name) or "-")[:16].replace("T", " ") for name in ("created", "uploaded")]
        metrics = record.get("metrics") or {}
        figures = [
            f"{metrics[name]:.3f}" if isinstance(metrics.get(name), (int, float)) else "-"
            for name in ("v_measure", "adjusted_rand_index", "silhouette")
        ]
        share = shares.get(record["version"])
        print(row.format(record["version"], *dates, *figures, f"{share} %" if share else "-"))


def delete(options):
    cluster, store = Cluster(options), Store(options)
    cluster.check()
    delete_service_user(options, store, cluster)
    cluster.delete()
    if options.delete_artefacts:
        store.delete_artefacts()


def interrupt(*_):
    """Ctrl-C. Inside a fork Python would drop the exception and print it; Cluster.kubectl raises it after the fork."""
    interrupted.set()
    if not forking.is_set():
        raise KeyboardInterrupt


def main(argv=None):
    interrupted.clear()
    forking.clear()
    signal.signal(signal.SIGINT, interrupt)
    options = parse_arguments(argv)
    coloredlogs.install(level=options.log_level)
    # Let loose, these log parts of what they send.
    for name in ("sh", "boto3", "botocore", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO if options.log_level == "DEBUG" else logging.WARNING)
    actions = {"promote": promote, "rollback": roll_back, "list": list_versions, "delete": delete}
    action = next((action for name, action in actions.items() if getattr(options, name)), deploy)
    try:
        check_names(options)
        action(options)
    except Failure as error:
        log.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("Interrupted: what was serving still does; run this again to go on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
