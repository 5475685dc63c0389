"""Continue or clean up what an earlier run has left unfinished: the state is what the cluster and the store show."""

import logging
from pathlib import Path

from deployment.deployed_service import ServiceState
from retraining import decision
from retraining.canary import stable_version
from retraining.decision import IN_PROGRESS, INCONCLUSIVE, PROMOTED, ROLLED_BACK, SUPERSEDED, Decision
from store.model_store import ModelStore

log = logging.getLogger(__name__)


def is_open(found: Decision) -> bool:
    """Whether a run was interrupted, or a person has to decide about a canary."""
    return found.verdict == IN_PROGRESS or (found.verdict == INCONCLUSIVE and "canary" in found.details)


def settle(store: ModelStore, state: ServiceState, found: Decision) -> Decision | None:
    """Close an open decision if the cluster shows how it ended.

    Returns:
        The decision, which may still be open; None if the run ended before it changed anything.
    """
    share = state.traffic().get(found.version, 0)
    if share == 100:
        closed = found.conclude(PROMOTED, "it has all requests: a person, or a run that ended early, has promoted it")
    elif "canary" in found.details and not share:
        closed = found.conclude(ROLLED_BACK, "it gets no requests: a person, or a run that ended early, rolled it back")
    elif stable_version(state, found.version) != found.stable:
        closed = found.conclude(SUPERSEDED, f"another version serves than {found.stable}, which it was compared with")
    elif not share and store.record(found.version) is None:
        log.info("Deleting what a run has left that ended while it uploaded %s", found.version)
        for key in store.keys_below(f"{store.prefix}{found.version}/"):
            store.call(store.s3.delete_object, Bucket=store.bucket, Key=key)
        return None
    else:
        return found
    decision.write(store, closed)
    log.info("Decision of an earlier run: %s", closed)
    return closed


def download(store: ModelStore, version: str, folder: Path) -> None:
    """Download the three files of a version into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for key in store.keys_below(f"{store.prefix}{version}/"):
        name = key.rpartition("/")[2]
        if name not in ("version.json", decision.FILE):
            store.call(store.s3.download_file, store.bucket, key, str(folder / name))
