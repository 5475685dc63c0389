"""Asking a service through the cluster's ingress gateway, as its clients do."""

import json
import logging
import shlex

import urllib3

from failure import Failure
from waiting import poll

log = logging.getLogger(__name__)


def ask(ingress, host, name, clusters, timeout):
    """Have one document clustered through the ingress, log the answer, and print how to do it again.

    `clusters` are those of clusters.json, or an empty list where nobody knows whose numbers an answer holds.
    """
    terms = {cluster["cluster"]: " ".join(term for term, _ in cluster["terms"][:10]) for cluster in clusters}
    body = json.dumps({"instances": [[next(iter(terms.values()), "The team won the game")]]})
    url = f"{ingress.rstrip('/')}/v1/models/{name}:predict"
    http, problem = urllib3.PoolManager(timeout=20, retries=False), "no answer"
    for _ in poll(min(60, timeout)):  # a new route takes a moment to reach the gateway
        try:
            response = http.request("POST", url, body=body, headers={"Host": host, "Content-Type": "application/json"})
        except urllib3.exceptions.HTTPError as error:
            problem = str(error).rpartition(": ")[2]
            continue
        problem = f"{response.status} {' '.join(response.data.decode(errors='replace').split())[:300]}"
        if response.status not in (404, 502, 503, 504):
            break
    else:
        raise Failure(
            f"{name} is ready, but {url} with Host {host} does not answer ({problem}): "
            "give the ingress gateway's address with --ingress"
        )
    try:
        numbers = json.loads(response.data)["predictions"]
    except (ValueError, KeyError, TypeError):
        raise Failure(f"{name} is ready, but {url} with Host {host} answers {problem}") from None
    log.info("%s answers: %s", name, problem.partition(" ")[2])
    for number in numbers:
        if number in terms:
            log.info("Cluster %s: %s", number, terms[number])
    print(f"curl -H {shlex.quote(f'Host: {host}')} {url} \\\n  -d {shlex.quote(body)}")
