"""The S3 store: the versions of one model in a bucket.

s3://BUCKET/NAME/VERSION/model/        model.joblib, read by the predictor
s3://BUCKET/NAME/VERSION/transformer/  transformer.joblib and clusters.json
s3://BUCKET/NAME/VERSION/version.json  written last: without it the version does not count (artefacts.py)
"""

import hashlib
import ipaddress
import json
import logging
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, SSLError
from tqdm import tqdm

from failure import Failure
from model.artefacts import (
    check_file,
    check_scikit_learn,
    check_together,
    predictor_scikit_learn,
    read_summary,
    sha256,
    version_name,
    version_record,
)

# What stores say that know no versions, and of a bucket that is not there.
NO_VERSIONING = ("NotImplemented", "MethodNotAllowed", "NoSuchBucket")

MODEL_KEY = "model/model.joblib"

log = logging.getLogger(__name__)


class Version(NamedTuple):
    """A model to upload: `files` maps the key below the version's prefix to path and sha256."""

    summary: dict  # clusters.json
    files: dict[str, tuple[Path, str]]

    @property
    def name(self):
        return version_name([digest for _, digest in self.files.values()])

    def continues(self, other, record):
        """Whether its cluster numbers mean what they mean in another version, of which `record` is the version.json."""
        same_model = record and record["sha256"].get(MODEL_KEY) == self.files[MODEL_KEY][1]  # other names, perhaps
        return same_model or other in self.summary.get("lineage", {}).get("versions", [])


def read_version(model_path, transformer_path):
    """The files of a training run as a Version.

    Raises:
        ArtefactError: they do not belong together, or do not fit the predictor image.
    """
    for path in (model_path, transformer_path):
        check_file(path)
    clusters_path = model_path.with_name("clusters.json")
    summary = read_summary(clusters_path)
    digests = check_together(summary, model_path, transformer_path)
    check_scikit_learn(summary, predictor_scikit_learn(), "KServe's predictor has")
    return Version(
        summary,
        {
            "model/model.joblib": (model_path, digests["model.joblib"]),
            "transformer/transformer.joblib": (transformer_path, digests["transformer.joblib"]),
            "transformer/clusters.json": (clusters_path, sha256(clusters_path)),
        },
    )


class ModelStore:
    """The bucket, and in it the prefix of one model. Raises Failure with the reason in the user's terms.

    Args:
        session: of boto3.
        keys: of the person who deploys, store_credentials.Keys.
        authority: path of a PEM file whose certificates are trusted, or None for the usual ones.
    """

    def __init__(self, session, endpoint, bucket, model_name, keys, authority=None):
        self.session, self.region = session, region(session)
        self.endpoint, self.bucket, self.prefix, self.keys = endpoint.rstrip("/"), bucket, f"{model_name}/", keys
        self.authority = authority
        self.s3 = self.client(keys.access_key, keys.secret_key, keys.token)

    def client(self, access_key, secret_key, token=None):
        config = Config(
            connect_timeout=5,
            read_timeout=20,
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 3, "mode": "standard"},
            # Not every store knows the newer checksums; what it gives back is compared by sha256 anyway.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={} if is_loopback(self.endpoint) else None,
        )
        return self.session.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=token,
            verify=str(self.authority) if self.authority else None,
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
            keys = f"the keys {self.keys.source} (access key {self.keys.access_key})"
            if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"):
                raise Failure(f"the store at {self.endpoint} refuses {keys}: {code}") from None
            if code in ("BucketAlreadyExists", "AccessDenied", "AllAccessDisabled"):
                raise Failure(
                    f"bucket {self.bucket} at {self.endpoint} is owned by someone else, or {keys} may not "
                    f"use it ({code}): choose another --bucket or other keys"
                ) from None
            raise Failure(f"the store at {self.endpoint} answered {code}: {message}") from None
        except SSLError as error:
            raise Failure(
                f"the store at {self.endpoint} is not trusted: {str(error).splitlines()[0]}: "
                "give the certificate of its authority with --store-ca or AWS_CA_BUNDLE"
            ) from None
        except (BotoCoreError, boto3.exceptions.Boto3Error, urllib3.exceptions.HTTPError) as error:
            raise Failure(
                f"the store at {self.endpoint} cannot be reached or broke off: {str(error).splitlines()[0]}"
            ) from None

    def can_read(self, access_key, secret_key):
        """Whether these keys may list the bucket."""
        refusals = ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"]
        listing = self.client(access_key, secret_key).list_objects_v2
        return self.call(listing, Bucket=self.bucket, MaxKeys=1, absent=refusals) is not None

    def create_bucket(self):
        # A GET: the answer to a HEAD would not say why it is refused.
        if self.call(self.s3.list_objects_v2, Bucket=self.bucket, MaxKeys=1, absent=["NoSuchBucket"]) is None:
            place = {}
            if self.region != "us-east-1":
                place = {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
            self.call(self.s3.create_bucket, Bucket=self.bucket, absent=["BucketAlreadyOwnedByYou"], **place)
            log.info("Created bucket: %s", self.bucket)

    def read(self, key):
        """Content of an object, or None when it is not there."""
        return self.call(
            lambda: self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read(), absent=["NoSuchKey", "NoSuchBucket"]
        )

    def record(self, version):
        """What version.json says of a version; None when it is not there."""
        content = self.read(f"{self.prefix}{version}/version.json")
        return content and json.loads(content)

    def sha256(self, key):
        """sha256 of what the store gives back, or None when it is not there."""
        content = self.read(key)
        return content and hashlib.sha256(content).hexdigest()

    def upload(self, version):
        """Upload and verify a version. Returns what version.json says, which comes last and makes it count."""
        root = f"{self.prefix}{version.name}/"
        record = json.loads(self.read(root + "version.json") or "{}")
        if record and all(self.sha256(root + key) == record["sha256"][key] for key in version.files):
            log.info("Version %s is in the store: nothing to upload", version.name)
            return record
        for key, (path, digest) in version.files.items():
            self.upload_file(path, root + key, digest)
        digests = {key: digest for key, (_, digest) in version.files.items()}
        record = version_record(version.name, version.summary, digests)
        self.call(
            self.s3.put_object,
            Bucket=self.bucket,
            Key=root + "version.json",
            Body=json.dumps(record, indent=2).encode(),
            ContentType="application/json",
        )
        return record

    def upload_file(self, path, key, digest):
        bar = tqdm(
            desc=path.name,
            total=path.stat().st_size,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        with path.open("rb") as content, bar:
            self.call(self.s3.upload_fileobj, content, self.bucket, key, Callback=bar.update)
        if self.sha256(key) != digest:
            raise Failure(
                f"the store gives back something else for {key} than was uploaded from {path}: "
                "look after the store, then run this again"
            )
        log.info("Uploaded %s to s3://%s/%s", path, self.bucket, key)

    def keys_of_objects(self):
        def collect():
            pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            return [item["Key"] for page in pages for item in page.get("Contents", [])]

        return self.call(collect, absent=["NoSuchBucket"]) or []

    def versions(self):
        """What version.json says of each complete version, oldest upload first."""
        records = [json.loads(self.read(key)) for key in self.keys_of_objects() if key.endswith("/version.json")]
        return sorted(records, key=lambda record: record["uploaded"])

    def delete_versions(self):
        """Delete all that is under the model's prefix; in a versioned bucket, what it was before as well."""
        status = self.call(self.s3.get_bucket_versioning, Bucket=self.bucket, absent=NO_VERSIONING) or {}
        objects = self.object_versions() if status.get("Status") else [{"Key": key} for key in self.keys_of_objects()]
        for found in objects:
            self.call(self.s3.delete_object, Bucket=self.bucket, **found)
        kind = "versions of objects" if status.get("Status") else "objects"
        log.info("Deleted %d %s under s3://%s/%s", len(objects), kind, self.bucket, self.prefix)

    def object_versions(self):
        """Each version of each object, and each delete marker, as arguments of delete_object."""

        def collect():
            pages = self.s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=self.prefix)
            found = [item for page in pages for kind in ("Versions", "DeleteMarkers") for item in page.get(kind, [])]
            return [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in found]

        return self.call(collect)


def region(session):
    return session.region_name or "us-east-1"


def is_loopback(endpoint):
    """Whether an address is of this machine, which no proxy reaches."""
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
