#!/usr/bin/env python
"""Deploy a trained model to KServe: upload, credentials, manifests, wait, ask.

    python ./scripts/deploy_service.py --model-path model.joblib --model-name textclustering \
        --namespace kserve-textclustering --transformer-path transformer.joblib \
        --transformer-image docker.io/mlops-poc/sklearn-transformer:1.0.0

A version is named after the content of its files and lives in the store under

    s3://BUCKET/NAME/VERSION/model/        model.joblib, read by the predictor
    s3://BUCKET/NAME/VERSION/transformer/  transformer.joblib and clusters.json
    s3://BUCKET/NAME/VERSION/version.json  written last: without it the version does not count

A transformer and a model only make sense together, but KServe rolls predictor and transformer
out independently of each other: during a rollout, a canary or after a failed deploy an old
transformer would feed a new model and get cluster numbers that mean nothing. Each transformer
is therefore pinned to its own predictor revision (see pin_transformer).

Exit status: 0 done, 1 the store or the cluster failed, 2 bad input, 130 interrupted.
"""

import argparse
import base64
import hashlib
import http.client
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
import urllib.error
import urllib.request
from datetime import datetime, timezone
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))  # while the libraries load

import boto3
import botocore.config
import botocore.exceptions
import coloredlogs
import minio
import sh
import urllib3
import yaml
from minio.credentials import StaticProvider
from minio.error import MinioAdminException
from tqdm import tqdm

FIELD_MANAGER = "deploy-service"
VERSION_LABEL = "app.kubernetes.io/version"
SPEC_ANNOTATION = "mlops-poc/spec-sha256"
VERSION_PATTERN = r"v[0-9a-f]{12}"
COMPONENTS = ("predictor", "transformer")
# A pod in one of these states does not recover by waiting.
HOPELESS = {
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
}
# How long a failed condition may stand before it counts: Knative reports some that pass by.
GRACE_SECONDS = 30

log = logging.getLogger()
interrupted = threading.Event()


class Failure(Exception):
    """The store or the cluster did not do what was asked: one line for the user, exit 1."""

    exit_code = 1


class BadInput(Failure):
    """What the user gave can't work: one line for the user, exit 2."""

    exit_code = 2


class KubectlFailed(Failure):
    """kubectl ended with an error; `stderr` is what it wrote."""

    def __init__(self, message, stderr):
        super().__init__(message)
        self.stderr = stderr


# --- Options ----------------------------------------------------------------------------------


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description="Upload a trained model to an S3 store and serve it with KServe.",
        epilog="Keys for the store: --access-key and --secret-key, else AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, else the AWS profile, else those of the development machine "
        "(minio / minio123). Prefer the environment: a command line is visible to others.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--log-level", default="INFO", type=str.upper,
                        choices=["DEBUG", "INFO", "WARNING", "ERROR"], help="how much to tell")

    what = parser.add_argument_group("what to deploy")
    what.add_argument("--model-path", type=Path, default="model.joblib", metavar="FILE",
                      help="the model; clusters.json must lie beside it")
    what.add_argument("--transformer-path", type=Path, default="transformer.joblib",
                      metavar="FILE", help="the pre-processing pipeline of the same training run")
    what.add_argument("--transformer-image", metavar="IMAGE",
                      help="image of the transformer (transformer.Dockerfile); needed to deploy")
    what.add_argument("--model-name", default="textclustering", metavar="NAME",
                      help="name of the inference service")

    cluster = parser.add_argument_group("where it runs")
    cluster.add_argument("--namespace", default="kserve-textclustering",
                         help="namespace, created if it is not there")
    cluster.add_argument("--context", help="kubectl context; KUBECONFIG is honoured too")
    cluster.add_argument("--ingress", default="http://localhost:30300", metavar="URL",
                         help="where the cluster's ingress gateway answers from here")
    cluster.add_argument("--cpu-request", default="100m", metavar="CPU", help="per container")
    cluster.add_argument("--cpu-limit", default="1", metavar="CPU", help="per container")
    cluster.add_argument("--memory-request", default="512Mi", metavar="MEM", help="per container")
    cluster.add_argument("--memory-limit", default="1Gi", metavar="MEM", help="per container")

    store = parser.add_argument_group("the S3 store")
    store.add_argument("--bucket", help="bucket, created if it is not there (default: the model's name)")
    store.add_argument("--minio-endpoint", default="http://localhost:30100", metavar="URL",
                       help="the store as this machine reaches it")
    store.add_argument("--minio-endpoint-cluster", default="minio-service.tenant-tiny:9000",
                       metavar="HOST:PORT", help="the store as the cluster's pods reach it")
    store.add_argument("--access-key", default=argparse.SUPPRESS, help="see below")
    store.add_argument("--secret-key", default=argparse.SUPPRESS, help="see below")

    wait = parser.add_argument_group("waiting")
    wait.add_argument("--wait", action=argparse.BooleanOptionalAction, default=True,
                      help="wait until the service answers")
    wait.add_argument("--timeout", type=positive_int, default=600, metavar="SECONDS",
                      help="how long to wait at most")

    actions = parser.add_argument_group("instead of a full deploy")
    action = actions.add_mutually_exclusive_group()
    action.add_argument("--dry-run", action="store_true",
                        help="print the manifests (secret masked) and touch nothing")
    action.add_argument("--canary", type=percentage, metavar="PERCENT",
                        help="deploy, but send only this share of the requests to the new version")
    action.add_argument("--promote", action="store_true", help="send everything to the canary")
    action.add_argument("--rollback", action="store_true", help="go back to the previous version")
    action.add_argument("--list", action="store_true", help="list the versions and their traffic")
    action.add_argument("--delete", action="store_true",
                        help="remove the service and its credentials; artefacts stay")
    actions.add_argument("--delete-artefacts", action="store_true",
                         help="with --delete: remove all versions from the store as well")

    options = parser.parse_args(argv)
    options.bucket = options.bucket or options.model_name
    options.access_key = getattr(options, "access_key", None)
    options.secret_key = getattr(options, "secret_key", None)
    options.deploys = not (options.promote or options.rollback or options.list or options.delete)
    if options.deploys and not options.transformer_image:
        parser.error("--transformer-image is needed: build it from transformer.Dockerfile")
    if bool(options.access_key) != bool(options.secret_key):
        parser.error("--access-key and --secret-key belong together: give both or none")
    if options.delete_artefacts and not options.delete:
        parser.error("--delete-artefacts goes with --delete")
    if options.canary is not None and not options.wait:
        parser.error("--canary needs to wait until the new version is ready: leave out --no-wait")
    return options


def positive_int(text):
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def percentage(text):
    if not text.isdigit() or not 1 <= int(text) <= 99:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 99")
    return int(text)


def check_names(options):
    """Check names against the rules of KServe, Kubernetes, Knative and S3.

    https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1beta1/inference_service_validation.go
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    name, namespace, bucket = options.model_name, options.namespace, options.bucket
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        raise BadInput(f"--model-name {name!r}: use lower-case letters, digits and '-', starting "
                       "with a letter and not ending with '-'")
    # The longest label made of it is the host name prev-NAME-transformer: 63 characters at most.
    if len(name) > 46:
        raise BadInput(f"--model-name {name!r}: {len(name)} characters, 46 are allowed")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
        raise BadInput(f"--namespace {namespace!r}: use at most 63 lower-case letters, digits "
                       "and '-', not starting or ending with '-'")
    if namespace.startswith("kube-"):
        raise BadInput(f"--namespace {namespace!r}: 'kube-' is reserved for Kubernetes itself")
    # KServe takes a host name that contains it for one of its own names before 0.11.
    for option, value in (("--model-name", name), ("--namespace", namespace)):
        if "-default" in value:
            raise BadInput(f"{option} {value!r}: KServe can't route names that contain '-default'")
    if (not re.fullmatch(r"[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]", bucket) or ".." in bucket
            or is_ip_address(bucket)
            or bucket.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
            or bucket.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3"))):
        raise BadInput(f"--bucket {bucket!r} is no valid S3 bucket name: 3 to 63 lower-case letters, "
                       "digits, '-' and '.', starting and ending with a letter or digit")
    for option in ("cpu_request", "cpu_limit", "memory_request", "memory_limit"):
        if not re.fullmatch(r"\d+(\.\d+)?(m|[kMGT]i?)?", getattr(options, option)):
            raise BadInput(f"--{option.replace('_', '-')} {getattr(options, option)!r} is no "
                           "Kubernetes quantity such as 100m, 1 or 512Mi")
    for option in ("minio_endpoint", "ingress"):
        if not re.fullmatch(r"https?://[^/\s]+/?", getattr(options, option)):
            raise BadInput(f"--{option.replace('_', '-')} {getattr(options, option)!r}: "
                           "write it as http://HOST:PORT")
    if not re.fullmatch(r"(https?://)?[^/\s]+/?", options.minio_endpoint_cluster):
        raise BadInput(f"--minio-endpoint-cluster {options.minio_endpoint_cluster!r}: "
                       "write it as HOST:PORT")
    if options.transformer_image and not re.fullmatch(r"[a-z0-9][\w.\-/:@]*", options.transformer_image):
        raise BadInput(f"--transformer-image {options.transformer_image!r} is no image name")


def is_ip_address(text):
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


# --- Artefacts --------------------------------------------------------------------------------


def check_artefacts(model_path, transformer_path):
    """Check that the files belong together and fit the predictor image.

    Returns a dict: `version`, `about` (clusters.json) and `files`, which maps the path under the
    version's prefix to the local path, the size in bytes and the sha256.

    Raises BadInput when a file is missing, is no joblib file, is not the one that clusters.json
    describes, or was made with another scikit-learn than the predictor's.
    """
    clusters_path = model_path.with_name("clusters.json")
    again = "train again with scripts/text_clustering.py"
    for path in (model_path, transformer_path):
        if not path.is_file():
            raise BadInput(f"{path} is not there: {again}, or give its path")
        check_joblib(path)
    try:
        about = json.loads(clusters_path.read_text(encoding="utf-8"))
        expected = [about["sha256"][name] for name in ("model.joblib", "transformer.joblib")]
        trained_with = about["versions"]["scikit-learn"]
        about["clusters"][0]["terms"]
    except FileNotFoundError:
        raise BadInput(f"{clusters_path} is not there: it is written beside the model; {again}") from None
    except (ValueError, KeyError, IndexError, TypeError):
        raise BadInput(f"{clusters_path} is damaged or from another program: {again}") from None

    found = [sha256(model_path), sha256(transformer_path)]
    if found == expected[::-1]:
        raise BadInput(f"{model_path} is the transformer and {transformer_path} the model: "
                       "swap --model-path and --transformer-path")
    for path, is_, should in zip((model_path, transformer_path), found, expected):
        if is_ != should:
            raise BadInput(f"{path} is not of the training run that {clusters_path} describes: "
                           f"take the three files of one run, or {again}")
    served_with = predictor_scikit_learn()
    if trained_with != served_with:
        raise BadInput(f"{model_path} was made with scikit-learn {trained_with}, but the predictor "
                       f"image has {served_with}: install scripts/requirements.txt and {again}")

    local = {"model/model.joblib": model_path,
             "transformer/transformer.joblib": transformer_path,
             "transformer/clusters.json": clusters_path}
    files = {name: {"path": path, "size": path.stat().st_size, "sha256": sha256(path)}
             for name, path in local.items()}
    version = "v" + hashlib.sha256("".join(found).encode()).hexdigest()[:12]
    return {"version": version, "about": about, "files": files}


def check_joblib(path):
    """Look at the first bytes only: loading a pickle runs what is in it."""
    magics = (b"\x80", b"\x78", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\x00", b"\x04\x22\x4d\x18")
    with path.open("rb") as file:
        start = file.read(8)
    if not start.startswith(magics):
        raise BadInput(f"{path} is not a joblib file")


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def predictor_scikit_learn():
    """The scikit-learn inside KServe's predictor image, which requirements.txt is pinned to."""
    path = Path(__file__).with_name("requirements.txt")
    pin = re.search(r"^scikit-learn==([\w.]+)", path.read_text() if path.is_file() else "", re.M)
    if not pin:
        raise BadInput(f"{path} does not pin scikit-learn: restore it from the repository")
    return pin.group(1)


# --- The store --------------------------------------------------------------------------------


class Store:
    """A bucket of an S3 store, and the prefix in it that belongs to one model.

    Every method raises Failure with the reason in the user's terms.
    """

    def __init__(self, options):
        self.endpoint = options.minio_endpoint.rstrip("/")
        self.bucket = options.bucket
        self.prefix = f"{options.model_name}/"
        self.access_key, self.secret_key, self.temporary, self.keys_from = find_keys(options)
        self.region = boto3.Session().region_name or "us-east-1"
        self.s3 = self.client(self.access_key, self.secret_key, self.temporary)

    def client(self, access_key, secret_key, token=None):
        return boto3.client(
            "s3", endpoint_url=self.endpoint, region_name=self.region,
            aws_access_key_id=access_key, aws_secret_access_key=secret_key, aws_session_token=token,
            config=botocore.config.Config(
                connect_timeout=5, read_timeout=20, signature_version="s3v4",
                s3={"addressing_style": "path"}, retries={"total_max_attempts": 3, "mode": "standard"}))

    def call(self, function, *args, **kwargs):
        """Call boto3 and turn what goes wrong into a Failure."""
        try:
            return function(*args, **kwargs)
        except botocore.exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            message = error.response.get("Error", {}).get("Message", "")
            if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"):
                raise Failure(f"the store at {self.endpoint} refuses the keys {self.keys_from} "
                              f"(access key {self.access_key}): {code}") from None
            if code in ("BucketAlreadyExists", "AccessDenied", "403", "AllAccessDisabled"):
                raise Failure(f"bucket {self.bucket} at {self.endpoint} is owned by someone else, or "
                              f"the keys {self.keys_from} (access key {self.access_key}) may not use "
                              f"it ({code}): choose another --bucket or other keys") from None
            raise Failure(f"the store at {self.endpoint} answered {code}: {message}") from None
        except (botocore.exceptions.BotoCoreError, boto3.exceptions.Boto3Error) as error:
            raise Failure(f"the store at {self.endpoint} can't be reached or broke off: "
                          f"{str(error).splitlines()[0]}") from None

    def create_bucket(self):
        """Create the bucket if it is not there. A GET, because a HEAD says no reason for a 403."""
        try:
            self.s3.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchBucket":
                self.call(raise_, error)
            location = {} if self.region == "us-east-1" else {
                "CreateBucketConfiguration": {"LocationConstraint": self.region}}
            try:
                self.s3.create_bucket(Bucket=self.bucket, **location)
            except self.s3.exceptions.BucketAlreadyOwnedByYou:
                pass
            except botocore.exceptions.ClientError as error:
                self.call(raise_, error)
            log.info("Created bucket: %s", self.bucket)
        except botocore.exceptions.BotoCoreError as error:
            self.call(raise_, error)

    def read(self, key):
        """Bytes of an object, or None when it is not there."""
        try:
            return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except self.s3.exceptions.NoSuchKey:
            return None
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            if getattr(error, "response", {}).get("Error", {}).get("Code") == "NoSuchBucket":
                return None
            return self.call(raise_, error)

    def sha256(self, key):
        """sha256 of what the store gives back, or None when there is no such object."""
        def digest():
            body, hash_ = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"], hashlib.sha256()
            for chunk in body.iter_chunks(1 << 20):
                hash_.update(chunk)
            return hash_.hexdigest()
        try:
            return digest()
        except self.s3.exceptions.NoSuchKey:
            return None
        except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
            return self.call(raise_, error)

    def upload(self, artefacts):
        """Upload a version and verify it. version.json comes last and makes the version count."""
        root = f"{self.prefix}{artefacts['version']}/"
        files = artefacts["files"]
        record = self.read(root + "version.json")
        if record and all(self.sha256(root + name) == json.loads(record)["sha256"][name]
                          for name in files):
            log.info("Version %s is in the store already: nothing to upload", artefacts["version"])
            return
        for name, file in files.items():
            with file["path"].open("rb") as content, tqdm(
                    desc=file["path"].name, total=file["size"], unit="B", unit_scale=True,
                    leave=False, disable=not sys.stderr.isatty()) as bar:
                self.call(self.s3.upload_fileobj, content, self.bucket, root + name,
                          Callback=bar.update)
            if self.sha256(root + name) != file["sha256"]:
                raise Failure(f"what the store gives back for {root}{name} is not what was "
                              f"uploaded ({file['path']}): check the store, then run this again")
            log.info("Uploaded %s to s3://%s/%s%s", file["path"], self.bucket, root, name)
        about = artefacts["about"]
        record = {"version": artefacts["version"],
                  "uploaded": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                  **{key: about.get(key) for key in ("created", "dataset", "metrics", "versions")},
                  "sha256": {name: file["sha256"] for name, file in files.items()}}
        self.call(self.s3.put_object, Bucket=self.bucket, Key=root + "version.json",
                  Body=json.dumps(record, indent=2).encode(), ContentType="application/json")

    def versions(self):
        """The complete versions in the store, oldest upload first."""
        def prefixes():
            pages = self.s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix, Delimiter="/")
            return [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
        records = [self.read(prefix + "version.json") for prefix in self.call(prefixes)]
        return sorted((json.loads(record) for record in records if record),
                      key=lambda record: record["uploaded"])

    def delete_artefacts(self):
        """Remove every version of this model. The bucket stays: others may use it."""
        def delete():
            deleted = 0
            pages = self.s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix)
            for page in pages:
                for item in page.get("Contents", []):
                    self.s3.delete_object(Bucket=self.bucket, Key=item["Key"])
                    deleted += 1
            return deleted
        log.info("Deleted %d objects under s3://%s/%s", self.call(delete), self.bucket, self.prefix)


def raise_(error):
    raise error


def find_keys(options):
    """(access key, secret key, session token or None, where they come from)."""
    if options.access_key:
        return options.access_key, options.secret_key, None, "given with --access-key"
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # not a question to ask the network
    try:
        found = boto3.Session().get_credentials()
    except botocore.exceptions.BotoCoreError as error:
        raise BadInput(f"no keys from the AWS profile: {error}") from None
    if found:
        where = {"env": "in AWS_ACCESS_KEY_ID"}.get(found.method, "of the AWS profile")
        found = found.get_frozen_credentials()
        return found.access_key, found.secret_key, found.token, where
    return "minio", "minio123", None, "of the development machine"


# --- Credentials of the service ---------------------------------------------------------------


def service_credentials(options, store, cluster):
    """Keys that the service reads the bucket with: (access key, secret key).

    A MinIO user of its own that can only read this bucket, created through the admin API; the
    one that is in the cluster already is kept while it works. Where that can't be had the
    caller's own keys are used, with a warning.
    """
    prefix = f"kserve-{options.model_name}-"
    current = cluster.secret_keys()
    if current and current[0].startswith(prefix) and can_read(store, *current):
        return current
    user, secret = prefix + secrets.token_hex(4), secrets.token_urlsafe(30)
    try:
        admin = minio_admin(store)
        admin.account_info()  # a read: another S3 server would take the writes below for uploads
        admin.policy_add(user, policy=read_only_policy(options.bucket))
        admin.user_add(user, secret)
        admin.policy_set(user, user=user)
    except (MinioAdminException, urllib3.exceptions.HTTPError, ValueError) as error:
        reason = ("these keys may not create users" if "AccessDenied" in str(error)
                  else "the store has no MinIO admin API")
        log.warning("The service gets your own keys (access key %s) to read the store with, because %s",
                    store.access_key, reason)
        if store.temporary:
            raise BadInput("temporary AWS keys can't be given to the service, it would fail when "
                           "they expire: use the keys of a user") from None
        return store.access_key, store.secret_key
    log.info("Created store user %s, which can only read bucket %s", user, options.bucket)
    return user, secret


def minio_admin(store):
    secure, host = store.endpoint.startswith("https"), store.endpoint.split("://")[1]
    return minio.MinioAdmin(
        endpoint=host, secure=secure,
        credentials=StaticProvider(store.access_key, store.secret_key, store.temporary),
        http_client=urllib3.PoolManager(timeout=10, retries=False))


def read_only_policy(bucket):
    return {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
         "Resource": [f"arn:aws:s3:::{bucket}"]},
        {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]}]}


def can_read(store, access_key, secret_key):
    try:
        store.client(access_key, secret_key).list_objects_v2(
            Bucket=store.bucket, Prefix=store.prefix, MaxKeys=1)
    except botocore.exceptions.ClientError:
        return False
    return True


def delete_service_user(options, store, cluster):
    current = cluster.secret_keys()
    if not current or not current[0].startswith(f"kserve-{options.model_name}-"):
        return
    try:
        admin = minio_admin(store)
        admin.user_remove(current[0])
        admin.policy_remove(current[0])
        log.info("Deleted store user %s", current[0])
    except (MinioAdminException, urllib3.exceptions.HTTPError, ValueError):
        log.warning("Store user %s could not be deleted: delete it by hand", current[0])


# --- Manifests --------------------------------------------------------------------------------


class ManifestDumper(yaml.SafeDumper):
    """YAML that kubectl reads as it was meant: it takes 12e4 for a number, PyYAML does not."""

    def ignore_aliases(self, data):
        return True


ManifestDumper.add_representer(str, lambda dumper, text: dumper.represent_scalar(
    "tag:yaml.org,2002:str", text, style='"' if re.match(r"[-+.]?\d", text) else None))


def dump(*manifests):
    return yaml.dump_all(manifests, Dumper=ManifestDumper, sort_keys=False)


def namespace_manifest(options):
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": options.namespace}}


def metadata(options, **more):
    return {"name": options.model_name, "namespace": options.namespace, **more}


def credentials_manifests(options, region, keys=None):
    """Secret and ServiceAccount. Without keys the Secret has its annotations only.

    https://github.com/kserve/kserve/blob/v0.20.0/pkg/credentials/s3/s3_secret.go
    """
    https = options.minio_endpoint_cluster.startswith("https://")
    secret = {
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": metadata(options, annotations={
            "serving.kserve.io/s3-endpoint": options.minio_endpoint_cluster.split("://")[-1].rstrip("/"),
            "serving.kserve.io/s3-usehttps": "1" if https else "0",
            "serving.kserve.io/s3-region": region,
            "serving.kserve.io/s3-useanoncredential": "false"}),
    }
    if keys:
        secret["data"] = {name: base64.b64encode(key.encode()).decode() for name, key in
                          zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), keys)}
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata(options),
               "secrets": [{"name": options.model_name}]}
    return [secret, account]


def inference_service(options, version):
    """The InferenceService of a version, its transformer not yet pinned."""
    root = f"s3://{options.bucket}/{options.model_name}/{version}"
    container = {
        "resources": {
            "requests": {"cpu": options.cpu_request, "memory": options.memory_request},
            "limits": {"cpu": options.cpu_limit, "memory": options.memory_limit}},
        "securityContext": {
            "runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    component = {
        "labels": {VERSION_LABEL: version},
        "serviceAccountName": options.model_name,
        "minReplicas": 1,
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    predictor = {**component, "model": {
        "modelFormat": {"name": "sklearn"}, "protocolVersion": "v1",
        "storageUri": f"{root}/model/", **container}}
    transformer = {**component, "containers": [{
        "name": "kserve-container", "image": options.transformer_image,
        # More than one worker breaks a KServe transformer; replicas are how it scales.
        "args": ["--model_name", options.model_name, "--predictor_protocol", "v1", "--workers", "1"],
        "env": [{"name": "STORAGE_URI", "value": f"{root}/transformer/"}], **container}]}
    return sign({
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService",
        "metadata": metadata(options),
        "spec": {"predictor": predictor, "transformer": transformer}})


def sign(service):
    """Annotate each component with a digest of itself: revisions and pods carry it on."""
    for component in COMPONENTS:
        spec = service["spec"][component]
        spec.pop("annotations", None)
        spec["annotations"] = {SPEC_ANNOTATION: hashlib.sha256(
            json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]}
    return service


def pin_transformer(service, revision):
    """Let the transformer call one revision of the predictor, whatever the traffic split says.

    Knative gives each revision a Kubernetes service of its own name. The full host name is
    needed: the activator, which stands in for a revision that is scaled down, finds the revision
    by it (knative/serving, pkg/activator/handler/context_handler.go).
    """
    host = f"{revision}.{service['metadata']['namespace']}.svc.cluster.local"
    service["spec"]["transformer"]["containers"][0]["args"] += ["--predictor_host", host]
    return sign(service)


def signature(service, component):
    return service["spec"][component]["annotations"][SPEC_ANNOTATION]


def dry_run(options, version):
    region = boto3.Session().region_name or "us-east-1"
    secret, account = credentials_manifests(options, region)
    masked = ("# data: masked; keys that the cluster has already stay as they are\n"
              "#   AWS_ACCESS_KEY_ID: '********'\n"
              "#   AWS_SECRET_ACCESS_KEY: '********'\n")
    print(dump(namespace_manifest(options)) + "---\n" + dump(secret) + masked + "---\n"
          + dump(account, inference_service(options, version)), end="")


# --- The cluster ------------------------------------------------------------------------------


class Cluster:
    """The inference service `name` in a namespace of a cluster, through kubectl.

    What goes to the cluster goes over standard input: a command line is visible to others.
    """

    def __init__(self, options):
        self.name, self.namespace = options.model_name, options.namespace
        self.options = ["--request-timeout=20s"]
        if options.context:
            self.options.append(f"--context={options.context}")

    def kubectl(self, *args, stdin=""):
        """Run kubectl and return what it prints.

        Raises KubectlFailed, or BadInput when kubectl or the context is missing.
        """
        try:
            output = str(sh.kubectl(*args, *self.options, _in=stdin))
            if interrupted.is_set():
                raise KeyboardInterrupt
            return output
        except sh.CommandNotFound:
            raise BadInput("kubectl is not installed or not in PATH: "
                           "https://kubernetes.io/docs/tasks/tools/") from None
        except sh.ErrorReturnCode as error:
            stderr = error.stderr.decode(errors="replace").strip()
        line = stderr.splitlines()[-1] if stderr else "no message"
        if "context" in line and "does not exist" in line:
            raise BadInput(f"{line.removeprefix('error: ')}: see kubectl config get-contexts")
        if re.search(r"was refused|Unable to connect|no such host|i/o timeout|no route to host|"
                     r"context deadline exceeded|Client.Timeout|TLS handshake", stderr):
            raise KubectlFailed(f"the cluster can't be reached ({line}): is it up, and does "
                                "KUBECONFIG or --context name the right one?", stderr)
        if re.search(r"Unauthorized|must be logged in|Please enter Username", line):
            raise KubectlFailed("the cluster does not accept your credentials: "
                                "log in again or choose another --context", stderr)
        if "Forbidden" in line or "forbidden" in line:
            if "being terminated" in line:
                raise KubectlFailed(self.terminating(), stderr)
            raise KubectlFailed(f"the cluster does not permit it: {line}", stderr)
        raise KubectlFailed(f"kubectl {args[0]} failed: {line}", stderr)

    def terminating(self):
        return f"namespace {self.namespace} is being deleted: wait until it is gone, or use another"

    def get(self, *what):
        """A list or an object as a dict, or None when it is not there."""
        try:
            return json.loads(self.kubectl("get", *what, "-n", self.namespace, "-o", "json"))
        except KubectlFailed as error:
            if "(NotFound)" in error.stderr:
                return None
            raise

    def apply(self, *manifests):
        for line in self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-",
                                 f"--field-manager={FIELD_MANAGER}",
                                 stdin=dump(*manifests)).splitlines():
            log.info("kubectl: %s", line)

    def check(self):
        """Reachable, with KServe, and with the permissions that a deploy needs."""
        kinds = self.kubectl("api-resources", "--api-group=serving.kserve.io", "-o", "name").split()
        if "inferenceservices.serving.kserve.io" not in kinds:
            raise Failure("KServe is not installed in this cluster (no InferenceService kind): "
                          "install it, or choose another --context")
        for kind in ("secrets", "serviceaccounts", "inferenceservices.serving.kserve.io"):
            try:
                self.kubectl("auth", "can-i", "patch", kind, "-n", self.namespace)
            except KubectlFailed as error:
                if error.stderr and not error.stderr.startswith("Warning"):
                    raise
                raise Failure(f"your account in the cluster may not change {kind} in namespace "
                              f"{self.namespace}: ask for that permission") from None

    def create_namespace(self, manifest):
        try:
            found = json.loads(self.kubectl("get", "namespace", self.namespace, "-o", "json"))
        except KubectlFailed as error:
            if "(NotFound)" in error.stderr:
                return self.apply(manifest)
            if "orbidden" in error.stderr:  # may use a namespace, but not look at it
                return None
            raise
        if found["status"].get("phase") == "Terminating":
            raise Failure(self.terminating())
        return None

    def secret_keys(self):
        """(access key, secret key) that the service has now, or None."""
        data = (self.get("secret", self.name) or {}).get("data", {})
        keys = [base64.b64decode(data.get(name, "")).decode()
                for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
        return tuple(keys) if all(keys) else None

    def service(self):
        return self.get("inferenceservice", self.name)

    def set_canary(self, percent):
        """Set or, with None, take away the share of the newest revisions."""
        patch = {"spec": {name: {"canaryTrafficPercent": percent} for name in COMPONENTS}}
        self.kubectl("patch", "inferenceservice", self.name, "-n", self.namespace, "--type=merge",
                     f"--field-manager={FIELD_MANAGER}", f"--patch={json.dumps(patch)}")

    def revisions(self):
        """The Knative revisions of the service by name."""
        found = self.get("revisions.serving.knative.dev", "-l",
                         f"serving.kserve.io/inferenceservice={self.name}")
        return {item["metadata"]["name"]: item for item in found["items"]}

    def pods(self, signatures):
        """The pods of the components with these signatures, as (component, pod)."""
        found = self.get("pods", "-l", f"serving.kserve.io/inferenceservice={self.name}")
        return [(component, pod) for component in COMPONENTS for pod in found["items"]
                if pod["metadata"].get("annotations", {}).get(SPEC_ANNOTATION) == signatures[component]]

    def traffic(self, service):
        """Share of the requests by version, in percent."""
        if not on_knative(service):
            version = service["spec"]["transformer"].get("labels", {}).get(VERSION_LABEL, "?")
            return {version: 100}
        revisions, shares = self.revisions(), {}
        for target in component_status(service, "transformer").get("traffic", []):
            revision = revisions.get(target.get("revisionName"), {"metadata": {}})
            version = revision["metadata"].get("labels", {}).get(VERSION_LABEL, "?")
            shares[version] = shares.get(version, 0) + target.get("percent", 0)
        return {version: share for version, share in shares.items() if share}

    def delete(self):
        for kind in ("inferenceservice", "serviceaccount", "secret"):
            for line in self.kubectl("delete", kind, self.name, "-n", self.namespace,
                                     "--ignore-not-found", "--timeout=120s").splitlines():
                log.info("kubectl: %s", line)


def on_knative(service):
    return service.get("status", {}).get("deploymentMode") in ("Knative", "Serverless")


def component_status(service, component):
    return service.get("status", {}).get("components", {}).get(component, {})


def condition(service, kind):
    for found in service.get("status", {}).get("conditions", []):
        if found["type"] == kind:
            return found
    return {"type": kind, "status": "Unknown"}


def canary_percent(service):
    """The share of the newest version; None when it gets everything, 0 after a rollback."""
    return service["spec"].get("transformer", {}).get("canaryTrafficPercent")


# --- Roll out ---------------------------------------------------------------------------------


def deploy(options):
    artefacts = check_artefacts(options.model_path, options.transformer_path)
    version = artefacts["version"]
    log.info("Using model %s from %s, version %s", options.model_name, options.model_path, version)
    if options.dry_run:
        return dry_run(options, version)

    cluster, store = Cluster(options), Store(options)
    cluster.check()
    current = cluster.service()
    if options.canary is not None:
        check_canary(cluster, current, version)
    store.create_bucket()
    store.upload(artefacts)
    cluster.create_namespace(namespace_manifest(options))
    keys = service_credentials(options, store, cluster)
    cluster.apply(*credentials_manifests(options, store.region, keys))
    service = roll_out(cluster, current, inference_service(options, version), options)
    if not options.wait:
        log.info("Not waiting: kubectl get inferenceservice %s -n %s tells when it is ready",
                 options.model_name, options.namespace)
        return None
    report_traffic(cluster)
    return ask(options, service, artefacts["about"])


def check_canary(cluster, current, version):
    if current is None:
        raise BadInput(f"there is no {cluster.name} to try a canary against: "
                       "deploy without --canary first")
    if not on_knative(current):
        raise BadInput(f"{cluster.name} runs in KServe's Standard mode, which has no canary: "
                       "deploy without --canary")
    if cluster.traffic(current).get(version) == 100:
        raise BadInput(f"version {version} gets all requests already: "
                       "train another one to try it as canary")


def roll_out(cluster, current, service, options):
    """Apply the predictor, then the transformer pinned to it, and wait. Returns the service.

    Requests stay with the version that has them until the new pair is ready. `canary`, when a
    canary runs or was rolled back, is 0 meanwhile: without it KServe would send everything to
    that newest revision.
    """
    held = current is not None and canary_percent(current) is not None
    starting = 0 if held else options.canary
    spec = service["spec"]
    first = {**service, "spec": {"predictor": with_canary(spec["predictor"], starting)}}
    if current and "transformer" in current["spec"]:
        first["spec"]["transformer"] = current["spec"]["transformer"]
    cluster.apply(first)
    revision = predictor_revision(cluster, signature(service, "predictor"), options.timeout)
    if revision:
        pin_transformer(service, revision)
    cluster.apply({**service, "spec": {
        name: with_canary(spec[name], starting) for name in COMPONENTS}})
    if not options.wait and not held:
        return service
    wait_until_ready(cluster, service, options.timeout, current)
    if held:
        cluster.set_canary(options.canary)
    return wait_for_traffic(cluster, service, options.canary or 100, options.timeout)


def with_canary(component, percent):
    return component if percent is None else {**component, "canaryTrafficPercent": percent}


def predictor_revision(cluster, wanted, timeout):
    """Name of the Knative revision made of the predictor, or None in KServe's Standard mode."""
    for _ in poll(timeout):
        service = cluster.service() or {}
        if on_knative(service):
            name = component_status(service, "predictor").get("latestCreatedRevision")
            if name and revision_signature(cluster.revisions().get(name)) == wanted:
                return name
        elif service.get("status", {}).get("deploymentMode"):
            return None
    raise Failure(f"KServe made no predictor of {cluster.name} in {timeout} s: "
                  + explain_conditions(service)
                  + f" (kubectl describe inferenceservice {cluster.name} -n {cluster.namespace})")


def revision_signature(revision):
    return (revision or {}).get("metadata", {}).get("annotations", {}).get(SPEC_ANNOTATION)


def poll(timeout):
    """Yield the seconds gone until `timeout` seconds are over, soon at first, then every 2 s."""
    start, pause = time.monotonic(), 0.25
    while (gone := time.monotonic() - start) < timeout:
        yield gone
        time.sleep(pause)
        pause = min(2, pause * 1.5)


def wait_until_ready(cluster, service, timeout, previous):
    """Wait until predictor, transformer and ingress are ready, telling what changes.

    Raises Failure with the reasons when the time is over or a pod is beyond hope.
    """
    signatures = {name: signature(service, name) for name in COMPONENTS}
    told, failed_since, hopeless = {}, None, False
    for gone in poll(timeout):
        live = cluster.service() or {}
        states = readiness(cluster, live, signatures)
        for name, state in states.items():
            if told.get(name) != state:
                log.info("%s: %s", name, state)
                told[name] = state
        if set(states.values()) == {"ready"}:
            return
        failed_since = (failed_since or gone) if "failed" in "".join(states.values()) else None
        hopeless = any(reason in HOPELESS for _, pod in cluster.pods(signatures)
                       for _, reason, _ in troubles(pod))
        if hopeless or (failed_since and gone - failed_since > GRACE_SECONDS):
            break
    reasons = explain(cluster, live, signatures)
    for line in reasons:
        log.error("%s", line)
    keeps = ""
    if previous and (shares := cluster.traffic(live)):
        keeps = "; still serving: " + ", ".join(f"{v} ({share} %)" for v, share in shares.items())
    waited = "is not going to be ready" if hopeless else f"is not ready after {gone:.0f} s"
    raise Failure(f"{cluster.name} {waited}: see the reasons above{keeps}")


def readiness(cluster, service, signatures):
    """State of each part in words: ready, or what is missing."""
    states = {}
    revisions = cluster.revisions() if on_knative(service) else {}
    pods = [] if on_knative(service) else cluster.pods(signatures)
    for component in COMPONENTS:
        found = condition(service, f"{component.capitalize()}Ready")
        if on_knative(service):
            status = component_status(service, component)
            created = status.get("latestCreatedRevision")
            started = revision_signature(revisions.get(created)) == signatures[component]
            ready = started and status.get("latestReadyRevision") == created
        else:
            started = True
            ready = any(name == component and pod_ready(pod) for name, pod in pods)
        if started and ready and found["status"] == "True":
            states[component] = "ready"
        elif started and found["status"] == "False":
            states[component] = "failed, " + first_line(found)
        else:
            states[component] = "starting" + (f", {first_line(found)}" if started else "")
    ingress = condition(service, "IngressReady")
    overall = condition(service, "Ready")
    states["ingress"] = ("ready" if ingress["status"] == overall["status"] == "True"
                         else "waiting, " + first_line(ingress))
    return states


def first_line(found):
    text = found.get("message") or found.get("reason") or "no reason given yet"
    return text.strip().splitlines()[0]


def pod_ready(pod):
    return any(found["type"] == "Ready" and found["status"] == "True"
               for found in pod["status"].get("conditions", []))


def wait_for_traffic(cluster, service, share, timeout):
    """Wait until the version of `service` gets `share` percent. Returns the live service."""
    version = service["spec"]["transformer"]["labels"][VERSION_LABEL]
    for _ in poll(timeout):
        live = cluster.service()
        if cluster.traffic(live).get(version) == share and condition(live, "Ready")["status"] == "True":
            return live
    raise Failure(f"version {version} is ready, but does not get {share} % of the requests after "
                  f"{timeout} s: {explain_conditions(live)}")


# --- Why it is not ready ----------------------------------------------------------------------


def troubles(pod):
    """What keeps a pod from being ready, as (container, reason, message)."""
    found = []
    for state in (pod["status"].get("conditions") or []):
        if state["type"] == "PodScheduled" and state["status"] == "False":
            found.append((None, state.get("reason", "Unschedulable"), state.get("message", "")))
    for state in ((pod["status"].get("initContainerStatuses") or [])
                  + (pod["status"].get("containerStatuses") or [])):
        waiting = state.get("state", {}).get("waiting")
        ended = state.get("state", {}).get("terminated")
        if waiting and waiting.get("reason") not in ("PodInitializing", "ContainerCreating"):
            found.append((state["name"], waiting.get("reason", ""), waiting.get("message", "")))
        elif ended and ended.get("exitCode"):
            found.append((state["name"], ended.get("reason", "Error"),
                          f"exit status {ended['exitCode']}"))
    return found


ADVICE = [
    (r"ImagePull|ErrImage|InvalidImageName|Unable to fetch image|image.*not found",
     "the image can't be had: check the name, push it, or load it into the cluster's nodes"),
    (r"Insufficient (cpu|memory)|Unschedulable",
     "no node has room: lower --cpu-request or --memory-request, or remove other services"),
    (r"OOMKilled", "it ran out of memory: raise --memory-limit"),
    (r"CreateContainerConfigError|runAsNonRoot|non-numeric user",
     "the image does not run as this user: it needs a numeric USER other than root"),
    (r"403|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied",
     "the store refuses the service's keys: run this command again to renew them"),
    (r"EndpointConnectionError|Could not connect|Connection refused|Name or service not known",
     "the pod can't reach the store: check --minio-endpoint-cluster"),
    (r"exceeded quota", "the namespace's quota is used up: lower the requests or raise the quota"),
]


def explain(cluster, service, signatures):
    """Why the service is not ready, in lines for the user: pods first, conditions else."""
    lines = []
    for component, pod in cluster.pods(signatures):
        name = pod["metadata"]["name"]
        for container, reason, message in troubles(pod):
            where = f"{component} pod {name}" + (f", container {container}" if container else "")
            lines.append(f"{where}: {reason} {message}".strip())
            if container and reason not in HOPELESS - {"CrashLoopBackOff"}:
                lines += [f"  | {line}" for line in last_log_lines(cluster, name, container)]
        if not pod_ready(pod):
            lines += [f"{component} pod {name}: {line}" for line in warnings(cluster, name)]
    if not lines:
        lines = [explain_conditions(service)]
        lines += warnings(cluster, cluster.name)
    text = "\n".join(lines)
    return lines + [f"What to do: {advice}" for pattern, advice in ADVICE if re.search(pattern, text)]


def explain_conditions(service):
    unmet = [f"{found['type']}: {first_line(found)}"
             for found in service.get("status", {}).get("conditions", [])
             if found["status"] != "True" and found["type"] not in ("Ready", "Stopped")]
    return "; ".join(unmet) or "KServe says nothing about it: is its controller running?"


def last_log_lines(cluster, pod, container, count=10):
    for previous in ([], ["--previous"]):
        try:
            text = cluster.kubectl("logs", pod, "-n", cluster.namespace, "-c", container,
                                   f"--tail={count}", *previous)
        except KubectlFailed:
            continue
        if text.strip():
            return text.rstrip().splitlines()
    return []


def warnings(cluster, name):
    try:
        events = cluster.get("events", "--field-selector",
                             f"involvedObject.name={name},type=Warning")["items"]
    except KubectlFailed:
        return []
    return list(dict.fromkeys(f"{event['reason']} {event['message']}".strip().splitlines()[0]
                              for event in events))[-3:]


# --- Ask --------------------------------------------------------------------------------------


def ask(options, service, about=None):
    """Send one document through the ingress, print the answer and how to ask again."""
    host = service["status"]["url"].split("://")[1]
    url = f"{options.ingress.rstrip('/')}/v1/models/{options.model_name}:predict"
    cluster = (about or {}).get("clusters", [{}])[0]
    text = " ".join(term for term, _ in cluster.get("terms", [["hello", 0], ["world", 0]])[:8])
    body = json.dumps({"instances": [[text]]})
    request = urllib.request.Request(url, body.encode(), {"Host": host,
                                                          "Content-Type": "application/json"})
    problem = "no answer"
    for _ in poll(min(60, options.timeout)):  # a new route takes a moment to reach the gateway
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                answer = json.load(response)
                predictions = answer["predictions"]
                break
        except urllib.error.HTTPError as error:
            problem = f"{error.code} {error.read(300).decode(errors='replace').strip()}"
            if error.code not in (404, 502, 503, 504):
                raise Failure(f"{options.model_name} is ready, but answers {problem}") from None
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error))
        except (ValueError, KeyError):
            raise Failure(f"{options.model_name} is ready, but what answers at {url} is no KServe "
                          "v1 model: check --ingress") from None
    else:
        raise Failure(f"{options.model_name} is ready, but {url} with Host {host} does not answer "
                      f"({problem}): give the address of the ingress gateway with --ingress")
    log.info("%s answers: %s", options.model_name, json.dumps(answer))
    for number in predictions:
        terms = [c["terms"] for c in (about or {}).get("clusters", []) if c.get("cluster") == number]
        if terms:
            log.info("Cluster %s: %s", number, " ".join(term for term, _ in terms[0][:10]))
    print(f"curl -H {shlex.quote(f'Host: {host}')} {url} \\\n  -d {shlex.quote(body)}")


def report_traffic(cluster):
    shares = cluster.traffic(cluster.service())
    log.info("Traffic: %s", ", ".join(f"{version} {share} %" for version, share in shares.items()))


# --- Promote, roll back, list, delete ---------------------------------------------------------


def deployed(cluster):
    cluster.check()
    service = cluster.service()
    if service is None:
        raise BadInput(f"there is no inference service {cluster.name} in namespace "
                       f"{cluster.namespace}: check --model-name and --namespace, or deploy it")
    return service


def promote(options):
    cluster = Cluster(options)
    service = deployed(cluster)
    if not canary_percent(service):
        raise BadInput(f"{cluster.name} has no canary to promote: deploy one with --canary PERCENT")
    cluster.set_canary(None)
    service = wait_for_traffic(cluster, service, 100, options.timeout)
    report_traffic(cluster)
    ask(options, service)


def roll_back(options):
    """Send everything to the version before the newest.

    canaryTrafficPercent 0 is KServe's way: from a canary it goes back to the version that had
    all requests, and from a finished rollout to the one before (PropagateStatus in KServe's
    inference_service_status.go).
    """
    cluster = Cluster(options)
    service = deployed(cluster)
    if not on_knative(service):
        raise BadInput(f"{cluster.name} runs in KServe's Standard mode, which keeps no previous "
                       "version: deploy the earlier files again")
    newest = service["spec"]["transformer"]["labels"][VERSION_LABEL]
    status = component_status(service, "transformer")
    settled = status.get("latestCreatedRevision") == status.get("latestRolledoutRevision")
    if canary_percent(service) is None and settled and not status.get("previousRolledoutRevision"):
        raise BadInput(f"{cluster.name} has had one version only, {newest}: nothing to go back to")
    if canary_percent(service) == 0:
        log.info("Rolled back already")
    cluster.set_canary(0)
    for _ in poll(options.timeout):
        service = cluster.service()
        targets = [target for target in component_status(service, "transformer").get("traffic", [])
                   if target.get("percent")]
        if targets and all(target["revisionName"] != status["latestCreatedRevision"]
                           for target in targets):
            break
    else:
        raise Failure(f"the requests still go to {newest} after {options.timeout} s: "
                      + explain_conditions(service))
    report_traffic(cluster)
    ask(options, service)


def list_versions(options):
    cluster = Cluster(options)
    cluster.check()
    service = cluster.service()
    shares = cluster.traffic(service) if service else {}
    records = Store(options).versions()
    if not records and not shares:
        log.info("No version of %s yet", options.model_name)
        return
    row = "{:<14} {:<17} {:<17} {:>9} {:>6} {:>10} {:>8}"
    print(row.format("VERSION", "TRAINED", "UPLOADED", "V-MEASURE", "ARI", "SILHOUETTE", "TRAFFIC"))
    known = [record["version"] for record in records]
    records += [{"version": version} for version in shares if version not in known]
    for record in records:
        metrics = record.get("metrics") or {}
        figures = [f"{metrics[name]:.3f}" if isinstance(metrics.get(name), (int, float)) else "-"
                   for name in ("v_measure", "adjusted_rand_index", "silhouette")]
        dates = [(record.get(name) or "-")[:16].replace("T", " ") for name in ("created", "uploaded")]
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
    """Ctrl-C. Python drops the exception when it strikes inside a fork, hence the flag too."""
    interrupted.set()
    raise KeyboardInterrupt


def main(argv=None):
    signal.signal(signal.SIGINT, interrupt)
    options = parse_arguments(argv)
    coloredlogs.install(level=options.log_level)
    # These tell what they send, keys included, when they are let.
    chatty = logging.INFO if options.log_level == "DEBUG" else logging.WARNING
    for name in ("sh", "boto3", "botocore", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(chatty)
    action = next((function for flag, function in (
        ("promote", promote), ("rollback", roll_back), ("list", list_versions), ("delete", delete),
    ) if getattr(options, flag)), deploy)
    try:
        check_names(options)
        action(options)
    except Failure as error:
        log.error("%s", error)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("Interrupted: what was serving before still does; run this again to go on")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
