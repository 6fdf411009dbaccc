"""The lines that apply a setting and undo it, for a shell, for systemd, and for the program's source."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from thp_agents.advice.call_sites import Row
from thp_agents.advice.host import as_they_are, differing
from thp_agents.advice.settings import PRCTL_FLAGS, Setting, mappings
from thp_env.live.settings import PR_SET_THP_DISABLE, THP
from thp_env.traces import Program

SITES = 3
"""Mappings of a group, and callers of mmap, that are named."""


def apply_and_undo(
    setting: Setting, present: Setting, command: Sequence[str], program: Program, folder: Path = THP,
    sites: Mapping[str, Sequence[Row]] = MappingProxyType({}),
) -> list[str]:  # fmt: skip
    """Return the lines, in parts with a heading each.

    Args:
        setting: what to set.
        present: what the host has.
        command: that it is for; empty when there is none.
        program: its recording.
        folder: of the kernel's controls.
        sites: who maps each group (`call_sites`), where that is known.
    """
    lines: list[str] = []
    if setting.of_system != present.of_system:
        lines += _sysfs(setting, folder)
    lines += _process(setting, command)
    for group, advice in setting.advice:
        mapping_ops = [at for at, of in mappings(program) if of == group]
        lines += ["", f"# in the source, for {group} ({len(mapping_ops)} in the recording):",
                  f"madvise(address, length, MADV_{advice.upper()});  /* right after the mmap */"]  # fmt: skip
        for at in mapping_ops[:SITES]:
            op = program.ops[at]
            lines.append(f"#   operation {at} of the recording: mmap of {int(op['length']) >> 10} KiB, "
                         f"{program.regions[int(op['region'])]}")  # fmt: skip
        callers = [row for key, rows in sites.items() if group == key or group.startswith(f"{key} of ") for row in rows]
        lines += [f"#   mapped by {site}: {calls} calls, {size >> 10:,} KiB" for site, calls, size in callers[:SITES]]
        if not callers:
            lines.append("# who maps them is not known here: strace -k -e trace=mmap shows it")
    return lines


def _sysfs(setting: Setting, folder: Path) -> list[str]:
    changes = differing(setting, folder)
    if not changes:
        return []
    before = as_they_are(changes, folder)
    lines = ["# apply, as root:", *(f"echo {value} > {folder / name}" for name, value in changes.items())]
    lines += ["# undo:", *(f"echo {value} > {folder / name}" for name, value in before.items())]
    lines += ["# at every start of the host, in /etc/tmpfiles.d/thp.conf:"]
    return [*lines, *(f"w {folder / name} - - - - {value}" for name, value in changes.items())]


def _process(setting: Setting, command: Sequence[str]) -> list[str]:
    command_text = shlex.join(command) or "COMMAND"
    lines: list[str] = []
    if setting.environment:
        pairs = " ".join(f"{name}={shlex.quote(value)}" for name, value in setting.environment)
        lines += ["", "# for this program, without root; undo by leaving it out:", f"{pairs} {command_text}",
                  "# or in its systemd unit:", "[Service]",
                  *(f'Environment="{name}={value}"' for name, value in setting.environment)]  # fmt: skip
    if setting.collapse:
        lines += ["", "# for this program, as root: its memory is collapsed from outside; undo by leaving it out:",
                  f"thp-env collapse --every {setting.collapse:g} -- {command_text}"]  # fmt: skip
    if setting.prctl:
        flags = PRCTL_FLAGS[setting.prctl]
        code = ("import ctypes, os, sys; "
                f"assert not ctypes.CDLL(None).prctl({PR_SET_THP_DISABLE}, 1, {flags}, 0, 0), 'the kernel refuses'; "
                "os.execvp(sys.argv[1], sys.argv[1:])")  # fmt: skip
        lines += ["", "# for this program, without root: a wrapper that calls prctl(PR_SET_THP_DISABLE); undo by "
                  "leaving it out:", f'python3 -c "{code}" {command_text}']  # fmt: skip
        if flags:
            lines.append("# (the flag PR_THP_DISABLE_EXCEPT_ADVISED needs Linux 6.18)")
    return lines
