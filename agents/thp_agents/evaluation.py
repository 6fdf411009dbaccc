"""Runs policies on suites of workloads: in parallel, resumable, complete whatever one policy does."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

import thp_env
from thp_agents.episode import Run, evaluate_one
from thp_agents.learned import shipped
from thp_agents.mapping import mapped
from thp_agents.oracle import Found
from thp_agents.policy import Policy, PolicyError, find_policy
from thp_agents.records import stored_runs
from thp_agents.scores import ORACLE
from thp_agents.suites import Case, instance_of, workload_of
from thp_env.workload import Workload

LIMIT = 300.0
"""Seconds that one run may take; a policy that hangs is left out like one that raises."""


@dataclass(frozen=True)
class Entry:
    """A policy that takes part.

    Attributes:
        spec: what `find_policy` takes.
        name: in tables.
        training: seed of its training; 0 for heuristics.
        kind: "heuristic" or "learned".
        digest: of its file; "" for heuristics.
        curve: of its training, where its file has one: (decisions, mean return) of each checkpoint.
    """

    spec: str
    name: str
    training: int
    kind: str
    digest: str
    curve: tuple[tuple[int, float], ...] = ()

    @property
    def key(self) -> str:
        """What tells its runs from those of others."""
        return f"{self.name}#{self.training}{self.digest and ' ' + self.digest}"


def entry(spec: str) -> Entry:
    """Return what a spec names.

    Raises:
        PolicyError: as `find_policy`.
    """
    policy = find_policy(spec)
    meta = getattr(policy, "meta", {})
    path = Path(shipped().get(spec, spec))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.suffix == ".npz" else ""
    curve = tuple((int(n), float(r)) for n, r in meta.get("curve", ()))
    return Entry(spec, policy.name, int(meta.get("seed", 0)), policy.kind, digest, curve)


@dataclass(frozen=True)
class Failure:
    """A run that gave no result.

    Attributes:
        key: of the entry.
        case: where.
        reason: what happened.
    """

    key: str
    case: Case
    reason: str


def run_case(entries: Sequence[Entry], frames: int, limit: float, case: Case) -> list[Run | Failure]:
    """Run several policies on one case; the program is drawn once."""
    fixed = _fixed(case)
    results: list[Run | Failure] = []
    for e in entries:
        try:
            with time_limit(limit, e.name):
                run = evaluate_one(find_policy(e.spec), fixed, case.seed, frames=frames)
        except PolicyError as error:
            results.append(Failure(e.key, case, str(error)))
            continue
        run.policy, run.training, run.key, run.family, run.size = e.name, e.training, e.key, fixed.family, case.size
        run.workload = case.workload
        results.append(run)
    return results


def _fixed(case: Case) -> Workload:
    workload, instance = workload_of(case), instance_of(case)
    return Workload(
        workload.name, workload.kind, workload.family, workload.split, workload.description, lambda rng: instance
    )


@contextmanager
def time_limit(seconds: float, name: str) -> Iterator[None]:
    """Raise a `PolicyError` in the block when it takes too long; only in a process's main thread."""
    if threading.current_thread() is not threading.main_thread() or not seconds:
        yield
        return

    def late(number: int, frame: object) -> None:
        raise PolicyError(f"policy {name} took more than {seconds:g} s for one run")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Store:
    """Results on disk, a line each, so that an evaluation that was stopped goes on where it was.

    Args:
        path: the file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        """Read what is there. Lines of another version, and one that was cut off, do not count."""
        self.path, self.runs = path, dict[tuple[str, Case], Run]()
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PolicyError(f"{path}: cannot be read or made: {error.strerror or error}") from None
        if path.exists():
            for version, run in stored_runs(path):
                if version == thp_env.__version__:
                    self._keep(run)

    def _keep(self, run: Run) -> None:
        self.runs[run.key, Case(run.workload, run.size, run.seed)] = run

    def add(self, runs: Sequence[Run]) -> None:
        """Keep runs, and write them at once.

        Raises:
            PolicyError: when the file cannot be written.
        """
        for run in runs:
            self._keep(run)
        if self.path is None:
            return
        lines = [json.dumps({"version": thp_env.__version__, **asdict(r), "frames": []}) + "\n" for r in runs]
        try:
            with self.path.open("a") as file:
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise PolicyError(f"cannot write {self.path}: {error.strerror or error}; what it holds is kept: "
                              "make room and run the same command again") from None  # fmt: skip


def evaluate(
    entries: Sequence[Entry], cases: Sequence[Case], *, store: Path | None = None, frames: int = 0,
    processes: int = 1, ray: str | None = None, limit: float = LIMIT, quiet: bool = False,
) -> tuple[list[Run], list[Failure]]:  # fmt: skip
    """Run every policy on every case.

    Args:
        entries: the policies.
        cases: workloads with seeds.
        store: file of results, to go on from.
        frames: keep about so many pictures of the address space of each run; such runs are not taken from the store.
        processes: to run in.
        ray: as `mapping.mapped` takes it.
        limit: seconds that one run may take.
        quiet: no progress bar.

    Returns:
        The runs in the order of entries and cases, and what failed. A policy that failed once is left out of the runs.

    Raises:
        PolicyError: when two entries could not be told apart, or the store cannot be written.
    """
    _check_names([(e.name, e.training) for e in entries])
    kept = Store(store)
    todo: dict[tuple[Entry, ...], list[Case]] = {}
    for case in cases:
        missing = tuple(e for e in entries if frames or (e.key, case) not in kept.runs)
        if missing:
            todo.setdefault(missing, []).append(case)
    failures: list[Failure] = []
    with tqdm(total=sum(map(len, todo.values())), desc="evaluating", unit="case", disable=quiet) as bar:
        for missing, where in todo.items():
            for case, results in mapped(partial(run_case, missing, frames, limit), where, processes, ray):
                kept.add([r for r in results if isinstance(r, Run)])
                failures += [r for r in results if isinstance(r, Failure)]
                bar.set_postfix(workload=case.workload, refresh=False)
                bar.update()
    failures.sort(key=lambda f: (f.key, f.case))
    broken = {f.key for f in failures}
    return [kept.runs[e.key, case] for e in entries if e.key not in broken for case in cases], failures


def compare(
    policies: Sequence[Policy], workloads: Iterable[Any], seeds: Sequence[int] = (0,), *, frames: int = 0,
    quiet: bool = False,
) -> tuple[list[Run], dict[str, str]]:  # fmt: skip
    """Run policies on workloads of any kind, one after the other in this process.

    Returns:
        The runs, and for each policy that failed the reason; its runs are left out, the others complete.

    Raises:
        PolicyError: when two policies have one name.
    """
    _check_names([(p.name, 0) for p in policies])
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


def _check_names(names: Sequence[tuple[str, int]]) -> None:
    if twice := [name for name, training in names if names.count((name, training)) > 1]:
        raise PolicyError(f"two policies are called {twice[0]!r}: a table could not tell them apart")


def oracle_runs(found: dict[Case, Found]) -> list[Run]:
    """Return the static oracle's results as runs."""
    return [
        Run(ORACLE, case.workload, case.seed, result.metrics, 0, "done", key=ORACLE, size=case.size,
            family=workload_of(case).family)
        for case, result in found.items()
    ]  # fmt: skip

