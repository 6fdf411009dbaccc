"""Runs policies on workloads and collects what each run costs."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from thp_agents.episode import Run, evaluate_one
from thp_agents.policy import Policy, PolicyError
from thp_env.files import whole_file


def evaluate(
    policies: Sequence[Policy], workloads: Iterable[Any], seeds: Sequence[int] = (0,), *, frames: int = 0,
    quiet: bool = False,
) -> tuple[list[Run], dict[str, str]]:  # fmt: skip
    """Run every policy on every workload and seed.

    Returns:
        The runs, and for each policy that failed the reason; its runs are left out, the others complete.

    Raises:
        PolicyError: when two policies have one name.
    """
    names = [p.name for p in policies]
    if twice := [name for name in names if names.count(name) > 1]:
        raise PolicyError(f"two policies are called {twice[0]!r}: a table could not tell them apart")
    runs: list[Run] = []
    failed: dict[str, str] = {}
    jobs = [(p, w, s) for w in workloads for s in seeds for p in policies]
    with tqdm(jobs, desc="evaluating", unit="run", disable=quiet) as bar:
        for policy, workload, seed in bar:
            if policy.name in failed:
                continue
            bar.set_postfix(policy=policy.name, refresh=False)
            try:
                runs.append(evaluate_one(policy, workload, seed, frames=frames))
            except PolicyError as error:
                failed[policy.name] = str(error)
    return [r for r in runs if r.policy not in failed], failed


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
    metrics = list(runs[0].metrics) if runs else []
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["policy", "workload", "seed", "decisions", "reason", *metrics])
    for r in runs:
        writer.writerow([r.policy, r.workload, r.seed, r.decisions, r.reason, *(repr(r.metrics[m]) for m in metrics)])
    write_text(path, out.getvalue())


def writable(path: str | os.PathLike) -> Path:
    """Return the path of a file that is to be written.

    Raises:
        PolicyError: when there is no folder to write it to, or something is there that is no file.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise PolicyError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PolicyError(f"cannot write {path}: no permission to write to {path.parent}")
    if path.exists() and not path.is_file():
        raise PolicyError(f"cannot write {path}: it is there and no file")
    return path


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a file, whole or not at all.

    Raises:
        PolicyError: when it cannot be written.
    """
    path = writable(path)
    try:
        with whole_file(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise PolicyError(f"cannot write {path}: {error.strerror or error}") from None
