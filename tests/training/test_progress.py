"""What a training shows while it searches for clusters."""

import os
import pty
import re
import termios

from support.programs import Program, run_program
from support.topics import KEPT, corpus_of


def test_the_search_is_one_line_in_a_log_and_a_progress_line_on_a_terminal(tmp_path):
    corpus = corpus_of(tmp_path / "corpus.jsonl", *KEPT, each=60)
    command = ["scripts/text_clustering.py", "--dataset", corpus, "--clusters", "3", "--output-dir", tmp_path / "model"]
    log = run_program(*command).stderr
    assert len(re.findall("k-means runs|recombinations", log)) == 2, "both in the summary"
    assert log.count("the best of 4 searches, each 12 k-means runs and 24 recombinations; k-means objective 0.") == 1

    terminal, end = pty.openpty()
    termios.tcsetwinsize(end, (24, 80))
    training = Program(*command, stdout=1, stderr=end)
    os.close(end)
    shown = read_all(terminal)
    assert training.wait() == 0
    assert re.search(r"\rk-means runs: +\d+%", shown) and re.search(r"\rk-means recombinations: +\d+%", shown)
    assert not re.search(r"\nk-means (runs|recombinations)", shown), "one line, overwritten"


def read_all(terminal: int) -> str:
    parts = []
    while True:
        try:
            parts.append(os.read(terminal, 65536))
        except OSError:  # Linux's end of a terminal
            return b"".join(parts).decode()
