"""Which preset of a TLB is this host's, by what /proc/cpuinfo says.

Models of Intel are from arch/x86/include/asm/intel-family.h, those of AMD from arch/x86/kernel/cpu/amd.c, parts of Arm
from arch/arm64/include/asm/cputype.h.
"""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
INTEL = {
    "skylake": {0x4E, 0x5E, 0x55, 0x8E, 0x9E, 0xA5, 0xA6},
    "golden-cove": {0x8F, 0x97, 0x9A, 0xB7, 0xBA, 0xBF, 0xCF},
}
"""Models of family 6."""
ZEN_OF_25 = {0x0: "zen3", 0x1: "zen4", 0x2: "zen3", 0x3: "zen3", 0x4: "zen3", 0x5: "zen3", 0x6: "zen4", 0x7: "zen4",
             0xA: "zen4"}  # fmt: skip
"""By the upper digit of the model: Zen 3 and Zen 4 share family 25."""
ARM = {
    0xD05: "cortex-a55", 0xD0B: "cortex-a76", 0xD0C: "neoverse-n1", 0xD40: "neoverse-v1", 0xD41: "cortex-a78",
    0xD44: "cortex-x1", 0xD48: "cortex-x2", 0xD49: "neoverse-n2", 0xD4F: "neoverse-v2",
}  # fmt: skip
"""By part number; implementer 0x41."""


def host_core(cpuinfo: Path = CPUINFO) -> str | None:
    """Return the name of this host's preset in `cores.CORES`; None: it has none, or nobody knows."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    if facts.get("uarch") == "sifive,u74-mc":
        return "u74"
    vendor, family, model, part = (
        facts.get(name, "") for name in ("vendor_id", "cpu family", "model", "CPU part")
    )  # fmt: skip
    if facts.get("CPU implementer") == "0x41":
        return ARM.get(_number(part, 16))
    if vendor == "GenuineIntel" and _number(family) == 6:
        return next((name for name, models in INTEL.items() if _number(model) in models), None)
    if vendor == "AuthenticAMD":
        by_family = {23: "zen2" if _number(model) >= 0x30 else None, 25: ZEN_OF_25.get(_number(model) >> 4), 26: "zen5"}
        return by_family.get(_number(family))
    return None


def _number(text: str, base: int = 10) -> int:
    try:
        return int(text, base)
    except ValueError:
        return -1
