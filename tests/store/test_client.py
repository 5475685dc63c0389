"""scripts/store/client.py: the causes of store errors, in training and in deployment."""

import boto3
import pytest
from botocore.exceptions import ClientError

from corpus.source import Options, load_corpus
from doubles.stub_store import error_body, stub_store
from failure import BadInput
from store.client import StoreError
from store.credentials import Keys, aws_session
from store.model_store import ModelStore

ERRORS = {
    "clock": (403, "RequestTimeTooSkewed", {}, "the clocks differ"),
    "clock-gateway": (403, "RequestExpired", {}, "the clocks differ"),
    "region": (400, "AuthorizationHeaderMalformed", {"Region": "eu-central-1"}, "expects region eu-central-1, not "),
    "moved": (
        301,
        "PermanentRedirect",
        {"Endpoint": "s3.example.org"},
        "is not at http://127.0.0.1:.* but at s3.example",
    ),
    "moved-somewhere": (301, "Moved", {}, "is not at http://127.0.0.1:.* but at another address"),
    "slow-down": (503, "SlowDown", {}, "is overloaded"),
    "throttling": (429, "TooManyRequests", {}, "is overloaded"),
    "full": (507, "XMinioStorageFull", {}, "is full"),
    "quota": (403, "QuotaExceeded", {}, "is full"),
    "starting": (503, "XMinioServerNotInitialized", {}, "has a problem of its own"),
    "internal": (500, "InternalError", {}, "has a problem of its own"),
    "expired-keys": (400, "ExpiredToken", {}, "have expired"),
    "forbidden": (403, "AccessDenied", {}, "owned by someone else, or the keys"),
    "archived": (403, "InvalidObjectState", {}, "is archived"),
    "other": (400, "InvalidArgument", {}, "answered InvalidArgument: some reason"),
}


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


def model_store(url: str) -> ModelStore:
    return ModelStore(aws_session(), url, "models", "a-namespace", "m", Keys("nobody", "secret", None, "of the test"))


@pytest.mark.parametrize("name", ERRORS)
def test_a_store_error_names_its_cause_in_training_and_deployment(name, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # botocore's pause between attempts
    status, code, elements, cause = ERRORS[name]
    with stub_store(status, error_body(code, "some reason", **elements)) as url:
        for use in (
            lambda: load_corpus("s3://tickets/mail/", options=Options(s3_endpoint=url)),
            lambda: model_store(url).create_bucket(),
        ):
            with pytest.raises(StoreError, match=cause) as failed:
                use()
            assert code in str(failed.value) and "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("status", "body", "cause"),
    [
        (200, "<!doctype html><html><body>MinIO Console</body></html>", "no S3 store, perhaps its web console"),
        (404, "<html><body>not found</body></html>", "no S3 store, perhaps its web console"),
    ],
)
def test_an_address_that_is_not_the_s3_api_is_reported_as_such(status, body, cause):
    with stub_store(status, body, {"content-type": "text/html"}) as url, pytest.raises(StoreError, match=cause):
        load_corpus("s3://tickets/mail/", options=Options(s3_endpoint=url))


def test_https_to_a_store_that_speaks_http_is_reported_as_such():
    with stub_store(200, "") as url, pytest.raises(StoreError) as failed:
        model_store(url.replace("http:", "https:")).create_bucket()
    assert f"does not speak HTTPS but HTTP: give --minio-endpoint {url}" in str(failed.value)


@pytest.mark.parametrize("endpoint", ["http://me:hunter2@store:9000", "store:9000", "http://store:x", "http://store/a"])
def test_an_endpoint_that_is_no_address_of_a_store_is_refused_without_its_password(endpoint):
    with pytest.raises(BadInput) as refused:
        load_corpus("s3://tickets/mail/", options=Options(s3_endpoint=endpoint))
    assert "--s3-endpoint" in str(refused.value) and "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("keys", "status", "code"),
    [(("nobody", "wrong"), 403, "InvalidAccessKeyId"), (None, 404, "NoSuchBucket")],
    ids=["wrong keys", "missing bucket"],
)
def test_the_stub_answers_in_the_form_of_a_real_store(weed_store, keys, status, code):
    """boto3 reads the same from SeaweedFS and from the stub, with the same status and code."""
    with stub_store(status, error_body(code)) as stub:
        answers = [error_of(url, keys or weed_store.keys) for url in (weed_store.url, stub)]
    assert answers == [(status, code)] * 2


def error_of(url: str, keys: tuple[str, str]) -> tuple[int, str]:
    s3 = boto3.client("s3", endpoint_url=url, aws_access_key_id=keys[0], aws_secret_access_key=keys[1])
    with pytest.raises(ClientError) as failed:
        s3.list_objects_v2(Bucket="no-such-bucket")
    response = failed.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Code"]
