"""Asking a service through the cluster's ingress gateway, as its clients do."""

import json
import logging
import shlex

import urllib3

from deployment.waiting import poll
from failure import Failure

log = logging.getLogger(__name__)


class WrongAnswer(Failure):
    """A version answers, but not what its own training run would."""


class NoAnswer(Failure):
    """Nothing answers as a service of this kind does; `status` is that of HTTP, None without any."""

    def __init__(self, message, status=None):
        super().__init__(message)
        self.status = status


def questions(clusters):
    """A text for each cluster, by its number: its top terms. A cluster that no document fell into has none."""
    return {
        cluster["cluster"]: " ".join(term for term, _ in cluster["terms"][:10])
        for cluster in clusters
        if cluster["terms"]
    }


def ask(ingress, host, name, texts, timeout):
    """Have texts clustered. Returns the cluster numbers. Raises NoAnswer, after a minute at most."""
    url = f"{ingress.rstrip('/')}/v1/models/{name}:predict"
    headers = {"Host": host, "Content-Type": "application/json"}
    body = json.dumps({"instances": [[text] for text in texts]})
    http, status = urllib3.PoolManager(timeout=20, retries=False), None
    for _ in poll(min(60, timeout)):  # a new route takes a moment to reach the gateway
        try:
            response = http.request("POST", url, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            status, problem = None, str(error).rpartition(": ")[2]
            continue
        status, problem = response.status, " ".join(response.data.decode(errors="replace").split())[:300]
        if status not in (404, 502, 503, 504):
            break
    if status in (None, 404):
        raise NoAnswer(
            f"{name} is ready, but {url} with Host {host} does not answer ({status or ''} {problem}): "
            "give the ingress gateway's address with --ingress",
            status,
        )
    try:
        return json.loads(response.data)["predictions"]
    except (ValueError, KeyError, TypeError):
        raise NoAnswer(f"{name} is ready, but {url} with Host {host} answers {status} {problem}", status) from None


def check_answers(ingress, host, name, clusters, timeout):
    """Ask for each cluster, and insist on its number. Raises WrongAnswer, NoAnswer.

    What a pod loaded may be another model than the one that was uploaded: the store is not the pod's.
    """
    texts = questions(clusters)
    answers = dict(zip(texts, ask(ingress, host, name, texts.values(), timeout)))
    wrong = {number: answer for number, answer in answers.items() if answer != number}
    if wrong or len(answers) != len(texts):
        number = next(iter(wrong or texts))
        raise WrongAnswer(
            f"{name} answers at {host}, but not as this training run does: {len(wrong)} of {len(texts)} clusters are "
            f"wrong, such as {answers.get(number)} for the terms of cluster {number} ({texts[number]}): "
            "the store holds something else, or the image is another one; look after it, then run this again"
        )
    log.info("%s answers at %s: right for each of %d clusters", name, host, len(texts))


def curl(ingress, host, name, text):
    """The command that asks it again."""
    body = json.dumps({"instances": [[text]]})
    url = f"{ingress.rstrip('/')}/v1/models/{name}:predict"
    return f"curl -H {shlex.quote(f'Host: {host}')} {url} \\\n  -d {shlex.quote(body)}"
