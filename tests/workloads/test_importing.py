"""Logs that real tools wrote, as trace programs; what they must hold is counted in the source of the programs."""

from __future__ import annotations

import json
import lzma
import re
import zlib
from pathlib import Path

import pytest
from thp_agents.cli import main
from thp_workloads.importing import KINDS, ImportingError, read
from thp_workloads.importing.damon import read_damon

from thp_env.machine import Machine, MachineConfig, Status, layout
from thp_env.machine.operations import select
from thp_env.traces import Program, load_program
from thp_env.workload import memory_for

DATA = Path(__file__).resolve().parents[1] / "data" / "imports"
PAGE = layout.PAGE_SIZE


def ran(program: Program) -> Machine:
    machine = Machine(program, MachineConfig(memory=memory_for(program)))
    assert machine.run(go_on=True) == Status.DONE
    return machine


def operations(program: Program, name: str) -> list:
    return list(select(program.ops, name))


def touched(program: Program, region: str) -> list[int]:
    """Return the pages of a region that are accessed, in order."""
    chosen = program.accesses["region"] == program.regions.index(region)
    return program.accesses["page"][chosen].tolist()


def region_of(program: Program, length: int) -> str:
    """Return the region of the last anonymous mapping of so many pages."""
    found = [
        program.regions[op["region"]]
        for op in operations(program, "mmap")
        if op["length"] == length * PAGE and not op["flags"] & layout.VM_FILE
    ]
    return found[-1]


def check_heap(program: Program, *, heap: int = 10, reads: bool = True) -> None:
    """Compare with heap.c and bare.c, which do the same."""
    a, b = region_of(program, 64), region_of(program, 32)
    assert touched(program, a)[:68] == [*range(64), *range(16, 20)]
    if reads:
        assert touched(program, b) == list(range(8))
    advice = operations(program, "advise")[-1]
    assert (int(advice["offset"]), int(advice["length"])) == (16 * PAGE, 16 * PAGE)
    assert operations(program, "munmap")[-1]["length"] == 32 * PAGE
    assert operations(program, "brk")[-1]["length"] == 20 * PAGE
    assert touched(program, "heap") == list(range(heap))


@pytest.mark.parametrize(("kind", "file"), [("perf", "heap.perf.txt"), ("lackey", "bare.lackey.txt")])
def test_faults_and_accesses_are_those_of_the_source(kind: str, file: str) -> None:
    program = read(kind, DATA / file)
    check_heap(program)
    moved = operations(program, "mremap")[-1]
    assert touched(program, program.regions[moved["to"]]) == [20]
    assert touched(program, program.regions[moved["region"]]) == list(range(16))
    machine = ran(program)
    # 64 - 16 + 4 of a, 16 + 1 of c, 10 of the heap; b was only read, and is unmapped.
    own = 52 + 17 + 10
    others = {"anon", "anon:1", "anon:2", "m1", "m4", "m5", "m6", "m7", "m8"} if kind == "perf" else {"anon"}
    elsewhere = sum(len(set(touched(program, r))) for r in others if r in program.regions)
    assert own < machine.counters["nr_resident"] <= own + elsewhere


def test_accesses_of_lackey_are_whole() -> None:
    program = read("lackey", DATA / "bare.lackey.txt")
    # One access for each of 64 + 8 + 16 + 4 + 1 + 10 statements, and three pushes of _start.
    assert program.work.sum() == program.meta["accesses_anonymous"] == 103 + 3
    assert ran(program).counters["nr_resident"] == 79 + 1


def test_strace_writes_what_is_mapped() -> None:
    program = read("strace", DATA / "heap.strace.txt")
    a, b = region_of(program, 64), region_of(program, 32)
    assert touched(program, a) == list(range(64))
    assert touched(program, b) == list(range(32))
    assert touched(program, "heap") == list(range(20))
    assert touched(program, program.regions[operations(program, "mremap")[-1]["to"]]) == list(range(16, 40))
    assert "libc.so.6:1" in program.regions
    assert touched(program, "libc.so.6:1") == []
    assert any("no accesses" in note for note in program.meta["distortions"])
    # 1795579307.394047 is the first call's time, .396041 the last one's.
    assert ran(program).clock_ps >= 1_994_000_000


def test_strace_tells_processes_apart() -> None:
    path = DATA / "forks.strace.txt"
    pids = [int(line.split()[1].rstrip("]")) for line in path.read_text().splitlines() if line.startswith("[pid")]
    child = read("strace", path, pids[0])
    assert touched(child, region_of(child, 64)) == list(range(64))
    with pytest.raises(IndexError):  # sh itself maps no 64 pages
        region_of(read("strace", path), 64)


def test_page_faults_alone_need_no_calls() -> None:
    program = read("perf", DATA / "heap.page_faults.txt")
    # Without calls the mappings are found from the faults: a's 64 pages and 4 again, c's 16 and 1, the heap's 10.
    assert program.work.sum() >= 64 + 4 + 8 + 16 + 1 + 10
    assert any("page-faults" in note for note in program.meta["distortions"])
    ran(program)


def _moved(address: str, base: int) -> str:
    """Return an address of physical memory moved to where a process has its memory, in hex."""
    return f"{int(address, base) + (0x7E << 40):x}"


@pytest.fixture(scope="module")
def damo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("damo")
    raw, packed, plain = folder / "raw.txt", folder / "packed.json", folder / "plain.json"
    text = lzma.decompress((DATA / "host.damo_raw.txt.xz").read_bytes()).decode()
    raw.write_text(re.sub(r"(?m)\b[0-9a-f]{12}\b(?=[- ])", lambda m: _moved(m[0], 16), text))
    records = json.loads(zlib.decompress((DATA / "host.damo.json.z").read_bytes()))
    for region in (r for record in records for s in record["snapshots"] for r in s["regions"]):
        for end in ("start", "end"):
            region[end] = f"{int(_moved(region[end].replace(',', ''), 10), 16):,}"
    plain.write_text(json.dumps(records))
    packed.write_bytes(zlib.compress(plain.read_bytes()))
    return {"raw": raw, "packed": packed, "plain": plain}


def test_damons_record_is_the_same_in_all_its_forms(damo: dict[str, Path]) -> None:
    raw, packed, plain = (read("damon", damo[form]) for form in ("raw", "packed", "plain"))
    assert packed.ops.tobytes() == plain.ops.tobytes()
    assert raw.meta["snapshots"] == 3  # of 11 s at 5 s each; the others have all 6
    seen, whole = operations(raw, "access"), operations(plain, "access")
    for mine, other in zip(seen, whole, strict=False):
        assert (mine["length"], mine["count"], mine["weight"]) == (other["length"], other["count"], other["weight"])
    # Counted in the text: the regions that were accessed, and the length of the first snapshot.
    lines = [line.split() for line in damo["raw"].read_text().splitlines() if line[:1].isalnum() and "-" in line[:20]]
    assert len(seen) == sum(line[-2] != "0" for line in lines)


def test_damons_pages_are_written_as_often_as_checks_found_them(tmp_path: Path) -> None:
    path = tmp_path / "raw.txt"
    path.write_text(
        "base_time_absolute: 8 m 59.809 s\n\n"
        "monitoring_start: 0 ns\nmonitoring_end: 100 ms\nmonitoring_duration: 100 ms\n"
        "target_id: 7\nnr_regions: 2\n"
        "7f0000000000-7f0000010000(  64.000 KiB): 3\n7f0000010000-7f0000020000(  64.000 KiB): 0\n"
    )  # the form of the damo manual
    program = read_damon(path)
    assert program.work.sum() == 16 * 3
    machine = ran(program)
    assert machine.counters["nr_resident"] == 16
    assert machine.clock_ps >= 100e9


BROKEN = {
    "strace": ("1 1.0 mmap(NULL, 8192, PROT_READ|PROT_BOGUS, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n", 1),
    "perf": ("heap 1 [000] 1.0: exceptions:page_fault_user: address=0x7f00 ip=0x1\n", 1),
    "lackey": ("I  04001000,3\n S 1fff000788,8\n S nonsense\n", 3),
    "pinatrace": ("0x401000: R 0x7ffd00001000\n0x401004: X 0x7ffd00001000\n", 2),
    "memtrace": ("Format: <data address>: <data size>, <(r)ead/(w)rite>\n0x401000:  4, mov\n0x40: nonsense\n", 3),
    "damon": ("monitoring_start: 0\nmonitoring_end: 5\ntarget_id: 0\nnr_regions: 1\nzz-yy 3\n", 5),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_malformed_line_is_named(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "log"
    text, line = BROKEN[kind]
    path.write_text(text)
    assert main(["import", "--from", kind, str(path), "--out", str(tmp_path / "x.npz")]) == 2
    message = capsys.readouterr().err
    assert f"{path}:{line}: " in message
    assert message.count("\n") == 1
    assert not (tmp_path / "x.npz").exists()


@pytest.mark.parametrize(
    ("kind", "file"), [("strace", "heap.strace.txt"), ("perf", "heap.perf.txt"), ("lackey", "bare.lackey.txt")]
)
def test_a_truncated_log_is_refused(kind: str, file: str, tmp_path: Path) -> None:
    text = (DATA / file).read_text()
    path = tmp_path / "log"
    for length in (len(text) - 1, len(text) - 8, len(text) // 2):
        path.write_text(text[:length])
        with pytest.raises(ImportingError, match=rf"{path}:\d+: "):
            read(kind, path)


def test_a_truncated_record_of_damon_is_refused(damo: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "record"
    for form in ("raw", "plain"):
        text = damo[form].read_text()
        path.write_text(text[: len(text) * 2 // 3])
        with pytest.raises(ImportingError, match=r"record:\d+: .*"):
            read("damon", path)
    path.write_bytes(damo["packed"].read_bytes()[:-1000])
    with pytest.raises(ImportingError):
        read("damon", path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_or_binary_or_missing_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    for data in (b"", b"\x89PNG\r\n\x1a\n\xff\xfe\x00"):
        path.write_bytes(data)
        with pytest.raises(ImportingError, match="log"):
            read(kind, path)
    with pytest.raises(ImportingError, match="cannot read"):
        read(kind, tmp_path / "none")


def test_the_command_writes_a_program(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "heap.npz"
    assert main(["import", "--from", "strace", str(DATA / "heap.strace.txt"), "--out", str(out)]) == 0
    assert "heap.npz" in capsys.readouterr().out
    assert load_program(out).work.sum() == read("strace", DATA / "heap.strace.txt").work.sum()
    assert main(["import", "--from", "strace", str(DATA / "heap.strace.txt"), "--out", str(out), "--pid", "1"]) == 2
