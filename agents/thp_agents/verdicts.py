"""An evaluation's results as tables: scores with intervals, memory beside time, and how far prices decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from thp_agents.episode import Run
from thp_agents.scores import NEVER, ORACLE, Cost, Interval, Scores

FACTORS = (0.5, 1.0, 2.0)
"""On the price of page walks, and on that of memory."""

TWO_M = "2M"


def cost(run: Run, walk: float = 1.0, memory: float = 1.0) -> float:
    """Return what a run cost in ns per access, with other prices of page walks and memory.

    What did not run because memory ran out is charged as at the usual prices.
    """
    m = run.metrics
    dearer = (walk - 1) * m["walk_cost"] + (memory - 1) * (m["memory_cost"] + m["pending_memory_cost"])
    return -m["reward"] + dearer


@dataclass(frozen=True)
class Verdict:
    """What an evaluation found.

    Args:
        runs: of every policy on every case, with the static oracle's.
        headline: the learned policy that was chosen on validation; None: the best of them here.
        rival: the heuristic that was chosen on validation; None: the best of them here.
        resamples: of the bootstrap.
    """

    runs: Sequence[Run]
    kinds: dict[str, str]
    headline: str | None = None
    rival: str | None = None
    resamples: int = 2000

    @cached_property
    def scores(self) -> Scores:
        """At the usual prices."""
        return self.priced(1.0, 1.0)

    def priced(self, walk: float, memory: float) -> Scores:
        """Return the scores at other prices; the oracle's sizes stay those of the usual ones."""
        costs = [Cost(r.policy, r.training, r.family, r.workload, r.seed, cost(r, walk, memory)) for r in self.runs]
        return Scores(costs, self.resamples)

    def best(self, kind: str) -> str | None:
        """Return the policy of a kind that was chosen, or else scores best; None when there is none."""
        chosen = self.headline if kind == "learned" else self.rival
        of_kind = [name for name in self.scores.ranking() if self.kinds.get(name) == kind and name != ORACLE]
        return chosen if chosen in of_kind else next(iter(of_kind), None)

    def mean(self, policy: str, metric: str) -> float:
        """Return the mean of a metric over a policy's runs; NaN where none has it."""
        values = [r.metrics[metric] for r in self.runs if r.policy == policy and metric in r.metrics]
        return float(np.mean(values)) if values else float("nan")

    def relative(self, policy: str, metric: str) -> float:
        """Return the geometric mean, over cases, of a metric divided by that without large folios where that is not 0;
        NaN where there is no such case."""
        base = {(r.workload, r.seed): r.metrics[metric] for r in self.runs if r.policy == NEVER}
        runs = [r for r in self.runs if r.policy == policy and base[r.workload, r.seed]]
        if not runs:
            return float("nan")
        ratios = [r.metrics[metric] / base[r.workload, r.seed] for r in runs]
        return float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-9)))))

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows: one policy each, best interquartile mean first."""
        s = self.scores
        rows = []
        for name in s.ranking():
            trainings = sum(row == name for row, _ in s.rows)
            label = name + (f" ({trainings} trainings)" if trainings > 1 else "")
            if self.kinds.get(name) == "learned" and trainings == 1:
                label += " (1 training)"
            oom = sum(r.policy == name and r.reason == "oom" for r in self.runs)
            score = str(s.iqm(name)) if s.families else "-"
            rows.append([
                label + (f" ({oom} OOM)" if oom else ""), score, *(f"{v:.2f}" for v in s.score(name)),
                _number(self.relative(name, "time_ms"), 3), _number(self.relative(name, "resident_mib"), 3),
                _number(self.mean(name, "fault_us")), _number(self.mean(name, "fault_p99_us")),
            ])  # fmt: skip
        figures = ["time / never", "memory / never", "fault us", "p99 fault us"]
        return ["policy", "score (IQM, 95 %)", *s.families, *figures], rows

    def lead(self) -> str:
        """Say how the headline agent compares with the best single heuristic, and with 2M."""
        if not self.scores.families:
            return "On these workloads 4K everywhere and the oracle differ too little to score policies."
        learned, heuristic = self.best("learned"), self.best("heuristic")
        if learned is None or heuristic is None:
            return "There is nothing learned, or no heuristic, to compare."
        s = self.scores
        gap, share = s.difference(learned, heuristic), s.improvement(learned, heuristic)
        text = (
            f"{learned} scores {s.iqm(learned)}, {heuristic}, the best single heuristic, {s.iqm(heuristic)}: a "
            f"difference of {gap}; it is cheaper in {share:.0%} of paired runs."
        )
        if TWO_M in s.policies:
            text += f" 2M everywhere scores {s.iqm(TWO_M)}."
        return text

    def apart(self) -> list[str]:
        """Say in plain figures what workloads cost whose two ends differ by less than 2 %."""
        lines = []
        for name in self.scores.apart:
            by = {p: np.mean([cost(r) for r in self.runs if (r.policy, r.workload) == (p, name)]) for p in self.kinds}
            figures = ", ".join(f"{p} {v:.3f}" for p, v in sorted(by.items(), key=lambda item: item[1]))
            lines.append(f"{name} (ns per access): {figures}")
        return lines

    def prices(self) -> tuple[list[str], list[list[str]]]:
        """Return, for each pair of prices, the best three policies and the headline's lead over the heuristic."""
        rows = []
        learned, heuristic = self.best("learned"), self.best("heuristic")
        for walk in FACTORS:
            for memory in FACTORS:
                s = self.scores if walk == memory == 1 else self.priced(walk, memory)
                names = [name for name in s.ranking() if name != ORACLE]
                gap: Interval | str = s.difference(learned, heuristic) if learned and heuristic else "-"
                rows.append([f"{walk:g}", f"{memory:g}", ", ".join(names[:3]), str(gap)])
        return ["walk price", "memory price", "best three", "lead of the headline agent"], rows

    def improvements(self) -> tuple[list[str], list[list[str]]]:
        """Return the probability that the headline agent's run is cheaper than each other policy's."""
        learned = self.best("learned")
        others = [name for name in self.scores.ranking() if name not in (learned, ORACLE)]
        rows = [[name, f"{self.scores.improvement(learned, name):.2f}"] for name in others] if learned else []
        return ["against", f"probability that {learned} is cheaper"], rows


def _number(value: float, digits: int = 1) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"
