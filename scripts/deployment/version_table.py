"""Print the versions of a model as a human-readable table."""

from typing import Any


def print_versions(
    records: list[dict[str, Any]], shares: dict[str, int], never_ready: set[str], verdicts: dict[str, str]
) -> None:
    """Print one line per version: dates, metrics, share of the requests, verdict, and whose numbers it continues.

    Args:
        records: version.json of each version.
        shares: percent of the requests by version.
        never_ready: the versions whose pods have never been ready.
        verdicts: of the versions that an analysis or a retraining has decided about.
    """
    row = "{:<14} {:<17} {:<17} {:>9} {:>6} {:>10} {:>11}  {:<12}  {}"
    print(
        row.format("VERSION", "TRAINED", "UPLOADED", "V-MEASURE", "ARI", "SILHOUETTE", "TRAFFIC", "VERDICT", "NUMBERS")
    )
    for record in records:
        dates = [(record.get(name) or "-")[:16].replace("T", " ") for name in ("created", "uploaded")]
        metrics = record.get("metrics") or {}
        figures = [
            f"{metrics[name]:.3f}" if isinstance(metrics.get(name), (int, float)) else "-"
            for name in ("v_measure", "adjusted_rand_index", "silhouette")
        ]
        share = shares.get(record["version"])
        traffic = "never ready" if record["version"] in never_ready else f"{share} %" if share else "-"
        lineage = record.get("lineage")
        numbers = f"{lineage['agreement']:.1%} as in {lineage['earlier']['version']}" if lineage else "-"
        verdict = verdicts.get(record["version"], "-")
        print(row.format(record["version"], *dates, *figures, traffic, verdict, numbers))
