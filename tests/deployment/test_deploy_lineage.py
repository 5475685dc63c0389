"""A retrained model is rolled out: real trainings, S3 server, kubectl, predictor and transformer; KServe is a stub."""

import json
import os
import re
import urllib.request

from support.deployment import stub_kserve, succeeded, traffic, version
from support.services import run_training
from support.topics import KEPT, QUESTIONS, answers, corpus_of, name_clusters


def train(folder, *topics, like=None, store=None):
    corpus = corpus_of(folder.with_suffix(".jsonl"), *topics, seed=bool(like))
    options = ("--like", like, "--s3-endpoint", store.url) if like else ()
    keys = {"AWS_ACCESS_KEY_ID": store.keys[0], "AWS_SECRET_ACCESS_KEY": store.keys[1]} if like else {}
    run = run_training(
        *("--dataset", corpus, "--clusters", len(topics), "--lsa", "20", "--output-dir", folder),
        *options,
        env=os.environ | keys,
    )
    assert run.returncode == 0, run.stderr
    return folder


def test_a_model_trained_like_the_one_that_serves_is_its_canary_and_texts_keep_their_numbers(
    deploy, cluster, store, tmp_path
):
    first = train(tmp_path / "first", *KEPT, "law")
    with stub_kserve(cluster, tmp_path, serve=True) as stub:
        serving = version(succeeded(deploy(first, ingress=stub.ingress, timeout=240)))
        before = ask(stub.ingress, succeeded(deploy(first, ingress=stub.ingress, timeout=240)).out)
        second = train(
            tmp_path / "second",
            *KEPT,
            "music",
            like=f"s3://{store.bucket}/{cluster.namespace}/textclustering/{serving}/",
            store=store,
        )
        done = succeeded(deploy(second, "--canary", "50", ingress=stub.ingress, timeout=240))
        assert "do not continue" not in done.err
        assert traffic(cluster) == {serving: 50, version(done): 50}
        during = [ask(stub.ingress, done.out) for _ in range(6)]
        assert during == [before] * 6
        assert (
            ask(stub.ingress, succeeded(deploy(second, "--promote", ingress=stub.ingress, timeout=240)).out) == before
        )
        assert list(before) == list(answers(second, *KEPT).values())
        lines = succeeded(deploy(second, "--list")).out.splitlines()
        assert re.search(rf"{version(done)} .*\d+\.\d% as in {serving}$", lines[2])


def ask(ingress, curl) -> list[int]:
    """The numbers of texts, asked as the command says that the deployment prints."""
    host = re.search(r"Host: (\S+?)['\"]", curl)[1]
    path = re.search(r"/v1/models/\S+:predict", curl)[0]
    body = json.dumps({"instances": [QUESTIONS[topic] for topic in KEPT]}).encode()
    request = urllib.request.Request(ingress + path, body, {"Host": host, "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["predictions"]


def test_numbers_that_mean_something_else_are_warned_of_and_new_names_are_not(deploy, cluster, kserve, store, tmp_path):
    first = train(tmp_path / "first", "hockey", "space")
    serving = version(succeeded(deploy(first, ingress=kserve.ingress)))
    (tmp_path / "names.txt").write_text("0 Zero\n")
    assert name_clusters(tmp_path / "names.txt", "--model-dir", first).returncode == 0
    done = succeeded(deploy(first, ingress=kserve.ingress))
    assert version(done) != serving and "do not continue" not in done.err

    stranger = train(tmp_path / "stranger", "hockey", "space", "law")
    done_again = succeeded(deploy(stranger, ingress=kserve.ingress))
    assert f"do not continue those of {version(done)}" in done_again.err
    assert (
        f"--like s3://{store.bucket}/{cluster.namespace}/textclustering/{version(done)}/ --s3-endpoint {store.url}"
        in done_again.err
    )
