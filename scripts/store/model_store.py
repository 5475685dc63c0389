"""The S3 store: the versions of one model in a bucket.

s3://BUCKET/NAMESPACE/NAME/VERSION/model/        model.joblib, read by the predictor
s3://BUCKET/NAMESPACE/NAME/VERSION/transformer/  transformer.joblib and clusters.json
s3://BUCKET/NAMESPACE/NAME/VERSION/version.json  written last: without it the version does not count (artefacts.py)
s3://BUCKET/NAMESPACE/NAME/VERSION/decision.json what an analysis or a retraining decided (retraining/decision.py)

Versions deployed before the prefix contained the namespace are at s3://BUCKET/NAME/VERSION/. Services in several
namespaces may share them.
"""

import hashlib
import json
import logging
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

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
from store.client import DeployerBucket, StoreError

MODEL_KEY = "model/model.joblib"

log = logging.getLogger(__name__)


class Version(NamedTuple):
    """A model to upload: `files` maps the key below the version's prefix to path and sha256."""

    summary: dict  # clusters.json
    files: dict[str, tuple[Path, str]]

    @property
    def name(self) -> str:
        return version_name([digest for _, digest in self.files.values()])

    def continues(self, other: str, record: dict | None) -> bool:
        """Whether its cluster numbers mean the same as in another version, whose version.json is `record`."""
        if record and record["sha256"].get(MODEL_KEY) == self.files[MODEL_KEY][1]:
            return True  # the same model, perhaps with other names
        return other in self.summary.get("lineage", {}).get("versions", [])


def read_version(model_path: Path, transformer_path: Path) -> Version:
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


class ModelStore(DeployerBucket):
    """The bucket of deployed models, and the prefix of one model in it."""

    bucket_option = "--bucket"

    @property
    def shared_prefix(self) -> str:
        """Where earlier releases kept the versions of all namespaces."""
        return self.prefix.partition("/")[2]

    def read(self, key: str) -> bytes | None:
        """Content of an object, or None if it does not exist."""
        return self.call(
            lambda: self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read(), absent=["NoSuchKey", "NoSuchBucket"]
        )

    def write_json(self, key: str, content: dict) -> None:
        body = json.dumps(content, indent=2, allow_nan=False).encode()
        self.call(self.s3.put_object, Bucket=self.bucket, Key=key, Body=body, ContentType="application/json")

    def record(self, version: str) -> dict | None:
        """The version.json of a version; None if it does not exist."""
        content = self.read(f"{self.prefix}{version}/version.json")
        return json.loads(content) if content else None

    def sha256(self, key: str) -> str | None:
        """sha256 of an object as the store returns it, or None if it does not exist."""
        content = self.read(key)
        return hashlib.sha256(content).hexdigest() if content is not None else None

    def upload(self, version: Version) -> dict:
        """Upload and verify a version. Returns its version.json, which is written last and makes the version count."""
        root = f"{self.prefix}{version.name}/"
        record = json.loads(self.read(root + "version.json") or "{}")
        if record and all(self.sha256(root + key) == record["sha256"][key] for key in version.files):
            log.info("Version %s is in the store: nothing to upload", version.name)
            return record
        for key, (path, digest) in version.files.items():
            self.upload_file(path, root + key, digest)
        digests = {key: digest for key, (_, digest) in version.files.items()}
        record = version_record(version.name, version.summary, digests)
        self.write_json(root + "version.json", record)
        return record

    def upload_file(self, path: Path, key: str, digest: str) -> None:
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
            raise StoreError(
                f"the store returns other content for {key} than was uploaded from {path}: "
                "check the store, then run this command again"
            )
        log.info("Uploaded %s to s3://%s/%s", path, self.bucket, key)

    def versions(self) -> list[dict]:
        """The version.json of each complete version, oldest upload first."""
        keys = self.keys_below(self.prefix, absent=["NoSuchBucket"])
        contents = [self.read(key) for key in keys if key.endswith("/version.json")]
        return sorted((json.loads(content) for content in contents if content), key=lambda record: record["uploaded"])

    def copy_shared(self, versions: Collection[str]) -> None:
        """Copy versions from the prefix without a namespace to the service's own; those that it has already stay."""
        for version in versions:
            if self.record(version):
                continue
            # Refused to the store user of a scheduled retraining, which deploys what was deployed and copied before.
            keys = self.keys_below(f"{self.shared_prefix}{version}/", absent=["NoSuchBucket", "AccessDenied"])
            for key in sorted(keys, key=lambda key: key.endswith("/version.json")):
                own_key = self.prefix + key.removeprefix(self.shared_prefix)
                source = {"Bucket": self.bucket, "Key": key}
                self.call(self.s3.copy_object, Bucket=self.bucket, Key=own_key, CopySource=source)
                log.info("Copied s3://%s/%s to s3://%s/%s", self.bucket, key, self.bucket, own_key)

    def delete_versions(self, used_uris: Collection[str]) -> None:
        """Delete the service's versions, in a versioned bucket with all their versions, except those in use.

        Args:
            used_uris: what other services read, such as s3://BUCKET/NAME/VERSION/model/.
        """
        deleted, kept = 0, set()
        for found in self.objects_below(self.prefix) + self.objects_below(self.shared_prefix):
            version = re.match(f"({self.prefix}|{self.shared_prefix})(v[0-9a-f]{{12}})/", found["Key"])
            if version and any(uri.startswith(f"s3://{self.bucket}/{version[0]}") for uri in used_uris):
                kept.add(version[0])
            elif version or found["Key"].startswith(self.prefix):
                self.call(self.s3.delete_object, Bucket=self.bucket, **found)
                deleted += 1
        log.info("Deleted %d objects under s3://%s/%s", deleted, self.bucket, self.prefix)
        for folder in sorted(kept):
            log.warning("Kept s3://%s/%s: another service uses it", self.bucket, folder)
