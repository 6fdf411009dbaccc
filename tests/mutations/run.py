"""Disables the kernel's rules one by one in a copy of the source, and looks whether the recordings notice.

    python tests/mutations/run.py [RULE ...]

builds the copy in build/mutations, once for each rule, replays the recorded scenario that is named for it, and prints
what differed. The exit status is 1 if a disabled rule goes unnoticed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from rules import MUTATIONS

ROOT = Path(__file__).parents[2]
TREE = ROOT / "build" / "mutations"
CMAKE = Path(sys.executable).parent / "cmake"
MACHINE = TREE / "thp_env" / "machine"
# An editable install would be found before the copy.
REPLAY = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, sys.argv[2])
from thp_env.conformance import read_recordings, replay
from thp_env.machine import _core
from pathlib import Path
assert _core.__file__.startswith(sys.argv[2]), _core.__file__
found = [r for r in read_recordings(Path("tests/data/rules.jsonl.xz")) if r["name"] == sys.argv[1]]
print(replay(found[0]).difference)
"""


TEST = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "ScikitBuild" not in type(finder).__name__]
sys.path.insert(0, sys.argv[2])
import contextlib, io, pytest
from thp_env.machine import _core
assert _core.__file__.startswith(sys.argv[2]), _core.__file__
with contextlib.redirect_stdout(io.StringIO()) as out:
    code = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", sys.argv[1]])
failed = [line for line in out.getvalue().splitlines() if line.startswith("E ")]
print(failed[0] if failed else None if code == 0 else out.getvalue())
"""


def update(source: str, target: str) -> None:
    """Copy a file that differs, so that only that is built again."""
    if not Path(target).exists() or Path(source).read_bytes() != Path(target).read_bytes():
        shutil.copyfile(source, target)


def prepare() -> None:
    """Copy the source and configure its build."""
    for folder in ("thp_env", "workloads/thp_workloads/recording"):
        shutil.copytree(ROOT / folder, TREE / folder, dirs_exist_ok=True, copy_function=update)
    update(str(ROOT / "CMakeLists.txt"), str(TREE / "CMakeLists.txt"))
    subprocess.run(
        [CMAKE, "-S", TREE, "-B", TREE / "build", "-G", "Ninja",
         "-DCMAKE_BUILD_TYPE=Release", f"-DPython_EXECUTABLE={sys.executable}",
         f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={MACHINE}"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def build() -> None:
    """Bring the core up to date."""
    subprocess.run([CMAKE, "--build", TREE / "build", "--target", "_core"], check=True, capture_output=True)


def difference(scenario: str) -> str:
    """Return the first difference of a scenario on the core that was built, "None" when there is none.

    A test stands for what no recording shows: the difference is the line that says why it failed.
    """
    code = TEST if "::" in scenario else REPLAY
    run = subprocess.run(
        [sys.executable, "-P", "-c", code, scenario, TREE],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if run.returncode > 0:
        raise SystemExit(run.stderr)
    return " ".join(run.stdout.split()) or f"the machine crashed (signal {-run.returncode})"


def mutated(rule: str) -> str:
    """Disable a rule, and return what its scenario shows."""
    name, old, new, scenario = MUTATIONS[rule]
    path = MACHINE / name
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"{rule}: {name} holds {text.count(old)} times: {old}")
    path.write_text(text.replace(old, new))
    try:
        build()
        return difference(scenario)
    finally:
        path.write_text(text)


def main(rules: list[str]) -> int:
    """Run the mutations of some rules, or of all; return how many went unnoticed."""
    prepare()
    build()
    chosen = sorted(rules or MUTATIONS, key=lambda rule: MUTATIONS[rule][0])  # each file is compiled once more a rule
    for scenario in {MUTATIONS[rule][3] for rule in chosen}:
        if (shown := difference(scenario)) != "None":
            raise SystemExit(f"{scenario} differs without any mutation: {shown}")
    missed = 0
    for rule in chosen:
        shown = mutated(rule)
        missed += shown == "None"
        print(f"{rule}: {MUTATIONS[rule][3]}: {'UNNOTICED' if shown == 'None' else shown}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
