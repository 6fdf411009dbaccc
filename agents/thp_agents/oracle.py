"""The static oracle: the best fixed sizes for each group of VMAs, known in advance; the 1 of the scores.

What the search finds never costs more than the best of the fixed settings for all VMAs. It need not be the best of
all combinations, and it bounds nothing: a policy may change its mind during a run, the oracle may not. Results are
kept with what decides them: a digest of the program and the machine, the simulator's behaviour, the prices, and what
the search tries. Whoever changes how it searches recomputes those that ship.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tqdm import tqdm

from thp_agents.mapping import completed, mapped
from thp_agents.origin import code_digest
from thp_agents.policy import PolicyError
from thp_agents.profile import CANDIDATES, GROUPS, ROUNDS, SETTINGS, finish, run_setting, search
from thp_agents.records import Natural, converted, read_json
from thp_agents.store import Store
from thp_agents.suites import Case, content, digest, instance_of
from thp_agents.tables import write_text
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.machine.prices import Prices
from thp_env.reading import reading

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


class Result(msgspec.Struct, forbid_unknown_fields=True):
    """A result as a store holds it: the fields of `Found`."""

    digest: str
    metrics: dict[str, float]
    chosen: dict[str, str]

    @property
    def found(self) -> Found:
        """The result."""
        return Found(self.digest, self.metrics, self.chosen)


class Row(Result, forbid_unknown_fields=True, kw_only=True):
    """A result as the file holds it: the fields of `Case`, too."""

    workload: str
    size: str
    seed: Natural


class OracleFile(msgspec.Struct, forbid_unknown_fields=True):
    """The file: `decided_by` and results."""

    behaviour: int
    prices: dict[str, float]
    search: dict[str, Any]
    results: list[Row]


def search_case(case: Case) -> Found:
    """Search the best fixed sizes, from the best setting for all VMAs on."""
    instance = instance_of(case)
    costs = {sizes: finish(run_setting(instance, sizes))[0]["total_ns"] for sizes in SETTINGS.values()}
    machine, chosen = search(instance, min(costs, key=lambda sizes: (costs[sizes], sizes)))
    metrics, _ = finish(machine)
    metrics["reward"] = -metrics["total_ns"] / max(1.0, float(instance.program.work.sum()))
    return Found(digest(instance), metrics, chosen)


def decided_by() -> dict[str, Any]:
    """Return what decides all results, whatever the case, as JSON has it."""
    tried = {"settings": [*SETTINGS.values()], "candidates": [*CANDIDATES], "groups": GROUPS, "rounds": ROUNDS}
    return {"behaviour": BEHAVIOUR, "prices": asdict(Prices()), "search": tried}


def oracle(
    wanted: Sequence[Case], *, recompute: bool = False, processes: int = 1, ray: str | None = None,
    quiet: bool = False, data: Path = DATA, store: Store | None = None,
) -> dict[Case, Found]:  # fmt: skip
    """Return what the search finds for cases: from the shipped data or the store where these hold, else by searching.

    Args:
        wanted: cases.
        recompute: the shipped data do not count.
        processes: to search in.
        ray: as `mapping.mapped` takes it.
        quiet: no progress bar.
        data: the file of shipped data.
        store: what is found is kept in it, as each search ends.

    Returns:
        What was found, in the order of the cases; one whose search killed its workers is left out.
    """
    known = {} if recompute else load(data)
    store = store or Store(None)
    common = {"what": "oracle", "code": code_digest(["thp_agents.oracle"]), **decided_by()}
    found, missing = dict[Case, Found](), dict[Case, dict[str, Any]]()
    for case in wanted:
        drawn = content(case)
        made = {**common, **asdict(case), "program": drawn}
        if case in known and known[case].digest == drawn:
            found[case] = known[case]
        elif kept := store.get(made):
            with reading(store.path or "", PolicyError, "a store of results"):
                found[case] = converted(kept, Result, _named(case)).found
        else:
            missing[case] = made
    with (
        tqdm(total=len(missing), desc="static oracle", unit="run", disable=quiet or not missing) as bar,
        closing(mapped(search_case, [*missing], processes, ray, _named)) as results,
    ):
        for case, result in completed(results):
            store.add(missing[case], result._asdict())
            found[case] = result
            bar.update()
    return {case: found[case] for case in wanted if case in found}


def _named(case: Case) -> str:
    return f"the search for the static oracle of {case.workload} with seed {case.seed}"


@cache
def load(path: Path = DATA) -> dict[Case, Found]:
    """Read results; none where there is no file, or something else decided them.

    Raises:
        PolicyError: when the file is damaged.
    """
    if not path.exists():
        return {}
    try:
        data = read_json(path, OracleFile, "a file of oracle results")
    except PolicyError as error:
        raise PolicyError(f"{error}; use --recompute-oracle") from None
    if {"behaviour": data.behaviour, "prices": data.prices, "search": data.search} != decided_by():
        return {}
    return {Case(r.workload, r.size, r.seed): r.found for r in data.results}


def save(results: dict[Case, Found], path: Path = DATA) -> None:
    """Write results beside those of other cases that the file holds."""
    every = {**load(path), **results}
    rows = [{**asdict(case), **every[case]._asdict()} for case in sorted(every)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({**decided_by(), "results": rows}, indent=1))
    load.cache_clear()
