"""The process `thp-env`: imports little, so that ctrl-C is one line from the first moment on."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn


def command() -> NoReturn:
    """Run the command as a process of its own."""
    try:
        from thp_agents.cli import main  # which takes a moment

        code = main()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        code = 130
    if code > 128:  # stopped: what is kept has been written, and taking torch down would take seconds more
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    command()
