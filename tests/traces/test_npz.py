"""The file form: round trip, and clear refusals of files that are damaged or something else."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from support.programs import QUIET, programs

from thp_env.traces import ProgramError, load_program, parse_program, save_program
from thp_env.traces.npz import FORMAT, checksum

TEXT = """
seed 5
mmap a 4M at=auto
access a 0 4M zipf count=1000 ns=2 write=0.3
replay a:4:w:3:100 a:5:r:1:7
access a 0 1M gauss count=10
"""


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "work.npz"
    program = parse_program(TEXT, "work", source="by hand", version=3)
    save_program(program, path)
    return program, path


def test_round_trip(saved):
    program, path = saved
    loaded = load_program(path)
    assert loaded == program
    assert loaded.meta == program.meta
    assert loaded.seed == 5
    assert [p.name for p in path.parent.iterdir()] == ["work.npz"]


@QUIET
@given(programs())
def test_round_trip_of_any_program(tmp_path_factory, program):
    path = tmp_path_factory.mktemp("npz") / "x.npz"
    save_program(program, path)
    assert load_program(path) == program


def test_the_same_program_has_the_same_checksum_and_any_change_another(saved):
    program, path = saved
    assert checksum(load_program(path)) == checksum(program)
    for name in ("ops", "accesses", "bins"):
        for column in getattr(program, name).dtype.names:
            changed = getattr(program, name).copy()
            changed[column][-1] ^= 1
            assert checksum(replace(program, **{name: changed})) != checksum(program), (name, column)
    assert checksum(replace(program, seed=6)) != checksum(program)
    assert checksum(replace(program, regions=("b",))) != checksum(program)


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 0.3, 0.9, -1])
def test_a_truncated_file_is_refused(saved, keep):
    _, path = saved
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ProgramError, match=r"work\.npz: ") as caught:
        load_program(path)
    assert "\n" not in str(caught.value)


def test_any_flipped_byte_is_refused_or_harmless(saved):
    """Zip headers hold dates and such: what still loads must be the same program."""
    program, path = saved
    data = path.read_bytes()
    refused = 0
    for position in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x40
        path.write_bytes(damaged)
        try:
            loaded = load_program(path)
        except ProgramError as error:
            refused += str(path) in str(error)
        else:
            assert loaded == program
    assert refused > len(data) // 7 // 2


def rewritten(path, change):
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.pop("ops.length"), "not a trace program"),
        (lambda a: a.pop("header"), "not a trace program"),
        (lambda a: a.update(header=np.frombuffer(b"{", np.uint8)), "not a trace program"),
        (lambda a: a.update(header=np.frombuffer(b"[]", np.uint8)), "not a trace program"),
        (lambda a: a.update(header=np.frombuffer(json.dumps({"format": FORMAT + "9"}).encode(), np.uint8)), "version"),
        (lambda a: a.update({"ops.length": a["ops.length"][:-1]}), "does not fit"),
        (lambda a: a.update({"ops.length": a["ops.length"].astype(float)}), "does not fit"),
        (lambda a: a.update({"ops.length": a["ops.length"] + np.uint64(1)}), "damaged: its checksum"),
        (lambda a: a.update(tables=np.zeros(3, np.uint32)), "not a trace program"),
    ],
)
def test_a_foreign_or_changed_file_is_refused(saved, change, reason):
    _, path = saved
    rewritten(path, change)
    with pytest.raises(ProgramError, match=reason) as caught:
        load_program(path)
    assert "work.npz" in str(caught.value)


def test_pickles_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.npy", pickle.dumps(Bomb()))
    with pytest.raises(ProgramError):
        load_program(path)
    np.savez(path, header=np.array([{}], dtype=object))
    with pytest.raises(ProgramError, match="not a trace program"):
        load_program(path)


def test_files_that_cannot_be_read_or_written(tmp_path, saved):
    program, _ = saved
    with pytest.raises(ProgramError, match="no such file"):
        load_program(tmp_path / "none.npz")
    with pytest.raises(ProgramError, match="not a regular file"):
        load_program(tmp_path)
    (tmp_path / "text.npz").write_text("mmap a 4K\n")
    with pytest.raises(ProgramError, match=r"text\.npz: "):
        load_program(tmp_path / "text.npz")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ProgramError, match="cannot write"):
        save_program(program, tmp_path / "no" / "such" / "folder.npz")
    with pytest.raises(ProgramError, match="cannot write"):
        save_program(program, tmp_path)
    assert sorted(tmp_path.iterdir()) == before
