"""Switches of the simulated kernel, and the presets of them. `docs/reference/features.md` says what each changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from thp_env.machine import _core

FEATURES: tuple[str, ...] = _core.FEATURES
"""Every switch; its position is its bit."""

PRESETS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "mainline-6.18": frozenset({"fork_batch"}),
        "oppo-5.15": frozenset(
            {"entire_mapcount", "page_count_reuse", "vma_64k", "cow_64k", "zero_64k", "swapin_whole", "reclaim_whole",
             "pool_64k"}
        ),
    }
)  # fmt: skip
"""Linux 6.18, and the kernel that OPPO ships on Android phones, as its author described it to linux-mm in 2023."""


def feature_set(features: str | Iterable[str]) -> frozenset[str]:
    """Return the switches of a preset, or of a set of names.

    Raises:
        ValueError: naming an unknown switch.
    """
    if isinstance(features, str):
        if features not in PRESETS:
            raise ValueError(f"no preset {features!r}; there are {', '.join(PRESETS)}, or give a set of switches")
        return PRESETS[features]
    names = frozenset(features)
    if unknown := names - set(FEATURES):
        raise ValueError(f"no such feature: {', '.join(sorted(unknown))}; there are {', '.join(FEATURES)}")
    return names


FOLDED = frozenset({"entire_mapcount", "zero_64k"})
"""Switches that need folded PTEs."""


def with_features(features: str | Iterable[str], more: Iterable[str], arch: str) -> str | frozenset[str]:
    """Return a set of switches with more of them, as far as the architecture can have them."""
    names = frozenset(more) - (FOLDED if arch == "x86_64" else frozenset())
    return feature_set(features) | names if names else features if isinstance(features, str) else frozenset(features)


def feature_mask(features: str | Iterable[str]) -> int:
    """Return the bits of a preset or of a set of switches."""
    names = feature_set(features)
    return sum(1 << bit for bit, name in enumerate(FEATURES) if name in names)
