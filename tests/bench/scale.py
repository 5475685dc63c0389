#!/usr/bin/env python
"""Measure seconds, memory and rates of training and assigning, by the number of documents.

    python tests/bench/scale.py --documents 100000 1000000      a training and its assignments
    python tests/bench/scale.py --rate                          the assigning alone, on one core
    python tests/bench/scale.py --sample-quality                fitted on a sample against fitted on all

The corpora are made up of the words of aws-docs, each document of 400 bytes or so of one of its 20 labels, and kept in
--folder. Memory is that of all processes together, where a page that several of them share counts once (PSS).
"""

import argparse
import csv
import re
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from assign_documents import load_assigner
from corpus import Source, load_corpus

TRAINING = Path(__file__).resolve().parents[2] / "scripts/text_clustering.py"
WORDS = 62
OF_LABEL = 0.5  # of the words of a document; the others are of any label
CHUNK = 10_000
TAIL = 200_000  # words that are made up: names, numbers of orders, mistakes
OF_TAIL = 0.03


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[100_000])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/scale"), help="where corpora and models are kept")
    parser.add_argument("--jobs", type=int, nargs="+", default=[2])
    parser.add_argument("--rate", action="store_true", help="measure the assigning alone")
    parser.add_argument("--sample-quality", action="store_true", help="compare V-measures; takes long")
    parser.add_argument("options", nargs="*", help="for text_clustering.py, behind --")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.rate:
        measure_rate(arguments.folder, arguments.documents[0])
    elif arguments.sample_quality:
        compare_samples(arguments.folder, arguments.documents[0], arguments.options)
    else:
        print("documents   jobs  seconds      CPU  reading  fitting  assigning  documents/s  peak MiB  V-measure")
        for documents in arguments.documents:
            for jobs in arguments.jobs:
                train(arguments.folder, documents, jobs, arguments.options)


# -------------------------------------------------------------------------------------------------------- corpus


def make_corpus(folder: Path, documents: int) -> Path:
    """A table of made-up documents with their labels."""
    path = folder / f"{documents}.csv"
    if path.exists():
        return path
    rng = np.random.default_rng(documents)
    corpus = load_corpus("aws-docs")
    counts = {label: Counter() for label in sorted(set(corpus.labels))}
    for text, label in zip(corpus.documents, corpus.labels):
        counts[label].update(re.findall(r"\w+", text))
    words = np.array(sorted(set().union(*counts.values())), dtype=object)
    frequencies = np.array([[counts[label][word] for word in words] for label in counts], dtype=float)
    cumulated = np.cumsum(frequencies, axis=1) / frequencies.sum(axis=1, keepdims=True)
    of_all = np.cumsum(frequencies.sum(axis=0)) / frequencies.sum()
    labels = list(counts)
    with path.with_suffix(".part").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for begin in range(0, documents, CHUNK):
            size = min(CHUNK, documents - begin)
            topics = rng.integers(len(labels), size=size)
            chosen = np.searchsorted(of_all, rng.random((size, WORDS)))
            for topic in range(len(labels)):
                mine = np.flatnonzero(topics == topic)
                own = rng.random((len(mine), WORDS)) < OF_LABEL
                chosen[mine] = np.where(own, np.searchsorted(cumulated[topic], rng.random(own.shape)), chosen[mine])
            texts = words[chosen.clip(max=len(words) - 1)]
            tail = rng.random(texts.shape) < OF_TAIL
            texts[tail] = [f"x{number:x}q" for number in (TAIL * rng.random(tail.sum()) ** 3).astype(int)]
            writer.writerows((" ".join(text), labels[topic]) for text, topic in zip(texts, topics))
    path.with_suffix(".part").rename(path)
    return path


# ------------------------------------------------------------------------------------------------------ training


def train(folder: Path, documents: int, jobs: int, options: list[str]) -> Path:
    """Train, and print what it took."""
    table, output = make_corpus(folder, documents), folder / f"model-{documents}"
    command = [sys.executable, TRAINING, "--dataset", table, "--output-dir", output]
    command += ["--jobs", jobs, "--assignments", output / "assignments.parquet", *options]
    output.mkdir(exist_ok=True)
    start = time.perf_counter()
    with (output / "log").open("w+") as log:
        process = psutil.Popen([str(word) for word in command], stderr=log)
        peak, cpu = watch(process)
        log.seek(0)
        text = log.read()
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(text)
    phases = {name: float(took) for name, took in re.findall(r"INFO (\w+)[^\n]*: done in ([\d.]+) s", text)}
    v_measure = re.search(r"V-measure: ([\d.]+)", text)[1]
    print(
        f"{documents:10,}  {jobs:4}  {seconds:7.0f}  {cpu:7.0f}  {phases['Reading']:7.0f}  {phases['Fitting']:7.0f}  "
        f"{phases['Assigning']:9.0f}  {documents / max(phases['Assigning'], 0.1):11,.0f}  {peak / 2**20:8.0f}  {v_measure:>9}",
        flush=True,
    )
    return output


def watch(process: psutil.Popen) -> tuple[int, float]:
    """Peak of the memory of a process and its children, in bytes, and the CPU seconds that they took."""
    peak, cpu = 0, {}
    while process.poll() is None:
        memory = 0
        for one in family(process):
            try:
                memory += one.memory_full_info().pss
                cpu[one.pid] = sum(one.cpu_times()[:2])
            except psutil.Error:
                continue
        peak = max(peak, memory)
        time.sleep(0.25)
    return peak, sum(cpu.values())


def family(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


# -------------------------------------------------------------------------------------------------------- single


def measure_rate(folder: Path, documents: int):
    """Documents a second of CPU time that one core reads, and assigns."""
    output = folder / f"model-{documents}"
    assigner = load_assigner(output / "model.joblib", output / "transformer.joblib")
    start = time.process_time()
    batches = list(Source(str(make_corpus(folder, documents))).batches())
    print(f"reading: {documents / (time.process_time() - start):,.0f} documents a second and core")
    for method in ("assign", "assign_and_sum"):
        start = time.process_time()
        for batch in batches:
            getattr(assigner, method)(batch.documents)
        print(f"{method}: {documents / (time.process_time() - start):,.0f} documents a second and core")


def compare_samples(folder: Path, documents: int, options: list[str]):
    for seed in range(3):
        for sample in (100_000, documents):
            print(f"seed {seed}, fitted on {sample:,}:")
            train(folder, documents, 2, ["--seed", str(seed), "--sample", str(sample), *options])


if __name__ == "__main__":
    main()
