"""Verify that a deployed service answers, and log the reason if it does not."""

import contextlib
import json
import logging
from collections.abc import Iterator

from deployment.deployed_service import DeployedService, ServiceState, describe_traffic
from deployment.diagnosis import explain, is_ready, revision_of
from deployment.gateway import Gateway, NoAnswer

SAMPLE = "The team won the game"

log = logging.getLogger(__name__)


@contextlib.contextmanager
def reasons_logged(deployed: DeployedService) -> Iterator[None]:
    """If the gateway reaches the service but returns no prediction, log the troubles of the service's pods."""
    try:
        yield
    except NoAnswer as error:
        if error.reached:
            state = deployed.fetch()
            pods = [pod for pod in state.pods if not state.on_knative or revision_of(pod) in state.used_revisions()]
            troubled = [pod for pod in pods if not is_ready(pod)]
            for line in explain(deployed.kubectl, deployed.name, state, troubled) if troubled else []:
                log.error("%s", line)
            if not troubled:
                log.error("All of its pods are ready. To re-create them, deploy the files of this version again")
        raise


def send_sample(gateway: Gateway, deployed: DeployedService, state: ServiceState) -> None:
    """Send a sample request, log the answer, and print the command that repeats it."""
    with reasons_logged(deployed):
        numbers = gateway.predict(state.host, [SAMPLE])
    show_sample(gateway, state.host, numbers, SAMPLE)


def show_sample(gateway: Gateway, host: str, numbers: list[int], text: str) -> None:
    """Log a prediction and the address of the service's page, and print the command that repeats the request."""
    log.info("%s returns %s for: %s", gateway.model_name, json.dumps({"predictions": numbers}), text)
    if address := gateway.find_page(host):
        log.info("Open %s in a browser, or send a request:", address)
    print(gateway.curl(host, text))


def describe_serving(gateway: Gateway, state: ServiceState) -> str:
    """Which version serves after a failed deployment, as the end of a message. Empty if none has served."""
    shares = state.traffic()
    if not state.on_knative or not shares or not state.host:
        return ""
    try:
        gateway._replace(timeout=5).predict(state.host, [SAMPLE])
    except NoAnswer as error:
        answer = "does not answer" if error.reached else "could not be tested"
        return f"; {describe_traffic(shares)} gets the requests meanwhile, but {answer}: {error}"
    return f"; serving meanwhile: {describe_traffic(shares)}"
