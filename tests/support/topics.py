"""Small corpora on five plain topics, and the programs that train on them."""

import json

import joblib
import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from support.programs import run_program

TOPICS = {
    "hockey": "goalie puck rink playoff skates referee overtime team coach penalty",
    "space": "orbit shuttle rocket lunar telescope astronaut launch probe crater mission",
    "cooking": "oven butter recipe flour simmer garlic skillet dough spice bake",
    "law": "court judge jury verdict lawyer appeal statute witness trial clause",
    "music": "guitar melody chord drummer concert album singer rhythm tempo encore",
}
KEPT = ("hockey", "space", "cooking")
QUESTIONS = {topic: " ".join(words.split()[:4]) for topic, words in TOPICS.items()}


def corpus_of(path, *topics, seed=0, each=40):
    rng = np.random.default_rng(seed)
    rows = [
        {"text": " ".join(rng.choice(TOPICS[topic].split(), 6)), "label": topic}
        for topic in topics
        for _ in range(each)
    ]
    path.write_text("".join(json.dumps(rows[i]) + "\n" for i in rng.permutation(len(rows))))
    return path


def answers(folder, *topics) -> dict:
    """The predictions of KServe's own server: the stock pipeline, then the stock predict."""
    pipeline, model = (joblib.load(folder / name) for name in ("transformer.joblib", "model.joblib"))
    assert type(model) in (KMeans, MiniBatchKMeans)
    return dict(zip(topics, model.predict(pipeline.transform([QUESTIONS[topic] for topic in topics])).tolist()))


def name_clusters(*options):
    return run_program("scripts/name_clusters.py", *options)
