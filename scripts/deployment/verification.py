"""Verify that a deployed service answers, and log the reason if it does not."""

import contextlib
import json
import logging
from collections.abc import Iterator

from deployment.deployed_service import DeployedService, ServiceState
from deployment.diagnosis import explain, is_ready, revision_of
from deployment.gateway import Gateway, NoAnswer

log = logging.getLogger(__name__)


@contextlib.contextmanager
def reasons_logged(deployed: DeployedService, state: ServiceState) -> Iterator[None]:
    """If the gateway reaches the service but gets no prediction, log the troubles of the service's pods."""
    try:
        yield
    except NoAnswer as error:
        if error.status not in (None, 404):
            pods = [pod for pod in state.pods if not state.on_knative or revision_of(pod) in state.serving()]
            for line in explain(deployed.kubectl, deployed.name, state, [pod for pod in pods if not is_ready(pod)]):
                log.error("%s", line)
        raise


def send_sample(gateway: Gateway, deployed: DeployedService, state: ServiceState) -> None:
    """Send a sample request, log the answer, and print the command that repeats it."""
    text = "The team won the game"
    with reasons_logged(deployed, state):
        numbers = gateway.predict(state.host, [text])
    show_sample(gateway, state.host, numbers, text)


def show_sample(gateway: Gateway, host: str, numbers: list[int], text: str) -> None:
    """Log a prediction and the address of the service's page, and print the command that repeats the request."""
    log.info("%s returns %s for: %s", gateway.model_name, json.dumps({"predictions": numbers}), text)
    if address := gateway.find_page(host):
        log.info("Open %s in a browser, or send a request:", address)
    print(gateway.curl(host, text))
