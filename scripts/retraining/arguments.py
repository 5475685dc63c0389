"""The command line of retrain.py."""

import argparse
import os
from pathlib import Path

from command_line import HelpFormatter, add_log_level_option, duration, percentage, positive_int
from corpus.source import BUILTIN, add_dataset_options
from deployment.arguments import add_store_options, store_region
from prometheus import add_prometheus_option, prometheus_url
from retraining import gate
from retraining.schedule import Schedule
from retraining.trigger import DRIFTED, when

LIMITS = {
    "max_unknown": "share of the texts without an in-vocabulary term, at most",
    "max_unknown_rise": "its rise above that of the stable version, at most",
    "min_median_similarity": "median similarity to the centroid, at least",
    "max_similarity_drop": "its drop below that of the stable version, at most",
    "min_agreement": "share of the texts that keep their cluster number, at least",
    "min_kept": "share of the cluster numbers that are kept, at least",
    "min_documents": "held-out texts; with fewer the gate is inconclusive",
}


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse and check the command line. Exits with status 2 when options do not go together."""
    parser = argparse.ArgumentParser(
        description="Train, check and try a new version of a service when its texts have drifted.",
        epilog="Store keys: the options, else AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else the AWS profile, "
        "else those of the development machine (minio, minio123).",
        formatter_class=HelpFormatter,
        allow_abbrev=False,  # arguments_on_the_cluster knows the full names
    )
    add_log_level_option(parser)
    add_trigger_options(parser.add_argument_group("when to train"))
    add_training_options(parser)
    add_gate_options(parser.add_argument_group("gate: limits on the held-out texts"))
    add_canary_options(parser.add_argument_group("canary"))
    add_service_options(parser.add_argument_group("service"))
    add_store_options(parser)
    add_action_options(parser)
    options = parser.parse_args(argv)
    options.bucket = options.bucket or options.model_name
    options.store_ca = options.store_ca or (os.environ.get("AWS_CA_BUNDLE") and Path(os.environ["AWS_CA_BUNDLE"]))
    if not (options.dataset or options.history or options.unschedule):
        parser.error("--dataset is required: the corpus to train on, the newest texts last")
    if bool(options.access_key) != bool(options.secret_key):
        parser.error("--access-key and --secret-key belong together: give both or none")
    if options.dry_run and not options.schedule:
        parser.error("--dry-run requires --schedule")
    if options.schedule:
        check_schedule(parser, options)
    return options


def check_schedule(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.image:
        parser.error("--schedule requires --image: build it from transformer.Dockerfile, target retraining")
    local = [name for name in options.dataset if not name.startswith("s3://") and name not in BUILTIN]
    if local:
        parser.error(f"--schedule: the pod cannot read {local[0]}: upload it to the store, and give its s3:// address")


def schedule_of(options: argparse.Namespace, argv: list[str]) -> Schedule:
    """The settings of the CronJob.

    Args:
        argv: the command line that the options were parsed from.
    """
    return Schedule(
        service=options.model_name,
        namespace=options.namespace,
        cron=options.schedule,
        image=options.image,
        arguments=arguments_on_the_cluster(options, argv),
        region=store_region(options),
        store_ca=options.store_ca.read_text() if options.store_ca else None,
        store_host=options.minio_endpoint_cluster,
        isolated=True,
    )


def arguments_on_the_cluster(options: argparse.Namespace, argv: list[str]) -> list[str]:
    """The command line of a scheduled run: the given options, with the addresses as seen from the cluster."""
    local = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--schedule", "--image", "--context", "--store-ca", "--access-key", "--secret-key"):
        local.add_argument(name)
    for name in ("--ingress-cluster", "--prometheus-cluster"):
        local.add_argument(name)
    local.add_argument("--dry-run", action="store_true")
    _, passed_on = local.parse_known_args(argv)
    store = options.minio_endpoint_cluster
    store = store if "://" in store else f"http://{store}"
    addresses = {"--minio-endpoint": store, "--ingress": options.ingress_cluster}
    addresses["--prometheus"] = options.prometheus_cluster
    if options.s3_endpoint == options.minio_endpoint:
        addresses["--s3-endpoint"] = store
    return passed_on + [f"{name}={value}" for name, value in addresses.items()]


def add_trigger_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--when",
        type=when,
        default=DRIFTED,
        metavar="CONDITION",
        help="drifted: a drift alert of the stable version fires; an age such as 30d: that version is older; now",
    )
    add("--cooldown", type=duration, default="24h", metavar="AGE", help="least age of the last decision")
    add("--min-new", type=positive_int, default=500, metavar="N", help="least number of different new texts")


def add_training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "training",
        "Several datasets are read one after the other; the last one has the newest texts, of which one in five is held "
        "out.",
    )
    add_dataset_options(group)
    group.add_argument(
        "--clusters",
        metavar="K",
        help="number of clusters, or a range to choose from (default: the number of the stable version, or one more)",
    )


def add_gate_options(group: argparse._ArgumentGroup) -> None:
    for name, default in gate.Limits()._asdict().items():
        option = "--" + name.replace("_", "-")
        kind, metavar = (share, "SHARE") if isinstance(default, float) else (positive_int, "N")
        group.add_argument(option, type=kind, default=default, metavar=metavar, help=LIMITS[name])


def add_canary_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--canary", type=percentage, default=20, metavar="PERCENT", help="share of the requests for the candidate")
    add("--analyse", type=duration, default="10m", metavar="DURATION", help="how long to compare the two versions")
    add_prometheus_option(group)


def add_service_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model-name", default="textclustering", metavar="NAME", help="name of the InferenceService")
    add("--namespace", default="kserve-textclustering", help="of the InferenceService")
    add("--context", help="kubectl context; KUBECONFIG works too")
    add("--ingress", default="http://localhost:30300", metavar="URL", help="ingress gateway as seen from here")
    add("--timeout", type=positive_int, default=600, metavar="SECONDS", help="for each wait of the deployment")


def add_action_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("instead of a run")
    add = group.add_mutually_exclusive_group().add_argument
    add("--history", action="store_true", help="print the decisions")
    add(
        "--schedule",
        type=cron,
        metavar="CRON",
        help='run on the cluster at these times, such as "*/15 * * * *", with the other options given here',
    )
    add("--unschedule", action="store_true", help="remove what --schedule has created")
    add = group.add_argument
    add("--dry-run", action="store_true", help="with --schedule: print the objects, and change nothing")
    add("--image", metavar="IMAGE", help="with --schedule: built from transformer.Dockerfile, target retraining")
    add(
        "--ingress-cluster",
        default="http://istio-ingressgateway.istio-system",
        metavar="URL",
        help="with --schedule: ingress gateway as seen from the cluster",
    )
    add(
        "--prometheus-cluster",
        type=prometheus_url,
        default="http://prometheus.monitoring:9090",
        metavar="URL",
        help="with --schedule: Prometheus as seen from the cluster",
    )


def cron(text: str) -> str:
    """Five fields of a cron schedule, which the API server checks further. Raises ArgumentTypeError for anything else."""
    if len(text.split()) != 5 and not text.startswith("@"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a schedule of five fields, such as '*/15 * * * *'")
    return text


def share(text: str) -> float:
    """A number from 0 to 1. Raises ArgumentTypeError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value
