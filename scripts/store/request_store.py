"""The S3 store: the requests that a service has recorded.

s3://NAME-requests/NAMESPACE/NAME/YYYY-MM-DD/TIME-POD-ID.json  written by recorder.py, one object per minute and pod or
                                                               per 4 MiB, in the JSON format of KServe's logger
"""

import logging
from typing import Any

from botocore.exceptions import ClientError

from store.client import REFUSALS, DeployerBucket

NO_LIFECYCLE = ("NotImplemented", "MethodNotAllowed", "NoSuchBucket", "NoSuchLifecycleConfiguration")

log = logging.getLogger(__name__)


def request_bucket(model_name: str) -> str:
    return f"{model_name}-requests"


class RequestStore(DeployerBucket):
    """The bucket of recorded requests, and the prefix of one service in it."""

    bucket_option = "--model-name"

    def set_expiry(self, days: int) -> None:
        """Let the store delete the service's requests after some days; the rules of other prefixes stay."""
        rule = {
            "ID": f"recorded requests of {self.prefix}",
            "Filter": {"Prefix": self.prefix},
            "Status": "Enabled",
            "Expiration": {"Days": days},
        }
        rules = self.call(self.read_rules, absent=REFUSALS)
        if (
            rules is None
            or self.put_rules([*(other for other in rules if other.get("ID") != rule["ID"]), rule]) is None
        ):
            log.warning(
                "The requests in s3://%s/%s will not be deleted after %d days unless the bucket has a rule for it: the "
                "store has no lifecycle rules, or your keys (access key %s) may not set them",
                *(self.bucket, self.prefix, days, self.keys.access_key),
            )
        elif rule not in rules:
            log.info("Requests are kept for %d days in s3://%s/%s", days, self.bucket, self.prefix)

    def read_rules(self) -> list[dict[str, Any]]:
        try:
            return self.s3.get_bucket_lifecycle_configuration(Bucket=self.bucket)["Rules"]
        except ClientError as error:
            if error.response["Error"].get("Code") not in NO_LIFECYCLE:
                raise
            return []

    def put_rules(self, rules: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Replace all rules of the bucket. Returns None if that is not possible."""
        return self.call(
            self.s3.put_bucket_lifecycle_configuration,
            Bucket=self.bucket,
            LifecycleConfiguration={"Rules": rules},
            absent=[*NO_LIFECYCLE, *REFUSALS],
        )

    def can_write(self, access_key: str, secret_key: str) -> bool:
        """Whether these keys may write below the service's prefix."""
        key = f"{self.prefix}.write-test"  # always the same: a scheduled retraining may write it and not delete it
        put = self.client(access_key, secret_key).put_object
        written = self.call(put, Bucket=self.bucket, Key=key, Body=b"", absent=REFUSALS) is not None
        if written:
            self.call(self.s3.delete_object, Bucket=self.bucket, Key=key, absent=REFUSALS)
        return written

    def delete_requests(self) -> None:
        """Delete what the service has recorded, in a versioned bucket with all versions."""
        found = self.objects_below(self.prefix)
        for item in found:
            self.call(self.s3.delete_object, Bucket=self.bucket, **item)
        log.info("Deleted %d objects under s3://%s/%s", len(found), self.bucket, self.prefix)
