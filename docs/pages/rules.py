"""The page of the kernel's rules: what each says, which recordings show it, and which function follows it."""

from __future__ import annotations

import json
import lzma
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORE = ROOT / "thp_env" / "machine"
RULE = re.compile(r"^([RX]\d+) +(.*)$")
MENTION = re.compile(r"\b([RX])(\d+)(?:-[RX]?(\d+))?\b")
NO_FUNCTION = r"^(?!namespace|struct|enum|using|constexpr|static_assert|template|return)"
FUNCTION = re.compile(NO_FUNCTION + r"[\w:<>,*& ]+?[ *&](\w+)\(")

INTRO = """# The simulated kernel's rules

These rules describe what the real kernel did in recorded scenarios. The simulator follows them. Comments in its source
name the rules; the last line of each rule lists these places. A recorded rule is checked by replaying its scenarios:
every counter, fault and folio has to be equal ([how](../explanation/verification.md)). Rules without a scenario are
marked.

o is an order, and B(o) is the naturally aligned block of 2^o pages around an address. H stands for VM_HUGEPAGE and N
for VM_NOHUGEPAGE. "None" is said of an empty entry of a page table.
"""


def mentions() -> dict[str, list[str]]:
    """Return, for each rule, the functions (or their declarations) whose comments name it, as file:function."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted([*CORE.rglob("*.cpp"), *CORE.rglob("*.hpp")]):
        lines = path.read_text().splitlines()
        starts = [(i, match[1]) for i, line in enumerate(lines) if (match := FUNCTION.match(line))
                  and (path.suffix == ".hpp" or ";" not in line)]  # fmt: skip
        for i, line in enumerate(lines):
            if "//" not in line:
                continue
            above = not line.startswith("//")  # a comment of its own belongs to what follows
            near = [name for at, name in starts if (at <= i if above else at > i)]
            if not near:
                continue
            where = f"{path.relative_to(ROOT).as_posix()}:{near[-1] if above else near[0]}"
            for kind, first, last in MENTION.findall(line.split("//", 1)[1]):
                for n in range(int(first), int(last or first) + 1):
                    if where not in found[f"{kind}{n}"]:
                        found[f"{kind}{n}"].append(where)
    return found


def scenarios() -> list[str]:
    """Return the names of the recorded scenarios that show rules."""
    with lzma.open(ROOT / "tests" / "data" / "rules.jsonl.xz", "rt") as file:
        return [json.loads(line)["name"] for line in file]


def evidence(text: str, names: list[str]) -> list[str]:
    """Return the scenarios that a rule's text names in brackets, as "a03-a11 a22"."""
    shown = []
    for bracket in re.findall(r"\[([^\]]*)\]", text):
        for word in re.findall(r"[a-z]\d\d(?:-[a-z]\d\d)?\w*", bracket):
            first, _, last = word.partition("-")
            keys = [f"{first[0]}{n:02}" for n in range(int(first[1:3]), int(last[1:3]) + 1)] if last else [first]
            shown += [name for name in names if any(name == key or name.startswith(f"{key}_") for key in keys)]
    return list(dict.fromkeys(shown))


def page() -> str:
    """Return the page."""
    names, where = scenarios(), mentions()
    out = [INTRO]
    for line in (ROOT / "docs" / "pages" / "rules.txt").read_text().splitlines()[1:]:
        if line.startswith("## "):
            out.append(f"\n## {line[3:].split('. ', 1)[1].split(' (')[0].rstrip('.')}\n")
        elif match := RULE.match(line):
            rule, text = match.groups()
            shown = evidence(text, names)
            said = re.sub(r" *\[[^\]]*\]", "", text).replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_")
            many = "one scenario" if len(shown) == 1 else f"{len(shown)} scenarios"
            more = f" and {len(shown) - 6} more" if len(shown) > 6 else ""
            recorded = f"- Recorded in {many}: {', '.join(f'`{name}`' for name in shown[:6])}{more}."
            unseen = "- Without a scenario of its own: from the kernel's source, or shown by scenarios of other rules."
            out += [f"**{rule}.** {said}", "", recorded if shown else unseen]
            functions = where.get(rule, [])
            out += [f"- Implemented in {', '.join(f'`{f}`' for f in functions)}.\n" if functions else
                    "- No comment in the simulator's source names it.\n"]  # fmt: skip
        elif line.strip():
            out.append(re.sub(r"<", "&lt;", line).replace("*", "\\*").replace("_", "\\_") + "\n")
    return "\n".join(out)
