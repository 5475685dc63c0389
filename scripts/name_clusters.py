#!/usr/bin/env python
"""Name clusters.

    python ./scripts/name_clusters.py > names.txt       write a template, to be completed in an editor
    python ./scripts/name_clusters.py names.txt         write the names into clusters.json and report.html

A line of names.txt is a cluster number and a name, "6 Ice hockey". A # between spaces begins a comment, the one in "C#"
does not. Clusters without a name or a line are left unnamed. The names are part of the model: the service shows them, and --like inherits them.
"""

import argparse
import html
import logging
import re
from pathlib import Path

from command_line import encoding
from corpus.encodings import read_text
from failure import BadInput, report_errors
from model.artefacts import CLUSTERS_FILE, as_json, list_terms, read_summary, replacement

REPORT_FILE = "report.html"
COMMENT = re.compile(r"(?:^|\s)#(?:\s|$)")

log = logging.getLogger(Path(__file__).name)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="?", type=Path, metavar="FILE", help="file with cluster numbers and names")
    parser.add_argument("--model-dir", type=Path, default=Path("."), metavar="DIR", help="folder of clusters.json (.)")
    parser.add_argument("--encoding", type=encoding, help="encoding of the names file (detected)")
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
    text = read_names_file(arguments.names, arguments.encoding)
    set_names(summary, read_names(arguments.names, text, [cluster["cluster"] for cluster in summary["clusters"]]))
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
        f"{cluster['cluster']} {cluster.get('name', '')}  # {list_terms(cluster)}\n" for cluster in summary["clusters"]
    ]
    return "".join(lines)


def read_names_file(path: Path, encoding: str | None) -> str:
    """Read a text file as editors save it; Notepad's are UTF-8, UTF-16 or ANSI.

    Raises:
        BadInput: it is not a text file, or its encoding is not known.
    """
    if (decoded := read_text(path.read_bytes(), str(path), encoding)) is None:
        raise BadInput(f"{path} is not a text file.")
    return decoded[0].removeprefix("\ufeff")


def read_names(path: Path, text: str, numbers: list[int]) -> dict[int, str]:
    """Parse names by cluster number.

    Raises:
        BadInput: a line is not a cluster number and a name.
    """
    names: dict[int, str] = {}
    for line_number, line in enumerate(text.splitlines(), start=1):
        if not (words := COMMENT.split(line)[0].split(maxsplit=1)):
            continue
        number, name = words[0], "".join(words[1:]).strip()
        if not number.isdecimal() or int(number) not in numbers:
            raise BadInput(
                f"line {line_number} of {path} begins with {number!r}, which is not a cluster of this model: "
                f"these are {', '.join(map(str, numbers))}."
            )
        if int(number) in names:
            raise BadInput(f"line {line_number} of {path} names cluster {number} again.")
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
