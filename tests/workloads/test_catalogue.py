"""How workloads are found: by name, by file, from packages of third parties."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from support.episodes import small_program, small_workload

from thp_env import workload as catalogue
from thp_env.machine import Machine, MachineConfig, Status
from thp_env.traces import ProgramBuilder, ProgramError, save_program
from thp_env.workload import Instance, WorkloadError, find, fixed, memory_for, resolve, workloads

MIB = 1 << 20


def theirs() -> list:
    return [small_workload("theirs")]


def broken() -> list:
    raise RuntimeError("no licence")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Install entry points, (name, value), beside this package's own."""

    def set_entries(*entries: tuple[str, str]) -> None:
        own = ("builtin", "thp_workloads:catalogue")
        found = [EntryPoint(name, value, catalogue.GROUP) for name, value in (own, *entries)]
        monkeypatch.setattr(catalogue, "entry_points", lambda group: found if group == catalogue.GROUP else [])
        workloads.cache_clear()

    yield set_entries
    monkeypatch.undo()
    workloads.cache_clear()


def test_the_catalogue() -> None:
    found = workloads()
    assert {"hot_island", "alloc_purge", "python_dict", "sqlite_memory"} <= set(found)
    for name, workload in found.items():
        assert workload.name == name
        assert workload.kind in ("generator", "recording")
        assert workload.split in ("train", "validation", "test")
        assert workload.description
        assert "\n" not in workload.description
    families = {w.family: {v.split for v in found.values() if v.family == w.family} for w in found.values()}
    assert all(len(splits) == 1 for splits in families.values()), "no family on two sides"


def test_a_package_of_a_third_party(install) -> None:
    install(("acme", f"{__name__}:theirs"))
    assert "theirs" in workloads()
    assert find("theirs").sample(np.random.default_rng(0)).program.name == "small"


def test_two_packages_with_one_name_are_refused(install) -> None:
    install(("acme", f"{__name__}:theirs"), ("other", f"{__name__}:theirs"))
    with pytest.raises(WorkloadError, match="called theirs"):
        workloads()


@pytest.mark.parametrize("value", [f"{__name__}:broken", "no_such_package:catalogue", f"{__name__}:missing"])
def test_a_package_that_cannot_be_loaded_is_named(install, value: str) -> None:
    install(("acme", value))
    with pytest.raises(WorkloadError, match="acme") as refused:
        workloads()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("typed", "meant"), [("hot_iland", "hot_island"), ("alloc-purge", "alloc_purge"), ("sqlite_memry", "sqlite_memory")]
)
def test_a_misspelt_name_gets_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(WorkloadError, match=f"did you mean '{meant}'"):
        find(typed)


def test_files(tmp_path: Path) -> None:
    program = small_program()
    save_program(program, tmp_path / "mine.npz")
    workload = find(str(tmp_path / "mine.npz"))
    assert workload.name == "mine"
    assert workload.sample(np.random.default_rng(0)).program == program
    (tmp_path / "mine.txt").write_text("mmap a 1M\nwrite a 0 1M\n")
    assert len(find(str(tmp_path / "mine.txt")).sample(np.random.default_rng(0)).program) == 2


@pytest.mark.parametrize("name", ["gone.npz", "gone.txt", "binary.txt", "bad.txt", "cut.npz"])
def test_broken_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad.txt").write_text("mmap a 1M\nfly a 0 1M\n")
    save_program(small_program(), tmp_path / "whole.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-100])
    with pytest.raises((WorkloadError, ProgramError)) as refused:
        find(str(tmp_path / name))
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_environments_take() -> None:
    program, workload = small_program(), small_workload()
    assert [w.name for w in resolve(["hot_island", program, workload])] == ["hot_island", "small", "small"]
    instance = Instance(program, MachineConfig(memory=32 * MIB))
    assert resolve(instance)[0].sample(np.random.default_rng(0)) == instance
    for nothing in ([], None, 5, [None]):
        with pytest.raises(WorkloadError, match="no workload"):
            resolve(nothing)


def test_a_fixed_workload_is_always_the_same() -> None:
    program = small_program()
    workload = fixed("mine", program)
    assert workload.sample(np.random.default_rng(0)) == workload.sample(np.random.default_rng(1))


def test_memory_for_a_heap_that_grows_in_small_steps() -> None:
    """Thousands of brk calls map the last length, not the sum of all."""
    b = ProgramBuilder()
    for i in range(1, 2001):
        b.brk("heap", i * 32768)
    b.touch("heap", 0, 2000 * 32768)
    program = b.build()
    assert 2000 * 32768 * 1.25 <= memory_for(program) <= 2000 * 32768 * 1.25 + 64 * MIB
    assert Machine(program, MachineConfig(memory=memory_for(program))).run() == Status.DONE


def test_memory_for_regions_that_come_and_go_or_grow() -> None:
    b = ProgramBuilder()
    for i in range(100):
        b.mmap(f"a{i}", 64 * MIB, at="auto")
        b.munmap(f"a{i}", 0, 64 * MIB)
    assert memory_for(b.build()) < 200 * MIB
    b = ProgramBuilder()
    b.mmap("list", MIB, at=1 << 44)
    b.mremap("list", 0, MIB, "longer", 256 * MIB, at="auto")
    b.touch("longer", 0, 256 * MIB)
    program = b.build()
    assert memory_for(program) >= 256 * MIB
    assert Machine(program, MachineConfig(memory=memory_for(program))).run() == Status.DONE
    b = ProgramBuilder()
    b.mmap("file", 1 << 30, at="auto", file=True)
    assert memory_for(b.build()) == 64 * MIB
