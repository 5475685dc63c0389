"""scripts/training/preflight.py: what a training checks before it begins."""

import argparse

import pytest
import sklearn

from failure import BadInput
from training.preflight import check_before_training


def arguments(folder, **changes):
    values = {"dataset": ["aws-docs"], "output_dir": folder, "assignments": None, "overwrite": False}
    values |= {"min_similarity": None, "top": 0, "terms": None, "like": None, "merge": []}
    return argparse.Namespace(**(values | changes))


def test_another_scikit_learn_than_the_predictors_is_a_warning_at_the_start(tmp_path, monkeypatch, caplog):
    check_before_training(arguments(tmp_path), None)
    assert caplog.text == ""
    monkeypatch.setattr(sklearn, "__version__", "1.9.9")
    check_before_training(arguments(tmp_path), None)
    assert "scikit-learn 1.9.9 is installed, but KServe's predictor has 1." in caplog.text


def test_files_of_an_earlier_training_are_replaced_and_others_are_not(tmp_path):
    (tmp_path / "model.joblib").write_bytes(b"precious")
    with pytest.raises(BadInput, match=r"model.joblib exists and was not written by this project"):
        check_before_training(arguments(tmp_path), None)
    check_before_training(arguments(tmp_path, overwrite=True), None)
    (tmp_path / "clusters.json").write_text('{"sha256": {"model.joblib": "0", "transformer.joblib": "0"}}')
    (tmp_path / "report.html").write_text("<html>")
    check_before_training(arguments(tmp_path), "report.html")
    with pytest.raises(BadInput, match=r"--output-dir: .*clusters.json is --dataset"):
        check_before_training(arguments(tmp_path, dataset=[str(tmp_path / "clusters.json")]), None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"merge": [[0, 1]]}, "--merge joins clusters of an earlier model: name it with --like"),
        ({"min_similarity": 0.7}, "are about the file of --assignments"),
        ({"top": 3}, "are about the file of --assignments"),
    ],
)
def test_options_that_need_another_are_refused_without_it(tmp_path, changes, reason):
    with pytest.raises(BadInput, match=reason):
        check_before_training(arguments(tmp_path, **changes), None)
