"""The service, the gateway and the stores that the options name."""

import argparse
from typing import TypeVar

from deployment.deployed_service import DeployedService, ServiceState, all_keys
from deployment.gateway import Gateway
from deployment.kubectl import Kubectl
from deployment.manifests import RECORDER_KEYS, ServiceKeys
from failure import BadInput
from store.client import DeployerBucket
from store.credentials import aws_session, find_keys
from store.model_store import ModelStore
from store.request_store import RequestStore, request_bucket
from store.service_user import recorder_keys, service_keys

Bucket = TypeVar("Bucket", bound=DeployerBucket)


def keys_of(options: argparse.Namespace, deployed: DeployedService, store: ModelStore) -> ServiceKeys:
    """The keys of the service's store users, which are created where there are none."""
    secrets = deployed.secrets()
    reader = service_keys(store, options.model_name, all_keys(secrets), options.share_keys)
    if not options.record_requests:
        return ServiceKeys(reader, None)
    requests = request_store_of(options)
    requests.create_bucket()
    if options.record_days:  # retrain.py leaves the rule as it is
        requests.set_expiry(options.record_days)
    current = all_keys(secrets, RECORDER_KEYS)
    return ServiceKeys(reader, recorder_keys(requests, options.model_name, current, options.share_keys))


def service_of(options: argparse.Namespace) -> DeployedService:
    return DeployedService(Kubectl(options.namespace, options.context), options.model_name)


def gateway_of(options: argparse.Namespace) -> Gateway:
    return Gateway(options.ingress, options.model_name, options.timeout, options.min_similarity)


def store_of(options: argparse.Namespace) -> ModelStore:
    return open_bucket(ModelStore, options.bucket, options)


def request_store_of(options: argparse.Namespace) -> RequestStore:
    return open_bucket(RequestStore, request_bucket(options.model_name), options)


def open_bucket(kind: type[Bucket], name: str, options: argparse.Namespace) -> Bucket:
    session = aws_session()
    keys = find_keys(session, options.access_key, options.secret_key)
    service = (options.namespace, options.model_name)
    return kind(session, options.minio_endpoint, name, *service, keys, options.store_ca)


def require_serving(deployed: DeployedService) -> ServiceState:
    state = deployed.fetch()
    if not state.traffic():
        raise BadInput(
            f"there is no InferenceService {deployed.name} in namespace {deployed.kubectl.namespace}: "
            "check --model-name and --namespace, or deploy it first"
        )
    return state
