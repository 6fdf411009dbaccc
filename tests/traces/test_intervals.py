"""Intervals against a plain set."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from thp_env.traces.intervals import Intervals

POINTS = st.integers(0, 30)


@given(st.lists(st.tuples(st.booleans(), POINTS, POINTS)), POINTS, POINTS)
def test_intervals_are_a_set(steps, start, end):
    intervals, model = Intervals(), set()
    for add, a, b in steps:
        (intervals.add if add else intervals.remove)(a, b)
        model = model | set(range(a, b)) if add else model - set(range(a, b))
        assert {x for s, e in intervals for x in range(s, e)} == model
        pairs = list(intervals)
        assert all(s < e for s, e in pairs)
        assert all(first[1] < second[0] for first, second in pairwise(pairs))
    if start < end:
        assert intervals.covers(start, end) == (set(range(start, end)) <= model)


def test_clip_returns_the_parts_inside():
    intervals = Intervals()
    for start, end in ((0, 4), (8, 12), (20, 30)):
        intervals.add(start, end)
    assert intervals.clip(2, 22) == [(2, 4), (8, 12), (20, 22)]
    assert intervals.clip(4, 8) == []
    assert intervals.clip(8, 12) == [(8, 12)]
    assert intervals.clip(30, 40) == []
