"""The recipes of real programs, and what a native run is compared by."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from thp_workloads.recording.corpus import main
from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.native import faults, peak
from thp_workloads.recording.recipes import INPUTS, Recipe, read_recipe, recipes

MIB = 1 << 20
RECIPE = """
description = "d"
packages = ["nonesuch"]
license = "MIT"
kind = "k"
family = "f"
size = 2
small = 1
command = ["nonesuch-program", "{size}"]
"""


def test_every_recipe_can_be_read_and_every_input_is_used() -> None:
    known = recipes()
    assert {"perl_hash", "redis_churn"} <= set(known)
    for recipe in known.values():
        assert 0 < recipe.small < recipe.size
    used = " ".join(str([r.prepare, r.command, r.beside]) for r in known.values())
    assert all(path.name in used for path in INPUTS.iterdir() if path.is_file())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECIPE.replace('"k"', "1"), "kind is a str"),
        (RECIPE.replace("small = 1", "tiny = 1"), "unknown key tiny"),
        (RECIPE.replace("small = 1", ""), "missing 1 required positional argument: 'small'"),
        ("= 3", "Invalid statement"),
    ],
)
def test_what_is_no_recipe(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecordingError, match=message) as error:
        read_recipe(path)
    assert str(error.value).startswith(str(path))


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    with pytest.raises(RecordingError, match="mine needs more packages: apt-get install nonesuch"):
        read_recipe(path).record(None)


def test_an_unknown_recipe() -> None:
    with pytest.raises(RecordingError, match="unknown recipe nonesuch: there are "):
        main("list", ["nonesuch"], Path("corpus"), small=True, quiet=True)


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_recipe_is_recorded_in_a_folder_of_its_own(tmp_path: Path) -> None:
    recipe = Recipe(
        "mine", "d", ["coreutils"], "MIT", "k", "f", ["sort", "-o", "sorted", "numbers"], 3000, 300,
        prepare=[["sh", "-c", "seq {size} > numbers"]],
    )  # fmt: skip
    before = Path.cwd()
    program = recipe.record(tmp_path / "mine.npz", small=True, progress=False)
    assert program.meta["name"] == "mine"
    assert program.meta["exit_status"] == 0
    assert program.meta["size"] == 300
    assert program.meta["packages"]["coreutils"]
    assert os.listdir(tmp_path) == ["mine.npz"]
    assert Path.cwd() == before


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.parametrize(
    ("command", "beside", "message"),
    [
        (["sh", "-c", "exit 3"], [], "mine failed while it was recorded: exit status 3, not 0"),
        (["sh", "-c", "kill -SEGV $$"], [], "mine failed while it was recorded: signal 11"),
        (["sleep", "0.5"], ["sh", "client.sh"], "mine: what runs beside it failed: client.sh"),
    ],
)
def test_a_program_that_fails_is_no_recording(
    tmp_path: Path, command: list[str], beside: list[str], message: str
) -> None:
    recipe = Recipe("mine", "d", [], "MIT", "k", "f", command, 2, 1, beside=beside)
    with pytest.raises(RecordingError, match=message):
        recipe.record(tmp_path / "mine.npz", progress=False)
    assert os.listdir(tmp_path) == []


def test_there_is_nothing_to_check(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"there is no recording in .*: thp-env corpus record NAME --out"):
        main("check", [], tmp_path, small=True, quiet=True)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_a_native_run_is_measured(tmp_path: Path) -> None:
    source = r"""
    #include <sys/mman.h>
    int main(void) {
        volatile char *p = mmap(0, 64 << 20, 3, 0x22, -1, 0);
        madvise((char *)p, 64 << 20, MADV_HUGEPAGE);
        for (long i = 0; i < 64 << 20; i += 4096) p[i] = 1;
        for (volatile long i = 0; i < 200000000; i++) {}
        return 0;
    }
    """
    (tmp_path / "program.c").write_text(source)
    program = str(tmp_path / "program")
    subprocess.run(["gcc", "-O1", "-o", program, tmp_path / "program.c"], check=True)
    most, seconds = peak([program], os.environ)
    assert 64 * MIB <= most < 66 * MIB
    assert seconds > 0
    try:
        counted = faults([program], os.environ)
    except RecordingError as error:
        pytest.skip(str(error))
    assert 16384 <= counted < 16384 + 200


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_nobody_is_there_to_answer_and_what_never_ends_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thp_workloads.recording.recipes.LONGEST", 0.2)
    waits = Recipe("mine", "d", [], "MIT", "k", "f", ["sh", "-c", "read answer || echo $? > status"], 2, 1, status=0)
    assert waits.record(None, progress=False).meta["exit_status"] == 0
    with pytest.raises(RecordingError, match="mine did not end within 0 s of its own time"):
        Recipe("mine", "d", [], "MIT", "k", "f", ["sleep", "1000"], 2, 1).record(None, progress=False)
