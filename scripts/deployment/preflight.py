"""Check, before anything is changed, that a version can be deployed as requested."""

import logging
import shlex

from deployment.deployed_service import ServiceState
from deployment.kubectl import Kubectl
from deployment.manifests import Content, ServiceSettings, credentials, credentials_name, inference_service
from failure import BadInput
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


def validate_manifests(kubectl: Kubectl, settings: ServiceSettings, version: str) -> bool:
    """Let the server check all manifests if the namespace exists. Returns whether it does."""
    has_namespace = kubectl.has_namespace()
    if has_namespace:
        service = inference_service(settings, Content(version, credentials_name(settings)))
        kubectl.validate(*credentials(settings), service)
    return has_namespace


def warn_of_new_numbers(state: ServiceState, version: Version, store: ModelStore) -> None:
    """Warn users who store cluster numbers or route by them that the numbers change their meaning."""
    for serving in state.traffic():
        if serving != version.name and not version.continues(serving, store.record(serving)):
            log.warning(
                "The cluster numbers of %s do not continue those of %s, which serves: a number may mean "
                "another topic now. To keep them: text_clustering.py --like s3://%s/%s%s/ --s3-endpoint %s",
                *(version.name, serving, store.bucket, store.prefix, serving, shlex.quote(store.endpoint)),
            )
