"""What holds for the whole run."""

from __future__ import annotations

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # networks this small are slower on several threads

from thp_env.machine import _core


def pytest_configure(config: pytest.Config) -> None:
    """A run under the sanitizers that took another build of the core would show nothing."""
    if "libasan" in os.environ.get("LD_PRELOAD", "") and "sanitize" not in _core.__file__:
        raise pytest.UsageError(f"not the sanitized core: {_core.__file__}")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script: tests send it
        signal.signal(signal.SIGINT, signal.default_int_handler)
