"""What the doubles share: a folder with their state, a log of their calls, and being killed on demand.

STAND_IN_STATE     the folder
STAND_IN_PACKAGES  site-packages with PyYAML: the python3 of a tested script needs none
STAND_IN_KILL      "before|after TEXT": kills the whole process group when a call contains TEXT, once

A run starts the doubles hundreds of times: they import only what every call needs, the rest where it is used.
"""

import os
import sys

sys.path.append(os.environ["STAND_IN_PACKAGES"])  # where PyYAML is
FOLDER = os.environ["STAND_IN_STATE"]


def load(name, default):
    import json

    try:
        with open(f"{FOLDER}/{name}.json", encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return default


def save(name, value):
    import json

    with open(f"{FOLDER}/{name}.part", "w", encoding="utf-8") as part:
        part.write(json.dumps(value, sort_keys=True))
    os.rename(f"{FOLDER}/{name}.part", f"{FOLDER}/{name}.json")


def images(store):
    """The images of Docker ("images") or of the node ("node-images"), a line each: most calls need no JSON."""
    try:
        with open(f"{FOLDER}/{store}", encoding="utf-8") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        return []


def add_image(store, reference):
    """Returns whether it is new."""
    before = images(store)
    if reference not in before:
        save_images(store, sorted([*before, reference]))
    return reference not in before


def save_images(store, references):
    with open(f"{FOLDER}/{store}.part", "w", encoding="utf-8") as part:
        part.writelines(f"{reference}\n" for reference in references)
    os.rename(f"{FOLDER}/{store}.part", f"{FOLDER}/{store}")


def image_in(archive):
    """The reference of the image in an archive of "docker save"."""
    import json
    import tarfile

    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("manifest.json"))[0]["RepoTags"][0]


def die(message, status=1):
    print(message, file=sys.stderr)
    sys.exit(status)


def log(what, call):
    with open(f"{FOLDER}/calls.log", "a", encoding="utf-8") as calls:
        calls.write(f"{what} {call}\n")


def kill_if_asked(moment, call):
    asked_moment, _, text = os.environ.get("STAND_IN_KILL", "").partition(" ")
    done = f"{FOLDER}/killed"
    if asked_moment == moment and text in call and not os.path.exists(done):
        open(done, "x").close()
        os.kill(0, 9)  # SIGKILL to the process group, also from a namespace where it has no number


def play(program, act):
    """Logs the call and acts it out; `act` returns whether something changed, which is logged too."""
    call = " ".join([program, *sys.argv[1:]]).replace("\n", " ")
    log("call", call)
    kill_if_asked("before", call)
    if act(sys.argv[1:]):
        log("changed", call)
    sys.stdout.flush()
    kill_if_asked("after", call)
