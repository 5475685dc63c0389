"""Whose keys open the store: those of the person who deploys, and those that the service gets."""

import logging
import os
import secrets
from typing import NamedTuple

import boto3
import minio
import urllib3
from botocore.exceptions import BotoCoreError
from minio.credentials import StaticProvider
from minio.error import MinioAdminException

from failure import BadInput

log = logging.getLogger(__name__)


class Keys(NamedTuple):
    access_key: str
    secret_key: str
    token: str | None  # of temporary keys
    source: str  # where they come from, in words


def find_keys(access_key=None, secret_key=None):
    """The keys of the person who deploys: those given, else those of the environment, else of the AWS profile."""
    if access_key:
        return Keys(access_key, secret_key, None, "given with --access-key")
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # nobody to ask but on EC2: it would take seconds
    try:
        found = boto3.Session().get_credentials()
    except BotoCoreError as error:
        raise BadInput(f"the AWS profile gives no keys: {error}") from None
    if found is None:
        return Keys("minio", "minio123", None, "of the development machine")
    source = "in AWS_ACCESS_KEY_ID" if found.method == "env" else "of the AWS profile"
    return Keys(found.access_key, found.secret_key, found.token, source)


def service_keys(store, model_name, current):
    """Keys that the service reads the bucket with: (access key, secret key).

    They are those of a MinIO user who can only read this bucket, made through MinIO's admin API and kept as long as
    they work; or, where that cannot be had, the caller's own, with a warning.

    Args:
        current: the keys that the service has, or None.
    """
    if is_service_user(current, model_name) and store.can_read(*current):
        return current
    user, secret = f"kserve-{model_name}-{secrets.token_hex(4)}", secrets.token_urlsafe(30)
    try:
        admin = minio_admin(store)
        admin.account_info()  # a read first: another S3 server takes the writes below for uploads
        admin.policy_add(user, policy=read_only(store.bucket))
        admin.user_add(user, secret)
        admin.policy_set(user, user=user)
    except (MinioAdminException, urllib3.exceptions.HTTPError, ValueError) as error:
        why = "these keys may not create users" if "AccessDenied" in str(error) else "the store has no MinIO admin API"
        if store.keys.token:
            raise BadInput(f"{why}, and temporary AWS keys would expire in the service: use keys that last") from None
        log.warning("The service reads the store with your own keys (access key %s): %s", store.keys.access_key, why)
        return store.keys.access_key, store.keys.secret_key
    log.info("Created store user %s, which can only read bucket %s", user, store.bucket)
    return user, secret


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
    scheme, host = store.endpoint.split("://")
    return minio.MinioAdmin(
        endpoint=host,
        secure=scheme == "https",
        http_client=urllib3.PoolManager(timeout=10, retries=False),
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
