"""The simulated kernel against recordings of Linux 6.18: every modelled step, and that the comparison can fail."""

from __future__ import annotations

import copy
import json
import lzma
from pathlib import Path

import pytest

from thp_env.conformance import RecordingFileError, read_recordings, replay, report

DATA = Path(__file__).parent / "data"
RULES = {r["name"]: r for r in read_recordings(DATA / "rules.jsonl.xz")}
RANDOM = {r["name"]: r for r in read_recordings(DATA / "random.jsonl.xz")}

pytestmark = pytest.mark.sanitize


def test_the_recordings_are_complete():
    assert len(RULES) == 227
    assert len(RANDOM) == 200
    assert sum(len(r["steps"]) for r in RULES.values()) == 1771
    assert sum(len(r["steps"]) for r in RANDOM.values()) == 4567
    assert sum(name[0] in "auz" for name in RULES) == 70


@pytest.mark.parametrize("name", RULES)
def test_rule_scenarios_match(name):
    result = replay(RULES[name])
    assert result.ok, str(result.difference)
    assert result.matched == len(RULES[name]["steps"])


@pytest.mark.parametrize("name", RANDOM)
def test_random_scenarios_match(name):
    result = replay(RANDOM[name])
    assert result.ok, str(result.difference)
    assert result.matched == len(RANDOM[name]["steps"])


def _tampered(change, scenario="u01_dontneed_partial_64k", step=-1):
    record = copy.deepcopy(RULES[scenario])
    change(record["steps"][step])
    result = replay(record)
    assert not result.ok
    assert result.difference.step == record["steps"][step]["i"]
    return result.difference.what


def _layout_of(step):
    return next(m["lay"] for m in step["map"] if m["lay"])


def _set(step, path, value):
    *way, last = path
    for key in way:
        step = step[key]
    step[last] = value


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("err",), 22, "errno"),
        (("minflt",), 9, "minor faults"),
        (("majflt",), 1, "major faults"),
        (("mthp", "64", "nr_anon"), 7, "hugepages-64kB nr_anon"),
        (("mthp", "64", "anon_fault_alloc"), 0, "hugepages-64kB anon_fault_alloc"),
        (("mthp",), {"16": {"swpout": 1}}, "hugepages-16kB swpout"),
        (("vm",), {"thp_split_pmd": 3}, "vmstat thp_split_pmd"),
        (("vm",), {"pswpout": 1}, "vmstat pswpout"),
        (("map", 0, "rss"), 4, "rss"),
        (("map", 0, "ahp"), 2048, "ahp"),
        (("map", 0, "swap"), 4, "swap"),
        (("map", 0, "lazy"), 4, "lazy"),
        (("map", 0, "vmas", 0, 1), 15, "VMAs"),
        (("map", 0, "vmas", 0, 2), "r--", "VMAs"),
        (("map", 0, "vmas", 0, 3), "N", "VMAs"),
        (("map", 0, "r"), "b", "mapped regions"),
        (("map", 0, "lay", 0, 0), 1, "page 0"),
        (("map", 0, "lay", 0, 1), 15, "page 15"),
        (("map", 0, "lay", 0, 2), "Z", "page 0"),
        (("map", 0, "lay", 0, 3), 5, "page 0"),
        (("map", 0, "lay", 0, 4), 1, "page 0"),
        (("map", 0, "lay", 0, 5), 1, "page 0"),
        (("map", 0, "lay", 0, 6), "P", "page 0"),
        (("map", 0, "lay", 0, 7), 2, "page 0"),
    ],
)
def test_a_difference_in_any_field_is_found(path, value, what):
    def change(step):
        if path[-1] == 2 and "lay" in path:
            del _layout_of(step)[0][3:]
        _set(step, path, value)

    # The step that writes the whole folio: one run of 16 pages.
    assert what in _tampered(change, "a03_single_64k", _index_of_write("a03_single_64k"))


def _index_of_write(name):
    steps = RULES[name]["steps"]
    return next(i for i, s in enumerate(steps) if s["op"].startswith("write") and len(_layout_of(s)[0]) > 3)


def test_exclusive_flag_of_a_single_page_is_compared():
    name = "a01_no_size_enabled"

    def change(step):
        _layout_of(step)[0][6] = _layout_of(step)[0][6].replace("x", "")

    assert "page" in _tampered(change, name, _index_of_write(name))


def test_a_counter_that_did_not_change_is_compared():
    """A recorded change of a counter that the machine did not make, and the reverse."""
    name = "a03_single_64k"
    assert "anon_fault_alloc" in _tampered(lambda s: s["mthp"].clear(), name, _index_of_write(name))


def test_the_report_shows_the_difference_and_the_last_line_counts():
    wrong, foreign = copy.deepcopy(RULES["a03_single_64k"]), copy.deepcopy(RULES["a04_single_16k"])
    wrong["steps"][-1]["minflt"] += 1
    foreign["steps"][2:3] = [{**foreign["steps"][2], "op": "frobnicate"}]
    text = report([replay(wrong), replay(foreign)], verbose=True)
    assert "FAIL a03_single_64k" in text
    assert "minor faults: expected" in text
    assert "not modelled from step 2 on: a04_single_16k: frobnicate" in text
    steps, skipped = len(wrong["steps"]) + 2, len(foreign["steps"]) - 2
    assert text.splitlines()[-1] == f"scenarios 1/2 steps {steps - 1}/{steps} not-modelled {skipped}"


@pytest.mark.parametrize("content", [b"{", b'{"name": 1, "steps": []}\n', b'{"name": "x"}\n', b"[]\n", b'"x"\n'])
def test_a_malformed_line_is_named(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(json.dumps(RULES["a03_single_64k"]).encode() + b"\n" + content)
    with pytest.raises(RecordingFileError, match=r"x\.jsonl: line 2: not a recorded scenario"):
        list(read_recordings(path))


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "x.jsonl.xz"
    path.write_bytes((DATA / "rules.jsonl.xz").read_bytes()[:1000])
    with pytest.raises(RecordingFileError, match="the file is truncated"):
        list(read_recordings(path))
    with pytest.raises(RecordingFileError, match="no such file"):
        list(read_recordings(tmp_path / "y.jsonl"))
    path.write_bytes(lzma.compress(b"\xff\xfe\n"))
    with pytest.raises(RecordingFileError, match="line 1: not a text"):
        list(read_recordings(path))
