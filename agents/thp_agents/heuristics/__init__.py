"""Published rules, one file each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from thp_agents.heuristics import kernel_settings
from thp_agents.heuristics.cbmm import Cbmm
from thp_agents.heuristics.damos_ethp import DamosEthp
from thp_agents.heuristics.ebpf_mm import EbpfMm
from thp_agents.heuristics.hawkeye import HawkEye, HawkEyePaper
from thp_agents.heuristics.ingens import Ingens
from thp_agents.heuristics.leshy import Leshy
from thp_agents.heuristics.mthp_autopilot import MthpAutopilot
from thp_agents.heuristics.mthp_ext import MthpExt
from thp_agents.heuristics.oppo import Oppo
from thp_agents.heuristics.pcc import Pcc
from thp_agents.heuristics.quicksilver import Quicksilver
from thp_agents.heuristics.random_sizes import Random
from thp_agents.heuristics.utilisation import Utilisation
from thp_agents.policy import Policy

_CLASSES: tuple[type[Policy], ...] = (
    Oppo, Ingens, HawkEye, HawkEyePaper, Cbmm, Leshy, Pcc, EbpfMm, DamosEthp, MthpExt, MthpAutopilot,
    Utilisation, Random,
)  # fmt: skip
_QUICKSILVER = (("sync", 1), ("sync", 64), ("async", 64), ("async", 256))

POLICIES: dict[str, Callable[[], Policy]] = {
    **kernel_settings.POLICIES,
    **{c.name: c for c in _CLASSES},
    **{f"quicksilver_{mode}_{pages}": partial(Quicksilver, mode, pages) for mode, pages in _QUICKSILVER},
}
"""A maker for each heuristic, by name."""
