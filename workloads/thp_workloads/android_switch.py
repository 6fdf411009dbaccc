"""android_switch: apps forked from a zygote, switched between, compressed to zram in the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number
from thp_workloads.surroundings import PAGE, pages

REGION = 256 * 1024
"""Bytes of a region of ART's heap, also of a thread's allocation buffer."""


@dataclass(frozen=True, kw_only=True)
class AndroidSwitch(Generator):
    """A phone: the user switches between apps, memory is short, and apps in the background go to zram.

    Every app is forked from the zygote, and writes to a few of its pages: the more code it runs, the more classes it
    initialises. These pages are adjacent, because ART's image writer puts the objects that apps write to next to each
    other (dirty-image-objects). The app allocates regions in ART's heap, which a collection frees again, and memory in
    a malloc heap, of which Scudo gives back single pages. After some time in the background, a whole app is written to
    zram. When it returns to the screen, it is read back page by page. If there are too many apps, the oldest is killed.

    Attributes:
        apps: alive at a time.
        dwell: phases until the user turns to another app.
        zygote: share of the footprint that is mapped before the first fork.
        cow: the zygote's pages that an app writes to, as a share of its own allocations in the same time.
        dalvik: share of an app's memory in ART's heap.
        collect: share of ART's regions that a collection frees.
        release: share of an app's malloc pages that Scudo gives back when the app goes to the background.
        cached: apps that stay in memory; those that are longer in the background are compressed.
        working: share of an app's memory that is used again when it returns to the screen.
    """

    name = "android_switch"
    family = "phone"
    summary = "apps forked from a zygote, switched between, compressed in the background"
    sources = (
        "OPPO (Barry Song, 2023): zRAM of 4 to 8 GB at 1:4, CoW about 3 % of large folios; large folios fail for 50 % "
        "after an hour and 90 % after two. CachedAppOptimizer compresses cached apps with MADV_PAGEOUT."
    )
    claims = (
        Claim(
            "LWN 974826: half of the 64K allocations fail after an hour",
            "fallback_share", "64K", "never", 0.25, 1.0,
        ),
    )
    pace = (150, 1500)
    time_scale = 0.4
    swaps_itself = True
    aged = (0.7, 0.99)

    apps: int = number(8, 2, 60)
    dwell: int = number(3, 1, 1000)
    zygote: float = number(0.08, 0.005, 0.5)
    cow: float = number(0.034, 0, 1)
    dalvik: float = number(0.5, 0.05, 0.95)
    collect: float = number(0.4, 0, 1)
    release: float = number(0.15, 0, 1)
    cached: int = number(3, 1, 60)
    working: float = number(0.4, 0.01, 1)

    @property
    def touched(self) -> float:
        """Share of the footprint that it touches at a time, at most."""
        return 0.6

    def compose(self, s: Stage) -> None:
        """Switch from app to app."""
        zygote = pages(self.footprint * self.zygote)
        s.b.mmap("zygote", zygote, at="auto")
        s.b.touch("zygote", 0, zygote, content=35)
        memory = self.footprint * (1 - self.zygote) / self.apps
        recent: list[_App] = []  # the one on the screen first
        app_count, zygote_bytes = 0, 0
        while s.at < self.phases:
            if len(recent) < max(2, self.apps // 2) or s.rng.random() < 0.35:
                if len(recent) >= self.apps:
                    s.b.slice("P")
                    s.b.exit(recent.pop().process)
                app = _App(s, self, app_count, memory * s.rng.uniform(0.5, 1.0), zygote_bytes)
                app_count += 1
            else:
                app = recent.pop(min(len(recent) - 1, 1 + int(s.rng.exponential(1.5))))
            recent.insert(0, app)
            if len(recent) > 1:
                recent[1].leave(s, self)
            if len(recent) > self.cached:
                recent[self.cached].compress(s)
            dwell = min(self.phases - s.at, 1 + int(s.rng.exponential(self.dwell)))
            for i in s.phases(max(1, dwell)):
                app.seen(s, self, i, max(1, dwell), zygote)
            zygote_bytes = max(zygote_bytes, app.dirtied)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the user's habits and the apps' shapes."""
        apps = int(rng.integers(4, 13))
        return {
            "apps": apps,
            "dwell": int(rng.integers(1, 5)),
            "zygote": float(rng.uniform(0.04, 0.15)),
            "cow": float(rng.uniform(0.02, 0.05)),
            "dalvik": float(rng.uniform(0.3, 0.7)),
            "collect": float(rng.uniform(0.2, 0.7)),
            "release": float(rng.uniform(0.05, 0.4)),
            "cached": int(rng.integers(1, apps)),
            "working": float(rng.uniform(0.2, 0.8)),
        }


class _App:
    """One app: a process with ART's heap and a malloc heap."""

    def __init__(self, s: Stage, g: AndroidSwitch, number: int, memory: float, zygote_bytes: int) -> None:
        self.process = f"app{number}"
        self.regions = max(2, int(memory * g.dalvik) // REGION)
        self.native = max(16 * PAGE, pages(memory * (1 - g.dalvik)))
        self.live = np.zeros(self.regions, bool)
        self.native_size = 0
        self.allocated, self.dirtied = 0, 0
        s.b.slice("P")
        if zygote_bytes:  # ZygoteHooks.preFork runs in the zygote, so what apps write to is in use there, too
            s.b.touch("zygote", 0, zygote_bytes, "read")
        s.b.fork(self.process)
        s.b.slice(self.process)
        s.b.mmap(self._name("dalvik"), self.regions * REGION, at="auto")
        s.b.mmap(self._name("native"), self.native, at="auto")

    def _name(self, heap: str) -> str:
        return f"{self.process}.{heap}"

    def seen(self, s: Stage, g: AndroidSwitch, i: int, phases: int, zygote: int) -> None:
        """Be on the screen for a phase: allocate, and use earlier memory."""
        s.b.slice(self.process)
        free = np.flatnonzero(~self.live)
        for k in free[: max(1, self.regions // (3 * phases))]:
            s.b.touch(self._name("dalvik"), int(k) * REGION, REGION, content=30)
            self.live[k] = True
            self.allocated += REGION
        if self.native_size < self.native:
            step = min(self.native - self.native_size, pages(self.native / (2 * phases)))
            s.b.touch(self._name("native"), self.native_size, step, content=35)
            self.native_size += step
            self.allocated += step
        if (cow_bytes := min(zygote, int(self.allocated * g.cow) // PAGE * PAGE)) > self.dirtied:
            s.b.touch("zygote", self.dirtied, cow_bytes - self.dirtied, content=35)
            self.dirtied = cow_bytes
        used = max(PAGE, int(self.native_size * g.working) // PAGE * PAGE)
        s.use(self._name("native"), 0, used, "zipf", 0.4, zipf=0.8, write=0.3, content=35)
        there = np.flatnonzero(self.live)
        there = there[: max(1, int(len(there) * g.working))]
        sample = there[s.rng.integers(len(there), size=min(6, len(there)))]
        for k in sample:
            s.use(self._name("dalvik"), int(k) * REGION, REGION, "uniform", 0.5 / len(sample), write=0.4, content=30)
        s.use("zygote", 0, zygote, "zipf", 0.1, zipf=0.9)

    def leave(self, s: Stage, g: AndroidSwitch) -> None:
        """Go to the background: a collection frees whole regions, Scudo single pages."""
        s.b.slice(self.process)
        for k in np.flatnonzero(self.live):
            if s.rng.random() < g.collect:
                s.b.advise(self._name("dalvik"), int(k) * REGION, REGION, "dontneed")
                self.live[k] = False
        for page in np.flatnonzero(s.rng.random(self.native_size // PAGE) < g.release)[:400]:
            s.b.advise(self._name("native"), int(page) * PAGE, PAGE, "dontneed")

    def compress(self, s: Stage) -> None:
        """Be written to zram."""
        s.b.slice(self.process)
        s.b.advise(self._name("dalvik"), 0, self.regions * REGION, "pageout")
        s.b.advise(self._name("native"), 0, self.native, "pageout")
