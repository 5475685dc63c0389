"""The command line of deploy_service.py, and the service settings that follow from it."""

import argparse
import os
from pathlib import Path

from command_line import HelpFormatter, add_log_level_option, duration, percentage, positive_int, similarity
from deployment.manifests import ServiceSettings
from failure import BadInput
from prometheus import add_prometheus_option
from store.client import region
from store.credentials import aws_session
from store.request_store import request_bucket


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line. Exits with status 2 when options do not go together."""
    parser = argparse.ArgumentParser(
        description="Upload a trained model to an S3 store and serve it with KServe.",
        epilog="Store keys: the options, else AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else the AWS profile, "
        "else those of the development machine (minio, minio123). Prefer the environment: "
        "other users can see a command line.",
        formatter_class=HelpFormatter,
    )
    add_log_level_option(parser)
    add_model_options(parser)
    add_cluster_options(parser)
    add_store_options(parser)
    add_record_options(parser)
    add_version_options(parser)
    options = parser.parse_args(argv)
    options.bucket = options.bucket or options.model_name
    options.store_ca = options.store_ca or (os.environ.get("AWS_CA_BUNDLE") and Path(os.environ["AWS_CA_BUNDLE"]))
    check_combination(parser, options)
    return options


def add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("model").add_argument
    add("--model-path", type=Path, default="model.joblib", metavar="FILE", help="with clusters.json in its folder")
    add(
        "--transformer-path", type=Path, default="transformer.joblib", metavar="FILE", help="from the same training run"
    )
    add("--transformer-image", metavar="IMAGE", help="built from transformer.Dockerfile; required to deploy")
    add("--image-pull-secret", metavar="NAME", help="Secret in the namespace, for a private registry")
    add("--model-name", default="textclustering", metavar="NAME", help="name of the InferenceService")
    add(
        "--min-similarity",
        type=similarity,
        metavar="COSINE",
        help="answer -1 where the nearest cluster is less similar than this, such as 0.7 (default: never)",
    )
    add("--collocate", action="store_true", help="run predictor and transformer in one pod")


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("cluster").add_argument
    add("--namespace", default="kserve-textclustering", help="created if it does not exist")
    add("--context", help="kubectl context; KUBECONFIG works too")
    add("--ingress", default="http://localhost:30300", metavar="URL", help="ingress gateway as seen from here")
    add("--cpu-request", default="50m", metavar="CPU", help="of each container")
    add("--cpu-limit", default="1", metavar="CPU", help="of each container")
    add("--memory-request", default="512Mi", metavar="MEM", help="of each container")
    add("--memory-limit", default="1Gi", metavar="MEM", help="of each container")
    add("--min-replicas", type=positive_int, default=1, metavar="N", help="minimum number of pods of each component")
    add("--max-replicas", type=positive_int, default=3, metavar="N", help="maximum number of pods of each component")
    add("--wait", action=argparse.BooleanOptionalAction, default=True, help="wait until the service answers")
    add("--timeout", type=positive_int, default=600, metavar="SECONDS", help="for each wait")


def add_record_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("recorded requests").add_argument
    add(
        "--record-requests",
        action="store_true",
        help="record what clients send in the bucket NAME-requests of the store, to train on it (docs/retraining.md)",
    )
    add("--record-days", type=positive_int, default=30, metavar="DAYS", help="let the store delete them after so long")


def add_store_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("S3 store").add_argument
    add("--bucket", help="created if it does not exist; default: the model's name")
    add("--minio-endpoint", default="http://localhost:30100", metavar="URL", help="store as seen from here")
    add(
        "--minio-endpoint-cluster",
        default="minio-service.tenant-tiny:9000",
        metavar="HOST:PORT",
        help="store as seen from the cluster",
    )
    add(
        "--store-ca",
        type=Path,
        metavar="FILE",
        help="CA certificates that this machine and the pods trust the store by, PEM (default: AWS_CA_BUNDLE)",
    )
    add("--access-key", help="see below")
    add("--secret-key", help="see below")
    add("--share-keys", action="store_true", help="let the service use your keys if the store cannot create a user")


def add_version_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("versions")
    add = group.add_mutually_exclusive_group().add_argument
    add("--dry-run", action="store_true", help="print the manifests, secrets masked, and change nothing")
    add("--canary", type=percentage, metavar="PERCENT", help="deploy, and give the new version this share of requests")
    add("--promote", action="store_true", help="give the canary all requests")
    add("--rollback", action="store_true", help="return to the previous version")
    add("--list", action="store_true", help="list the versions with their metrics and traffic")
    add("--delete", action="store_true", help="remove the service and its credentials; its files stay in the store")
    group.add_argument(
        "--analyse",
        type=duration,
        metavar="DURATION",
        help="with --canary: compare the canary with the stable version for this long, such as 10m, then promote it, "
        "roll it back, or leave it to you",
    )
    add_prometheus_option(group)
    group.add_argument("--delete-artefacts", action="store_true", help="with --delete: remove the files as well")
    group.add_argument(
        "--delete-requests", action="store_true", help="with --delete: remove the recorded requests as well"
    )


def check_combination(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    deploys = not (options.promote or options.rollback or options.list or options.delete)
    if deploys and not options.transformer_image:
        parser.error("--transformer-image is required: build it from transformer.Dockerfile")
    if bool(options.access_key) != bool(options.secret_key):
        parser.error("--access-key and --secret-key belong together: give both or none")
    if options.min_replicas > options.max_replicas:
        parser.error(f"--min-replicas {options.min_replicas} is more than --max-replicas {options.max_replicas}")
    for name in ("delete_artefacts", "delete_requests"):
        if getattr(options, name) and not options.delete:
            parser.error(f"--{name.replace('_', '-')} requires --delete")
    if options.record_requests and options.bucket == request_bucket(options.model_name):
        parser.error(f"--bucket {options.bucket} is where requests are recorded, and the service can read its bucket")
    if options.analyse and not options.canary:
        parser.error("--analyse requires --canary")
    if options.canary and not options.wait:
        parser.error("--canary waits until the new version is ready: remove --no-wait")


def service_settings(options: argparse.Namespace) -> ServiceSettings:
    """The settings of the service, apart from the version that it serves."""
    return ServiceSettings(
        name=options.model_name,
        namespace=options.namespace,
        transformer_image=options.transformer_image,
        bucket=options.bucket,
        store_endpoint=options.minio_endpoint_cluster,
        region=store_region(options),
        resources={
            "requests": {"cpu": options.cpu_request, "memory": options.memory_request},
            "limits": {"cpu": options.cpu_limit, "memory": options.memory_limit},
        },
        min_replicas=options.min_replicas,
        max_replicas=options.max_replicas,
        collocate=options.collocate,
        store_ca=options.store_ca.read_text() if options.store_ca else None,
        image_pull_secret=options.image_pull_secret,
        min_similarity=options.min_similarity,
        record_requests=options.record_requests,
    )


def store_region(options: argparse.Namespace) -> str:
    """The region of AWS's own settings. A dry run does not need the profile that they name."""
    try:
        return region(aws_session())
    except BadInput:
        if not options.dry_run:
            raise
        return os.environ.get("AWS_DEFAULT_REGION", "us-east-1")
