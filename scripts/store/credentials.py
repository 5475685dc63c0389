"""The deployer's credentials for the S3 store."""

import os
from typing import NamedTuple

import boto3
from botocore.exceptions import BotoCoreError, ProfileNotFound

from failure import BadInput


class Keys(NamedTuple):
    access_key: str
    secret_key: str
    token: str | None  # of temporary keys
    source: str  # where they come from, in words


def aws_session() -> boto3.Session:
    """The region and profile of AWS's own settings. Raises BadInput if AWS_PROFILE names no profile."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")  # only EC2 answers; elsewhere it takes seconds
    try:
        return boto3.Session()
    except ProfileNotFound as error:
        raise BadInput(f"AWS_PROFILE: {error}: correct it, or unset it") from None


def find_keys(session: boto3.Session, access_key: str | None = None, secret_key: str | None = None) -> Keys:
    """The given keys, or else those of the environment, of the AWS profile, or of the development machine."""
    if access_key and secret_key:
        return Keys(access_key, secret_key, None, "given with --access-key")
    try:
        found = session.get_credentials()
    except BotoCoreError as error:
        raise BadInput(f"the AWS profile gives no keys: {error}") from None
    if found is None:
        return Keys("minio", "minio123", None, "of the development machine")
    source = "in AWS_ACCESS_KEY_ID" if found.method == "env" else "of the AWS profile"
    return Keys(found.access_key, found.secret_key, found.token, source)
