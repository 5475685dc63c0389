#!/usr/bin/env python
"""Retrain a served model when its texts have drifted: train, check, try as a canary, promote or roll back.

    python ./scripts/retrain.py --dataset old.jsonl s3://textclustering-requests/

    ... --when 30d        train if the stable version is older, or: --when now
    ... --history         print the decisions
    ... --schedule "*/15 * * * *" --image $(cat ~/retraining-image)   run on the cluster; --unschedule ends it

A run takes at most one decision, logs it with its reason in one line, and keeps it in the store beside the version. It can
be repeated and killed at any time: the next one continues it or cleans up. The steps are in retraining/.

Exit status: 0 decided, or nothing to do; 1 a part failed, or another run is deciding; 2 bad input; 130 interrupted.
"""

import argparse
import logging
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from command_line import exit_on_interrupt

if __name__ == "__main__":
    exit_on_interrupt()

import coloredlogs

import deploy_service
from corpus.documents import CorpusError
from corpus.source import source_of
from deployment.connections import require_serving, service_of, store_of
from deployment.inventory import take_inventory
from deployment.isolation import is_prepared
from deployment.naming_rules import check_names
from deployment.preflight import check_canary
from failure import BadInput, exit_on_termination, report_errors
from model.artefacts import MODEL_FILE, TRANSFORMER_FILE
from prometheus import Prometheus, Version
from retraining import decision, gate, schedule
from retraining.arguments import parse_arguments, schedule_of
from retraining.canary import (
    Trial,
    Watch,
    end_standby,
    serves_alone,
    stable_version,
    superseded,
    try_canary,
    watch_canary,
)
from retraining.decision import FAILED, INCONCLUSIVE, Decision
from retraining.lock import Lock
from retraining.resume import download, is_open, settle
from retraining.service_settings import settings_of
from retraining.split import choose_held_out, new_texts, write_training_corpus
from retraining.training import NoCandidate, train
from retraining.trigger import find_brake, find_trigger
from store.client import check_authority
from store.model_store import read_version
from training.earlier_model import load_earlier_model

log = logging.getLogger("retrain")


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(argv)
    coloredlogs.install(level=options.log_level)
    for name in ("sh", "boto3", "botocore", "s3transfer", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)
    exit_on_termination()
    with report_errors(log, "what was serving still does; run this again to continue"):
        check_names(vars(options))
        if options.store_ca:
            check_authority(options.store_ca)
        if options.schedule:
            start_schedule(options, sys.argv[1:] if argv is None else argv)
        else:
            action = end_schedule if options.unschedule else print_history if options.history else run
            action(options)


def run(options: argparse.Namespace) -> None:
    """Decide at most once, and log it in one line."""
    deployed = service_of(options)
    require_serving(deployed)
    with Lock(deployed.kubectl, deployed.name) as lock:
        store, prometheus = store_of(options), Prometheus(options.prometheus)
        trial = Trial(deployed, store, prometheus, Watch(options.analyse), options.timeout, lock)
        decided = resume(options, trial) or retrain(options, trial)
    log.info("Decision: %s", decided)


def resume(options: argparse.Namespace, trial: Trial) -> Decision | str | None:
    """Continue what an earlier run left unfinished; None if there is nothing."""
    for left in filter(is_open, decision.read_all(trial.store)):
        state = require_serving(trial.deployed)
        found = settle(trial.store, state, left)
        if found is None or not is_open(found):
            continue
        if found.verdict == INCONCLUSIVE:
            return f"none: {found.version} waits for a person (deploy_service.py --promote or --rollback)"
        log.info("Continuing with %s, which an earlier run has left", found.version)
        if state.traffic().get(found.version):
            return watch_canary(trial, found)
        with tempfile.TemporaryDirectory() as folder:
            download(trial.store, found.version, Path(folder))
            return try_candidate(options, trial, found, Path(folder))
    return None


def retrain(options: argparse.Namespace, trial: Trial) -> Decision | str:
    """Train a candidate if something triggers it and nothing brakes it, and try it if it passes the gate."""
    state, store = require_serving(trial.deployed), trial.store
    check_canary(state, options.model_name, version="")
    if len(state.traffic()) > 1:
        return "none: a canary that somebody has deployed is in progress"
    stable = stable_version(state)
    record = store.record(stable)
    if record is None:
        raise BadInput(f"version {stable}, which serves, is not in bucket {options.bucket}: check --bucket")
    version = Version(options.namespace, options.model_name, stable)
    triggered, reason = find_trigger(options.when, trial.prometheus, version, record["created"])
    if not triggered:
        return f"none: {reason}"
    if brake := find_brake(decision.read_all(store), options.cooldown):
        return f"none: {reason}, but {brake}"
    try:
        new = new_texts(options, datetime.fromisoformat(record["created"]))
    except CorpusError as error:  # such as a bucket without a request
        return f"none: {reason}, but {error}"
    if len(new) < options.min_new:
        return f"none: {reason}, but there are {len(new)} different new texts, and --min-new is {options.min_new}"

    with tempfile.TemporaryDirectory() as name:
        folder, held_out = Path(name), choose_held_out(new)
        documents = write_training_corpus(source_of(options), held_out, folder / "corpus.jsonl")
        inputs = {"dataset": options.dataset, "documents": documents, "new": len(new), "held_out": len(held_out)}
        log.info("Training a successor of %s on %d documents: %s", stable, documents, reason)
        download(store, stable, folder / "stable")
        try:
            train(folder / "corpus.jsonl", folder / "candidate", folder / "stable", options.clusters, held_out)
        except NoCandidate as error:
            started = decision.start(decision.without_version(), stable, reason, inputs=inputs)
            return conclude(trial, started, FAILED, str(error))
        candidate = read_version(*files_in(folder / "candidate").values()).name
        started = decision.start(candidate, stable, reason, inputs=inputs)
        return check_and_try(options, trial, started, folder, held_out)


def check_and_try(
    options: argparse.Namespace, trial: Trial, started: Decision, folder: Path, held_out: list[str]
) -> Decision:
    """Compare the candidate with the stable version on the held-out texts, and try it if it passes."""
    candidate, stable = (load_earlier_model(folder / name) for name in ("candidate", "stable"))
    figures = gate.measure(candidate, stable, held_out)
    limits = gate.Limits(*(getattr(options, name) for name in gate.Limits._fields))
    report = gate.judge(figures, limits)
    started.details["gate"] = {"figures": figures._asdict(), "limits": limits._asdict()}
    if report.verdict != gate.PASSED:
        return conclude(trial, started, report.verdict, report.reason)
    log.info("Gate passed: %s", report.reason)
    return try_candidate(options, trial, started, folder / "candidate")


def try_candidate(options: argparse.Namespace, trial: Trial, started: Decision, folder: Path) -> Decision:
    """Deploy the files of a folder as a canary, with the settings of the stable version, and decide about it."""
    state = end_standby(trial.deployed, trial.deployed.fetch(), started.stable, started.version)
    if not serves_alone(state, started.stable):
        return conclude(trial, started, *superseded(state))
    settings = settings_of(trial.deployed, state)
    deployment = argparse.Namespace(**vars(options) | settings | files_in(folder) | {"dry_run": False, "wait": True})
    trial.lock.check()
    return try_canary(trial, started, lambda: deploy_service.deploy(deployment))


def conclude(trial: Trial, started: Decision, verdict: str, reason: str) -> Decision:
    """Record a decision about a candidate that was not deployed."""
    trial.lock.check()
    decided = started.conclude(verdict, reason)
    decision.write(trial.store, decided)
    return decided


def files_in(folder: Path) -> dict[str, Path]:
    return {"model_path": folder / MODEL_FILE, "transformer_path": folder / TRANSFORMER_FILE}


def start_schedule(options: argparse.Namespace, argv: list[str]) -> None:
    """Create a CronJob that runs with the same options."""
    settings = schedule_of(options, argv)
    if options.dry_run:
        print(schedule.masked_yaml(settings), end="")
        return
    deployed, store = service_of(options), store_of(options)
    serving = require_serving(deployed)
    keys = schedule.keys(deployed.kubectl, store, settings, options.dataset, options.share_keys)
    pull_secret = settings_of(deployed, serving)["image_pull_secret"]
    settings = settings._replace(isolated=is_prepared(take_inventory(deployed.kubectl)), image_pull_secret=pull_secret)
    deployed.kubectl.apply(*schedule.objects(settings, keys, serving.service))
    schedule.log_next_steps(settings)


def end_schedule(options: argparse.Namespace) -> None:
    schedule.remove(service_of(options).kubectl, store_of(options), options.model_name)


def print_history(options: argparse.Namespace) -> None:
    decision.print_all(decision.read_all(store_of(options)))


if __name__ == "__main__":
    main()
