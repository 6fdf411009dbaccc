"""graph_bfs: breadth-first searches over a Kronecker graph in compressed rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from thp_workloads.generator import Claim, Generator, Stage, number, part
from thp_workloads.surroundings import PAGE, pages


@dataclass(frozen=True, kw_only=True)
class GraphBfs(Generator):
    """Graph500 and the GAP suite: edges are generated, sorted into compressed rows, and searched from many roots.

    The list of edges is written once and unmapped when the rows are built; it may take the contiguous memory that
    the hot arrays need later. Each search maps its own parents and bitmaps; the hot set is a small part of all.

    Attributes:
        degree: edges a vertex.
        skew: Zipf exponent of how often a vertex is met: Kronecker graphs have a few large ones.
        roots: searches.
        generate: share of the run in which edges are generated and sorted.
    """

    name = "graph_bfs"
    family = "graph"
    summary = "breadth-first searches over a Kronecker graph"
    sources = (
        "Graph500 (edge factor 16, 64 roots) and GAP. PCC: 2M folios on a few percent of the footprint give 77 % of "
        "the gain of 2M everywhere on BFS."
    )
    claims = (
        Claim(
            "Elastic Translations: BFS 1.22 times as fast with 2M; PCC: 1.3 on average",
            "time_ms", "never", "2M", 1.1, 1.5,
        ),
    )
    pace = (4, 30)  # each access goes to another page: a miss of the cache, several at a time

    degree: int = number(16, 2, 256)
    skew: float = number(0.7, 0, 3)
    roots: int = number(8, 1, 1024)
    generate: float = number(0.55, 0.05, 0.95)

    def compose(self, s: Stage) -> None:
        """Generate, sort, search."""
        # 16 bytes an edge in the list, 8 in the rows; 8 a vertex for the offsets, 8 for the parents.
        vertices = max(4096, self.footprint // (24 * self.degree + 16))
        edges, offsets = pages(vertices * self.degree * 8), pages(vertices * 8)
        generating = max(2, round(self.phases * self.generate))
        s.b.mmap("list", 2 * edges, at="auto")
        for i in s.phases(generating // 2):
            at, length = part(2 * edges, i, generating // 2)
            if length:
                s.b.touch("list", at, length, content=60)
            s.idle()
        s.b.mmap("offsets", offsets, at="auto")
        s.b.mmap("rows", edges, at="auto")
        s.b.touch("offsets", 0, offsets, content=60)
        for i in s.phases(generating - generating // 2):
            at, length = part(edges, i, generating - generating // 2)
            if length:
                s.b.touch("rows", at, length, content=60)
            s.use("list", 0, 2 * edges, "stride", 0.2, stride=PAGE)
            s.use("offsets", 0, offsets, "zipf", 0.3, zipf=self.skew, write=0.5)
            s.idle(0.5)
        s.b.munmap("list", 0, 2 * edges)
        remaining = max(1, self.phases - s.at)
        for root in range(min(self.roots, remaining)):
            self._search(s, root, part(remaining, root, min(self.roots, remaining), 1)[1], edges, offsets)

    def _search(self, s: Stage, root: int, phases: int, edges: int, offsets: int) -> None:
        """Search from one root: a small frontier, a large one from bottom up, and a small one again."""
        parents, visited = f"parents{root}", f"visited{root}"
        s.b.mmap(parents, offsets, at="auto")
        s.b.mmap(visited, pages(offsets / 64), at="auto")
        s.b.touch(visited, 0, pages(offsets / 64), content=10)
        for i in s.phases(phases):
            at, length = part(offsets, i, phases)
            if length:
                s.b.touch(parents, at, length, content=50)
            wide = min(i + 1, phases - i) / ((phases + 1) / 2)
            s.use("rows", 0, edges, "zipf", 0.3 * (1 - wide) + 0.05, zipf=self.skew)
            s.use("rows", 0, edges, "stride", 0.15 * wide + 0.01, stride=PAGE)
            s.use("offsets", 0, offsets, "zipf", 0.2, zipf=self.skew)
            s.use(visited, 0, pages(offsets / 64), "uniform", 0.2, write=0.3)
            if at + length:
                s.use(parents, 0, at + length, "uniform", 0.25, write=0.3, content=50)
        s.b.munmap(parents, 0, offsets)
        s.b.munmap(visited, 0, pages(offsets / 64))

    @classmethod
    def draw(cls, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the graph's shape and the number of searches."""
        return {
            "degree": int(rng.integers(4, 33)),
            "skew": float(rng.uniform(0.4, 1.1)),
            "roots": int(rng.integers(4, 17)),
            "generate": float(rng.uniform(0.4, 0.7)),
        }
