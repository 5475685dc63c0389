#!/usr/bin/env python
"""Measure seconds, memory and rates of training and assigning, by the number of documents.

    python tests/bench/scale.py --documents 100000 1000000      a training and its assignments
    python tests/bench/scale.py --rate                          the reading and the assigning alone, on one core
    python tests/bench/scale.py --engines                       one process, two, and two Dask workers
    python tests/bench/scale.py --sample-quality                fitted on a sample against fitted on all

The corpora are made up of the words of aws-docs, each document of 400 bytes or so of one of its 20 labels, and kept in
--folder. Memory is that of all processes together, where a page that several of them share counts once (PSS).
"""

import argparse
import csv
import functools
import gzip
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from assign_documents import load_assigner
from corpus.source import Source, load_corpus
from support.dask_processes import Cluster

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WORDS = 62
OF_LABEL = 0.5  # of the words of a document; the others are of any label
CHUNK = 10_000
TAIL = 200_000  # words that are made up: names, numbers of orders, mistakes
OF_TAIL = 0.03
MIB = 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, nargs="+", default=[100_000])
    parser.add_argument("--folder", type=Path, default=Path("/tmp/scale"), help="where corpora and models are kept")
    parser.add_argument("--jobs", type=int, nargs="+", default=[2])
    parser.add_argument("--gzip", action="store_true", help="keep the corpora compressed")
    parser.add_argument("--rate", action="store_true", help="measure one core; needs the model of a training before")
    parser.add_argument("--engines", action="store_true", help="compare engines; needs the model of a training before")
    parser.add_argument("--sample-quality", action="store_true", help="compare V-measures; takes long")
    parser.add_argument("options", nargs="*", help="for text_clustering.py, behind --")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for documents in arguments.documents:
        table = make_corpus(arguments.folder / f"{documents}.csv{'.gz' * arguments.gzip}", documents)
        model = arguments.folder / f"model-{documents}"
        if arguments.rate:
            measure_rate(table, documents, model)
        elif arguments.engines:
            compare_engines(table, model, arguments.folder)
        elif arguments.sample_quality:
            compare_samples(table, documents, arguments.jobs[0], arguments.folder, arguments.options)
        else:
            for jobs in arguments.jobs:
                train(table, documents, jobs, model, arguments.options)


# -------------------------------------------------------------------------------------------------------- corpus


def make_corpus(path: Path, documents: int) -> Path:
    """A table of made-up documents with their labels."""
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
    part = path.with_suffix(".part")
    open_text = functools.partial(gzip.open, compresslevel=1) if path.suffix == ".gz" else open
    with open_text(part, "wt", newline="") as file:
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
    return part.rename(path)


# ------------------------------------------------------------------------------------------------------ training


def train(table: Path, documents: int, jobs: int, output: Path, options: list[str]):
    """Train, and print what it took."""
    output.mkdir(exist_ok=True)
    command = ["text_clustering.py", "--dataset", table, "--output-dir", output, "--jobs", jobs]
    command += ["--assignments", output / "assignments.parquet", *options]
    seconds, cpu, peak, log = run(command)
    phases = {name: float(took) for name, took in re.findall(r"INFO (\w+)[^\n]*: done in ([\d.]+) s", log)}
    v_measure = re.search(r"V-measure: ([\d.]+)", log)[1]
    print(
        f"{documents:,} documents, {jobs} jobs: {seconds:.0f} s, {cpu:.0f} s of CPU; reading {phases['Reading']:.0f}, "
        f"fitting {phases['Fitting']:.0f}, assigning {phases['Assigning']:.0f} s; "
        f"peak {peak / MIB:,.0f} MiB; V-measure {v_measure}",
        flush=True,
    )


def run(command: list) -> tuple[float, float, int, str]:
    """Run a script; returns the seconds, the CPU seconds, the peak of memory in bytes, and the log."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = psutil.Popen([sys.executable, SCRIPTS / command[0], *map(str, command[1:])], stderr=log)
        peak, cpu = watch(process)
        log.seek(0)
        text = log.read()
    if process.returncode:
        sys.exit(text)
    return time.perf_counter() - start, cpu, peak, text


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


# ----------------------------------------------------------------------------------------------------- assigning


def measure_rate(table: Path, documents: int, model: Path):
    """Documents a second of CPU time that one core reads, and assigns."""
    assigner, _ = load_assigner(model / "model.joblib", model / "transformer.joblib")
    start = time.process_time()
    batches = list(Source(str(table)).batches())
    print(f"reading: {documents / (time.process_time() - start):,.0f} documents a second and core")
    for method in ("assign", "assign_and_sum"):
        start = time.process_time()
        with threadpool_limits(1):
            for batch in batches:
                getattr(assigner, method)(batch.documents)
        print(f"{method}: {documents / (time.process_time() - start):,.0f} documents a second and core")


def compare_engines(table: Path, model: Path, folder: Path):
    """Assign a table with one process, with two, and on two Dask workers; the rates are from the first batch on."""
    assign(table, model, "--jobs", 1)
    assign(table, model, "--jobs", 2)
    with Cluster(folder, launch=start_fresh) as cluster:
        assign(table, model, "--dask", cluster.address)
        peaks = [
            re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{worker.pid}/status").read_text()) for worker in cluster.workers
        ]
        print("peak of each worker:", ", ".join(f"{int(peak[1]) / 1024:.0f} MiB" for peak in peaks))


def start_fresh(*command, **popen) -> subprocess.Popen:
    """A process whose memory is its own, unlike that of a fork."""
    return subprocess.Popen([str(word) for word in command], **popen)


def assign(table: Path, model: Path, *engine):
    command = ["assign_documents.py", "--dataset", table, "--assignments", model / "assigned.parquet"]
    command += ["--model-path", model / "model.joblib", "--transformer-path", model / "transformer.joblib"]
    seconds, cpu, peak, log = run([*command, *engine])
    rate = re.findall(r"([\d,]+) documents assigned, ([\d,]+)/s", log)[-1]
    print(
        f"{' '.join(map(str, engine))}: {rate[0]} documents in {seconds:.1f} s, {rate[1]} a second; "
        f"without the cluster {cpu:.0f} s of CPU, peak {peak / MIB:,.0f} MiB",
        flush=True,
    )


# ------------------------------------------------------------------------------------------------------- quality


def compare_samples(table: Path, documents: int, jobs: int, folder: Path, options: list[str]):
    for seed in range(3):
        for sample in (100_000, documents):
            print(f"seed {seed}, fitted on {sample:,}: ", end="", flush=True)
            sampled = ["--seed", str(seed), "--sample", str(sample), *options]
            train(table, documents, jobs, folder / "model-of-sample", sampled)


if __name__ == "__main__":
    main()
