"""A predictor that loads and predicts as KServe's scikit-learn server v0.20.0 does.

The server's package is on no package registry; this is what python/sklearnserver does, and it is
as strict: one model file in the directory, no more and no less.
"""

import argparse
from pathlib import Path

import joblib
from kserve import Model, ModelServer, model_server
from kserve.utils.utils import get_predict_input, get_predict_response


class SKLearnModel(Model):
    def load(self, directory):
        files = [path for path in directory.iterdir() if path.suffix in (".joblib", ".pkl", ".pickle")]
        if len(files) != 1:
            raise RuntimeError(f"{len(files)} model files in {directory}, not one")
        self.model = joblib.load(files[0])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        return get_predict_response(payload, self.model.predict(get_predict_input(payload)), self.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[model_server.parser])
    parser.add_argument("--model_dir", type=Path, required=True)
    arguments = parser.parse_args()
    model = SKLearnModel(arguments.model_name)
    model.load(arguments.model_dir)
    ModelServer().start([model])
