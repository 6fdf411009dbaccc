"""Runs policies on cases: in parallel and resumable; a policy that fails does not stop the others."""

from __future__ import annotations

import hashlib
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from thp_agents.catalogue import find_policy
from thp_agents.evaluation.episode import Run, evaluate_one
from thp_agents.evaluation.origin import policy_code
from thp_agents.evaluation.parallel import Lost, map_jobs
from thp_agents.evaluation.store import Store
from thp_agents.evaluation.suites import Case, content, digest, fixed_workload, instance_of
from thp_agents.learned import shipped
from thp_agents.policy import Policy, PolicyError
from thp_agents.records import convert
from thp_env.machine.behaviour import BEHAVIOUR
from thp_env.reading import reading
from thp_env.workload import Workload, WorkloadError, resolve

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
        code: digest of the code that decides (`origin.policy_code`).
        curve: of its training, where its file has one: (decisions, mean return) of each checkpoint.
        behaviour: of the simulator that it was trained on.
        policy: the policy itself, where no name finds it; such ones run in this process.
    """

    spec: str
    name: str
    training: int
    kind: str
    digest: str
    code: str
    curve: tuple[tuple[int, float], ...] = ()
    behaviour: int = BEHAVIOUR
    policy: Policy | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> str:
        """Distinguishes its runs from those of others."""
        return f"{self.name}#{self.training}{self.digest and ' ' + self.digest}"


def entry(policy: str | Policy) -> Entry:
    """Return the entry of a spec, or of a policy object.

    Raises:
        PolicyError: as `find_policy`.
    """
    if not isinstance(policy, str):
        return Entry("", getattr(policy, "name", ""), 0, getattr(policy, "kind", "heuristic"), "", "", policy=policy)
    spec, instance = policy, find_policy(policy)
    meta = getattr(instance, "meta", {})
    path = file_of(spec)
    bytes_of = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path else getattr(instance, "digest", "")
    curve = tuple((int(n), float(r)) for n, r in meta.get("curve", ()))
    training = int(meta.get("seed", 0))
    behaviour = int(meta.get("behaviour", 1)) if meta else BEHAVIOUR
    return Entry(spec, instance.name, training, instance.kind, bytes_of, policy_code(instance, spec), curve, behaviour)


def entries_of(specs: Sequence[str]) -> list[Entry]:
    """Return the policies that specs name; a name stands for all its shipped trainings.

    Raises:
        PolicyError: as `find_policy`.
    """
    trained = shipped()
    entries: list[Entry] = []
    for spec in specs:
        trainings = [name for name in trained if name.partition("#")[0] == spec]
        entries += [entry(name) for name in trainings or [spec]]
    return entries


def file_of(spec: str) -> Path | None:
    """Return the file of a trained policy, with or without add-ons; None for policies that have none."""
    trained = shipped()
    while not (spec in trained or spec.endswith(".npz")) and "+" in spec:
        spec = spec.rpartition("+")[0]
    return trained.get(spec) or (Path(spec) if spec.endswith(".npz") else None)


@dataclass(frozen=True)
class Failure:
    """A run without a result.

    Attributes:
        key: of the entry.
        case: of the run.
        reason: in words.
    """

    key: str
    case: Case
    reason: str


class Job(NamedTuple):
    """One run to be made: a policy on a case, which draws the program of this digest and is meant to run so long."""

    entry: Entry
    case: Case
    program: str
    horizon: float | None = None

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything that determines the result."""
        horizon = {"horizon": float(self.horizon)} if self.horizon else {}
        return {"what": "run", "policy": self.entry.key, "code": self.entry.code, **self.case.as_dict(),
                "program": self.program, "behaviour": BEHAVIOUR, **horizon}  # fmt: skip

    def __str__(self) -> str:
        """Name it for people."""
        return f"{self.entry.key} on {self.case.workload} with seed {self.case.seed}"


def run_job(frames: int, limit: float, job: Job) -> Run | Failure:
    """Run a policy on a case."""
    e, case = job.entry, job.case
    fixed = _unchanged_workload(case, job.program)
    try:
        with time_limit(limit, e.name):
            policy = e.policy or find_policy(e.spec)
            run = evaluate_one(policy, fixed, case.seed, frames=frames, horizon=job.horizon)
    except PolicyError as error:
        return Failure(e.key, case, str(error))
    run.policy, run.training, run.key, run.family, run.size = e.name, e.training, e.key, fixed.family, case.size
    run.workload = case.workload
    return run


@lru_cache(maxsize=1)
def _unchanged_workload(case: Case, program: str) -> Workload:
    """Return a case's workload with its instance drawn, once for all policies that run it one after the other."""
    instance = instance_of(case)
    if digest(instance) != program:
        raise WorkloadError(f"workload {case.workload} has changed since the evaluation began: start it again")
    return fixed_workload(case, instance)


AGAIN = 1.0
"""Seconds after which the end of a run's time is told again, if Python has ignored it, as in a finalizer."""


@contextmanager
def time_limit(seconds: float, name: str) -> Iterator[None]:
    """Raise a `PolicyError` in the block when it takes too long; only in a process's main thread."""
    if threading.current_thread() is not threading.main_thread() or not seconds:
        yield
        return

    def late(number: int, frame: object) -> None:
        raise PolicyError(f"policy {name} took more than {seconds:g} s for one run")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def evaluate(
    entries: Sequence[Entry], cases: Sequence[Case], *, store: Store | None = None, frames: int = 0,
    processes: int = 1, ray: str | None = None, limit: float = LIMIT, quiet: bool = False,
    horizon: float | None = None,
) -> tuple[list[Run], list[Failure]]:  # fmt: skip
    """Run every policy on every case.

    Args:
        entries: the policies.
        cases: workloads with seeds.
        store: results, to continue from.
        frames: about so many pictures of the address space of each run; such runs are not taken from the store.
        processes: to run in.
        ray: as `parallel.map_jobs` takes it.
        limit: the longest time of one run, in seconds.
        quiet: no progress bar.
        horizon: as `evaluate_one` takes it.

    Returns:
        The runs in the order of entries and cases, and what failed. A policy that failed once is left out of the runs.

    Raises:
        PolicyError: when two entries could not be told apart, or the store cannot be written.
        WorkloadError: when a case cannot be drawn.
    """
    _check_names([(e.name, e.training) for e in entries])
    store = store or Store(None)
    programs = {c: content(c) for c in cases}
    jobs = [Job(e, case, program, horizon) for case, program in programs.items() for e in entries]
    runs = {} if frames else {job: run for job in jobs if (run := _load_run(store, job))}
    todo = [job for job in jobs if job not in runs]
    failures: list[Failure] = []
    with (
        tqdm(total=len(todo), desc="evaluating", unit="run", disable=quiet) as bar,
        closing(map_jobs(partial(run_job, frames, limit), todo, processes, ray, str)) as results,
    ):
        for job, result in results:
            if isinstance(result, Run):
                runs[job] = result
                store.add(job.provenance, {**asdict(result), "frames": []})
            elif isinstance(result, Lost):
                failures.append(Failure(job.entry.key, job.case, result.reason))
            else:
                failures.append(result)
            bar.set_postfix(workload=job.case.workload, policy=job.entry.name, refresh=False)
            bar.update()
    failures.sort(key=lambda f: (f.key, f.case))
    broken = {f.key for f in failures}
    by_job = {(job.entry, job.case): run for job, run in runs.items()}
    return [by_job[e, case] for e in entries if e.key not in broken for case in cases], failures


def _load_run(store: Store, job: Job) -> Run | None:
    with reading(store.path or "", PolicyError, "a store of results"):
        record = store.get(job.provenance)
        if record is None:
            return None
        return convert(record, Run, f"the run of {job}")


def compare(
    policies: Sequence[str | Policy], workloads: Iterable[Any], seeds: Sequence[int] = (0,), *, frames: int = 0,
    quiet: bool = False,
) -> tuple[list[Run], dict[str, str]]:  # fmt: skip
    """Run policies on workloads of any kind, one after the other in this process.

    Args:
        policies: names as `find_policy` takes them, or policies.
        workloads: each as the environments take one.
        seeds: of each workload.
        frames: as `evaluate` takes them.
        quiet: no progress bar.

    Returns:
        The runs, and for each policy that failed the reason; its runs are left out, the others complete.

    Raises:
        PolicyError: when two policies have one name.
    """
    variants = [w for workload in workloads for w in resolve(workload)]
    cases = [Case(w.name, "", seed, w) for w in variants for seed in seeds]
    entries = [entry(policy) for policy in policies]
    runs, failures = evaluate(entries, cases, frames=frames, limit=0, quiet=quiet)
    return runs, {f.key.partition("#")[0]: f.reason for f in reversed(failures)}


def _check_names(names: Sequence[tuple[str, int]]) -> None:
    if twice := [name for name, training in names if names.count((name, training)) > 1]:
        raise PolicyError(f"two policies are called {twice[0]!r}: a table could not tell them apart")
