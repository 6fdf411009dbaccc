"""What a user waits for: the build from a clean clone, and the import."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build_seconds() -> float | None:
    """Return how long installing a clean clone takes, its dependencies being there; None outside a repository."""
    if not (ROOT / ".git").exists():
        return None
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps"]
        start = time.perf_counter()
        subprocess.run([*pip, "--no-build-isolation", "--target", str(Path(folder, "site")), str(clone)], check=True)
        return time.perf_counter() - start


def import_seconds() -> float:
    """Return how long `import thp_env` takes in a fresh interpreter, NumPy and Gymnasium included."""
    code = "import time; start = time.perf_counter(); import thp_env; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
