"""Train a candidate with text_clustering.py, as a process of its own: its memory is free again when it ends."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from failure import Failure
from model.artefacts import CLUSTERS_FILE, read_summary
from retraining import baseline

PROGRAM = Path(__file__).resolve().parents[1] / "text_clustering.py"


class NoCandidate(Failure):
    """The training fails on this corpus, and would again: the message is its last log line."""


def train(corpus: Path, folder: Path, earlier_folder: Path, clusters: str | None, held_out: Sequence[str]) -> None:
    """Train the successor of a model on a corpus, with the model's settings, and measure its baseline on held-out texts.

    Args:
        folder: for the three files.
        earlier_folder: of the model.
        clusters: their number, or a range to choose from; None: as many as the model has, or one more if that is better.

    Raises:
        NoCandidate: the corpus cannot be clustered.
        Failure: the disk or the store failed.
    """
    summary = read_summary(earlier_folder / CLUSTERS_FILE)
    settings, number = summary["settings"], len(summary["clusters"])
    command = [sys.executable, PROGRAM, "--dataset", corpus, "--output-dir", folder, "--like", earlier_folder]
    command += [
        "--clusters",
        clusters or f"{number}-{number + 1}",
        "--lsa",
        settings["lsa"],
        "--seed",
        settings["seed"],
    ]
    command += [] if settings["minibatch"] else ["--no-minibatch"]
    status, last_line = run_logged([str(word) for word in command])
    if status == Failure.exit_code:
        raise Failure(f"the training failed: {last_line}")
    if status < 0:
        raise NoCandidate(f"the training was ended by signal {-status}, perhaps for lack of memory")
    if status:
        raise NoCandidate(f"the training failed: {last_line}")
    baseline.measure_on(held_out, folder)


def run_logged(command: list[str]) -> tuple[int, str]:
    """Run a program and pass its log on. Returns its exit status and the last line of its log."""
    last_line = ""
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            for line in process.stderr or []:
                sys.stderr.write(line)
                last_line = line.strip()
        except BaseException:
            process.terminate()
            raise
    return process.returncode, last_line
