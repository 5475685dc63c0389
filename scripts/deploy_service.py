#!/usr/bin/env python
"""Deploy a trained model to KServe: upload, credentials, manifests, wait, ask.

    python ./scripts/deploy_service.py --model-path model.joblib --model-name textclustering \
        --namespace kserve-textclustering --transformer-path transformer.joblib \
        --transformer-image docker.io/mlops-poc/sklearn-transformer:1.0.0

    ... --canary 20       deploy, and give the new version one request in five
    ... --promote         give it all of them
    ... --rollback        return to the version before
    ... --list            the versions with their metrics and traffic
    ... --delete          remove the service

A version is named after the content of its files. The files beside this one:

    artefacts.py          the three files of a training run, and whether they belong together
    naming_rules.py       what names, addresses and sizes may look like
    model_store.py        the S3 store with its versions
    store_credentials.py  whose keys open the store
    manifests.py          the Kubernetes objects
    kubectl.py            kubectl, and its errors in the user's terms
    deployed_service.py   what the cluster shows of the service at one moment
    rollout.py            applying a version, and returning to the one before
    waiting.py            until it is ready and has its requests
    diagnosis.py          why it is not ready, and what to do
    gateway.py            asking it
    version_table.py      the versions as a person reads them

Exit status: 0 done, 1 the store or the cluster failed, 2 bad input, 130 interrupted.
"""

import argparse
import contextlib
import json
import logging
import os
from pathlib import Path

from command_line import HelpFormatter, add_log_level_option, exit_on_interrupt, percentage, positive_int

if __name__ == "__main__":
    exit_on_interrupt()

import coloredlogs

from deployment import manifests
from deployment.deployed_service import DeployedService, in_words
from deployment.diagnosis import explain, is_ready, revision_of
from deployment.gateway import NoAnswer, ask, check_answers, curl, questions
from deployment.kubectl import Kubectl
from deployment.naming_rules import check_names
from deployment.rollout import give_share, next_attempt, return_to_previous, roll_out
from deployment.version_table import print_versions
from failure import BadInput, report_errors
from store.client import check_authority, region
from store.credentials import aws_session, find_keys
from store.model_store import ModelStore, read_version
from store.service_user import delete_service_user, service_keys

log = logging.getLogger("deploy_service")

# ------------------------------------------------------------------------------------------------------- options


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description="Upload a trained model to an S3 store and serve it with KServe.",
        epilog="Keys of the store: the flags, else AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, else the AWS profile, "
        "else those of the development machine (minio, minio123). Prefer the environment: "
        "others can see a command line.",
        formatter_class=HelpFormatter,
    )
    add_log_level_option(parser)

    what = parser.add_argument_group("what to deploy").add_argument
    what("--model-path", type=Path, default="model.joblib", metavar="FILE", help="with clusters.json beside it")
    what("--transformer-path", type=Path, default="transformer.joblib", metavar="FILE", help="of the same training run")
    what("--transformer-image", metavar="IMAGE", help="made from transformer.Dockerfile; needed to deploy")
    what("--image-pull-secret", metavar="NAME", help="Secret in the namespace for a private registry")
    what("--model-name", default="textclustering", metavar="NAME", help="name of the inference service")
    what("--collocate", action="store_true", help="predictor and transformer in one pod")

    cluster = parser.add_argument_group("where it runs").add_argument
    cluster("--namespace", default="kserve-textclustering", help="created if it is not there")
    cluster("--context", help="kubectl context; KUBECONFIG works too")
    cluster("--ingress", default="http://localhost:30300", metavar="URL", help="the ingress gateway as seen from here")
    cluster("--cpu-request", default="50m", metavar="CPU", help="of each container")
    cluster("--cpu-limit", default="1", metavar="CPU", help="of each container")
    cluster("--memory-request", default="512Mi", metavar="MEM", help="of each container")
    cluster("--memory-limit", default="1Gi", metavar="MEM", help="of each container")
    cluster("--min-replicas", type=positive_int, default=1, metavar="N", help="pods of each component, at least")
    cluster("--max-replicas", type=positive_int, default=3, metavar="N", help="pods of each component, at most")
    cluster("--wait", action=argparse.BooleanOptionalAction, default=True, help="wait until the service answers")
    cluster("--timeout", type=positive_int, default=600, metavar="SECONDS", help="how long to wait at most")

    store = parser.add_argument_group("the S3 store").add_argument
    store("--bucket", help="created if it is not there; the model's name if not given")
    store("--minio-endpoint", default="http://localhost:30100", metavar="URL", help="the store as seen from here")
    store(
        "--minio-endpoint-cluster",
        default="minio-service.tenant-tiny:9000",
        metavar="HOST:PORT",
        help="the store as seen from the cluster",
    )
    store(
        "--store-ca",
        type=Path,
        metavar="FILE",
        help="certificates by which to trust the store, PEM, for this machine and the pods (default: AWS_CA_BUNDLE)",
    )
    store("--access-key", help="see below")
    store("--secret-key", help="see below")
    store("--share-keys", action="store_true", help="give the service your own keys if it can get no user of its own")

    actions = parser.add_argument_group("versions")
    action = actions.add_mutually_exclusive_group().add_argument
    action("--dry-run", action="store_true", help="print the manifests, the secret masked, and touch nothing")
    action("--canary", type=percentage, metavar="PERCENT", help="deploy, and give the new version this share only")
    action("--promote", action="store_true", help="give the canary all requests")
    action("--rollback", action="store_true", help="return to the previous version")
    action("--list", action="store_true", help="list the versions with their metrics and traffic")
    action("--delete", action="store_true", help="remove the service and its credentials; the artefacts stay")
    actions.add_argument("--delete-artefacts", action="store_true", help="with --delete: remove all versions as well")

    options = parser.parse_args(argv)
    options.bucket = options.bucket or options.model_name
    options.store_ca = options.store_ca or (os.environ.get("AWS_CA_BUNDLE") and Path(os.environ["AWS_CA_BUNDLE"]))
    if not (options.transformer_image or options.promote or options.rollback or options.list or options.delete):
        parser.error("--transformer-image is needed: build it from transformer.Dockerfile")
    if bool(options.access_key) != bool(options.secret_key):
        parser.error("--access-key and --secret-key belong together: give both or none")
    if options.min_replicas > options.max_replicas:
        parser.error(f"--min-replicas {options.min_replicas} is more than --max-replicas {options.max_replicas}")
    if options.delete_artefacts and not options.delete:
        parser.error("--delete-artefacts goes with --delete")
    if options.canary and not options.wait:
        parser.error("--canary has to wait until the new version is ready: leave out --no-wait")
    return options


def settings(options):
    """What the service is made of."""
    return manifests.ServiceSettings(
        name=options.model_name,
        namespace=options.namespace,
        transformer_image=options.transformer_image,
        bucket=options.bucket,
        store_endpoint=options.minio_endpoint_cluster,
        region=region(aws_session()),
        resources={
            "requests": {"cpu": options.cpu_request, "memory": options.memory_request},
            "limits": {"cpu": options.cpu_limit, "memory": options.memory_limit},
        },
        min_replicas=options.min_replicas,
        max_replicas=options.max_replicas,
        collocate=options.collocate,
        store_authority=options.store_ca.read_text() if options.store_ca else None,
        image_pull_secret=options.image_pull_secret,
    )


def store_of(options):
    session = aws_session()
    keys = find_keys(session, options.access_key, options.secret_key)
    return ModelStore(session, options.minio_endpoint, options.bucket, options.model_name, keys, options.store_ca)


def service_of(options):
    return DeployedService(Kubectl(options.namespace, options.context), options.model_name)


# -------------------------------------------------------------------------------------------------------- deploy


def deploy(options):
    version = read_version(options.model_path, options.transformer_path)
    log.info("Using model %s from %s, version %s", options.model_name, options.model_path, version.name)
    if options.dry_run:
        return print(manifests.as_yaml_without_keys(settings(options), version.name), end="")

    deployed, store = service_of(options), store_of(options)
    before = deployed.fetch()
    check_way(before, options.model_name, options.collocate)
    if options.canary:
        check_canary(before, options.model_name, version.name)
    has_namespace = rehearse(deployed.kubectl, settings(options), version.name)

    store.create_bucket()
    warn_of_new_numbers(before, version, store)
    record = store.upload(version)
    keys = service_keys(store, options.model_name, deployed.keys(), options.share_keys)
    deployed.kubectl.apply(
        *([] if has_namespace else [manifests.namespace(options.namespace)]),
        *manifests.credentials(settings(options), keys),
    )

    content = manifests.Content(version.name, access_key=keys[0], uploaded=record["uploaded"])
    service = manifests.inference_service(settings(options), next_attempt(before, settings(options), content))
    clusters = version.summary["clusters"]

    def check(host):
        check_answers(options.ingress, host, options.model_name, clusters, options.timeout)

    view = roll_out(deployed, before, service, options.canary, options.wait, options.timeout, check)
    if view is None:
        return say_not_waiting(options, before)
    log.info("Traffic: %s", in_words(view.traffic()))
    if options.canary:  # nobody knows whose cluster numbers an answer holds
        return ask_once(options, deployed, view)
    with reasons_logged(deployed, view):
        check(host_of(view))
    return print_curl(options, view, clusters)


def warn_of_new_numbers(view, version, store):
    """Whoever stores or routes by cluster numbers is to know when they stop meaning what they mean now."""
    for serving in view.traffic():
        if serving != version.name and not version.continues(serving, store.record(serving)):
            log.warning(
                "The cluster numbers of %s do not continue those of %s, which gets the requests: a number may mean "
                "another topic now. To keep them: text_clustering.py --like s3://%s/%s%s/ --s3-endpoint %s",
                *(version.name, serving, store.bucket, store.prefix, serving, store.endpoint),
            )


def check_way(view, name, collocate):
    """A service keeps its way, one pod or two: KServe would send the requests to the other at once, ready or not."""
    if view.traffic() and collocate != view.is_collocated:
        raise BadInput(
            f"{name} runs with predictor and transformer in {'one pod' if view.is_collocated else 'two pods'}, which cannot be "
            f"changed while it serves: {'leave out' if collocate else 'give'} --collocate, or --delete it first"
        )


def say_not_waiting(options, before):
    log.info(
        "Not waiting: kubectl get inferenceservice %s -n %s tells when it is ready",
        options.model_name,
        options.namespace,
    )
    if before.on_knative and before.serving():
        log.info("It gets no requests yet: run this again without --no-wait, and they are given to it")


def check_canary(view, name, version):
    if not view.traffic():
        raise BadInput(f"there is no {name} to try a canary against: deploy without --canary first")
    if not view.on_knative:
        raise BadInput(f"{name} runs in KServe's Standard mode, which has no canary: deploy without --canary")
    if view.traffic().get(version) == 100:
        raise BadInput(f"version {version} gets all requests already: train another one to try it as canary")


def rehearse(kubectl, settings, version):
    """Let the server check everything before anything is changed. Returns whether the namespace exists."""
    has_namespace = kubectl.has_namespace()
    if has_namespace:
        service = manifests.inference_service(settings, manifests.Content(version))
        kubectl.rehearse(*manifests.credentials(settings), service)
    return has_namespace


def host_of(view):
    return view.status["url"].split("://")[1]


def ask_once(options, deployed, view):
    """Have any text clustered, log the answer, and print how to do it again."""
    text = "The team won the game"
    with reasons_logged(deployed, view):
        numbers = ask(options.ingress, host_of(view), options.model_name, [text], options.timeout)
    log.info("%s answers: %s", options.model_name, json.dumps({"predictions": numbers}))
    print(curl(options.ingress, host_of(view), options.model_name, text))


def print_curl(options, view, clusters):
    texts = questions(clusters)
    number, text = next(iter(texts.items()))
    log.info("%s answers: %s", options.model_name, json.dumps({"predictions": [number]}))
    log.info("Cluster %s: %s", number, text)
    print(curl(options.ingress, host_of(view), options.model_name, text))


@contextlib.contextmanager
def reasons_logged(deployed, view):
    """Where the service is reached but does not answer, its pods know why."""
    try:
        yield
    except NoAnswer as error:
        if error.status not in (None, 404):
            pods = [pod for pod in view.pods if not view.on_knative or revision_of(pod) in view.serving()]
            for line in explain(deployed.kubectl, deployed.name, view, [pod for pod in pods if not is_ready(pod)]):
                log.error("%s", line)
        raise


# ------------------------------------------------------------------------------- promote, roll back, list, delete


def promote(options):
    deployed = service_of(options)
    view = serving_view(deployed)
    if view.canary == 0:
        raise BadInput(
            f"the newest version of {deployed.name} gets no requests, and was rolled back or has not proved itself: "
            "deploy its files again to bring it back (nothing is uploaded twice), or deploy others with --canary"
        )
    if view.canary is None:
        raise BadInput(f"{deployed.name} has no canary to promote: deploy one with --canary PERCENT")
    view = give_share(deployed, None, view.serving(beside_newest=True), options.timeout)
    log.info("Traffic: %s", in_words(view.traffic()))
    ask_once(options, deployed, view)


def roll_back(options):
    """Give everything to the version before the newest."""
    deployed = service_of(options)
    view = serving_view(deployed)
    if not view.on_knative:
        raise BadInput(
            f"{deployed.name} runs in KServe's Standard mode, which keeps no previous version: "
            "deploy the earlier files again"
        )
    status = view.component(view.front)
    if (
        view.canary is None
        and status["latestCreatedRevision"] == status.get("latestRolledoutRevision")
        and not status.get("previousRolledoutRevision")
    ):
        raise BadInput(f"{deployed.name} has had one version only: there is nothing to return to")
    if view.canary == 0:
        log.info("Rolled back already")
    view = return_to_previous(deployed, options.timeout)
    log.info("Traffic: %s", in_words(view.traffic()))
    ask_once(options, deployed, view)


def serving_view(deployed):
    view = deployed.fetch()
    if not view.traffic():
        raise BadInput(
            f"there is no inference service {deployed.name} in namespace {deployed.kubectl.namespace}: "
            "check --model-name and --namespace, or deploy it first"
        )
    return view


def list_versions(options):
    shares, records = service_of(options).fetch().traffic(), store_of(options).versions()
    known = [record["version"] for record in records]
    records += [{"version": version} for version in shares if version not in known]
    if not records:
        return log.info("No version of %s yet", options.model_name)
    return print_versions(records, shares)


def delete(options):
    deployed, store = service_of(options), store_of(options)
    delete_service_user(store, options.model_name, deployed.keys())
    deployed.delete()
    if options.delete_artefacts:
        store.delete_versions()


def main(argv=None):
    options = parse_arguments(argv)
    coloredlogs.install(level=options.log_level)
    # Let loose, these log parts of what they send.
    for name in ("sh", "boto3", "botocore", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO if options.log_level == "DEBUG" else logging.WARNING)
    actions = {"promote": promote, "rollback": roll_back, "list": list_versions, "delete": delete}
    action = next((action for name, action in actions.items() if getattr(options, name)), deploy)
    with report_errors(log, "the version that was serving still is; run this command again to continue"):
        check_names(vars(options))
        if options.store_ca:
            check_authority(options.store_ca)
        action(options)


if __name__ == "__main__":
    main()
