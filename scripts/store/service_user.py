"""Store users: of the service, which can only read its bucket; of its recorder, which can only write requests; of a
scheduled retraining, which can write the versions of one service.

The users are created through MinIO's admin API. If the store has no such API, or these keys may not use it, the service
can get the deployer's own keys, but only with --share-keys, because whoever reads the Secret could write with them
wherever the deployer may. A network or TLS error says nothing about the API and ends the deployment.
"""

import logging
import secrets
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import minio
import urllib3
from minio.credentials import StaticProvider
from minio.error import MinioAdminException

from failure import BadInput, Failure
from store.client import DeployerBucket, S3Bucket
from store.request_store import RequestStore, request_bucket

log = logging.getLogger(__name__)


class StoreUser(NamedTuple):
    """A store user to obtain keys of: what it is for, and what it may do."""

    use: str  # as in "The service reads the store with your own keys"
    purpose: str  # as in "the service cannot have a user that ..."
    name: str  # its beginning
    policy: dict[str, Any]
    works: Callable[[str, str], bool]  # whether keys serve the purpose


def service_keys(
    store: DeployerBucket, model_name: str, current: Iterable[tuple[str, str]], share: bool
) -> tuple[str, str]:
    """The access key and secret key that the service reads the bucket with; its current ones if they work.

    Args:
        current: the keys that the service's versions have.
        share: whether the service may get the deployer's keys if it cannot have a user of its own.

    Raises:
        BadInput: it can have no user, and the deployer's keys may not be shared or would expire.
        Failure: the admin API cannot be reached or does not work.
    """
    user = StoreUser(
        "The service reads the store",
        f"is limited to bucket {store.bucket}",
        user_prefix(model_name),
        read_only(store.bucket),
        store.can_read,
    )
    return obtain_keys(store, user, current, share)


def recorder_keys(
    store: RequestStore, model_name: str, current: Iterable[tuple[str, str]], share: bool
) -> tuple[str, str]:
    """The keys that requests are recorded with, as service_keys. Their user may write and can read nothing."""
    user = StoreUser(
        "Requests are recorded",
        f"only writes to s3://{store.bucket}/{store.prefix}",
        f"{user_prefix(model_name)}requests-",
        write_only(store.bucket, store.prefix),
        store.can_write,
    )
    return obtain_keys(store, user, current, share)


def retraining_keys(
    store: DeployerBucket, model_name: str, current: Iterable[tuple[str, str]], share: bool, datasets: Iterable[str]
) -> tuple[str, str]:
    """The keys of scheduled runs of retrain.py, as service_keys. Their user may write the versions of one service.

    Args:
        current: the keys that the schedule has.
        datasets: the buckets that it may read.
    """
    user = StoreUser(
        "The runs use the store",
        f"only writes to s3://{store.bucket}/{store.prefix}",
        user_prefix(f"{model_name}-retraining"),
        read_and_write(store.bucket, request_bucket(model_name), store.prefix, datasets),
        store.can_read,
    )
    return obtain_keys(store, user, current, share)


def obtain_keys(store: S3Bucket, user: StoreUser, current: Iterable[tuple[str, str]], share: bool) -> tuple[str, str]:
    for keys in current:
        if keys[0].startswith(user.name) and user.works(*keys):
            renew_policy(store, keys[0], user.policy)
            return keys
    name, secret = f"{user.name}{secrets.token_hex(4)}", secrets.token_urlsafe(30)
    refusal = create_user(store, name, secret, user.policy)
    if refusal is None:
        log.info("Created store user %s, which %s", name, user.purpose)
        return name, secret
    if store.keys.token:
        raise BadInput(f"{refusal}, and temporary AWS keys would expire in the service: use permanent keys")
    if not share:
        raise BadInput(
            f"{refusal}, so the service cannot have a user that {user.purpose}: --share-keys gives it your keys (access "
            f"key {store.keys.access_key}), which should be able to read and write this bucket and nothing else"
        )
    log.warning(
        "%s with your own keys (access key %s) instead of those of a user that %s: %s",
        *(user.use, store.keys.access_key, user.purpose, refusal),
    )
    return store.keys.access_key, store.keys.secret_key


def renew_policy(store: S3Bucket, user: str, policy: dict[str, Any]) -> None:
    """Give a user of an earlier release today's policy, if the store lets these keys do it."""
    try:
        minio_admin(store).policy_add(user, policy=policy)
    except (MinioAdminException, urllib3.exceptions.HTTPError, ValueError) as error:
        log.debug("The policy of store user %s stays as it is: %s", user, error)


def create_user(store: S3Bucket, user: str, secret: str, policy: dict[str, Any]) -> str | None:
    """Create a user with a policy. Returns None, or the reason for which the store refuses."""
    try:
        admin = minio_admin(store)
        admin.account_info()  # read first: other S3 servers take the writes below for uploads
        admin.policy_add(user, policy=policy)
        admin.user_add(user, secret)
        admin.policy_set(user, user=user)
    except MinioAdminException as error:
        if "AccessDenied" in str(error):
            return "these keys may not create users"
        if str(error._code).startswith("5") and str(error._code) != "501":
            raise Failure(f"the admin API of the store at {store.endpoint} does not work: {error}") from None
        return "the store has no MinIO admin API"
    except urllib3.exceptions.HTTPError as error:
        raise Failure(
            f"the admin API of the store at {store.endpoint} cannot be reached, so nothing was deployed: {error}"
        ) from None
    except ValueError:  # not an answer of MinIO's
        return "the store has no MinIO admin API"
    return None


def user_prefix(model_name: str) -> str:
    return f"kserve-{model_name}-"


def is_service_user(keys: tuple[str, str], model_name: str) -> bool:
    return keys[0].startswith(user_prefix(model_name))


def read_only(bucket: str) -> dict[str, Any]:
    """A policy that lets its user list and read one bucket.

    MinIO lets every user create access keys for itself and change its secret key, unless that is denied
    (DenyOnly in minio/minio, cmd/admin-handlers-users.go).
    """
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
            },
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]},
            {"Effect": "Deny", "Action": ["admin:*"]},
        ],
    }


def read_and_write(bucket: str, requests: str, prefix: str, datasets: Iterable[str]) -> dict[str, Any]:
    """A policy that lets its user read and write below a prefix of one bucket, and read others.

    Args:
        requests: a bucket of which it may only list the prefix, as a deployment does to see whether the bucket exists.
    """
    policy = write_only(bucket, prefix)
    policy["Statement"][0]["Action"] += ["s3:GetObject", "s3:DeleteObject"]
    listing = {
        "Effect": "Allow",
        "Action": ["s3:ListBucket"],
        "Resource": [f"arn:aws:s3:::{name}" for name in (bucket, requests)],
        "Condition": {"StringLike": {"s3:prefix": [f"{prefix}*"]}},
    }
    policy["Statement"].append(listing)
    for name in datasets:
        policy["Statement"] += read_only(name)["Statement"][:2]
    return policy


def write_only(bucket: str, prefix: str) -> dict[str, Any]:
    """A policy that lets its user write below a prefix, and neither list nor read anything."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": [f"arn:aws:s3:::{bucket}/{prefix}*"]},
            {"Effect": "Deny", "Action": ["admin:*"]},
        ],
    }


def minio_admin(store: S3Bucket) -> minio.MinioAdmin:
    """MinIO's admin client, which trusts the same certificates as the S3 client."""
    address = urlsplit(store.endpoint)
    trust: dict[str, Any] = {"ca_certs": str(store.authority)} if store.authority else {}
    return minio.MinioAdmin(
        endpoint=address.netloc,
        secure=address.scheme == "https",
        http_client=urllib3.PoolManager(timeout=10, retries=False, **trust),
        credentials=StaticProvider(store.keys.access_key, store.keys.secret_key, store.keys.token),
    )


def delete_service_users(store: S3Bucket, model_name: str, current: Iterable[tuple[str, str]]) -> None:
    """Delete the users that service_keys created for the service."""
    for user in {keys[0] for keys in current if is_service_user(keys, model_name)}:
        try:
            minio_admin(store).user_remove(user)
            minio_admin(store).policy_remove(user)
            log.info("Deleted store user %s", user)
        except (MinioAdminException, urllib3.exceptions.HTTPError, ValueError):
            log.warning("Store user %s could not be deleted: delete it with the store's own tools", user)
