"""deploy_service.py against a real S3 server, the real kubectl and an API server."""

import pytest
from deploy_fixtures import *  # noqa: F401, F403 - fixtures


def test_deploy_makes_the_service_answer(deploy, cluster, kserve, store):
    done = deploy(0, ingress=kserve.ingress)
    assert done.code == 0, done.err
    print(done.err, done.out)
