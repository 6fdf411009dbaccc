"""The search over settings, and the one rule that chooses among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from thp_agents.advice.outcomes import Figures, Simulator
from thp_agents.advice.settings import NEVER, Setting, around, first

STARTS = 2
"""Settings that the search goes on from."""
STEPS = 3
"""Rounds of going on, at most."""
FINALISTS = 8
"""Settings that are tried on all layouts, besides the present one."""
WORTH = 0.005
"""Share of the cost that advice has to save to be worth following."""
ALIKE = 0.1
"""Share of the best saving that a setting may miss to count as equal."""
CONFIDENCE = (5, 95)


@dataclass(frozen=True)
class Choice:
    """What is recommended.

    Attributes:
        present, advised: figures on all layouts; equal settings where nothing is better.
        never: figures of 4K alone.
        best: the best other setting within the memory that is allowed, whether it stands out or not.
        front: settings that no other beats in CPU time, usage and p99 of faults together, cheapest first.
        finalists: all that were tried on all layouts.
        saved: share of the present cost that the advised setting saves, and its interval.
        rest_ms: CPU time that a native run takes besides what is simulated, 0 where none was made.
        larger: a setting that would cost less and uses more memory than allowed, if there is one.
        own: where root has to set what is chosen, the best that the program's user can set alone, if it is worth it.
    """

    present: Figures
    advised: Figures
    never: Figures
    best: Figures
    front: list[Figures]
    finalists: list[Figures]
    saved: tuple[float, float, float]
    rest_ms: float
    larger: Figures | None
    own: Figures | None

    @property
    def leave(self) -> bool:
        """Whether nothing beats noise."""
        return self.advised.setting == self.present.setting


def saving(of: Figures, against: Figures, rest_ms: float = 0.0) -> tuple[float, float, float]:
    """Return the share of a cost that a setting saves, and an interval over layouts and draws of the costs."""
    whole = against.cost_draws + rest_ms * 1e6
    share = (against.cost_draws - of.cost_draws) / whole
    low, high = np.percentile(share, CONFIDENCE)
    mean = (against.cost_draws[:, 0] - of.cost_draws[:, 0]).mean() / whole[:, 0].mean()
    return float(mean), float(low), float(high)


def pareto(figures: Sequence[Figures]) -> list[Figures]:
    """Return those that no other beats in CPU time, usage and p99 of faults together, by cost."""
    figures = distinct(figures)
    points = np.array([(f.cpu_ms, f.usage_mib, f.p99_us) for f in figures])
    dominated = [bool(((points <= p).all(1) & (points < p).any(1)).any()) for p in points]
    front = (f for f, is_dominated in zip(figures, dominated, strict=True) if not is_dominated)
    return sorted(front, key=lambda f: f.cost_ms)


def distinct(figures: Sequence[Figures]) -> list[Figures]:
    """Return the first of those that come to the same figures: a knob that changes nothing is left out."""
    first_of: dict[tuple[float, ...], Figures] = {}
    for f in figures:
        first_of.setdefault(tuple(float(f"{x:.4g}") for x in (f.cpu_ms, f.usage_mib, f.peak_mib, f.p99_us)), f)
    return list(first_of.values())


def search(simulator: Simulator, present: Setting) -> list[Figures]:
    """Try the declared space on one layout: every set of sizes, then steps from the cheapest settings on."""
    figures = {f.setting: f for f in simulator.figures(first(simulator.programs, present))}

    def rank(setting: Setting) -> tuple[float, int]:
        return figures[setting].cost_ms, simplicity(setting, present)

    seeds = sorted(figures, key=rank)[:STARTS]
    for _ in range(STEPS):
        nearby = [n for s in seeds for n in around(s, simulator.programs[s.environment]) if n not in figures]
        if not nearby:
            break
        figures |= {f.setting: f for f in simulator.figures(list(dict.fromkeys(nearby)))}
        best = sorted(figures, key=rank)[:STARTS]
        if best == seeds:
            break
        seeds = best
    return list(figures.values())


def simplicity(setting: Setting, present: Setting) -> int:
    """Return how many things have to be changed; what becomes `always` for all programs of the host is one more."""
    parts = (setting.sizes != present.sizes, setting.defrag != present.defrag, setting.prctl != present.prctl,
             setting.max_ptes_none != present.max_ptes_none, setting.environment != present.environment,
             setting.collapse != present.collapse)  # fmt: skip
    wider = any(mode == "always" and (order, mode) not in present.sizes for order, mode in setting.sizes)
    return sum(parts) + wider + 2 * len(setting.advice)  # which needs the program's source


def choose(simulator: Simulator, present: Setting, more_memory: float, cpu: float | None = None) -> Choice:
    """Search, and choose by the rule.

    The cheapest by CPU time and memory at its price, of those whose peak usage exceeds the present one's by no more
    than allowed; of settings that keep nine tenths of what it saves, the one that changes least. Nothing, where the
    saving's interval reaches 0 or the saving is below `WORTH`.

    Args:
        simulator: runs settings.
        present: what the host has.
        more_memory: share of the present peak usage that advice may cost.
        cpu: CPU seconds of a native run under the present setting.
    """
    figures = search(simulator, present)
    order = distinct(sorted(figures, key=lambda f: (round(f.cost_ms, 3), simplicity(f.setting, present))))
    limit = next(f for f in figures if f.setting == present).peak_mib * (1 + more_memory)
    allowed = [f.setting for f in order if f.peak_mib <= limit]
    never = replace(NEVER, defrag=present.defrag, max_ptes_none=present.max_ptes_none)
    alone = [s for s in allowed if s.of_system == present.of_system and not s.advice and s != present]
    candidates = [present, never, *alone[:1], *allowed[:FINALISTS], *(f.setting for f in pareto(order)[:FINALISTS])]
    finalists = simulator.figures(list(dict.fromkeys(candidates)), simulator.layouts)
    now, none = finalists[:2]
    finalists.sort(key=lambda f: simplicity(f.setting, present))
    other_cpu_ms = 0.0 if cpu is None else cpu * 1e3 * (1 + simulator.longer / 2) - now.cpu_ms
    limit = now.peak_mib * (1 + more_memory)
    within = [f for f in finalists if f.peak_mib <= limit]
    cheapest = min(f.cost_ms for f in within)
    best = cheapest_within = min((f for f in within if f.cost_ms <= cheapest + ALIKE * (now.cost_ms - cheapest)),
               key=lambda f: (simplicity(f.setting, present), f.cost_ms))  # fmt: skip
    saved = saving(best, now, other_cpu_ms)
    if saved[0] < WORTH or saved[1] <= 0:
        best = now
    worth = WORTH * (now.cost_ms + other_cpu_ms)
    beyond = [f for f in finalists if f.peak_mib > limit and f.cost_ms < best.cost_ms - worth]
    larger = min(beyond, key=lambda f: f.cost_ms, default=None)
    by_root = best is not now and best.setting.of_system != present.of_system
    alternatives = [f for f in within if f.setting in alone[:1] and now.cost_ms - f.cost_ms > worth]
    own = alternatives[0] if by_root and alternatives else None
    return Choice(now, best, none, cheapest_within, pareto(finalists), finalists, saved, other_cpu_ms, larger, own)
