#!/usr/bin/env python
"""Name clusters.

    python ./scripts/name_clusters.py > names.txt       write a template, to be completed in an editor
    python ./scripts/name_clusters.py names.txt         write the names into clusters.json and report.html

A line of names.txt is a cluster number and a name, "6 Ice hockey"; text after a # is ignored. Clusters without a name
or a line are left unnamed. The names are part of the model: the service shows them, and --like inherits them.
"""

import argparse
import html
import logging
import re
from pathlib import Path

from failure import report_errors
from model.artefacts import CLUSTERS_FILE, ArtefactError, as_json, read_summary, replacement

REPORT_FILE = "report.html"

log = logging.getLogger(Path(__file__).name)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="?", type=Path, metavar="FILE", help="file with cluster numbers and names")
    parser.add_argument("--model-dir", type=Path, default=Path("."), metavar="DIR", help="folder of clusters.json (.)")
    return parser.parse_args()


def main() -> None:
    logging.basicConfig(format="%(name)s: %(message)s")
    arguments = parse_arguments()
    with report_errors(log):
        name_clusters(arguments)


def name_clusters(arguments: argparse.Namespace) -> None:
    summary = read_summary(arguments.model_dir / CLUSTERS_FILE)
    if not arguments.names:
        return print(template(summary), end="")
    set_names(summary, read_names(arguments.names, [cluster["cluster"] for cluster in summary["clusters"]]))
    texts = {CLUSTERS_FILE: as_json(summary)}
    report = arguments.model_dir / REPORT_FILE
    if report.exists():
        texts[REPORT_FILE] = name_report(report.read_text(encoding="utf-8"), summary)
    with replacement(arguments.model_dir) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    print(f"{sum('name' in cluster for cluster in summary['clusters'])} clusters have a name: {', '.join(texts)}")


def template(summary: dict) -> str:
    lines = [
        f"{cluster['cluster']} {cluster.get('name', '')}  # {' '.join(term for term, _ in cluster['terms'])}\n"
        for cluster in summary["clusters"]
    ]
    return "".join(lines)


def read_names(path: Path, numbers: list[int]) -> dict[int, str]:
    """Read names by cluster number.

    Raises:
        ArtefactError: the file is not UTF-8, or a line is not a cluster number and a name.
    """
    names: dict[int, str] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ArtefactError(f"{path} is not UTF-8 ({error}).") from error
    for line_number, line in enumerate(lines, start=1):
        if not (words := line.partition("#")[0].split(maxsplit=1)):
            continue
        number, name = words[0], "".join(words[1:]).strip()
        if not number.isdecimal() or int(number) not in numbers:
            raise ArtefactError(
                f"line {line_number} of {path} begins with {number!r}, which is not a cluster of this model: "
                f"these are {', '.join(map(str, numbers))}."
            )
        if int(number) in names:
            raise ArtefactError(f"line {line_number} of {path} names cluster {number} again.")
        names[int(number)] = name
    return names


def set_names(summary: dict, names: dict[int, str]) -> None:
    for cluster in summary["clusters"]:
        cluster.pop("name", None)
        if names.get(cluster["cluster"]):
            cluster["name"] = names[cluster["cluster"]]


def name_report(page: str, summary: dict) -> str:
    """Replace the names in a report: <b data-name="NUMBER">NAME</b>."""
    names = {str(cluster["cluster"]): html.escape(cluster.get("name", "")) for cluster in summary["clusters"]}
    return re.sub(
        r'(<b data-name="(\d+)">)[^<]*(</b>)', lambda match: match[1] + names.get(match[2], "") + match[3], page
    )


if __name__ == "__main__":
    main()
