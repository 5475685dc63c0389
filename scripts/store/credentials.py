"""Whose keys open the store: those of the person who deploys, and those that the service gets.

The service's keys are those of a MinIO user who can only read its bucket. Where the store says that there is no such
API, or that these keys may not use it, the service can get the keys of the person who deploys, but only if that person
says so (--share-keys): whoever reads the Secret could write with them wherever that person may. An error of the
network or of TLS is no such answer, and ends the deployment.
"""

import logging
import os
import secrets
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

import boto3
import minio
import urllib3
from botocore.exceptions import BotoCoreError, ProfileNotFound
from minio.credentials import StaticProvider
from minio.error import MinioAdminException

from failure import BadInput, Failure

log = logging.getLogger(__name__)


class Keys(NamedTuple):
    access_key: str
    secret_key: str
    token: str | None  # of temporary keys
    source: str  # where they come from, in words


def aws_session():
    """What AWS's own settings say: region, profile. Raises BadInput where AWS_PROFILE names no profile."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # nobody to ask but on EC2: it would take seconds
    try:
        return boto3.Session()
    except ProfileNotFound as error:
        raise BadInput(f"AWS_PROFILE: {error}: correct it, or unset it") from None


def find_keys(session, access_key=None, secret_key=None):
    """The keys of the person who deploys: those given, else those of the environment, else of the AWS profile."""
    if access_key:
        return Keys(access_key, secret_key, None, "given with --access-key")
    try:
        found = session.get_credentials()
    except BotoCoreError as error:
        raise BadInput(f"the AWS profile gives no keys: {error}") from None
    if found is None:
        return Keys("minio", "minio123", None, "of the development machine")
    source = "in AWS_ACCESS_KEY_ID" if found.method == "env" else "of the AWS profile"
    return Keys(found.access_key, found.secret_key, found.token, source)


def check_authority(path):
    """Raises BadInput unless it is a file of certificates."""
    try:
        ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise BadInput(f"--store-ca {path} (or AWS_CA_BUNDLE) is no file of certificates in PEM: {error}") from None


def service_keys(store, model_name, current, share):
    """Keys that the service reads the bucket with: (access key, secret key); those that work are kept.

    Args:
        current: the keys that the service has, or None.
        share: whether the caller's own keys may be given to it where it cannot get a user of its own.

    Raises:
        BadInput: the store gives it no user, and the caller's keys are not to be shared or would expire.
        Failure: the admin API cannot be reached or does not work.
    """
    if is_service_user(current, model_name) and store.can_read(*current):
        return current
    user, secret = f"kserve-{model_name}-{secrets.token_hex(4)}", secrets.token_urlsafe(30)
    refusal = create_user(store, user, secret)
    if refusal is None:
        log.info("Created store user %s, which can only read bucket %s", user, store.bucket)
        return user, secret
    if store.keys.token:
        raise BadInput(f"{refusal}, and temporary AWS keys would expire in the service: use keys that last")
    if not share:
        raise BadInput(
            f"{refusal}, so the service gets no user of its own that could only read: give it your keys (access key "
            f"{store.keys.access_key}) with --share-keys, at best some that can do no more than read and write this "
            "bucket"
        )
    log.warning("The service reads the store with your own keys (access key %s): %s", store.keys.access_key, refusal)
    return store.keys.access_key, store.keys.secret_key


def create_user(store, user, secret):
    """Create a user who can only read the bucket. Returns None, or why the store says that it cannot be."""
    try:
        admin = minio_admin(store)
        admin.account_info()  # a read first: another S3 server takes the writes below for uploads
        admin.policy_add(user, policy=read_only(store.bucket))
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
    except ValueError:  # an answer, but none of MinIO's
        return "the store has no MinIO admin API"
    return None


def is_service_user(keys, model_name):
    return bool(keys) and keys[0].startswith(f"kserve-{model_name}-")


def read_only(bucket):
    """An S3 policy that lets its user list and read one bucket."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
                "Resource": [f"arn:aws:s3:::{bucket}"],
            },
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [f"arn:aws:s3:::{bucket}/*"]},
        ],
    }


def minio_admin(store):
    """MinIO's admin client, which trusts what the store's own client trusts."""
    address = urlsplit(store.endpoint)
    trust = {"ca_certs": str(store.authority)} if store.authority else {}
    return minio.MinioAdmin(
        endpoint=address.netloc,
        secure=address.scheme == "https",
        http_client=urllib3.PoolManager(timeout=10, retries=False, **trust),
        credentials=StaticProvider(store.keys.access_key, store.keys.secret_key, store.keys.token),
    )


def delete_service_user(store, model_name, current):
    """Delete the user whose keys the service has, where service_keys made one."""
    if is_service_user(current, model_name):
        try:
            minio_admin(store).user_remove(current[0])
            minio_admin(store).policy_remove(current[0])
            log.info("Deleted store user %s", current[0])
        except (MinioAdminException, urllib3.exceptions.HTTPError, ValueError):
            log.warning("Store user %s could not be deleted: delete it with the store's own tools", current[0])
