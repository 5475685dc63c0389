"""Send requests to a service through the cluster's ingress gateway, as its clients do."""

import json
import logging
import shlex
from collections.abc import Iterable
from typing import Any, NamedTuple

import urllib3

from deployment.polling import poll
from failure import Failure

NO_CLUSTER = -1  # model/clusters.py, which needs NumPy
INSIST_ON_PREDICTOR = {"Predictor-Bypass": "off"}  # serving/predictor.py
# Marks requests that are not of clients: they are recorded, and left out of a corpus (scripts/corpus/recorded_requests.py).
SMOKE_TEST = {"Smoke-Test": "true"}
STARTUP_STATUSES = (404, 502, 503, 504)  # of a route or pod that takes a moment to be ready

log = logging.getLogger(__name__)


class WrongAnswer(Failure):
    """A version answers, but not with the predictions of its training run."""


class NoAnswer(Failure):
    """There is no prediction. `reached` is whether the gateway knows the service, so that its pods are the cause."""

    def __init__(self, message: str, reached: bool = True) -> None:
        super().__init__(message)
        self.reached = reached


class Gateway(NamedTuple):
    """The ingress gateway, as the client of one model sees it."""

    url: str
    model_name: str
    timeout: float  # of each call, in seconds
    min_similarity: float | None = None  # of the version that is deployed

    def predict(self, host: str, texts: Iterable[str], bypass: bool = True) -> list[int]:
        """Return the cluster number of each text.

        Retries for up to a minute while the route is being set up.

        Args:
            bypass: whether the transformer may answer without its predictor.

        Raises:
            NoAnswer: the response is not a prediction.
        """
        headers = (
            {"Host": host, "Content-Type": "application/json"} | SMOKE_TEST | ({} if bypass else INSIST_ON_PREDICTOR)
        )
        body = json.dumps({"instances": [[text] for text in texts]})
        http = urllib3.PoolManager(timeout=min(20, self.timeout), retries=False)
        for _ in poll(min(60, self.timeout)):
            data, reached = b"", True
            try:
                response = http.request("POST", self.predict_url, body=body, headers=headers)
            except (urllib3.exceptions.ReadTimeoutError, urllib3.exceptions.ProtocolError) as error:
                problem = f"does not answer: {str(error).rpartition(': ')[2]}"
                continue
            except urllib3.exceptions.HTTPError as error:
                problem, reached = f"cannot be reached: {str(error).rpartition(': ')[2]}", False
                continue
            data, reached = response.data, response.status != 404
            problem = f"returns {response.status} {' '.join(data.decode(errors='replace').split())[:300]}"
            if response.status not in STARTUP_STATUSES:
                break
        try:
            return json.loads(data)["predictions"]
        except (ValueError, KeyError, TypeError):
            hint = "" if reached else ": give the ingress gateway's address with --ingress"
            raise NoAnswer(f"{self.predict_url} with Host {host} {problem}{hint}", reached) from None

    def smoke_test(self, host: str, clusters: list[dict[str, Any]]) -> None:
        """Send one text per cluster, and require that cluster's number.

        A pod may have loaded another model than the one that was uploaded: its store may be another one. The predictor
        itself must answer, because a transformer that bypasses it would hide that.

        Raises:
            WrongAnswer: the prediction for a cluster is incorrect.
            NoAnswer: there is no prediction.
        """
        texts = sample_texts(clusters)
        answers = dict(zip(texts, self.predict(host, texts.values(), bypass=False)))
        wrong = {number: answer for number, answer in answers.items() if answer != number}
        if wrong or len(answers) != len(texts):
            number = next(iter(wrong or texts))
            if self.min_similarity and set(wrong.values()) == {NO_CLUSTER}:
                raise WrongAnswer(
                    f"--min-similarity {self.min_similarity:g} rejects the top terms of {len(wrong)} of {len(texts)} "
                    f"clusters, such as those of cluster {number} ({texts[number]}): choose a lower value"
                )
            raise WrongAnswer(
                f"{self.model_name} at {host} returns incorrect predictions: {len(wrong)} of {len(texts)} clusters are "
                f"wrong, such as {answers.get(number)} for the top terms of cluster {number} ({texts[number]}): "
                "the store holds another model, or the image is another one; correct it, then run this again"
            )
        log.info("Smoke test passed: %s at %s predicts each of %d clusters", self.model_name, host, len(texts))

    def find_page(self, host: str) -> str | None:
        """The address of the service's page for browsers, which cannot send another Host header.

        HAProxy on the platform maps the path to the host (provision/haproxy.cfg); None elsewhere, or without a page.
        """
        name, namespace = host.split(".")[:2]
        address = f"{self.url.rstrip('/')}/serving/{namespace}/{name}/ui"
        try:
            response = urllib3.request("GET", address, timeout=5, retries=False, redirect=False)
        except urllib3.exceptions.HTTPError:
            return None
        is_page = response.headers.get("Content-Type", "").startswith("text/html")
        return address if response.status == 200 and is_page else None

    @property
    def predict_url(self) -> str:
        return f"{self.url.rstrip('/')}/v1/models/{self.model_name}:predict"

    def curl(self, host: str, text: str) -> str:
        """The curl command of a request."""
        body = json.dumps({"instances": [[text]]})
        return f"curl -H {shlex.quote(f'Host: {host}')} {shlex.quote(self.predict_url)} \\\n  -d {shlex.quote(body)}"


def sample_texts(clusters: list[dict[str, Any]]) -> dict[int, str]:
    """A text for each cluster number: the terms of the vocabulary that are heaviest in the cluster.

    Not the top terms that people read: the cluster of these is not certain, because of similar terms they have only one.
    A cluster without documents has no text.
    """
    return {
        cluster["cluster"]: ", ".join(cluster["vocabulary_terms"])
        for cluster in clusters
        if cluster["vocabulary_terms"]
    }
