"""Pictures of workloads: what they show is what the program did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import thp_workloads
from thp_agents.cli import main
from thp_workloads.drawing import show
from thp_workloads.trail import CELLS, COLUMNS, trail

from thp_env.machine import MachineConfig
from thp_env.traces import ProgramBuilder
from thp_env.workload import Instance, WorkloadError

MIB, PAGE = 1 << 20, 4096


def instance() -> Instance:
    """Return 2 MiB that are filled, of which the upper half is used, and a third given back in pieces."""
    b = ProgramBuilder()
    b.mmap("cold", 2 * MIB)
    b.touch("cold", 0, 2 * MIB)
    b.access("cold", MIB, MIB, "uniform", 4000, ns=1000, weight=10)
    for i in range(16):
        b.advise("cold", i * 16 * PAGE, 5 * PAGE, "dontneed")
    b.munmap("cold", MIB, MIB)
    b.compute(1e6)
    return Instance(b.build(), MachineConfig(memory=256 * MIB))


def test_what_is_seen() -> None:
    seen = trail(instance())
    assert seen.vmas.shape == seen.heat.shape == (CELLS, COLUMNS)
    assert seen.heat.sum() == pytest.approx(512 + 40_000)
    assert seen.heat[CELLS // 2 :].sum() == pytest.approx(256 + 40_000, rel=0.01), "the upper half is hot"
    assert [role for role, _ in seen.roles] == ["cold"]
    assert seen.resident[COLUMNS // 2] == pytest.approx(2, abs=0.1)
    assert seen.resident[-1] == pytest.approx(1 - 16 * 5 / 256, abs=0.1)
    assert seen.resident_2m[-1] == pytest.approx(2, abs=0.1), "a 2M folio holds on to what was given back"
    assert seen.mapped[0] == pytest.approx(2)
    assert seen.mapped[-1] == pytest.approx(1)
    expected = np.zeros(10)
    expected[2], expected[8] = 16 * 5 * PAGE, MIB  # 20K counts as 16K
    assert (seen.freed == expected).all()
    assert np.isnan(seen.limit).all()


def test_limits_are_seen() -> None:
    b = ProgramBuilder()
    b.mmap("a", 2 * MIB)
    b.touch("a", 0, MIB)
    b.compute(1e6)
    b.limit(64 * MIB)
    b.compute(1e6)
    limit = trail(Instance(b.build(), MachineConfig(memory=256 * MIB))).limit
    assert np.isnan(limit[0])
    assert limit[-1] == 64


@pytest.mark.parametrize("suffix", [".png", ".html"])
def test_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"picture{suffix}"
    (tiny,) = [w for w in thp_workloads.catalogue("tiny") if w.name == "js_heap"]
    show(tiny, 0, path)
    data = path.read_bytes()
    if suffix == ".png":
        assert data.startswith(b"\x89PNG")
    else:
        assert b"data:image/png;base64," in data
        assert b"http" not in data, "nothing is loaded from elsewhere"
    with pytest.raises(WorkloadError, match=r"\.png or \.html"):
        show(tiny, 0, tmp_path / "picture.gif")


def test_a_process_is_drawn_apart() -> None:
    (tiny,) = [w for w in thp_workloads.catalogue("tiny") if w.name == "android_switch"]
    seen = trail(tiny.sample(np.random.default_rng(1)))
    assert len(np.unique(seen.vmas)) > 5
    covered = (seen.vmas >= 0) | (seen.heat == 0)
    assert covered.mean() > 0.9, "what is accessed lies in a VMA"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.txt").write_text("mmap a 1M\nwrite a 0 1M\n")
    out = tmp_path / "mine.png"
    assert main(["workloads", "show", str(tmp_path / "mine.txt"), "--out", str(out)]) == 0
    assert out.exists()
    for wrong in (["show"], ["show", "nonsense"], ["show", "gups", "--out", str(tmp_path / "gone" / "a.png")]):
        capsys.readouterr()
        assert main(["workloads", *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
