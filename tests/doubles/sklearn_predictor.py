"""A stub of KServe's scikit-learn server (python/sklearnserver in kserve/kserve v0.20.0), which is published as an image only.

Same behaviour on the same library: one joblib file in --model_dir, KServe's own parsing of requests and formatting of
responses, every failure an InferenceError (500). Compared line by line with sklearnserver/model.py of that version;
PREDICT_PROBA is left out, as k-means has no probabilities.
"""

import argparse
from pathlib import Path

import joblib
import kserve
from kserve.errors import InferenceError, ModelMissingError
from kserve.utils.utils import get_predict_input, get_predict_response


class SklearnPredictor(kserve.Model):
    def __init__(self, name: str, model_dir: Path):
        super().__init__(name)
        self.model_dir = model_dir

    def load(self) -> bool:
        files = [path for path in self.model_dir.iterdir() if path.suffix in (".joblib", ".pkl", ".pickle")]
        if not files:
            raise ModelMissingError(str(self.model_dir))
        if len(files) > 1:
            raise RuntimeError(f"More than one model file is detected, Only one is allowed within model_dir: {files}")
        self.model = joblib.load(files[0])
        self.ready = True
        return self.ready

    def predict(self, payload, headers=None):
        try:
            return get_predict_response(payload, self.model.predict(get_predict_input(payload)), self.name)
        except Exception as error:
            raise InferenceError(str(error)) from error


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", type=Path, required=True)
    arguments = parser.parse_args()
    kserve.logging.configure_logging()
    predictor = SklearnPredictor(arguments.model_name, arguments.model_dir)
    predictor.load()
    kserve.ModelServer().start([predictor])
