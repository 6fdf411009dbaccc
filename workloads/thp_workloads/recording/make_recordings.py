"""Makes the shipped recordings: `python -m thp_workloads.recording.make_recordings [NAME ...]`.

The recorded programs lie in `programs/`. The files in `thp_workloads/data` were made on Debian 12 with

- python_dict: python3 (3.11.2), glibc's malloc;
- sqlite_memory: sqlite3 (3.40.1) with libjemalloc2 (5.3.0) preloaded, which database servers often run with.
  It returns memory by madvise after its decay of 10 s; lackey, which recorded it, runs the program a thousand times
  slower, so the decay is that much shorter in the program's own time;
- redis_server: redis-server (7.0.15, jemalloc) under the load of redis_load.py on loopback, with THP left on;
- zstd_long: zstd (1.5.4) with a window of 128 MB on Unicode's tables, from libperl5.36;
- make_tcc: GNU make (4.3) with two jobs and tcc (0.9.27), children followed;
- java_interpreter: java -Xint (OpenJDK 17), its heap collected serially; javac makes its class first.

They were made with valgrind's lackey. Made anew they are not the same, since the recorder's own tool is closer to a
native run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from thp_workloads.recording.errors import RecordingError
from thp_workloads.recording.record import record

DATA = Path(__file__).resolve().parents[1] / "data"
PROGRAMS = Path(__file__).resolve().parent / "programs"

RECORDINGS: dict[str, dict[str, Any]] = {
    "python_dict": {
        "command": ["/usr/bin/python3", "-I", "dictionaries.py"],
    },
    "sqlite_memory": {
        "command": ["/usr/bin/sqlite3", ":memory:", ".read memory_table.sql"],
        "environment": {"LD_PRELOAD": "libjemalloc.so.2"},
    },
    "redis_server": {
        "command": ["/usr/bin/redis-server", "--port", "7401", "--save", "", "--appendonly", "no",
                    "--disable-thp", "no"],
        "beside": [sys.executable, "redis_load.py", "7401"],
    },
    "zstd_long": {
        "command": ["/usr/bin/zstd", "-q", "-15", "--long=27", "--single-thread", "-f", "-o", "/dev/null"],
        "input": "/usr/share/perl/5.36.0/unicore/UCD.pl",
    },
    "make_tcc": {
        "command": ["/usr/bin/make", "-s", "-j2", "-f", "build.mk"],
    },
    "java_interpreter": {
        "command": ["/usr/bin/java", "-Xint", "-XX:+UseSerialGC", "-Xms160m", "-Xmx160m", "-XX:-UsePerfData", "-cp",
                    ".", "Heap"],
        "before": ["javac", "Heap.java"],
    },
}  # fmt: skip
"""What to run: `record`'s arguments, programs that run `before` and `beside` it, and the file that is its `input`."""


def make(name: str) -> Path:
    """Record one program of `RECORDINGS` anew and return the file."""
    out = DATA / f"{name}.npz"
    out.parent.mkdir(exist_ok=True)
    what = dict(RECORDINGS[name])
    beside, before_it, input_path = what.pop("beside", None), what.pop("before", None), what.pop("input", os.devnull)
    before, standard = Path.cwd(), os.dup(0)
    os.chdir(PROGRAMS)  # so that commands need no paths
    with open(input_path) as file:
        os.dup2(file.fileno(), 0)
    if before_it:
        subprocess.run(before_it, check=True)
    load = subprocess.Popen(beside) if beside else None
    try:
        record(**what, out=out, name=name)
    finally:
        if load:
            load.kill()
            load.wait()
        os.dup2(standard, 0)
        os.close(standard)
        os.chdir(before)
    return out


def main() -> int:
    """Make the named recordings, or all."""
    for name in sys.argv[1:] or RECORDINGS:
        if name not in RECORDINGS:
            print(f"unknown recording {name}: {', '.join(RECORDINGS)}", file=sys.stderr)
            return 2
        try:
            print(make(name))
        except RecordingError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
