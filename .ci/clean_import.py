"""What must hold where only the wheel and its dependencies are installed."""

import subprocess
import sys
import time
from importlib.metadata import distributions

LIMIT = 0.3
FRAMEWORKS = {"torch", "matplotlib", "stable_baselines3"}


def import_seconds() -> float:
    """Return how long `import thp_env` takes in a fresh interpreter, once that has started."""
    code = "import time; t = time.perf_counter(); import thp_env; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


installed = {d.name.replace("-", "_") for d in distributions()}
print("installed:", *sorted(installed))
assert not installed & FRAMEWORKS
import_seconds()  # writes the byte code
seconds = min(import_seconds() for _ in range(5))
print(f"import thp_env: {seconds:.3f} s")
assert seconds < LIMIT, f"import thp_env takes {seconds:.2f} s, more than {LIMIT} s"

import thp_env  # noqa: E402

program = thp_env.parse_program("mmap a 4M\nthp 64 always\nwrite a 0 4M\naccess a 0 4M uniform count=1000000\n")
machine = thp_env.Machine(program)
start = time.perf_counter()
assert machine.run() == thp_env.Status.DONE
assert machine.counters["anon_fault_alloc"] == 64
print(f"a million accesses: {time.perf_counter() - start:.2f} s")
