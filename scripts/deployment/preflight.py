"""Check, before anything is changed, that a version can be deployed as requested."""

import logging
import shlex

from deployment.deployed_service import ServiceState
from deployment.inventory import Inventory
from deployment.kubectl import Kubectl, KubectlFailed
from deployment.manifests import Content, ServiceSettings, credentials, credentials_name, inference_service
from failure import BadInput, Failure
from store.model_store import ModelStore, Version

log = logging.getLogger(__name__)


def check_topology(state: ServiceState, name: str, collocate: bool) -> None:
    """One pod or two cannot be changed while the service is live: KServe would switch the requests before it is ready."""
    if state.traffic() and collocate != state.is_collocated:
        raise BadInput(
            f"{name} runs with predictor and transformer in {'one pod' if state.is_collocated else 'two pods'}, which "
            f"cannot be changed while it serves: {'remove' if collocate else 'add'} --collocate, or --delete it first"
        )


def check_canary(state: ServiceState, name: str, version: str) -> None:
    if not state.traffic():
        raise BadInput(f"there is no {name} to compare a canary with: deploy without --canary first")
    if not state.on_knative:
        raise BadInput(f"{name} runs in KServe's Standard mode, which has no canary: deploy without --canary")
    if state.traffic().get(version) == 100:
        raise BadInput(f"version {version} gets all requests already: train another one to try it as canary")


def validate_manifests(kubectl: Kubectl, settings: ServiceSettings, version: str, inventory: Inventory) -> bool:
    """Let the server check all manifests if the namespace exists. Returns whether it does."""
    exists = has_namespace(kubectl, inventory)
    if exists:
        service = inference_service(settings, Content(version, credentials_name(settings)))
        kubectl.validate(*credentials(settings), service)
    return exists


def has_namespace(kubectl: Kubectl, inventory: Inventory) -> bool:
    """Whether kubectl's namespace exists. Raises Failure while it is being deleted."""
    if inventory.namespaces is not None:
        found = next((each for each in inventory.namespaces if each["metadata"]["name"] == kubectl.namespace), None)
    else:
        try:
            found = kubectl.get("namespace", kubectl.namespace)
        except KubectlFailed as error:
            if error.forbidden:  # a user may be allowed to use a namespace but not to read it
                return True
            raise
    if found and found["status"]["phase"] == "Terminating":
        raise Failure(kubectl.terminating())
    return found is not None


def warn_of_new_numbers(state: ServiceState, version: Version, store: ModelStore) -> None:
    """Warn users who store cluster numbers or route by them that the numbers change their meaning."""
    for serving in state.traffic():
        if serving != version.name and not version.continues(serving, store.record(serving)):
            log.warning(
                "The cluster numbers of %s do not continue those of %s, which serves: a number may mean "
                "another topic now. To keep them: text_clustering.py --like s3://%s/%s%s/ --s3-endpoint %s",
                *(version.name, serving, store.bucket, store.prefix, serving, shlex.quote(store.endpoint)),
            )
