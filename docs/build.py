"""Writes the pages that are made from the code: one for each environment, the table of costs, and the kernel's rules.

    python docs/build.py

A test fails when a page is not what this writes.
"""

from __future__ import annotations

import importlib.util
import inspect
from importlib import import_module
from pathlib import Path

from thp_env.envs.actions import INTERFACES
from thp_env.envs.fault_order import BLOCK_FIELDS, FAULT_FIELDS, KEPT, FaultOrderEnv
from thp_env.envs.observation import SIZE_FIELDS, SYSTEM_FIELDS, VMA_FIELDS
from thp_env.envs.vma_task import VmaTask
from thp_env.machine.clock import COSTS
from thp_env.machine.prices import Prices
from thp_env.registration import ENVIRONMENTS

DOCS = Path(__file__).parent
MADE = "<!-- Made by docs/build.py; edit the code instead. -->"

FIELDS = {
    "vma": VMA_FIELDS, "vmas": VMA_FIELDS, "other": VMA_FIELDS, "sizes": SIZE_FIELDS, "system": SYSTEM_FIELDS,
    "fault": FAULT_FIELDS, "block": BLOCK_FIELDS,
}  # fmt: skip
"""Fields of each part of an observation."""
OF_FAULT = {**FIELDS, "vma": {name: VMA_FIELDS[name] for name in KEPT}}


def table(header: tuple[str, ...], rows: list[tuple[str, ...]], right: int | None = None) -> str:
    """Return a Markdown table, one column aligned to the right."""
    rule = ["---:" if i == right else "---" for i in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, tuple(rule), *rows])


def environment(env_id: str, entry_point: str) -> str:
    """Return an environment's page: its docstring, its actions and its fields."""
    module, name = entry_point.split(":")
    cls = getattr(import_module(module), name)
    of_fault = issubclass(cls, FaultOrderEnv)
    env = cls(interface="address") if of_fault else cls()  # which shows all that there is
    fields = OF_FAULT if of_fault else FIELDS
    page = [MADE, f"# {env_id}\n", f"{inspect.getdoc(cls)}\n"]
    for interface in INTERFACES if isinstance(env.task, VmaTask) else ():
        actions = [(str(i), action) for i, action in enumerate(INTERFACES[interface].names)]
        page += [f'## Actions of interface "{interface}"\n', table(("action", "name"), actions), ""]
    page.append("## Fields\n")
    for key in env.observation_space:
        if key in fields:
            rows = [(str(i), n, f.meaning, f.unit, f.normalisation) for i, (n, f) in enumerate(fields[key].items())]
            page += [f"### `{key}`\n", table(("index", "field", "meaning", "unit", "normalisation"), rows), ""]
    return "\n".join(page)


def costs() -> str:
    """Return the page of the clock table and the price table."""
    rows = [
        (f"`{name}`", f"{c.ps / 1000:g}", "assumed" if c.spread is None else f"{c.spread:.0%}", c.source)
        for name, c in COSTS.items()
    ]
    prices = Prices()
    return f"""{MADE}
# What things cost

Two tables, kept apart. The *clock table* says how long the simulated kernel and hardware take; it is part of a
machine's configuration, since simulated time decides what happens when. The *price table* weighs the recorded
counters afterwards, for rewards and reports, and can change without simulating again.

## The clock table

Measured on Linux 6.18.44, x86-64, in a virtual machine: medians, and as spread what the middle eight tenths of the
samples span, as a share of the median. Change entries with `MachineConfig(clock=clock_table(fault=900_000))`, in
picoseconds (`thp_env/machine/clock.py`).

{table(("cost", "ns", "spread", "source"), rows, right=1)}

TLB sizes, walk penalties and their sources are with the cores, in `thp_env/machine/cores.py`.

## The price table

- `memory` = {prices.memory:.4g} ns per MiB and millisecond: a machine with 4 GiB for each core, of which memory and
  core are used up alike, so 1 s of a core costs as much as 4 GiB for 1 s.
- `walk` = {prices.walk:g}: factor on the time of address translation.
- `tail_ms` = {prices.tail_ms:g}: memory that nobody touches at the end of a run is charged for so many
  milliseconds more.
"""


def rules() -> str:
    """Return the page of the kernel's rules."""
    spec = importlib.util.spec_from_file_location("rules", DOCS / "rules.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def pages() -> dict[Path, str]:
    """Return every page that is made, by its path."""
    made = {
        DOCS / "environments" / f"{entry.split(':')[0].rsplit('.', 1)[1]}.md": environment(env_id, entry)
        for env_id, entry in ENVIRONMENTS.items()
    }
    return {**made, DOCS / "costs.md": costs(), DOCS / "rules.md": f"{MADE}\n{rules()}"}


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
