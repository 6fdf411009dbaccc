"""Alias tables against the exact probabilities they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thp_env.traces import ProgramError
from thp_env.traces.distributions import alias_table


def probabilities(table: np.ndarray, pages: int) -> np.ndarray:
    """Return the probability of each rank that a draw from the table has."""
    n = len(table)
    own = table["threshold"].astype(np.float64) / 2**32
    of_bin = own / n
    np.add.at(of_bin, table["alias"], (1 - own) / n)
    out = np.zeros(pages)
    for p, first, count in zip(of_bin, table["first"], table["count"], strict=True):
        out[first : first + count] += p / count
    return out


@given(st.integers(1, 5000), st.floats(0, 3))
def test_zipf_bins_have_the_exact_weight(pages, exponent):
    table = alias_table("zipf", pages, exponent, 0.5, 0.1, True)
    weights = np.arange(1, pages + 1) ** -exponent
    weights /= weights.sum()
    got = probabilities(table, pages)
    assert got.sum() == pytest.approx(1, abs=1e-6)
    for first, count in zip(table["first"], table["count"], strict=True):
        part = slice(int(first), int(first + count))
        assert got[part].sum() == pytest.approx(weights[part].sum(), abs=1e-8)
    exact = min(pages, 32)
    assert got[:exact] == pytest.approx(weights[:exact], abs=1e-8)
    # Inside an octave of 16 bins weights differ by at most 2 ** (exponent / 16), and by one rank.
    assert (got[32:] <= weights[32:] * (1.12**exponent + 1e-6) + 1e-8).all()


@given(st.integers(1, 3000), st.floats(0, 1), st.floats(0.01, 2))
def test_gauss_bins_follow_the_density(pages, center, sigma):
    table = alias_table("gauss", pages, 0, center, sigma, True)
    got = probabilities(table, pages)
    assert got.sum() == pytest.approx(1, abs=1e-6)
    assert not table["scatter"].any()
    edges = np.append(table["first"], pages).astype(float)
    middle = (edges[:-1] + edges[1:]) / 2 / pages
    logs = -0.5 * ((middle - center) / sigma) ** 2
    density = np.exp(logs - logs.max()) * np.diff(edges)
    expected = density / density.sum()
    sums = np.add.reduceat(got, table["first"].astype(int))
    assert sums == pytest.approx(expected, abs=1e-8)


@given(st.integers(1, 100000))
def test_bins_cover_every_page_once(pages):
    for pattern in ("zipf", "gauss"):
        table = alias_table(pattern, pages, 0.99, 0.5, 0.1, True)
        ends = table["first"].astype(np.int64) + table["count"]
        assert table["first"][0] == 0
        assert ends[-1] == pages
        assert (ends[:-1] == table["first"][1:]).all()
        assert (table["alias"] < len(table)).all()


@pytest.mark.parametrize(
    ("pattern", "exponent", "center", "sigma"),
    [
        ("zipf", -1, 0.5, 0.1),
        ("zipf", 11, 0.5, 0.1),
        ("gauss", 1, 2, 0.1),
        ("gauss", 1, 0.5, 0),
        ("zipf", float("nan"), 0, 1),
    ],
)
def test_parameters_out_of_range_are_refused(pattern, exponent, center, sigma):
    with pytest.raises(ProgramError, match="must"):
        alias_table(pattern, 10, exponent, center, sigma, True)
