"""Writes the pages that are made from the code: environments, workloads with their profile, costs, kernel rules.

    python docs/build.py

A test fails when a page is not what this writes.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

from pages import collapsing, unmapping
from pages import rules as kernel_rules
from thp_agents.evaluation.tables import format_table
from thp_agents.heuristics import POLICIES, add_ons
from thp_agents.profile import from_json
from thp_agents.profile_report import claims_table, summary, summary_table, workload_table
from thp_workloads import generators
from thp_workloads.generator import SIZES, Generator
from thp_workloads.recording.fragmentation.compare import Share, compare, load
from thp_workloads.recordings import recordings
from thp_workloads.splits import FAMILIES, HELD_OUT_CORE, SEEDS, side_of

from thp_env.envs.actions import ACTION_SETS
from thp_env.envs.fault_order import BLOCK_FIELDS, FAULT_FIELDS, KEPT, FaultOrderEnv
from thp_env.envs.observation import SIZE_FIELDS, SYSTEM_FIELDS, VMA_FIELDS
from thp_env.envs.vma_task import VmaTask
from thp_env.machine import Machine
from thp_env.machine.clock import COSTS
from thp_env.machine.layout import ORDERS, TOUCH
from thp_env.machine.prices import Prices
from thp_env.registration import ENVIRONMENTS
from thp_env.traces import ProgramBuilder, parse_program
from thp_env.traces.text import FORMS

DOCS = Path(__file__).parent
REFERENCE = DOCS / "reference"
FRAGMENTATION = DOCS / "explanation" / "fragmentation.md"
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
    env = cls(hook="address") if of_fault else cls()  # which shows all that there is
    fields = OF_FAULT if of_fault else FIELDS
    page = [MADE, f"# {env_id}\n", f"{inspect.getdoc(cls)}\n"]
    for interface in ACTION_SETS if isinstance(env.task, VmaTask) else ():
        actions = [(str(i), action) for i, action in enumerate(ACTION_SETS[interface].names)]
        page += [f'## Actions of `interface="{interface}"`\n', table(("action", "name"), actions), ""]
    page.append("## Fields\n")
    for key in env.observation_space:
        if key in fields:
            rows = [(str(i), n, f.meaning, f.unit, f.normalisation) for i, (n, f) in enumerate(fields[key].items())]
            page += [f"### `{key}`\n", table(("index", "field", "meaning", "unit", "normalisation"), rows), ""]
    return "\n".join(page)


def operations() -> str:
    """Return the page of all operations of trace programs: how a line is written, and what it does."""
    rows = []
    for word, form in sorted(FORMS.items()):
        method = getattr(ProgramBuilder, form.method)
        values = [p for p in inspect.signature(method).parameters.values() if p.name in form.named and p.name != "kind"]
        line = ["/".join(TOUCH) if word == "touch" else word]
        line += [] if values else [name.upper() for name in form.needed]
        for p in values:
            name = f"{p.name}=" if p.kind is p.KEYWORD_ONLY else p.name.upper()
            line.append(name if p.default is p.empty else f"[{name}]")
        rows.append((f"`{' '.join(line)}`", inspect.getdoc(method).partition("\n\n")[0].replace("\n", " ")))
    return f"""{MADE}
# Operations of trace programs

Each line of a [program](trace_programs.md) is one of these. Values in brackets are optional; values with `=` may stand
in any order after the others. The method of `thp_env.ProgramBuilder` with the operation's name explains each value.
`sleep` is `compute` in milliseconds.

{table(("line", "what it does"), rows)}
"""


def costs() -> str:
    """Return the page of the clock table and the price table."""
    rows = [
        (f"`{name}`", f"{c.ps / 1000:g}", "assumed" if c.spread is None else f"{c.spread:.0%}", c.source)
        for name, c in COSTS.items()
    ]
    prices = Prices()
    sizes = tuple(unmapping.name(size) for size in unmapping.SIZES)
    return f"""{MADE}
# What things cost

There are two separate tables. The *clock table* says how long the simulated kernel and hardware take. It is part of a
machine's configuration, because simulated time decides when things happen. The *price table* weighs the recorded
counters afterwards, for rewards and reports. It can change without another simulation.

## The clock table

The figures were measured on Linux 6.18.44, x86-64, in a virtual machine. They are medians; the spread is the range of
the middle eight tenths of the samples, as a share of the median. Change entries with
`MachineConfig(clock=clock_table(fault=900_000))`, in picoseconds (`thp_env/machine/clock.py`), or measure the costs of
your host with [`thp-env calibrate`](../guides/advice.md#costs-of-your-host) and give them to a command with `--costs`.

{table(("cost", "ns", "spread", "source"), rows, right=1)}

TLB sizes, walk penalties and their sources are with the cores, in `thp_env/machine/cores.py`. A core's walk penalties
are those of page tables that the caches hold. On the measured host walks over 256 MiB took 1.7 times as long as those
of its preset, and over 1 GiB four to five times ([page walks of a
host](../explanation/tlb.md#page-walks-of-a-host)). So results are also reported at twice the price of walks, and
`--costs` takes a host's own.

### A partial unmap

Memory that allocators give back decides which folio size is best, so this cost comes first. 2 MiB are mapped by folios
of one size (rows), and MADV_DONTNEED unmaps a granule at the start (columns). In the last column, the deferred-split
shrinker then splits the folio of which 4K were unmapped. The table shows simulated µs, and in brackets the time on
Linux where it was measured (`tests/data/costs.csv`, `docs/pages/unmapping.py`).

{table(("folio", *sizes, "split later"), unmapping.rows())}

The simulator differs from the measured medians by {unmapping.errors(partial=True)} for a part of a folio, and by
{unmapping.errors(partial=False)} for whole folios. It has one cost for freeing a folio (`zap_folio`), while Linux took
0.15 to 0.8 µs, most for 64K to 256K. On both, unmapping 4K of a 2M folio costs about ten times as much as 4K of a
smaller folio, because the PMD is split first. Beyond 33 pages the whole TLB is flushed.

### A collapse

This is MADV_COLLAPSE of a 2M block of which a share is empty. Existing pages are copied and freed, and the rest is
cleared. The table shows simulated and measured µs (`python -m thp_env.live.costs`, medians of 301; cold: all memory
that is read and written is not in the caches). A fault of 2M took {collapsing.fault("cold")} µs cold and
{collapsing.fault("warm")} warm. The clock's zeroing and copying are those of memory that is not in the caches.

{table(("empty", "simulated", "live, cold", "live, warm"), collapsing.rows())}

### zRAM

A page is stored in an object of zsmalloc's size classes (R47). A page that compresses to 25 % takes {per_page(25)}
bytes of memory, at 50 % {per_page(50)}, at 75 % {per_page(75)}, and from 89 % on all 4096. Live measurements gave 1096,
2192 and 3280 bytes for pages of which that share is random; they compress a little worse. The time grows with the
compressed size. A page that does not compress is copied, which is faster.

## The price table

- `memory` = {prices.memory:.4g} ns per MiB and millisecond. This is the price on a machine with 4 GiB for each core,
  where 1 s of a core costs as much as 4 GiB for 1 s.
- `walk` = {prices.walk:g}: a factor on the time of address translation.
- `tail_ms` = {prices.tail_ms:g}: memory that the program no longer touches at the end of a run is charged for so many
  milliseconds more.

### How long a program is meant to run

A recording of seconds says little about memory that a server holds for a week. Three things decide how much memory
weighs beside time:

- *its price*, for as long as it is held while the program runs;
- *the tail*: what the program no longer touches would be held a little longer than the recording; that is charged once,
  at the end;
- *the horizon*: with `gymnasium.make(..., horizon=3600)` the second half of the program counts as often as it takes to
  last an hour of the program's own time, in rewards and in `ShadowReward` (`thp_env/envs/horizon.py`). What a window
  costs counts once before half-way, and from there on once more for each repetition; so page walks and memory of the
  later state outweigh the faults of the beginning. The one window that contains half-way counts in proportion to its
  steps. Without a horizon every window counts once. `thp-env evaluate --horizon 1h` compares policies so.

`thp-env recommend --horizon` repeats the second half in the same way, except for the kernel's work on memory that is
touched once and stays: there only the share of it that is given back goes on.
"""


def per_page(content: int) -> str:
    """Return the bytes of memory that a page takes in zRAM that compresses to so many percent."""
    text = f"swap 64M\nmmap a 32M\nwrite a 0 32M content={content}\nadvise a 0 32M pageout\n"
    machine = Machine(parse_program(text))
    machine.run()
    return f"{machine.counters['nr_zspages'] * 4096 / machine.counters['pswpout']:.0f}"


def rules() -> str:
    """Return the page of the kernel's rules."""
    return kernel_rules.page()


def fragmentation() -> str:
    """Return the page about fragmentation: what stands there up to its mark, and how recordings compare."""
    mark = "<!-- What follows is made by docs/build.py from the recordings. -->\n"
    text = FRAGMENTATION.read_text().partition(mark)[0]
    records = load(DOCS.parent / "tests" / "data" / "fragmentation.jsonl.xz")
    shares = {record["name"]: {share.order: share for share in compare(record)} for record in records}

    def cell(share: Share | None) -> str:
        if share is None:
            return ""
        both = f"{100 * share.recorded / share.blocks:.0f} / {100 * share.simulated / share.blocks:.0f}"
        return f"**{both}**" if abs(share.difference) > 10 else both

    def summary(defrag: str, order: int) -> str:
        away = [abs(of[order].difference) for name, of in shares.items() if name.endswith(defrag) and order in of]
        return f"{sum(away) / len(away):.1f}; {sum(d <= 10 for d in away)} of {len(away)}" if away else ""

    rows = [(name.replace(",", ", "), *(cell(of.get(order)) for order in ORDERS)) for name, of in shares.items()]
    for defrag in ("never", "madvise"):
        rows.append((f"mean difference and how many within 10 points, {defrag}",
                     *(summary(defrag, order) for order in ORDERS)))  # fmt: skip
    header = ("pattern, tables, defrag", *(f"{4 << order}K" for order in ORDERS))
    return f"{text}{mark}\n{table(header, rows)}\n"


def generator(kind: type[Generator]) -> str:
    """Return a generator's page: its docstring, its sources and its parameters."""
    about, _, _ = (inspect.getdoc(kind) or "").partition("Attributes:")
    rows = [(f"`{name}`", f"{default}", limits, meaning) for name, default, limits, meaning in kind.parameters()]
    parameters = table(("parameter", "default", "range", "meaning"), rows)
    return (
        f"{MADE}\n# {kind.name}\n\n{about.strip()}\n\nFamily: {kind.family}; split: {side_of(kind.family)}.\n\n"
        f"Sources: {kind.sources}\n\n## Parameters\n\n{parameters}\n"
    )


def catalogue() -> str:
    """Return the page that lists the workloads."""
    kinds = generators()
    rows = [(f"[{k.name}]({k.name}.md)", k.family, side_of(k.family), k.summary) for k in kinds.values()]
    rows += [(w.name, w.family, w.split, w.description) for w in recordings()]
    sizes = [
        (name, f"{s.footprint[0] >> 20} to {s.footprint[1] >> 20} MiB", f"{s.phases[0]} to {s.phases[1]}",
         f"{s.accesses[0]} to {s.accesses[1]}", f"{s.seconds[0]:g} to {s.seconds[1]:g} s")
        for name, s in SIZES.items()
    ]  # fmt: skip
    sides = [(side, ", ".join(FAMILIES[side]), f"{SEEDS[side].start} to {SEEDS[side].stop - 1}") for side in FAMILIES]
    return f"""{MADE}
# Workloads

{table(("name", "family", "split", "what it is"), rows)}

[The profile](profile.md) says what they cost under fixed settings, and whether that agrees with the reports of their
sources. `thp-env workloads` lists them, and `thp-env workloads show NAME` draws one.

## Sizes

A generator draws its footprint log-uniformly. It also draws everything else by which an agent could recognise it:
address layout, machine, core, the fragmentation of free memory, and the time at which memory runs short
(`workloads/thp_workloads/surroundings.py`). `thp_workloads.catalogue` accepts the sizes "tiny", "full" and "short".
"short" is for training: it has the memory and the time of "small", and a 25th of its accesses.

{table(("size", "footprint", "phases", "accesses a phase", "simulated time"), sizes)}

## Splits

A family is never on two sides (`workloads/thp_workloads/splits.py`). Every second test episode runs on {HELD_OUT_CORE},
on which nothing else runs.

{table(("split", "families", "seeds"), sides)}
"""


def policies() -> str:
    """Return the page that lists the heuristics: a table, then what each module says of its algorithm."""
    made = {name: make() for name, make in POLICIES.items()}
    rows = [
        (f"`{name}`", p.environment.removeprefix("thp_env/"), f"`{p.default_sizes}`", p.source)
        for name, p in made.items()
    ]
    modules = dict.fromkeys(inspect.getmodule(type(p)) for p in made.values())
    told = []
    for module in (*modules, add_ons):
        names = [f"`{name}`" for name, p in made.items() if inspect.getmodule(type(p)) is module]
        title, _, text = (inspect.getdoc(module) or "").partition("\n")
        told.append(f"## {', '.join(names) or 'Add-ons'}\n\n{title}\n{text}")
    return f"""{MADE}
# Policies

`thp-env policies` lists these policies. Each is one file in `agents/thp_agents/heuristics/`, with its published
parameters as arguments. Times are simulated time. Reading accessed bits and samples of page walks takes simulated time,
the same for all policies. The default sizes hold before the policy decides for the first time.
[Writing a policy](../guides/writing_a_policy.md) says how to add one.

{table(("name", "decides in", "default sizes", "source"), rows)}

{chr(10).join(told)}
"""


def profile() -> str:
    """Return the page of the profile, from the figures that the command wrote."""
    facts, results = from_json(REFERENCE / "workloads" / "profile.json")
    seeds = max(len(s) for s in facts["seeds"].values())
    parts = [
        f"""{MADE}
# Does the folio size matter?

The tables show each workload under fixed settings, under a rule by VMA size, and with the best static size for each
VMA. They were written by

    thp-env workloads --profile --seeds {seeds} --out docs/reference/workloads/profile.json

on {facts["date"]}, behaviour {facts["behaviour"]} of the simulator, with the first {seeds} seeds of each workload's own
side of the split. The cost contains everything that a policy can change, in ns, with resident memory at its price
([costs](../costs.md)). The tables show it as a share of the cost without large folios, as means over seeds.

{format_table(*summary_table(results), markdown=True)}

{summary(results)}

The best sizes per VMA come from a search. VMAs form groups: one role, or a part of its VMAs by order of birth. Group
after group, the search tries each size on cloned machines, while the other groups keep their sizes, and takes the
cheapest. It makes two rounds at most. The result never costs more than the best setting for all VMAs, but it need not
be the best of all combinations. So choosing per VMA can save at least this much.

## What the sources report

A figure is as expected if it has the same direction and roughly the same size; `time_ms` of two settings says how many
times as fast the second one is. **no** means that the workload does not show what its source reports.

{format_table(*claims_table(results), markdown=True)}

## Every workload
"""
    ]
    for workload in dict.fromkeys(r.workload for r in results):
        parts.append(f"### {workload}\n\n{format_table(*workload_table(results, workload), markdown=True)}\n")
    return "\n".join(parts)


def pages() -> dict[Path, str]:
    """Return every page that is made, by its path."""
    made = {
        REFERENCE / "environments" / f"{entry.split(':')[0].rsplit('.', 1)[1]}.md": environment(env_id, entry)
        for env_id, entry in ENVIRONMENTS.items()
    }
    workloads = REFERENCE / "workloads"
    made |= {workloads / f"{name}.md": generator(kind) for name, kind in generators().items()}
    made |= {workloads / "index.md": catalogue(), workloads / "profile.md": profile()}
    made |= {REFERENCE / "policies.md": policies(), REFERENCE / "costs.md": costs()}
    made |= {REFERENCE / "operations.md": operations()}
    made |= {REFERENCE / "rules.md": f"{MADE}\n{rules()}"}
    return made | {FRAGMENTATION: fragmentation()}


if __name__ == "__main__":
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
