"""The corpus: recordings of real programs in a package of their own, and how they are divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import thp_workloads
from thp_env_corpus import RECORDINGS, catalogue, families
from thp_workloads.collection import INDEX, add, read_index, workloads
from thp_workloads.recording.recipes import recipes
from thp_workloads.recordings import of_file
from thp_workloads.relocation import reach
from thp_workloads.splits import side_of

from thp_env.machine import Machine, Status
from thp_env.traces import Program, ProgramBuilder, ProgramError, load_program, save_program

LARGEST = 3 << 20
SIDES = ("train", "validation", "test")


def test_every_family_stands_on_one_side_with_its_relatives() -> None:
    for name, family in families().items():
        assert set(family) == {"side", "behaviour", "relatives"}, name
        assert family["side"] in SIDES
        assert {side_of(relative) for relative in family["relatives"]} <= {family["side"]}, name


def test_there_are_programs_of_many_kinds_on_each_side() -> None:
    known = recipes()
    assert len(known) >= 40
    assert not {w.name for w in thp_workloads.catalogue()} & set(known)
    assert {r.family for r in known.values()} == set(families()), "no family without a program, and none unknown"
    assert len({r.kind for r in known.values()}) >= 12
    test = [r for r in known.values() if families()[r.family]["side"] == "test"]
    assert len(test) >= 12
    assert len({r.kind for r in test}) >= 8
    # One allocator never serves both what is trained on and what is tested.
    for library in ("jemalloc", "tcmalloc", "mimalloc"):
        preloaded = [r for r in known.values() if library in r.environment.get("LD_PRELOAD", "")]
        assert len({families()[r.family]["side"] for r in preloaded}) <= 1


def test_the_index_names_what_there_is() -> None:
    entries = read_index(RECORDINGS)
    assert {f"{name}.npz" for name in entries} | {INDEX} == {path.name for path in RECORDINGS.iterdir()}
    for name, entry in entries.items():
        recipe = recipes()[name]
        assert (entry.family, entry.kind, entry.license) == (recipe.family, recipe.kind, recipe.license)
        assert set(entry.packages) == set(recipe.packages)
        assert all(entry.packages.values()), "each with its version"
    assert {w.name: w.split for w in catalogue()} == {n: families()[e.family]["side"] for n, e in entries.items()}


every_recording = pytest.mark.parametrize("name", read_index(RECORDINGS))


@every_recording
def test_a_recording_is_what_the_index_says(name: str) -> None:
    assert (RECORDINGS / f"{name}.npz").stat().st_size <= LARGEST
    recorded = load_program(RECORDINGS / f"{name}.npz")
    entry = read_index(RECORDINGS)[name]
    assert recorded.checksum == entry.checksum
    assert entry.footprint == reach(recorded)
    assert entry.touched == recorded.meta["touched_bytes"]
    errors = recorded.meta["sampling_error"]
    assert abs(errors["accesses"]) <= 0.02
    assert abs(errors["l1_misses"]) <= 0.03


@pytest.mark.full
@every_recording
def test_a_recording_runs_to_its_end_wherever_it_is_drawn(name: str) -> None:
    recorded = load_program(RECORDINGS / f"{name}.npz")
    workload = next(w for w in catalogue() if w.name == name)
    drawn = [workload.variant("drawn").draw(np.random.default_rng(seed)) for seed in range(2)]
    assert len({i.program.meta["mmap_base"] for i in drawn}) == 2
    for instance in [workload.draw(np.random.default_rng(0)), *drawn]:
        machine = Machine(instance.program, instance.config)
        assert machine.run(go_on=True) == Status.DONE
        assert machine.counters["accesses"] == recorded.work.sum()


def made(name: str = "mine") -> Program:
    b = ProgramBuilder(name, description="d", kind="k", family="f", license="MIT", packages={"p": "1"},
                       instructions=1000, touched_bytes=4096)  # fmt: skip
    b.mmap("a", 4096, at="auto")
    b.touch("a", 0, 4096)
    return b.build()


def test_a_collection(tmp_path: Path) -> None:
    assert read_index(tmp_path) == {}
    for name in ("b", "a"):
        save_program(made(name), tmp_path / f"{name}.npz")
        add(tmp_path, name, made(name))
    assert [(w.name, w.family, w.split) for w in workloads(tmp_path, {"f": "train"})] == [
        ("a", "f", "train"), ("b", "f", "train")]  # fmt: skip
    with pytest.raises(ProgramError, match="a is of the family 'f', which stands on no side"):
        workloads(tmp_path, {})


def test_a_recording_that_was_replaced(tmp_path: Path) -> None:
    add(tmp_path, "a", made())
    other = ProgramBuilder("other")
    other.mmap("b", 8192, at="auto")
    save_program(other.build(), tmp_path / "a.npz")
    with pytest.raises(ProgramError, match=r"a\.npz: not the recording that its index names"):
        workloads(tmp_path, {"f": "train"})[0].draw(np.random.default_rng(0))


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '{"a": {"family": "f"}}', "[]"])
def test_what_is_no_index(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(ProgramError, match=INDEX):
        read_index(tmp_path)


def test_a_recording_of_ones_own_has_seeds(tmp_path: Path) -> None:
    b = ProgramBuilder("own", mmap_base=0x7FFFF7FFF000, brk_start=0x555555556000)
    b.mmap("a", 4 << 20, at=0x7FFFF7000000)
    b.touch("a", 0, 4 << 20)
    save_program(b.build(), tmp_path / "own.npz")
    workload = of_file(tmp_path / "own.npz").variant("drawn")
    drawn = [workload.draw(np.random.default_rng(seed)) for seed in (0, 0, 1, 2)]
    assert drawn[0].program.checksum == drawn[1].program.checksum
    assert len({(i.program.meta["mmap_base"], i.config.memory) for i in drawn}) == 3
    save_program(made(), tmp_path / "elsewhere.npz")
    with pytest.raises(ProgramError, match="it does not say where it was mapped"):
        of_file(tmp_path / "elsewhere.npz")
