"""The static oracle: the best fixed sizes for each group of VMAs, known in advance; the 1 of the scores.

What the search finds never costs more than the best of the fixed settings for all VMAs. It need not be the best of
all combinations, and it bounds nothing: a policy may change its mind during a run, the oracle may not. Results are
kept with a digest of the program, the machine and the version of the simulator that they hold for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
from tqdm import tqdm

import thp_env
from thp_agents.mapping import mapped
from thp_agents.policy import PolicyError
from thp_agents.profile import SETTINGS, finish, run_setting, search
from thp_agents.records import Natural, read_json
from thp_agents.suites import Case, digest, instance_of
from thp_env.files import whole_file

DATA = Path(__file__).with_name("data") / "oracle.json"


class Found(NamedTuple):
    """What the search found.

    Attributes:
        digest: of the instance.
        metrics: of the run; `reward` as of the environments.
        chosen: sizes by group of VMAs.
    """

    digest: str
    metrics: dict[str, float]
    chosen: dict[str, str]


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """A result as the file holds it: the fields of `Case` and of `Found`."""

    workload: str
    size: str
    seed: Natural
    digest: str
    metrics: dict[str, float]
    chosen: dict[str, str]


class OracleFile(msgspec.Struct, forbid_unknown_fields=True):
    """The file."""

    version: str
    results: list[Row]


def search_case(case: Case) -> Found:
    """Search the best fixed sizes, from the best setting for all VMAs on."""
    instance = instance_of(case)
    costs = {sizes: finish(run_setting(instance, sizes))[0]["total_ns"] for sizes in SETTINGS.values()}
    machine, chosen = search(instance, min(costs, key=lambda sizes: (costs[sizes], sizes)))
    metrics, _ = finish(machine)
    metrics["reward"] = -metrics["total_ns"] / max(1.0, float(instance.program.work.sum()))
    return Found(digest(instance), metrics, chosen)


def oracle(
    wanted: Sequence[Case], *, recompute: bool = False, processes: int = 1, ray: str | None = None,
    quiet: bool = False, data: Path = DATA,
) -> dict[Case, Found]:  # fmt: skip
    """Return what the search finds for cases: from the shipped data where that holds, else by searching.

    Args:
        wanted: cases.
        recompute: search in any case.
        processes: to search in.
        ray: as `mapping.mapped` takes it.
        quiet: no progress bar.
        data: the file.
    """
    known = {} if recompute else load(data)
    found = {case: known[case] for case in wanted if case in known and known[case].digest == digest(instance_of(case))}
    missing = [case for case in wanted if case not in found]
    with tqdm(total=len(missing), desc="static oracle", unit="run", disable=quiet or not missing) as bar:
        for case, result in mapped(search_case, missing, processes, ray):
            found[case] = result
            bar.update()
    return {case: found[case] for case in wanted}


@cache
def load(path: Path = DATA) -> dict[Case, Found]:
    """Read results; none where there is no file, or another version of the simulator made it.

    Raises:
        PolicyError: when the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        data = read_json(path, OracleFile, "a file of oracle results")
    except PolicyError as error:
        raise PolicyError(f"{error}; use --recompute-oracle") from None
    if data.version != thp_env.__version__:
        return {}
    return {Case(r.workload, r.size, r.seed): Found(r.digest, r.metrics, r.chosen) for r in data.results}


def save(results: dict[Case, Found], path: Path = DATA) -> None:
    """Write results beside those of other cases that the file holds."""
    every = {**load(path), **results}
    rows = [
        {"workload": case.workload, "size": case.size, "seed": case.seed, **every[case]._asdict()}
        for case in sorted(every)
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(json.dumps({"version": thp_env.__version__, "results": rows}, indent=1).encode())
    load.cache_clear()
