#!/usr/bin/env python
"""Deploy a trained model to KServe: upload it, apply its manifests, wait until it is ready, test it, switch to it.

    python ./scripts/deploy_service.py --model-path model.joblib --model-name textclustering \
        --namespace kserve-textclustering --transformer-path transformer.joblib \
        --transformer-image $(cat ~/transformer-image)

    ... --canary 20       deploy, and give the new version one request in five
    ... --canary 20 --analyse 10m   also compare it with the stable version, then promote it or roll it back
    ... --promote         give it all requests
    ... --rollback        return to the previous version
    ... --list            list the versions with their metrics and traffic
    ... --delete          remove the service

A version is named after the content of its files. The steps are in deployment/, the store is in store/, the analysis
is in retraining/.

Exit status: 0 done, 1 the store or the cluster failed or the canary was rolled back, 2 bad input, 3 the analysis of the
canary leaves the decision to you, 130 interrupted.
"""

import argparse
import logging

from command_line import exit_on_interrupt

if __name__ == "__main__":
    exit_on_interrupt()

import coloredlogs

from deployment import manifests
from deployment.arguments import parse_arguments, service_settings
from deployment.connections import gateway_of, keys_of, request_store_of, require_serving, service_of, store_of
from deployment.deployed_service import ServiceState, all_keys, describe_traffic
from deployment.gateway import sample_texts
from deployment.inventory import take_inventory
from deployment.isolation import isolation
from deployment.naming_rules import check_names
from deployment.preflight import check_canary, check_topology, validate_manifests, warn_of_new_numbers
from deployment.rollout import give_share, next_attempt, return_to_previous, roll_out, start
from deployment.room import check_size, log_room
from deployment.verification import reasons_logged, send_sample, show_sample
from deployment.version_table import print_versions
from failure import BadInput, report_errors
from prometheus import Prometheus
from retraining import decision, schedule
from retraining.canary import Trial, Watch, stable_version, try_canary
from retraining.lock import Lock
from store.client import check_authority
from store.model_store import read_version
from store.service_user import delete_service_users

log = logging.getLogger("deploy_service")


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(argv)
    coloredlogs.install(level=options.log_level)
    # At DEBUG these would log parts of what they send.
    for name in ("sh", "boto3", "botocore", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.INFO if options.log_level == "DEBUG" else logging.WARNING)
    actions = {
        "analyse": deploy_and_analyse,
        "promote": promote,
        "rollback": roll_back,
        "list": list_versions,
        "delete": delete,
    }
    action = next((action for name, action in actions.items() if getattr(options, name)), deploy)
    with report_errors(log, "what was serving still does; run this again to continue"):
        check_names(vars(options))
        if options.store_ca:
            check_authority(options.store_ca)
        action(options)


def deploy(options: argparse.Namespace) -> None:
    version = read_version(options.model_path, options.transformer_path)
    log.info("Using model %s from %s, version %s", options.model_name, options.model_path, version.name)
    if options.dry_run:
        print(manifests.masked_yaml(service_settings(options), version.name), end="")
        return

    settings = service_settings(options)
    deployed, store = service_of(options), store_of(options)
    before, inventory = deployed.fetch(), take_inventory(deployed.kubectl)
    check_topology(before, options.model_name, options.collocate)
    if options.canary:
        check_canary(before, options.model_name, version.name)
    has_namespace = validate_manifests(deployed.kubectl, settings, version.name, inventory)
    check_size(inventory, settings)

    store.create_bucket()
    store.copy_shared(before.versions())
    warn_of_new_numbers(before, version, store)
    record = store.upload(version)
    keys = keys_of(options, deployed, store)
    namespace = [] if has_namespace else [manifests.namespace(options.namespace)]
    deployed.kubectl.apply(*namespace, *manifests.credentials(settings, keys), *isolation(settings, inventory))

    content = manifests.Content(version.name, manifests.credentials_name(settings, keys), record["uploaded"])
    service = manifests.inference_service(settings, next_attempt(before, settings, content))
    log_room(inventory, before, settings, service)
    if not options.wait:
        start(deployed, before, service, options.timeout)
        log_not_waiting(options, before)
        return
    gateway, clusters = gateway_of(options), version.summary["clusters"]
    state = roll_out(deployed, gateway, before, service, clusters, options.canary)
    log.info("Traffic: %s", describe_traffic(state.traffic()))
    if options.canary:  # either version may answer, so the expected number is unknown
        send_sample(gateway, deployed, state)
        return
    with reasons_logged(deployed):
        gateway.smoke_test(state.host, clusters)
    number, text = next(iter(sample_texts(clusters).items()))
    show_sample(gateway, state.host, [number], text)


def deploy_and_analyse(options: argparse.Namespace) -> None:
    """Deploy a canary, compare it with the stable version, and promote it, roll it back, or leave it to a person."""
    version = read_version(options.model_path, options.transformer_path).name
    deployed = service_of(options)
    state = require_serving(deployed)
    check_canary(state, options.model_name, version)
    with Lock(deployed.kubectl, deployed.name) as lock:
        prometheus, watch = Prometheus(options.prometheus), Watch(options.analyse)
        trial = Trial(deployed, store_of(options), prometheus, watch, options.timeout, lock)
        started = decision.start(version, stable_version(state, version), "deployed with --analyse")
        decided = try_canary(trial, started, lambda: deploy(options))
    decision.require_promotion(decided)
    log.info("Decision: %s", decided)


def promote(options: argparse.Namespace) -> None:
    deployed = service_of(options)
    state = require_serving(deployed)
    if state.canary_percent == 0:
        raise BadInput(
            f"the newest version of {deployed.name} gets no requests: it was rolled back, or did not pass its smoke "
            "test: deploy its files again to bring it back (nothing is uploaded twice), or deploy others with --canary"
        )
    if state.canary_percent is None:
        raise BadInput(f"{deployed.name} has no canary to promote: deploy one with --canary PERCENT")
    served = state.serving(except_newest=True)
    state = give_share(deployed, state, None, served, options.timeout)
    log.info("Traffic: %s", describe_traffic(state.traffic()))
    send_sample(gateway_of(options), deployed, state)


def roll_back(options: argparse.Namespace) -> None:
    """Give all requests to the version before the one that serves."""
    deployed = service_of(options)
    state = require_serving(deployed)
    if not state.on_knative:
        raise BadInput(
            f"{deployed.name} runs in KServe's Standard mode, which keeps no previous version: "
            "deploy the earlier files again"
        )
    state = return_to_previous(deployed, state, options.timeout)
    log.info("Traffic: %s", describe_traffic(state.traffic()))
    send_sample(gateway_of(options), deployed, state)


def list_versions(options: argparse.Namespace) -> None:
    state, store = service_of(options).fetch(), store_of(options)
    records, verdicts = store.versions(), {each.version: each.verdict for each in decision.read_all(store)}
    shares, known = state.traffic(), [record["version"] for record in records]
    records += [{"version": version} for version in shares if version not in known]
    if records:
        print_versions(records, shares, state.never_ready(), verdicts)
    else:
        log.info("No version of %s yet", options.model_name)


def delete(options: argparse.Namespace) -> None:
    deployed, store = service_of(options), store_of(options)
    used_elsewhere = deployed.used_elsewhere() if options.delete_artefacts else set()
    secrets, scheduled = deployed.secrets(), schedule.current_keys(deployed.kubectl, options.model_name)
    keys = [*all_keys(secrets), *all_keys(secrets, manifests.RECORDER_KEYS), *scheduled]
    delete_service_users(store, options.model_name, keys)
    deployed.delete()
    if options.delete_requests:
        request_store_of(options).delete_requests()
    if options.delete_artefacts:
        store.delete_versions(used_elsewhere)


def log_not_waiting(options: argparse.Namespace, before: ServiceState) -> None:
    log.info(
        "Not waiting. To see its state: kubectl get inferenceservice %s -n %s", options.model_name, options.namespace
    )
    if before.on_knative and before.serving():
        log.info("It gets no requests yet: run this again without --no-wait to test it and switch to it")


if __name__ == "__main__":
    main()
