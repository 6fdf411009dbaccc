"""Boots one guest for each scenario and writes what it says as lines of JSON."""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

GUEST = Path(__file__).with_name("guest.c")
MEMORY_MIB = 512
PATTERNS = ("page", "16K", "64K", "256K", "2M", "random")
POLLUTIONS = ("none", "early", "late")
DEFRAG = ("never", "madvise")
TIMEOUT_S = 180


def initramfs(program: bytes) -> bytes:
    """Return a compressed "newc" cpio archive that holds one executable, /init, and a console for it.

    The format is that of Documentation/driver-api/early-userspace/buffer-format.rst.
    """

    def entry(number: int, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % value for value in fields) + path
        return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)

    archive = (
        entry(1, "dev", 0o040755)
        + entry(2, "dev/console", 0o020600, device=(5, 1))
        + entry(3, "init", 0o100755, program)
        + entry(0, "TRAILER!!!", 0)
    )
    return gzip.compress(archive, mtime=0)


def boot(kernel: Path, archive: Path, scenario: str) -> list[dict[str, Any]]:
    """Run one scenario; return the objects that the guest printed.

    Raises:
        ValueError: when the guest did not reach its end, or something else wrote to its console.
    """
    command = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", str(MEMORY_MIB),
               "-kernel", str(kernel), "-initrd", str(archive), "-nodefaults", "-nographic", "-no-reboot",
               "-serial", "stdio",
               "-append", f"console=ttyS0 quiet loglevel=0 numa=off panic=-1 frag={scenario}"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, errors="replace")
    # The firmware leaves control characters before the first line.
    records = [json.loads(line.partition("REC ")[2]) for line in done.stdout.splitlines() if "REC {" in line]
    if not records or records[0]["when"] != "start" or records[-1]["when"] != "end" or "FAILED" in done.stdout:
        raise ValueError(f"the guest failed in {scenario}:\n{done.stdout[-2000:]}{done.stderr[-500:]}")
    return records


def version(kernel: Path) -> str:
    """Return the version that the kernel image names in its boot header."""
    image = kernel.read_bytes()
    at = int.from_bytes(image[0x20E:0x210], "little") + 0x200
    return image[at : image.index(b"\0", at)].decode().split()[0]


def main(arguments: list[str] | None = None) -> int:
    """Record all scenarios."""
    parser = argparse.ArgumentParser(prog="thp_workloads.recording.fragmentation", description=__doc__)
    parser.add_argument("kernel", type=Path, help="a kernel image (vmlinuz)")
    parser.add_argument("out", type=Path, help="a .jsonl.xz file")
    parser.add_argument("--only", help="one scenario: PATTERN,POLLUTION,DEFRAG")
    args = parser.parse_args(arguments)
    names = [f"{p},{u},{d}" for d in DEFRAG for u in POLLUTIONS for p in PATTERNS]
    with tempfile.TemporaryDirectory() as temporary:
        init, archive = Path(temporary, "init"), Path(temporary, "initramfs")
        subprocess.run(["gcc", "-O1", "-static", "-o", init, GUEST], check=True)
        archive.write_bytes(initramfs(init.read_bytes()))
        with lzma.open(args.out, "wt") as out:
            for name in [args.only] if args.only else names:
                try:
                    records = boot(args.kernel, archive, name)
                except ValueError as error:
                    print(f"{name}: once more, since {error}", file=sys.stderr)
                    records = boot(args.kernel, archive, name)
                record = {"name": name, "kernel": version(args.kernel), "memory_mib": MEMORY_MIB, "said": records}
                out.write(json.dumps(record) + "\n")
                out.flush()
                successes = (f"{s['order']}:{s['got']}/{s['blocks']}" for s in records if s["when"] == "allocated")
                print(name, *successes, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
