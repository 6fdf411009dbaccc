"""References for policies: results of searches that know the program in advance.

They are stored like runs, with everything that determines them: a digest of the program and the machine, the
simulator's behaviour, the prices, the search space and the code of the search. The shipped file has no digest of the
code. After a change of a search, compute it again (`thp-env evaluate --recompute-references --save-references`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tqdm import tqdm

from thp_agents.evaluation.episode import Run
from thp_agents.evaluation.origin import code_digest
from thp_agents.evaluation.parallel import map_jobs, without_lost
from thp_agents.evaluation.store import Store
from thp_agents.evaluation.suites import Case, content, workload_of
from thp_agents.files import write_text
from thp_agents.policy import PolicyError
from thp_agents.records import Natural, convert, read_json
from thp_env.reading import reading

FOLDER = Path(__file__).parents[1] / "data"


class Outcome(NamedTuple):
    """The result of a search.

    Attributes:
        digest: of the instance.
        metrics: of the run; `reward` as of the environments.
        choices: the choice for each part that the search distinguishes.
    """

    digest: str
    metrics: dict[str, float]
    choices: dict[str, str]


class Result(msgspec.Struct, forbid_unknown_fields=True):
    """A result as a store holds it: the fields of `Outcome`."""

    digest: str
    metrics: dict[str, float]
    choices: dict[str, str]

    @property
    def outcome(self) -> Outcome:
        """The result."""
        return Outcome(self.digest, self.metrics, self.choices)


class Row(Result, forbid_unknown_fields=True, kw_only=True):
    """A result as the file holds it: the fields of `Case`, too."""

    workload: str
    size: str
    seed: Natural


class ReferenceFile(msgspec.Struct, forbid_unknown_fields=True):
    """The file: what determines all its results, and the results."""

    decided_by: dict[str, Any]
    results: list[Row]


@dataclass(frozen=True)
class Reference:
    """A search whose results are compared with policies.

    Attributes:
        name: in tables.
        title: in progress bars and errors.
        solve: searches a case; a function of a module.
        decided_by: returns what determines all results, independent of the case, as JSON.
        data: file of the shipped results.
    """

    name: str
    title: str
    solve: Callable[[Case], Outcome]
    decided_by: Callable[[], dict[str, Any]]
    data: Path

    def outcomes(
        self, wanted: Sequence[Case], *, recompute: bool = False, processes: int = 1, ray: str | None = None,
        quiet: bool = False, store: Store | None = None, search: Collection[Case] | None = None,
    ) -> dict[Case, Outcome]:  # fmt: skip
        """Return results: from the shipped data or the store if these are valid, else by searching.

        Args:
            wanted: cases.
            recompute: ignore the shipped data.
            processes: to search in.
            ray: as `parallel.map_jobs` takes it.
            quiet: no progress bar.
            store: gets each result when its search ends.
            search: cases that are searched if there is no result; None: all. Others without a result are left out.

        Returns:
            Results in the order of the cases; a case whose search killed its workers is left out.
        """
        shipped = {} if recompute else self.load()
        store = store or Store(None)
        common = {"what": self.name, "code": code_digest([self.solve.__module__]), **self.decided_by()}
        results, missing = dict[Case, Outcome](), dict[Case, dict[str, Any]]()
        for case in wanted:
            program = content(case)
            provenance = {**common, **case.as_dict(), "program": program}
            if case in shipped and shipped[case].digest == program:
                results[case] = shipped[case]
            elif record := store.get(provenance):
                with reading(store.path or "", PolicyError, "a store of results"):
                    results[case] = convert(record, Result, self._label(case)).outcome
            elif search is None or case in search:
                missing[case] = provenance
        with (
            tqdm(total=len(missing), desc=self.title, unit="run", disable=quiet or not missing) as bar,
            closing(map_jobs(self.solve, [*missing], processes, ray, self._label)) as results_by_case,
        ):
            for case, outcome in without_lost(results_by_case):
                store.add(missing[case], outcome._asdict())
                results[case] = outcome
                bar.update()
        return {case: results[case] for case in wanted if case in results}

    def _label(self, case: Case) -> str:
        return f"the search for the {self.title} of {case.workload} with seed {case.seed}"

    def runs(self, outcomes: dict[Case, Outcome]) -> list[Run]:
        """Return results as runs of a policy of this name."""
        return [
            Run(self.name, case.workload, case.seed, result.metrics, 0, "done", key=self.name, size=case.size,
                family=workload_of(case).family)
            for case, result in outcomes.items()
        ]  # fmt: skip

    def load(self, path: Path | None = None) -> dict[Case, Outcome]:
        """Read results; none where there is no file, or something else decided them.

        Raises:
            PolicyError: when the file is damaged.
        """
        data = _read(path or self.data, self.title)
        if data is None or data.decided_by != self.decided_by():
            return {}
        return {Case(r.workload, r.size, r.seed): r.outcome for r in data.results}

    def save(self, results: dict[Case, Outcome], path: Path | None = None) -> None:
        """Write results to the file; its results of other cases stay."""
        path = path or self.data
        outcomes = {**self.load(path), **results}
        rows = [{**case.as_dict(), **outcomes[case]._asdict()} for case in sorted(outcomes)]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"decided_by": self.decided_by(), "results": rows}, indent=1))
        _read.cache_clear()


@cache
def _read(path: Path, title: str) -> ReferenceFile | None:
    if not path.exists():
        return None
    try:
        return read_json(path, ReferenceFile, f"a file of results of the {title}")
    except PolicyError as error:
        raise PolicyError(f"{error}; use --recompute-references") from None
