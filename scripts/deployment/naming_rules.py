"""Validate names, addresses and sizes (KServe, Kubernetes, Knative and S3 rules).

https://github.com/kserve/kserve/blob/v0.20.0/pkg/apis/serving/v1beta1/inference_service_validation.go
https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
"""

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from failure import BadInput

QUANTITY = (r"\d+(\.\d+)?(m|[kMGT]i?)?", "a Kubernetes quantity such as 100m, 1 or 512Mi")
HOST_AND_PORT = r"([-\w.]+|\[[\da-fA-F:.]+\])(:\d{1,5})?"
RULES = {
    # The longest label derived from it is the host name prev-NAME-transformer: at most 63 characters.
    "model_name": (
        r"[a-z]([-a-z0-9]{0,44}[a-z0-9])?",
        "at most 46 lower-case letters, digits and '-', starting with a letter and not ending with '-'",
    ),
    "namespace": (
        r"(?!kube-)[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
        "at most 63 lower-case letters, digits and '-', not starting or ending with '-', nor starting with kube-",
    ),
    "bucket": (
        r"(?!xn--|sthree-|amzn-s3-demo-)(?!.*\.\.)(?!.*(-s3alias|--ol-s3|--x-s3|\.mrap|-requests)$)"
        r"[a-z0-9][-.a-z0-9]{1,61}[a-z0-9]",
        "3 to 63 lower-case letters, digits, '-' and '.', "
        "starting and ending with a letter or digit, no prefix or suffix that S3 reserves, and not -requests at the end: "
        "such buckets have recorded requests",
    ),
    "minio_endpoint": (rf"https?://{HOST_AND_PORT}/?", "http://HOST:PORT"),
    "minio_endpoint_cluster": (rf"(https?://)?{HOST_AND_PORT}/?", "HOST:PORT"),
    "ingress": (rf"https?://{HOST_AND_PORT}/?", "http://HOST:PORT"),
    "transformer_image": (
        r"[a-z0-9][\w.\-/:@]*",
        "an image name such as docker.io/mlops-poc/sklearn-transformer:1.0.0",
    ),
    "image_pull_secret": (r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?", "the name of a Secret in the namespace"),
    "cpu_request": QUANTITY,
    "cpu_limit": QUANTITY,
    "memory_request": QUANTITY,
    "memory_limit": QUANTITY,
}


def check_names(values: Mapping[str, Any]) -> None:
    """Check the values of options by their names. Raises BadInput, which names the option and what it takes."""
    for name, (pattern, form) in RULES.items():
        value, option = values.get(name), "--" + name.replace("_", "-")
        if value is None:
            continue
        if name.startswith(("minio", "ingress")) and "@" in value:  # not shown: it may be a password
            raise BadInput(
                f"{option} contains a user name or password, which others could see: it takes {form}. The store's keys "
                "belong in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if not re.fullmatch(pattern, value):
            if name == "bucket" and value == values["model_name"]:
                raise BadInput(
                    f"--model-name {value!r} is no valid bucket name, and without --bucket the bucket gets the model's "
                    f"name: give one with --bucket ({form})"
                )
            raise BadInput(f"{option} {value!r} is not allowed: it takes {form}")
        # KServe mistakes a host name with this part for one of those that it created before 0.11.
        if name in ("model_name", "namespace") and "-default" in value:
            raise BadInput(f"{option} {value!r} is not allowed: KServe cannot route names that contain '-default'")
    if is_ip_address(values["bucket"]):
        raise BadInput(f"--bucket {values['bucket']!r} is not allowed: an IP address is no bucket name")


def is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
