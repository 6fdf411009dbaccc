"""Render modes, and the record of an episode that they show."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from thp_env.envs.panels import FOLIO_COLORS, HEIGHT, NOTHING, SYMBOLS, WIDTH, ZERO, duration
from thp_env.envs.picture import LEVELS, Moment, draw, folio_map, free_mib
from thp_env.machine import Counters, Machine
from thp_env.machine.sizes import size_name

__all__ = ["FOLIO_COLORS", "NOTHING", "RENDER_MODES", "ZERO", "Renderer", "folio_map", "text"]

RENDER_MODES = ["rgb_array", "human", "ansi"]
FPS = 10


class Renderer:
    """Records an episode and draws it.

    Args:
        title: above the picture.
        mode: one of `RENDER_MODES`.
        moments: steps that are recorded; in longer episodes, neighbouring ones are merged.

    Raises:
        ValueError: for an unknown mode.
    """

    def __init__(self, title: str, mode: str, moments: int = 360) -> None:
        """Open no window yet."""
        if mode not in RENDER_MODES:
            raise ValueError(f"render_mode {mode!r} is not supported: one of {', '.join(RENDER_MODES)}")
        self.title, self.mode, self.limit = title, mode, moments
        self.begin()
        self._screen: Any = None

    def begin(self) -> None:
        """Forget the last episode."""
        self.moments: list[Moment] = []
        self.steps = 0
        self._merge, self._pending = 1, list[Moment]()
        self._last: Counters | None = None
        self.totals: dict[str, float] = {}

    def note(self, machine: Machine, terms: dict[str, float]) -> None:
        """Remember a step that has just been taken; after a reset there are no terms."""
        now = machine.counters
        window = now - self._last if self._last is not None else now
        self._last = now
        if not terms:
            return
        self.steps += 1
        for name, value in terms.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        n = max(1, window["accesses"])
        first, walks = window["dtlb_l1_miss"] / n, window["dtlb_l2_miss"] / n
        walks = min(walks, first)
        self._pending.append(Moment(now.clock_ps / 1e9, (1 - first, first - walks, walks), dict(terms)))
        if len(self._pending) == self._merge:
            self.moments.append(_merge(self._pending))
            self._pending = []
        if len(self.moments) >= 2 * self.limit:
            self.moments = [_merge(self.moments[i : i + 2]) for i in range(0, len(self.moments), 2)]
            self._merge *= 2

    def render(self, machine: Machine | None, subtitle: str = "") -> np.ndarray | str | None:
        """Return the picture, uint8 of shape (600, 800, 3), or the text; `None` after showing it in a window.

        Raises:
            gymnasium.error.ResetNeeded: when there is no episode yet.
            gymnasium.error.DependencyNotInstalled: when "human" finds no pygame.
        """
        if machine is None:
            raise gymnasium.error.ResetNeeded("call reset() before render(): there is nothing to show yet")
        now = [duration(machine.clock_ps / 1e9), f"decision {self.steps}"]
        if self.totals:
            now.append(f"reward so far {sum(self.totals.values()):.4g}")
        headline = "   ".join([self.title, subtitle, *now])
        if self.mode == "ansi":
            return text(machine, headline, self.moments)
        picture = draw(machine, headline, self.moments, self.totals)
        if self.mode == "rgb_array":
            return picture
        self._show(picture)
        return None

    def close(self) -> None:
        """Close the window."""
        if self._screen is not None:
            import pygame

            pygame.display.quit()
            self._screen = None

    def _show(self, picture: np.ndarray) -> None:
        try:
            import pygame
        except ImportError:
            raise gymnasium.error.DependencyNotInstalled(
                'render_mode "human" opens a window with pygame: pip install pygame, or use "rgb_array"'
            ) from None
        if self._screen is None:
            pygame.display.init()
            self._screen = pygame.display.set_mode((WIDTH, HEIGHT))
            pygame.display.set_caption(self.title)
        pygame.event.pump()
        self._screen.blit(pygame.surfarray.make_surface(picture.swapaxes(0, 1)), (0, 0))
        pygame.display.flip()


def _merge(moments: list[Moment]) -> Moment:
    names = dict.fromkeys(name for m in moments for name in m.terms)
    terms = {name: sum(m.terms.get(name, 0.0) for m in moments) for name in names}
    shares = np.mean([m.translated for m in moments], axis=0)
    return Moment(moments[-1].ms, (float(shares[0]), float(shares[1]), float(shares[2])), terms)


def text(machine: Machine, headline: str, moments: list[Moment], width: int = 72, rows: int = 6) -> str:
    """Return the same as text: one character a cell, the order of the folio there."""
    cells, _ = folio_map(machine, width * rows)
    strip = "".join(SYMBOLS[int(order)] for order in cells)
    lines = [headline, "address space by order of the folio (z zero page, . nothing):"]
    lines += [strip[at : at + width] for at in range(0, len(strip), width)]
    free, unused = free_mib(machine)
    free_text = "  ".join(f"{size_name(order)} {mib:.1f}" for order, mib in enumerate(free) if mib)
    lines.append(f"free MiB by block: {free_text}{'  ' if free_text else ''}never used {unused:.1f}")
    if moments:
        shares = zip(LEVELS, moments[-1].translated, strict=True)
        lines.append("translated by: " + "  ".join(f"{name} {share:.1%}" for (name, _), share in shares))
        lines.append("reward: " + "  ".join(f"{name} {value:+.3g}" for name, value in moments[-1].terms.items()))
    return "\n".join(lines) + "\n"
