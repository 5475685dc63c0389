"""The settings of the deployed service, with which its next version is deployed."""

from typing import Any

from deployment.deployed_service import DeployedService, ServiceState, account_of


def settings_of(deployed: DeployedService, state: ServiceState) -> dict[str, Any]:
    """The settings of a service as options of deploy_service.py, so that a new version differs in its files only."""
    component = state.spec[state.entry]
    transformer = component["containers"][0]
    arguments = transformer.get("args", [])
    least = arguments[arguments.index("--min-similarity") + 1] if "--min-similarity" in arguments else None
    requests, limits = (transformer["resources"][kind] for kind in ("requests", "limits"))
    account = deployed.kubectl.get("serviceaccount", account_of({"spec": component}) or "default") or {}
    pull_secrets = account.get("imagePullSecrets", [])
    return {
        "transformer_image": transformer["image"],
        "image_pull_secret": pull_secrets[0]["name"] if pull_secrets else None,
        "collocate": state.is_collocated,
        "cpu_request": requests["cpu"],
        "memory_request": requests["memory"],
        "cpu_limit": limits["cpu"],
        "memory_limit": limits["memory"],
        "min_replicas": component["minReplicas"],
        "max_replicas": component["maxReplicas"],
        "min_similarity": least and float(least),
        "record_requests": "logger" in component,
        "record_days": None,  # the store's rule stays as it is
    }
