"""Forms that logs take: what each tool writes with its options, and what an import says of it.

threads.c maps 16 MiB and a thread of it 4 MiB, and both write all of theirs; the C library maps little beside.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from thp_agents.cli import main
from thp_workloads.importing import ImportingError, read
from thp_workloads.importing.large_folios import whole_folios
from thp_workloads.importing.summary import accessed_pages, summary
from thp_workloads.recording.windows import RUN_DTYPE

DATA = Path(__file__).resolve().parents[1] / "data" / "imports"
FORMS = DATA / "forms"
MIB = 256
"""Pages."""

REFUSED = {
    "perf_default_ip_as_address.txt": r"txt:1: a fault without the address of the memory.*perf script -F",
    "perf_kernel_ip_overflow.txt": r"txt:1: a fault without the address of the memory",
    "perf_huge_length.txt": r"txt:2: mmap of 0xffffffffffff000 bytes at 0x7f0000000000 is outside",
    "perf_zero_accesses.txt": "neither a call on memory nor a touch of a page",
    "strace_negative_length.txt": r"txt:1: .*mmap of 0xfffffffffffff000 bytes",
    "strace_attached_inside_line.txt": "neither a call on memory nor a touch of a page",
    "lackey_crlf.txt": "no accesses in it: run lackey with --trace-mem=yes",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_imported_says_what_would_help(name: str) -> None:
    with pytest.raises(ImportingError, match=REFUSED[name]) as caught:
        read(name.partition("_")[0], FORMS / name)
    assert "\n" not in str(caught.value)


PAGES = {
    "strace_bom.txt": 18,
    "strace_r.txt": 2,
    "strace_y.txt": 0,
    "strace_reserve_then_mprotect.txt": 64 * MIB,
    "strace_thread_lost.txt": 64 * MIB + 2,
    "lackey_csapp_no_instructions.txt": 3,
    "damo_current_raw.txt": 0x3F3,
}


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_are_those_of_the_log(name: str) -> None:
    program = read({"damo": "damon"}.get(name.partition("_")[0], name.partition("_")[0]), FORMS / name)
    assert accessed_pages(program) == PAGES[name]
    assert any("next to nothing" in line for line in summary(program)) == (PAGES[name] < 64)


@pytest.mark.parametrize("name", ["strace_all_prefixes.txt", "strace_exec_and_attached.txt", "strace_set"])
def test_a_processs_threads_and_its_last_program_are_read(name: str) -> None:
    """-r -i -n -k -y --decode-pids=comm; `sh -c 'exec ./threads'` to standard error; the files of -ff."""
    program = read("strace", FORMS / name)
    assert 20 * MIB <= accessed_pages(program) < 20 * MIB + 100
    left = " ".join(program.meta["left_out"])
    assert ("last execve" in left) == ("exec" in name)


def test_a_file_of_a_set_says_that_there_are_others() -> None:
    one = sorted(FORMS.glob("strace_set.*"))[0]
    assert "files of the same -ff" in read("strace", one).meta["left_out"][0]


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "log"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


MAP = "mmap(NULL, 8192, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000\n"
END = "+++ exited with 0 +++\n"


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        (MAP.replace("mmap", "mmap2") + END, 2),
        (MAP.replace("mmap", "old_mmap") + END, 2),
        ((MAP + END).replace("\n", "\r\n"), 2),
        ("strace: [ Process PID=1 runs in 32 bit mode. ]\n" + MAP + END, 2),
        (MAP + "execve(\"./b\", [\"./b\"], 0x7ffc /* 3 vars */) = 0\n" + MAP.replace("8192", "12288") + END, 3),
        # A stack that is reserved and made writable is not written from end to end.
        (MAP + "mmap(NULL, 8388608, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7e0000000000\n"
         "mprotect(0x7e0000000000, 8388608, PROT_READ|PROT_WRITE) = 0\n" + END, 2),
        # Made writable twice, a page is written once.
        (MAP + "mprotect(0x7f0000000000, 4096, PROT_READ) = 0\n"
         "mprotect(0x7f0000000000, 8192, PROT_READ|PROT_WRITE) = 0\n" + END, 2),
        ("openat(AT_FDCWD, \"/a, b\", O_RDONLY) = 3</a, b>\n"
         "mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, 3</a, b>, 0) = 0x7e0000000000\n" + MAP + END, 2),
    ],
)  # fmt: skip
def test_calls_of_strace(text: str, pages: int, tmp_path: Path) -> None:
    program = read("strace", written(tmp_path, text))
    assert accessed_pages(program) == pages
    assert program.work.sum() == pages


def test_other_tasks_are_counted_and_the_option_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = "".join(f"{pid} {MAP}" for pid in (10, 11, 11)).replace("11 mmap(NULL", "11 mmap(NULL", 1) + f"10 {END}"
    path = written(tmp_path, text)
    assert main(["import", "--from", "strace", str(path), "--out", str(tmp_path / "x.npz")]) == 0
    said = capsys.readouterr().out
    assert "left out: 2 calls of 1 other processes, most of them of 11 (2 calls): choose by --pid" in said
    assert "1 regions of anonymous memory, 2 pages accessed (0.0 MiB), 2 accesses" in said
    assert "next to nothing" in said
    with pytest.raises(ImportingError, match=r"no call of process 12 in it; it has those of 11 \(2 calls\), 10"):
        read("strace", path, 12)


def test_large_folios_behind_faults_are_taken_whole(tmp_path: Path) -> None:
    """32 MiB that madvise asked 2M folios for, written from end to end: 16 faults."""
    program = read("perf", FORMS / "perf_large_folios.txt")
    assert 32 * MIB <= accessed_pages(program) < 32 * MIB + 100
    assert any("16 faults lie one in each aligned 2048K" in note for note in program.meta["distortions"])


def test_faults_of_single_pages_stay_what_they_are() -> None:
    touches = np.zeros(600, RUN_DTYPE)
    touches["instruction"] = np.arange(600)
    rng = np.random.default_rng(0)
    for pages in (np.arange(600), rng.permutation(4000)[:600], np.arange(600) * 17):
        touches["page"] = pages
        assert whole_folios(touches)[1] == {}
    touches["page"] = np.arange(600) * 16
    added, orders = whole_folios(touches)
    assert orders == {4: 600}
    assert len(np.unique(added["page"])) == len(added) == 600 * 16


def test_a_call_chain_is_passed_over_and_kernel_addresses_are_left_out(tmp_path: Path) -> None:
    path = written(
        tmp_path, "a 1/1 1.0: page-faults:     7f0000000000 x+0x1 (/bin/a)\n\t7f00 f+0x1 (/bin/a)\n\tffff f ([k])\n\n"
        "a 1/2 1.1: page-faults:     7f0000001000 \na 1/1 1.2: page-faults: ffffffff81000000\n"
        "b 3/3 1.2: page-faults:     7f0000002000\na 1/1 1.3: sched:sched_switch: prev_comm=a\n"
    )  # fmt: skip
    program = read("perf", path)
    assert accessed_pages(program) == 2
    left = " ".join(program.meta["left_out"])
    for said in ("addresses of the kernel", "process 3 (1 events): choose by --pid", "sched_switch"):
        assert said in left


def test_perf_data_itself_is_read(tmp_path: Path) -> None:
    perf, compiler = shutil.which("perf"), shutil.which("gcc")
    if not perf or not compiler:
        pytest.skip("perf and gcc are not here")
    subprocess.run([compiler, "-O1", "-pthread", "-o", tmp_path / "threads", DATA / "threads.c"], check=True)
    recorded = tmp_path / "perf.data"
    command = [perf, "record", "-q", "-d", "-c", "1", "-e", "page-faults", "-o", recorded, tmp_path / "threads"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("perf may not record here")
    assert 20 * MIB <= accessed_pages(read("perf", recorded)) < 20 * MIB + 300
    subprocess.run([word for word in command if word != "-d"], capture_output=True, check=True)
    with pytest.raises(ImportingError, match="perf record -d"):
        read("perf", recorded)


def test_damons_targets_and_physical_memory(tmp_path: Path) -> None:
    def snapshot(target: int, address: int) -> str:
        return ("monitoring_start: 0 ns\nmonitoring_end: 1 s\nmonitoring_duration: 1 s\n"
                f"target_id: {target}\nnr_regions: 1\n{address:x}-{address + 0x4000:x} ( 16 KiB) 3 -1\n")  # fmt: skip

    path = written(tmp_path, snapshot(0, 0x7F << 40) + snapshot(1, 0x7E << 40))
    assert accessed_pages(read("damon", path)) == 4
    assert read("damon", path).meta["left_out"] == ["targets 1: choose by --pid"]
    assert accessed_pages(read("damon", path, 1)) == 4
    path = written(tmp_path, snapshot(0, 4 << 30))
    with pytest.raises(ImportingError, match="physical memory"):
        read("damon", path)
    with pytest.raises(ImportingError, match="physical memory"):
        read("damon", written(tmp_path, (DATA / "host.damo.json.z").read_bytes()))


ACCESSES = {
    "lackey": "I  00401000,3\r\n L 7f0000000000,8\r\nI  00401003,3\r\n S 7f0000001ffc,8\r\n",
    "pinatrace": "0x401000: R 0x7f0000000000\n0x401003: W 0x7f0000001ffc\n0x401003: W 0x7f0000002000\n#eof\n",
    "memtrace": "Format: <data address>: <data size>, <(r)ead/(w)rite/opcode>\n0x401000:  3, mov\n"
                "0x7f0000000000:  8, r\n0x401003:  3, mov\n0x7f0000001ffc:  8, w\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", ACCESSES)
def test_logs_of_accesses_are_read_alike(kind: str, tmp_path: Path) -> None:
    program = read(kind, written(tmp_path, ACCESSES[kind]))
    assert accessed_pages(program) == 3
    assert program.meta["instructions"] == 2
    assert program.meta["source"] == kind


def test_what_imports_also_evaluates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A program without a VMA that has a choice cannot tell policies apart: figures, and no score."""
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", "--policies", "never", "64K", "--quiet", "--processes", "1", "--workloads"]
    assert main([*words, str(FORMS / "evaluate_stack_error.npz")]) == 0
    assert "No policy saves anything against never" in capsys.readouterr().out
    (tmp_path / "idle.txt").write_text("compute 1ms\n")
    assert main([*words, "idle.txt"]) == 0
