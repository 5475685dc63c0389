#!/usr/bin/env python3
"""What the steps ask of manifests, which are read from standard input.

usage: manifests.py images       prints every image that the manifest names, one a line
       manifests.py map [MAP…]   prints the manifest with images replaced; a MAP has lines of "reference replacement"
       manifests.py types        prints the resource types (CustomResourceDefinitions) in it
       manifests.py objects      prints everything else in it

An image may stand anywhere: in a container, in the JSON of a config map, in an argument, in an environment variable.
"map" also turns imagePullPolicy Always into IfNotPresent: the node has been given every image beforehand, and a
machine without a registry could not start what it already has.
"""

import re
import sys

REFERENCE = r"[a-z0-9][a-zA-Z0-9._/-]*(?::[0-9]+/[a-z0-9._/-]+)?(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
# image: X, "image" : "X", queue-sidecar-image: X, --acme-http01-solver-image=X, and "X_IMAGE" followed by its value
NAMED = re.compile(
    rf"""(?:[A-Za-z0-9_.-]*image["']?\s*[:=]\s*|_IMAGE["']?\s*\n\s*value:\s*)["']?({REFERENCE})["']?\s*(?:[,}}]|$)""",
    re.IGNORECASE | re.MULTILINE,
)


def is_complete(reference):
    return "@" in reference or ":" in reference.rsplit("/", 1)[-1]


def list_images(manifest):
    images = dict.fromkeys(match.group(1) for match in NAMED.finditer(manifest))
    return [image for image in images if is_complete(image)]


def spellings(reference):
    """Docker Hub's images may be written without docker.io and library."""
    names = [reference]
    for prefix in ("docker.io/", "library/"):
        if names[-1].startswith(prefix):
            names.append(names[-1][len(prefix) :])
    if len(names) == 1 and "." not in reference.split("/", 1)[0] and ":" not in reference.split("/", 1)[0]:
        names.append("docker.io/" + reference)
    return names


def read_map(path):
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split("#", 1)[0].split()
            if fields and len(fields) != 2:
                sys.exit(f'error: {path}, line {number}: expected "reference replacement", found: {line.strip()}')
            if fields:
                yield fields


def map_images(manifest, maps):
    for path in maps:
        for reference, replacement in read_map(path):
            for spelling in spellings(reference):
                manifest = re.sub(
                    rf"(?<![A-Za-z0-9_./:@-]){re.escape(spelling)}(?![A-Za-z0-9_./:@-])",
                    lambda _, replacement=replacement: replacement,
                    manifest,
                )
    return re.sub(r"(imagePullPolicy[\"']?\s*:\s*[\"']?)Always\b", r"\1IfNotPresent", manifest)


def documents(manifest, are_types):
    """The documents of a YAML file that are resource types, or those that are not."""
    parts = re.split(r"^---(?: .*)?\n", manifest, flags=re.MULTILINE)
    is_type = re.compile(r"^kind: CustomResourceDefinition$", re.MULTILINE)
    has_content = re.compile(r"^[^#\s]", re.MULTILINE)
    chosen = [part for part in parts if has_content.search(part) and bool(is_type.search(part)) == are_types]
    return "---\n".join(part if part.endswith("\n") else part + "\n" for part in chosen)


def main(arguments):
    if arguments == ["images"]:
        for image in list_images(sys.stdin.read()):
            print(image)
    elif arguments in (["types"], ["objects"]):
        sys.stdout.write(documents(sys.stdin.read(), are_types=arguments == ["types"]))
    elif arguments[:1] == ["map"]:
        try:
            sys.stdout.write(map_images(sys.stdin.read(), arguments[1:]))
        except OSError as error:
            sys.exit(f"error: cannot read the image map {error.filename}: {error.strerror}")
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
