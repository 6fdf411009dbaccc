"""The probe: it finds what is there and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest
from support.episodes import small_program
from thp_agents.probe import Classifier, Probe, collect, probe

from thp_env.traces import ProgramBuilder, save_program
from thp_env.workload import WorkloadError, find


def test_the_classifier_is_the_best_linear_one() -> None:
    """Two Gaussians a distance d apart can be told apart with probability Phi(d / 2), and not better."""
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=20_000)
    x = rng.normal(size=(20_000, 5))
    x[:, 2] += 2.0 * y
    right = (Classifier(x[:10_000], y[:10_000], 2)(x[10_000:]) == y[10_000:]).mean()
    assert right == pytest.approx(0.8413, abs=0.015)


def test_rare_classes_count_as_much_as_common_ones() -> None:
    rng = np.random.default_rng(1)
    y = (rng.random(8000) < 0.02).astype(int)
    x = rng.normal(size=(8000, 1)) + 2.0 * y[:, None]
    named = Classifier(x, y, 2)(x)
    assert (named == 1)[y == 1].mean() > 0.75
    assert (named == 0)[y == 0].mean() > 0.75


def test_three_classes_on_a_line_need_their_offsets() -> None:
    x = np.repeat([0.0, 1.0, 2.0], 50)[:, None]
    y = np.repeat([0, 1, 2], 50)
    assert (Classifier(x, y, 3)(x) == y).mean() > 0.6
    corners = np.eye(3)[y]
    assert (Classifier(corners, y, 3)(corners) == y).all()


@pytest.fixture
def programs(tmp_path) -> list[str]:
    """Two programs that a kernel can tell apart at sight, by the size of their only VMA."""
    save_program(small_program(), tmp_path / "mixed.npz")
    b = ProgramBuilder("large")
    b.mmap("a", 32 << 20)
    for i in range(16):
        b.touch("a", i << 21, 1 << 20, stride=16384)
        b.compute(12e6)
    save_program(b.build(), tmp_path / "large.npz")
    return [str(tmp_path / name) for name in ("mixed.npz", "large.npz")]


def test_what_differs_is_told_apart(programs: list[str]) -> None:
    found = probe(workloads=programs, seeds=2)
    assert set(found.recall) == {"mixed", "large"}
    assert found.guessing == 0.5
    assert found.accuracy > 0.9
    assert str(found).startswith("a probe names the family of")


def test_what_does_not_differ_is_not(programs: list[str], tmp_path) -> None:
    save_program(small_program(), tmp_path / "other.npz")
    found = probe(workloads=[programs[0], str(tmp_path / "other.npz")], seeds=2)
    assert found.accuracy == pytest.approx(0.5, abs=0.15)


def test_half_of_the_episodes_is_held_out(programs: list[str]) -> None:
    samples = collect("thp_env/VmaOrder-v0", [find(name) for name in programs], range(3), steps=4)
    assert len(samples.observations) == len(samples.family) <= 2 * 3 * 4
    assert samples.names == ("large", "mixed")
    assert Probe({"a": 1.0, "b": 0.0}, 0.5, 8).accuracy == 0.5


def test_one_family_is_refused(programs: list[str]) -> None:
    with pytest.raises(WorkloadError, match="two or more, not mixed"):
        probe(workloads=programs[:1])
