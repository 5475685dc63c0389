#!/usr/bin/env python3
"""Manifest filters for the provisioning steps: from standard input to standard output.

usage: manifests.py images       list the images in the manifest, one per line
       manifests.py map [MAP…]   replace images; a MAP has lines of "reference replacement"
       manifests.py types        keep only the resource types (CustomResourceDefinitions)
       manifests.py objects      keep everything else

Images are found in containers, in the JSON of a ConfigMap, in arguments and in environment variables.
"map" also replaces imagePullPolicy Always by IfNotPresent: every image is loaded into the node beforehand, and without
a registry Always would fail.
"""

import re
import sys
from collections.abc import Iterator

REFERENCE = r"[a-z0-9][a-zA-Z0-9._/-]*(?::[0-9]+/[a-z0-9._/-]+)?(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
# image: X, "image" : "X", queue-sidecar-image: X, --acme-http01-solver-image=X, and "X_IMAGE" followed by its value
NAMED = re.compile(
    rf"""(?:[A-Za-z0-9_.-]*image["']?\s*[:=]\s*|_IMAGE["']?\s*\n\s*value:\s*)["']?({REFERENCE})["']?\s*(?:[,}}]|$)""",
    re.IGNORECASE | re.MULTILINE,
)


def has_version(reference: str) -> bool:
    return "@" in reference or ":" in reference.rsplit("/", 1)[-1]


def list_images(manifest: str) -> list[str]:
    """Return the images in a manifest that have a tag or a digest, without duplicates, in their order."""
    images = dict.fromkeys(match.group(1) for match in NAMED.finditer(manifest))
    return [image for image in images if has_version(image)]


def spellings(reference: str) -> list[str]:
    """Return all spellings of a reference: Docker Hub's images may be written without docker.io and library."""
    names = [reference]
    for prefix in ("docker.io/", "library/"):
        if names[-1].startswith(prefix):
            names.append(names[-1][len(prefix) :])
    if len(names) == 1 and "." not in reference.split("/", 1)[0] and ":" not in reference.split("/", 1)[0]:
        names.append("docker.io/" + reference)
    return names


def read_map(path: str) -> Iterator[tuple[str, str]]:
    """Yield the references and replacements of an image map."""
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            fields = line.split("#", 1)[0].split()
            if fields and len(fields) != 2:
                sys.exit(f'error: {path}, line {number}: expected "reference replacement", found: {line.strip()}')
            if fields:
                yield fields[0], fields[1]


def map_images(manifest: str, maps: list[str]) -> str:
    """Replace the images of a manifest by those of the maps, and imagePullPolicy Always by IfNotPresent."""
    for path in maps:
        for reference, replacement in read_map(path):
            for spelling in spellings(reference):
                manifest = re.sub(
                    rf"(?<![A-Za-z0-9_./:@-]){re.escape(spelling)}(?![A-Za-z0-9_./:@-])",
                    replacement.replace("\\", r"\\"),
                    manifest,
                )
    return re.sub(r"(imagePullPolicy[\"']?\s*:\s*[\"']?)Always\b", r"\1IfNotPresent", manifest)


def documents(manifest: str, are_types: bool) -> str:
    """Return the documents of a manifest that are resource types, or those that are not."""
    parts = re.split(r"^---(?: .*)?\n", manifest, flags=re.MULTILINE)
    is_type = re.compile(r"^kind: CustomResourceDefinition$", re.MULTILINE)
    has_content = re.compile(r"^[^#\s]", re.MULTILINE)
    chosen = [part for part in parts if has_content.search(part) and bool(is_type.search(part)) == are_types]
    return "---\n".join(part if part.endswith("\n") else part + "\n" for part in chosen)


def main(arguments: list[str]) -> None:
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
