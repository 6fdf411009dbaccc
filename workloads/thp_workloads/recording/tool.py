"""The valgrind tool in `pagetrace/`: built where it is used, since it links to valgrind's libraries."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from thp_workloads.recording.errors import RecordingError

SOURCES = Path(__file__).resolve().parent / "pagetrace"
HEADERS = Path("/usr/include/valgrind")
PLATFORM = "amd64-linux"
TOOL = f"pagetrace-{PLATFORM}"
SPACE = "aspacemgr-linux.o"
"""End of the name of the object that manages the guest's address space."""
SYMBOLS = ("nsegments", "nsegments_used", "aspacem_maxAddr")
COMPILE = [
    "-O2", "-w", "-fno-stack-protector", "-fno-builtin", "-fomit-frame-pointer", "-fno-strict-aliasing", "-fno-pie",
    "-mno-avx", "-DVGA_amd64=1", "-DVGO_linux=1", "-DVGP_amd64_linux=1", "-DVGPV_amd64_linux_vanilla=1",
    f"-I{HEADERS}",
]  # fmt: skip
LINK = [
    "-static", "-nodefaultlibs", "-nostartfiles", "-no-pie", "-u", "_start", "-Wl,-Ttext-segment=0x58000000",
    "-Wl,--build-id=none",
]  # fmt: skip
"""As valgrind's own tools are built."""
OLDEST = (3, 18)


def valgrind() -> tuple[str, str]:
    """Return the path and the version of valgrind.

    Raises:
        RecordingError: when there is none, or too old a one.
    """
    path = shutil.which("valgrind")
    if path is None:
        raise RecordingError("recording needs valgrind: apt-get install valgrind")
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    numbers = answer.removeprefix("valgrind-").split(".")
    if len(numbers) < 2 or not all(part.isdigit() for part in numbers[:2]):
        raise RecordingError(f"{path} is not valgrind: --version says {answer[:60]!r}")
    if (int(numbers[0]), int(numbers[1])) < OLDEST:
        raise RecordingError(f"recording needs valgrind 3.18 or newer, not {answer}: apt-get install valgrind")
    return path, answer


def build_tool() -> Path:
    """Return a folder for VALGRIND_LIB that holds the tool, building it if it is not cached.

    The cache lies below XDG_CACHE_HOME and is keyed by the sources, the compiler's flags and valgrind's version.

    Raises:
        RecordingError: when something is missing; the message names the command that installs it.
    """
    _, version = valgrind()
    libraries, libexec = _parts()
    sources = sorted(SOURCES.glob("*.[ch]"))
    key = hashlib.sha256(repr((version, COMPILE, LINK)).encode())
    for source in sources:
        key.update(source.read_bytes())
    for library in libraries.values():
        stat = library.stat()
        key.update(f"{library} {stat.st_size} {stat.st_mtime_ns}".encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "thp_env" / f"pagetrace-{key.hexdigest()[:16]}"
    if (folder / TOOL).exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            new_folder = Path(scratch) / "lib"
            new_folder.mkdir()
            _build(Path(scratch), new_folder / TOOL, libraries)
            for file in libexec.iterdir():
                (new_folder / file.name).symlink_to(file)
            with suppress(OSError):  # another process was first
                new_folder.rename(folder)
    except OSError as error:
        raise RecordingError(f"cannot build the recorder's tool in {folder.parent}: {error.strerror}") from error
    if not (folder / TOOL).exists():
        raise RecordingError(f"cannot build the recorder's tool in {folder}: remove that folder")
    return folder


def _parts() -> tuple[dict[str, Path], Path]:
    """Return valgrind's static libraries by name, and the folder of its own tools."""
    if os.uname().machine != "x86_64":
        raise RecordingError(f"the recorder's tool is for x86-64, not {os.uname().machine}")
    names = {name: f"lib{name}-{PLATFORM}.a" for name in ("coregrind", "vex", "gcc-sup")}
    folders = [*Path("/usr/lib").glob("*/valgrind"), Path("/usr/lib/valgrind"), Path("/usr/libexec/valgrind")]
    place = next((f for f in folders if all((f / n).exists() for n in names.values())), None)
    tools = next((f for f in [Path("/usr/libexec/valgrind"), *folders] if (f / f"none-{PLATFORM}").exists()), None)
    if place is None or tools is None or not (HEADERS / "pub_tool_tooliface.h").exists():
        raise RecordingError("recording needs valgrind's static libraries and headers: apt-get install valgrind")
    if shutil.which("cc") is None:
        raise RecordingError("recording needs a C compiler: apt-get install gcc")
    if shutil.which("objcopy") is None or shutil.which("ar") is None:
        raise RecordingError("recording needs binutils: apt-get install binutils")
    return {name: place / file for name, file in names.items()}, tools


def _build(scratch: Path, tool: Path, libraries: dict[str, Path]) -> None:
    def call(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines()
            first = next((line for line in lines if "error" in line), lines[0] if lines else "")
            raise RecordingError(f"cannot build the recorder's tool ({command[0]}): {first[:200]}")
        return done.stdout

    for source in sorted(SOURCES.glob("*.c")):
        call("cc", *COMPILE, "-c", source, "-o", f"{source.stem}.o")
    # The guest's address space is 64 GiB in this version of valgrind; placement.c widens it, and needs its table.
    member = next((m for m in call("ar", "t", libraries["coregrind"]).split() if m.endswith(SPACE)), None)
    if member:
        call("ar", "x", libraries["coregrind"], member)
        call("objcopy", *(f"--globalize-symbol={name}" for name in SYMBOLS), member)
    objects = sorted(scratch.glob("*.o"))
    call("cc", *LINK, "-o", tool, *objects, libraries["coregrind"], libraries["vex"], libraries["gcc-sup"], "-lgcc")
