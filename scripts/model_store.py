"""The S3 store: the versions of one model in a bucket.

s3://BUCKET/NAME/VERSION/model/        model.joblib, read by the predictor
s3://BUCKET/NAME/VERSION/transformer/  transformer.joblib and clusters.json
s3://BUCKET/NAME/VERSION/version.json  written last: without it the version does not count (artefacts.py)
"""

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import NamedTuple

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tqdm import tqdm

from artefacts import version_name, version_record
from failure import Failure

log = logging.getLogger(__name__)


class Version(NamedTuple):
    """A model to upload: `files` maps the key below the version's prefix to path and sha256."""

    summary: dict  # clusters.json
    files: dict[str, tuple[Path, str]]

    @property
    def name(self):
        return version_name([digest for _, digest in self.files.values()])


class ModelStore:
    """The bucket, and in it the prefix of one model. Raises Failure with the reason in the user's terms.

    Args:
        keys: of the person who deploys, store_credentials.Keys.
    """

    def __init__(self, endpoint, bucket, model_name, keys):
        self.endpoint, self.bucket, self.prefix, self.keys = endpoint.rstrip("/"), bucket, f"{model_name}/", keys
        self.region = region()
        self.s3 = self.client(keys.access_key, keys.secret_key, keys.token)

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
            region_name=self.region,
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
            keys = f"the keys {self.keys.source} (access key {self.keys.access_key})"
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

    def can_read(self, access_key, secret_key):
        """Whether these keys may list the bucket."""
        try:
            self.client(access_key, secret_key).list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        except ClientError:
            return False
        return True

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
        keys = self.keys_of_objects()
        for key in keys:
            self.call(self.s3.delete_object, Bucket=self.bucket, Key=key)
        log.info("Deleted %d objects under s3://%s/%s", len(keys), self.bucket, self.prefix)


def region():
    return boto3.Session().region_name or "us-east-1"
