"""What the serving benchmark compares with: a KServe model that does nothing, and the naive transformer."""

import argparse

import joblib
import kserve


class NoOp(kserve.Model):
    """The least that KServe's model server can do for a request."""

    def predict(self, payload, headers=None):
        return {"predictions": [0] * len(payload["instances"])}


class NaiveTransformer(kserve.Model):
    """One call of the fitted pipeline per instance, and a second hop in JSON, as in KServe's examples."""

    def __init__(self, name, transformer_path):
        super().__init__(name)
        self.pipeline = joblib.load(transformer_path)

    def preprocess(self, payload, headers=None):
        return {"instances": [self.pipeline.transform(instance)[0].tolist() for instance in payload["instances"]]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--transformer-path", help="serve the naive transformer; without it, the no-op model")
    arguments = parser.parse_args()
    if arguments.transformer_path:
        model = NaiveTransformer(arguments.model_name, arguments.transformer_path)
    else:
        model = NoOp(arguments.model_name)
    model.load()
    kserve.ModelServer().start([model])
