#!/usr/bin/env python3
"""Replace the images of the manifest on standard input, and split it for the provisioning steps.

usage: manifests.py map [MAP…]            print the manifest with its images replaced; a MAP has lines of
                                          "reference replacement"
       manifests.py split FOLDER [MAP…]   the same into files of FOLDER: types.yaml (CustomResourceDefinitions),
                                          objects.yaml (everything else) and images (one per line)

Images are found in containers, in the JSON of a ConfigMap, in arguments and in environment variables.
imagePullPolicy Always becomes IfNotPresent: every image is loaded into the node beforehand, and without a registry
Always would fail.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

REFERENCE = r"[a-z0-9][a-zA-Z0-9._/-]*(?::[0-9]+/[a-z0-9._/-]+)?(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
# image: X, "image" : "X", queue-sidecar-image: X, --acme-http01-solver-image=X, and "X_IMAGE" followed by its value
NAMED = re.compile(
    rf"""(?:image["']?\s*[:=]\s*|_IMAGE["']?\s*\n\s*value:\s*)["']?({REFERENCE})["']?\s*(?:[,}}]|$)""",
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
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        sys.exit(f"error: cannot read the image map {path}: {error.strerror}")
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
                if spelling in manifest:  # most are not, and this search is much faster than that for whole words
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


def split(manifest: str, folder: Path) -> None:
    """Write the resource types, all other objects, and the list of the images to files of a folder."""
    (folder / "types.yaml").write_text(documents(manifest, are_types=True), encoding="utf-8")
    (folder / "objects.yaml").write_text(documents(manifest, are_types=False), encoding="utf-8")
    (folder / "images").write_text("".join(f"{image}\n" for image in list_images(manifest)), encoding="utf-8")


def main(arguments: list[str]) -> None:
    match arguments:
        case ["map", *maps]:
            sys.stdout.write(map_images(sys.stdin.read(), maps))
        case ["split", folder, *maps]:
            split(map_images(sys.stdin.read(), maps), Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
