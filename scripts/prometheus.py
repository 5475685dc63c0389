"""Query Prometheus, which has the metrics of each served model version."""

import argparse
import base64
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

from failure import Failure

# Prometheus is on this machine or in its network, so a proxy for the internet is not used.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

# Of drift.yml.
DRIFT_ALERTS = ("TextsHaveDrifted", "TextsAreFartherFromTheirClusters", "TextsWithoutKnownTerms", "TextsAreRejected")

Labels = Mapping[str, str]


class Version(NamedTuple):
    """A served model version; the fields are labels of its metrics."""

    namespace: str
    model_name: str
    version: str


def add_prometheus_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--prometheus",
        type=prometheus_url,
        default="http://localhost:30400",
        metavar="URL",
        help="URL of Prometheus; if it requires a login, set PROMETHEUS_USER and PROMETHEUS_PASSWORD",
    )


def prometheus_url(text: str) -> str:
    """A URL without a login. Raises ArgumentTypeError for anything else; the message never contains a password."""
    if "@" in text:
        raise argparse.ArgumentTypeError(
            "a password in a URL is visible to others: set PROMETHEUS_USER and PROMETHEUS_PASSWORD in the environment"
        )
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text} is not a URL such as http://localhost:30400")
    return text


def selector(metric: str, version: Version, **labels: str) -> str:
    pairs = (f"{name}={json.dumps(value)}" for name, value in (version._asdict() | labels).items())
    return metric + "{" + ",".join(pairs) + "}"


class Prometheus:
    """Prometheus' HTTP API: https://prometheus.io/docs/prometheus/latest/querying/api/"""

    def __init__(self, url: str) -> None:
        self.url = url
        user, password = os.environ.get("PROMETHEUS_USER"), os.environ.get("PROMETHEUS_PASSWORD", "")
        self.login = f"{user}:{password}" if user else None

    def get(self, path: str, **parameters: str | float) -> dict[str, Any]:
        """Return the data of a response.

        Raises:
            Failure: Prometheus does not respond, or the response is not one of its API.
        """
        url = f"{self.url.rstrip('/')}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        request = urllib.request.Request(url)
        if self.login:
            # Unredirected: only Prometheus gets the password.
            request.add_unredirected_header("Authorization", "Basic " + base64.b64encode(self.login.encode()).decode())
        try:
            with opener.open(request, timeout=10) as response:
                data: dict[str, Any] = json.load(response)["data"]
                return data
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failure(self.explain(error)) from error

    def explain(self, error: Exception) -> str:
        """Return why a request failed, and what to do."""
        if isinstance(error, urllib.error.HTTPError) and error.code in (401, 403):
            if self.login:
                return f"Prometheus at {self.url} rejects the login in PROMETHEUS_USER and PROMETHEUS_PASSWORD."
            return f"Prometheus at {self.url} requires a login: set PROMETHEUS_USER and PROMETHEUS_PASSWORD."
        if isinstance(error, OSError):
            return (
                f"Prometheus does not respond at {self.url} ({error}): is the platform up (provision/all.sh), "
                "and is this its port (PORT_PROMETHEUS)?"
            )
        return (
            f"{self.url} does not return data of Prometheus' API. If it is the login page of a proxy, "
            "give an address of Prometheus behind the proxy."
        )

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """Return labels and value of every series of an expression."""
        result = self.get("query", query=expression)["result"]
        return [(sample["metric"], float(sample["value"][1])) for sample in result]

    def by_window(self, metric: str, version: Version) -> dict[str, float]:
        return {labels["window"]: value for labels, value in self.query(selector(metric, version))}

    def firing_alerts(self, version: Version) -> list[dict[str, Any]]:
        return [
            alert
            for alert in self.get("alerts")["alerts"]
            if alert["state"] == "firing"
            and all(alert["labels"].get(name, "") == getattr(version, name) for name in ("namespace", "version"))
        ]

    def drift_alerts(self, version: Version) -> dict[str, float]:
        """The values of the firing drift alerts of a version, by alert and window."""
        return {
            f"{labels['alertname']} ({labels.get('window', '')})": float(alert["value"])
            for alert in self.firing_alerts(version)
            for labels in [alert["labels"]]
            if labels["alertname"] in DRIFT_ALERTS
        }
