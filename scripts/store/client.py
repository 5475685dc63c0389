"""A bucket of an S3 store: the one client of training and deployment, and store errors by cause.

Error codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and, for MinIO's own, its
cmd/api-errors.go.
"""

import ipaddress
import logging
import re
import ssl
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import urllib3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, SSLError
from botocore.parsers import ResponseParserError

from failure import BadInput, Failure
from store.credentials import Keys

REFUSALS = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")  # of keys that may not do something

# What a store's error codes mean to the user, and what to do. Codes that are numbers are statuses without a body.
CAUSES = [
    (
        {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidTokenId"},
        "{store} refuses {keys}: {code}. Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and "
        "{endpoint_option}",
    ),
    (
        {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"},
        "{keys} have expired ({code}): get new ones from whoever issued them, or use permanent ones",
    ),
    (
        {"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"},
        "{store} refuses the requests because the clocks differ ({code}): {clocks}. Set the wrong clock, for instance "
        "with: sudo timedatectl set-ntp true",
    ),
    (
        {
            "AuthorizationHeaderMalformed",
            "IllegalLocationConstraintException",
            "InvalidLocationConstraint",
            "InvalidRegion",
            "XMinioInvalidRegion",
        },
        "{store} expects {other_region}, not {region} ({code}): set AWS_DEFAULT_REGION, or the region of the AWS "
        "profile",
    ),
    (
        {"PermanentRedirect", "TemporaryRedirect", "Redirect", "301", "302", "307", "308"},
        "bucket {bucket} is not at {endpoint} but at {place}, in {other_region} ({code}): set {endpoint_option} and "
        "AWS_DEFAULT_REGION accordingly",
    ),
    (
        {
            "SlowDown",
            "SlowDownRead",
            "SlowDownWrite",
            "TooManyRequests",
            "RequestLimitExceeded",
            "Throttling",
            "ThrottlingException",
            "BandwidthLimitExceeded",
            "429",
        },
        "{store} is overloaded ({code}, after 3 attempts): run the command again later",
    ),
    (
        {
            "InsufficientStorage",
            "InsufficientCapacity",
            "StorageFull",
            "XMinioStorageFull",
            "QuotaExceeded",
            "XMinioAdminBucketQuotaExceeded",
            "507",
        },
        "{store} is full ({code}): free some space or raise the quota, then run the command again",
    ),
    ({"NoSuchBucket"}, "there is no bucket {bucket} at {endpoint} ({code}): check its name and {endpoint_option}"),
    ({"InvalidObjectState"}, "an object in bucket {bucket} is archived ({code}): restore it first"),
    (
        {"AccessDenied", "AllAccessDisabled", "AccountProblem", "BucketAlreadyExists", "403"},
        "bucket {bucket} at {endpoint} is owned by someone else, or {keys} may not use it ({code}): choose another "
        "{bucket_option} or other keys",
    ),
    (
        {"400"},  # as Go's HTTP server answers, which MinIO and SeaweedFS use
        "{store} answered 400 without a reason, perhaps because it speaks HTTPS: try {endpoint_option} https://{host}",
    ),
    (
        {"InternalError", "ServiceUnavailable", "XMinioServerNotInitialized", "RequestTimeout", "500", "502", "503"},
        "{store} has a problem of its own ({code} {message}): check its log, or run the command again later",
    ),
]

# What stores without versioning answer, and stores without the bucket.
NO_VERSIONING = ("NotImplemented", "MethodNotAllowed", "NoSuchBucket")

log = logging.getLogger(__name__)


class StoreError(Failure):
    """The store cannot be used; the message is one line with the cause and what to do."""


class S3Bucket:
    """A bucket in an S3 store.

    Args:
        session: of boto3.
        authority: path of a PEM file whose certificates are trusted, or None for the usual ones.

    Raises:
        BadInput: the endpoint is no address of a store.
    """

    # The options that messages name; the programs have different ones.
    endpoint_option = "--s3-endpoint"
    bucket_option = "bucket"
    authority_option = "AWS_CA_BUNDLE"

    def __init__(
        self, session: boto3.Session, endpoint: str, bucket: str, keys: Keys, authority: Path | None = None
    ) -> None:
        check_endpoint(endpoint, self.endpoint_option)
        self.session, self.region = session, region(session)
        self.endpoint, self.bucket, self.keys = endpoint.rstrip("/"), bucket, keys
        self.host = urlsplit(endpoint).netloc
        self.authority = authority
        self.s3 = self.client(keys.access_key, keys.secret_key, keys.token)

    def client(self, access_key: str, secret_key: str, token: str | None = None) -> Any:
        """boto3's client for this store, with these keys."""
        config = Config(
            connect_timeout=5,
            read_timeout=20,
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 3, "mode": "standard"},
            # Not every store supports the newer checksums; what is read back is compared by sha256 anyway.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            proxies={} if is_loopback(self.endpoint) else None,
        )
        client = self.session.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=self.region,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=token,
            verify=str(self.authority) if self.authority else None,
            config=config,
        )
        client.meta.events.register_first("needs-retry.s3", stop_blind_redirect)
        return client

    def call(self, function: Callable[..., Any], *args: Any, absent: Collection[str] = (), **kwargs: Any) -> Any:
        """Call boto3. The error codes in `absent` return None.

        Raises:
            StoreError: any other error, by its cause.
        """
        try:
            return function(*args, **kwargs)
        except ClientError as error:
            if error.response["Error"].get("Code", "") in absent:
                return None
            raise StoreError(self.explain_refusal(error)) from None
        except (BotoCoreError, Boto3Error, urllib3.exceptions.HTTPError) as error:
            raise StoreError(self.explain_connection(error)) from None

    def keys_below(self, prefix: str, absent: Collection[str] = (), since: datetime | None = None) -> Iterator[str]:
        """The keys of the objects whose keys begin with a prefix, in the store's order.

        Args:
            since: only objects that were written since then, by the store's clock.

        Raises:
            StoreError: the store cannot be read.
        """
        pages = iter(self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix))
        while (page := self.call(next, pages, None, absent=absent)) is not None:
            yield from (
                item["Key"] for item in page.get("Contents", []) if since is None or item["LastModified"] >= since
            )

    def explain_refusal(self, error: ClientError) -> str:
        """The cause of an error that the store answered, and what to do, in one line."""
        details, kind = error.response["Error"], headers(error).get("content-type", "")
        if kind.startswith("text/html") and details.get("Code") != "400":
            return self.explain_other_server()
        code, message = details.get("Code", ""), " ".join(details.get("Message", "").split())
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return cause_of(code, status).format(
            store=f"the store at {self.endpoint}",
            keys=f"the keys {self.keys.source} (access key {self.keys.access_key})",
            endpoint=self.endpoint,
            bucket=self.bucket,
            region=self.region,
            endpoint_option=self.endpoint_option,
            bucket_option=self.bucket_option,
            code=code,
            message=message,
            clocks=clocks(error),
            other_region=f"region {named}" if (named := right_region(error)) else "another region",
            host=self.host,
            place=details.get("Endpoint") or headers(error).get("location") or "another address",
        )

    def explain_connection(self, error: Exception) -> str:
        """The cause of an error that is no answer of an S3 store, and what to do, in one line."""
        reason = str(error).splitlines()[0]
        if isinstance(error, SSLError) and re.search(
            "WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|UNKNOWN_PROTOCOL", reason
        ):
            return f"the store at {self.endpoint} does not speak HTTPS but HTTP: give {self.endpoint_option} http://{self.host}"
        if isinstance(error, SSLError):
            return (
                f"the store at {self.endpoint} is not trusted: {reason}: give the certificate of its authority with "
                f"{self.authority_option}"
            )
        if isinstance(error, ResponseParserError):
            return self.explain_other_server()
        hint = f"{self.endpoint_option} sets the address"
        if isinstance(error, ConnectionClosedError) and self.endpoint.startswith("http:"):
            hint = f"if it speaks HTTPS, try {self.endpoint_option} https://{self.host}"
        return f"the store at {self.endpoint} cannot be reached or broke off: {reason} ({hint})"

    def explain_other_server(self) -> str:
        return (
            f"what answers at {self.endpoint} is no S3 store, perhaps its web console or a proxy: "
            f"{self.endpoint_option} takes the address of its S3 API"
        )


def store_prefix(namespace: str, model_name: str) -> str:
    """The prefix that one service owns in a bucket."""
    return f"{namespace}/{model_name}/"


class DeployerBucket(S3Bucket):
    """A bucket that deploy_service.py creates and deletes from, and the prefix of one service in it.

    Args:
        keys: of the deployer.
        authority: path of a PEM file whose certificates are trusted, or None for the usual ones.
    """

    endpoint_option = "--minio-endpoint"
    authority_option = "--store-ca or AWS_CA_BUNDLE"

    def __init__(
        self,
        session: boto3.Session,
        endpoint: str,
        bucket: str,
        namespace: str,
        model_name: str,
        keys: Keys,
        authority: Path | None = None,
    ) -> None:
        super().__init__(session, endpoint, bucket, keys, authority)
        self.prefix = store_prefix(namespace, model_name)

    def create_bucket(self) -> None:
        # GET, not HEAD: the answer to a HEAD has no body that names the cause of a refusal.
        if self.list_first(self.s3, absent=["NoSuchBucket"]) is None:
            place: dict[str, Any] = {}
            if self.region != "us-east-1":
                place = {"CreateBucketConfiguration": {"LocationConstraint": self.region}}
            self.call(self.s3.create_bucket, Bucket=self.bucket, absent=["BucketAlreadyOwnedByYou"], **place)
            log.info("Created bucket: %s", self.bucket)

    def can_read(self, access_key: str, secret_key: str) -> bool:
        """Whether these keys may list what belongs to the service."""
        return self.list_first(self.client(access_key, secret_key), absent=REFUSALS) is not None

    def list_first(self, client: Any, absent: Collection[str]) -> dict[str, Any] | None:
        """List one object of the service; None for an error code in `absent`. A store user may see no other prefix."""
        return self.call(client.list_objects_v2, Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1, absent=absent)

    def objects_below(self, prefix: str) -> list[dict[str, str]]:
        """The objects below a prefix, and in a versioned bucket their versions, as arguments of delete_object."""
        status = self.call(self.s3.get_bucket_versioning, Bucket=self.bucket, absent=NO_VERSIONING) or {}
        if not status.get("Status"):
            return [{"Key": key} for key in self.keys_below(prefix, absent=["NoSuchBucket"])]

        def collect() -> list[dict[str, str]]:
            pages = self.s3.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=prefix)
            found = [item for page in pages for kind in ("Versions", "DeleteMarkers") for item in page.get(kind, [])]
            return [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in found]

        return self.call(collect)


def stop_blind_redirect(response: tuple[Any, dict] | None, operation: Any, **_: object) -> None:
    """Raise the error of a redirect that names no region: botocore would follow it in an endless recursion."""
    if response is not None and response[0].status_code in (301, 302, 307):
        error = ClientError(response[1], operation.name)
        if right_region(error) is None:
            raise error


def headers(error: ClientError) -> dict[str, str]:
    return error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})


def right_region(error: ClientError) -> str | None:
    """The region that the store expects, where it names one."""
    expecting = re.search(r"expecting '([\w-]+)'", error.response["Error"].get("Message", ""))
    named = error.response["Error"].get("Region") or headers(error).get("x-amz-bucket-region")
    return named or (expecting[1] if expecting else None)


def cause_of(code: str, status: int) -> str:
    """The template for an error code, or else for a status that speaks for itself."""
    for known in (code, str(status) if status >= 500 or status in (301, 302, 307, 308, 429) else code):
        for codes, cause in CAUSES:
            if known in codes:
                return cause
    return "{store} answered {code}: {message}"


def clocks(error: ClientError) -> str:
    here = f"{datetime.now(UTC):%a, %d %b %Y %H:%M:%S} GMT here"
    return f"{there} there, {here}" if (there := headers(error).get("date")) else here


def check_endpoint(endpoint: str, option: str) -> None:
    """Raises BadInput unless it is http(s)://HOST[:PORT]. The message never repeats a password."""
    if "@" in endpoint:
        raise BadInput(
            f"{option} contains credentials: leave them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        address = urlsplit(endpoint)
        address.port  # noqa: B018 - raises for a port that is no number
    except ValueError as error:
        raise BadInput(f"{option} {endpoint} is no address of a store: {error}") from None
    if address.scheme not in ("http", "https") or not address.hostname or address.path.strip("/"):
        raise BadInput(f"{option} {endpoint} is no address of a store: it looks like http://HOST:PORT")


def check_authority(path: Path) -> None:
    """Raises BadInput unless it is a file of certificates."""
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"--store-ca {path} (or AWS_CA_BUNDLE) is no file of certificates in PEM: {error}") from None


def region(session: boto3.Session) -> str:
    return session.region_name or "us-east-1"


def is_loopback(endpoint: str) -> bool:
    """Whether an address is of this machine, which no proxy reaches."""
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
