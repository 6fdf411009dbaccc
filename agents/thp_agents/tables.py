"""Tables of runs, and files written whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thp_agents.episode import Run
from thp_agents.policy import PolicyError
from thp_env.files import check_writable, whole_file

COLUMNS = {
    "walk cycles/access": ("walk_cycles_per_access", "{:.2f}"),
    "TLB reach": ("tlb_reach", "{:.3f}"),
    "resident MiB": ("resident_mib", "{:.1f}"),
    "wasted MiB": ("wasted_mib", "{:.1f}"),
    "faults": ("faults", "{:.0f}"),
    "splits": ("splits", "{:.0f}"),
    "time ms": ("time_ms", "{:.1f}"),
    "reward": ("reward", "{:.3f}"),
}
"""Columns of the table: (metric, format)."""


def ranking(runs: Sequence[Run]) -> list[str]:
    """Return the names of the policies, best mean reward first, equal ones by name."""
    return sorted({r.policy for r in runs}, key=lambda name: (-mean(runs, name, "reward"), name))


def mean(runs: Sequence[Run], policy: str, metric: str) -> float:
    """Return the mean of a metric over a policy's runs."""
    return float(np.mean([r.metrics[metric] for r in runs if r.policy == policy]))


def table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows: one policy each, means over workloads and seeds, best reward first."""
    rows = []
    for name in ranking(runs):
        oom = sum(r.reason == "oom" for r in runs if r.policy == name)
        values = [form.format(mean(runs, name, metric)) for metric, form in COLUMNS.values()]
        rows.append([name + (f" ({oom} OOM)" if oom else ""), *values])
    return ["policy", *COLUMNS], rows


def format_table(header: list[str], rows: list[list[str]], markdown: bool = False) -> str:
    """Return the table as text, or as Markdown."""
    if markdown:
        lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---", *["---:"] * (len(header) - 1)]) + "|"]
        return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in [header, *rows]
    )


def write_csv(runs: Sequence[Run], path: str | os.PathLike) -> None:
    """Write one row a run.

    Raises:
        PolicyError: when the file cannot be written.
    """
    out = io.StringIO()
    metrics = list(dict.fromkeys(name for r in runs for name in r.metrics))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["policy", "training", "family", "workload", "seed", "decisions", "reason", *metrics])
    for r in runs:
        facts = [r.policy, r.training, r.family, r.workload, r.seed, r.decisions, r.reason]
        writer.writerow([*facts, *(repr(r.metrics[m]) if m in r.metrics else "" for m in metrics)])
    write_text(path, out.getvalue())


def writable(path: str | os.PathLike) -> Path:
    """Return the path of a file that is to be written.

    Raises:
        PolicyError: when there is no folder to write it to, or what is there can be neither replaced nor written to.
    """
    try:
        check_writable(path)
    except OSError as error:
        raise PolicyError(f"cannot write {path}: {error.strerror or error}") from None
    return Path(path)


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        PolicyError: when it cannot be written.
    """
    path = writable(path)
    try:
        with whole_file(path) as file:
            file.write(data)
    except OSError as error:
        raise PolicyError(f"cannot write {path}: {error.strerror or error}") from None


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        PolicyError: when it cannot be written.
    """
    write_bytes(path, text.encode())
