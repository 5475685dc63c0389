"""scripts/corpus/recorded_requests.py: requests that KServe's logger has recorded are a corpus."""

import base64
import gzip
import json
import struct

import pytest

from corpus.source import CorpusError, Options, Source, load_corpus, time_ago

# As KServe's agent v0.20.0 writes it for a request in gzip that has the header Smoke-Test (log-store-format json).
FROM_AGENT = """[{"url":{"Scheme":"s3","Opaque":"","User":null,"Host":"b","Path":"","Fragment":"","RawQuery":"",\
"RawPath":"","RawFragment":"","ForceQuery":false,"OmitHost":false},"bytes":"eyJpbnN0YW5jZXMiOiBbIlRoZSBnb2FsaWUgc3Rvc\
HBlZCB0aGUgcHVjayJdfQ==","contentType":"application/json","reqType":"org.kubeflow.serving.inference.request",\
"id":"58e3a1c5-fbfd-4751-b2a9-22cb11ab54c9","inferenceService":"textclustering","namespace":"demo",\
"component":"transformer","certName":"service-ca.crt","occurrenceTime":"2026-11-29T22:27:52.797241261Z"},\
{"url":{"Scheme":"s3"},"bytes":"H4sIAOimDGsC/6tWyswrLknMS04tVrJSiFZyVCjKT85OLVHIzFPIL0rKLFGKrQUAucY2piQAAAA=",\
"contentType":"application/json","reqType":"org.kubeflow.serving.inference.request","id":"9199adb8",\
"metadata":{"Content-Encoding":["gzip"],"Smoke-Test":["true"]},"occurrenceTime":"2026-11-29T22:27:52.800814991Z"},\
{"url":{"Scheme":"s3"},"bytes":"","reqType":"org.kubeflow.serving.inference.request","id":"fb5b1e68",\
"occurrenceTime":"2026-11-29T22:27:52.844065708Z"}]"""


def record(body, time="2026-11-29T22:00:00Z", content_type="application/json", kind="request", **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {
        "bytes": base64.b64encode(body).decode(),
        "contentType": content_type,
        "reqType": f"org.kubeflow.serving.inference.{kind}",
        "metadata": {name.replace("_", "-"): [value] for name, value in headers.items()},
        "occurrenceTime": time,
    }


def read(folder, *records, **options):
    (folder / "records.json").write_text(json.dumps(records))
    source = Source(str(folder), options=Options(**options))
    return [text for batch in source.batches() for text in batch.documents], dict(+source.findings.left_out)


def tensor(shape, **fields):
    return {"inputs": [{"name": "input-0", "datatype": "BYTES", "shape": shape, **fields}]}


def test_a_file_of_kserves_agent_is_read_without_smoke_tests_and_empty_bodies(tmp_path):
    (tmp_path / "58e3a1c5-request.json").write_text(FROM_AGENT)
    source = Source(str(tmp_path))
    (batch,) = source.batches()
    assert batch.documents == ["The goalie stopped the puck"] and batch.identities == ["58e3a1c5-request.json:1"]
    assert [f"{date:%Y-%m-%d %H:%M}" for date in batch.dates] == ["2026-11-29 22:27"]
    assert dict(+source.findings.left_out) == {"smoke tests": 1, "bodies that are not requests": 1}


def test_a_single_record_is_an_object_of_its_own_as_the_agent_writes_it(tmp_path):
    (tmp_path / "one.json").write_text(json.dumps(json.loads(FROM_AGENT)[0]))
    assert load_corpus(str(tmp_path)).documents == ["The goalie stopped the puck"]


def test_every_form_of_a_request_that_the_service_accepts_is_read(tmp_path):
    binary = json.dumps(tensor([2], parameters={"binary_data_size": 14})).encode()
    elements = b"".join(struct.pack("<I", len(text)) + text for text in (b"abc", b"def"))
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"instances": ["in an event"]}}
    texts, left_out = read(
        tmp_path,
        record({"instances": ["one", ["two"]]}),
        record(tensor([2], data=["three", "four"])),
        record(tensor([1, 1], data=["Zml2ZQ=="], parameters={"content_type": "base64"})),
        record(binary + elements, Inference_Header_Content_Length=str(len(binary))),
        record(gzip.compress(b'{"instances": ["six"]}'), Content_Encoding="gzip"),
        record('{"instances": ["Süß"]}'.encode("latin-1"), content_type="application/json; charset=latin-1"),
        record(b"\xef\xbb\xbf" + b'{"instances": ["seven"]}', content_type="application/x-www-form-urlencoded"),
        record(event),
    )
    expected = ["one", "two", "three", "four", "five", "abc", "def", "six", "Süß", "seven", "in an event"]
    assert (texts, left_out) == (expected, {})


def test_what_is_no_request_of_a_client_is_counted_by_its_reason(tmp_path):
    texts, left_out = read(
        tmp_path,
        record({"instances": ["kept", "kept"]}),
        record({"instances": ["of a deployment"]}, Smoke_Test="true"),
        record(b"no JSON"),
        record({"instances": []}),
        record({"instances": ["fine", 7]}),
        record(b"no gzip", Content_Encoding="gzip"),
        record(tensor([1], data=["x"], parameters="none")),
        {**record({}), "bytes": "no base64"},
        record({"predictions": [1]}, kind="response"),
    )
    assert texts == ["kept", "kept", "x"], "texts that clients repeat weigh more, as in any other corpus"
    assert left_out == {"bodies that are not requests": 5, "smoke tests": 1, "records that are no requests": 1}


def test_since_selects_by_the_time_of_arrival(tmp_path):
    options = {"since": time_ago("14d")}
    recent = time_ago("13d").isoformat()
    requests = [record({"instances": ["old"]}), record({"instances": ["new"]}, time=recent)]
    requests[0]["occurrenceTime"] = time_ago("15d").isoformat()
    assert read(tmp_path, *requests, **options) == (["new"], {"requests from before --since": 1})
    (tmp_path / "records.json").write_text('[{"text": "an ordinary table"}]')
    with pytest.raises(CorpusError, match=r"--since is for recorded requests, and .* has none"):
        load_corpus(str(tmp_path), options=Options(**options))


def test_recorded_requests_in_a_store_are_read_beside_another_corpus(store, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.keys[1])
    store.s3.create_bucket(Bucket=store.bucket)
    key = "demo/textclustering/2026-11-29/a.json"
    store.s3.put_object(Bucket=store.bucket, Key=key, Body=json.dumps([record({"instances": ["recorded"]})]))
    (tmp_path / "old.csv").write_text("text,label\nearlier,b\n")
    dataset = f"s3://{store.bucket}/demo/textclustering/"
    source = Source(str(tmp_path / "old.csv"), dataset, options=Options(s3_endpoint=store.url))
    (batch,) = source.batches()
    assert batch.documents == ["earlier", "recorded"] and batch.labels == ["b", None]
    assert batch.identities[1] == f"{dataset}:2026-11-29/a.json:1"
