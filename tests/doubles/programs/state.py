"""What the doubles share: a folder with their state, a log of their calls, and being killed on demand.

STAND_IN_STATE     the folder
STAND_IN_PACKAGES  site-packages with PyYAML: the python3 of a tested script needs none
STAND_IN_KILL      "before|after TEXT": kills the whole process group when a call contains TEXT, once
"""

import json
import os
import signal
import sys
from pathlib import Path

sys.path.append(os.environ["STAND_IN_PACKAGES"])  # where PyYAML is
FOLDER = Path(os.environ["STAND_IN_STATE"])


def load(name, default):
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else default


def save(name, value):
    part = FOLDER / f"{name}.part"
    part.write_text(json.dumps(value, indent=1, sort_keys=True))
    part.rename(FOLDER / f"{name}.json")


def die(message, status=1):
    print(message, file=sys.stderr)
    sys.exit(status)


def log(what, call):
    with open(FOLDER / "calls.log", "a", encoding="utf-8") as calls:
        calls.write(f"{what} {call}\n")


def kill_if_asked(moment, call):
    asked_moment, _, text = os.environ.get("STAND_IN_KILL", "").partition(" ")
    done = FOLDER / "killed"
    if asked_moment == moment and text in call and not done.exists():
        done.touch()
        os.kill(0, signal.SIGKILL)  # the process group, also from a namespace where it has no number


def play(program, act):
    """Logs the call and acts it out; `act` returns whether something changed, which is logged too."""
    call = " ".join([program, *sys.argv[1:]]).replace("\n", " ")
    log("call", call)
    kill_if_asked("before", call)
    if act(sys.argv[1:]):
        log("changed", call)
    sys.stdout.flush()
    kill_if_asked("after", call)
