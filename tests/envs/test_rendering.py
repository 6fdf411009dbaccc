"""Pictures: what is in the machine is what is drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from support.episodes import ENVIRONMENTS, make, play
from support.machines import run

from thp_env.envs.canvas import Canvas, color
from thp_env.envs.panels import FOLIO_COLORS, NOTHING, ZERO
from thp_env.envs.picture import LEVELS, TERM_COLORS, folio_map
from thp_env.envs.rendering import Renderer


def drawn(picture: np.ndarray, order: int, rows: slice = slice(51, 192)) -> int:
    """Return how many pixels of the address space have the colour of an order."""
    return int((picture[rows] == color(FOLIO_COLORS[order][1])).all(axis=2).sum())


@pytest.mark.parametrize(("sizes", "order"), [("", 0), ("64", 4), ("2048", 9)])
def test_the_colour_of_a_folio_is_that_of_its_size(sizes: str, order: int) -> None:
    machine = run("mmap a 8M\nwrite a 0 8M\n", sizes)
    picture = Renderer("test", "rgb_array").render(machine)
    assert picture.shape == (600, 800, 3)
    assert picture.dtype == np.uint8
    assert drawn(picture, order) > 60_000
    assert not any(drawn(picture, other) for other in FOLIO_COLORS if other not in (order, NOTHING))


def test_shares_of_the_picture_are_shares_of_the_address_space() -> None:
    machine = run("mmap a 8M\nwrite a 0 2M\nread a 2M 1M\n", "64")
    cells, firsts = folio_map(machine, 800)
    assert firsts == [0]
    assert np.unique(cells, return_counts=True)[1].tolist() == [100, 500, 200]
    picture = Renderer("test", "rgb_array").render(machine)
    assert drawn(picture, 4) / drawn(picture, ZERO) == pytest.approx(2, rel=0.05)


def test_vmas_begin_where_they_are_marked() -> None:
    machine = run("mmap a 1M\nmmap b 3M\nwrite b 0 3M\n")
    cells, firsts = folio_map(machine, 64)
    assert firsts == [0, 16]
    assert (cells[:16] == NOTHING).all()
    assert (cells[16:] == 0).all()


def test_small_and_empty_address_spaces_are_drawn() -> None:
    for text in ("compute 1\n", "mmap a 4K\nwrite a 0 4K\n", "mmap f 1M file=1\n"):
        assert Renderer("test", "rgb_array").render(run(text)).any()


def test_the_text_names_orders_and_free_memory() -> None:
    machine = run("mmap a 4M\nwrite a 0 2M\n", "64")
    renderer = Renderer("VmaOrder-v0", "ansi")
    renderer.note(machine, {"walk_cost": -0.25})
    lines = renderer.render(machine, "hot_island").splitlines()
    assert lines[0].startswith("VmaOrder-v0   hot_island")
    assert "4" * 72 in lines
    assert "." * 72 in lines
    assert sum(line.count("4") for line in lines[2:8]) == sum(line.count(".") for line in lines[2:8]) == 216
    assert "reward: walk_cost -0.25" in lines
    free = sum(float(word) for word in lines[8].split() if word.replace(".", "").isdigit())
    assert free == pytest.approx(machine.free_pages / 256, abs=0.6)


def shares(picture: np.ndarray, columns: slice, rows: slice, colors: list[str]) -> list[float]:
    """Return the share of pixels of a part of the picture that each colour has."""
    return [float((picture[rows, columns] == color(c)).all(axis=2).mean()) for c in colors]


CHART, COLUMNS = slice(432, 576), slice(64, 598)


def test_rewards_are_stacked_costs_below_zero_and_gains_above() -> None:
    machine = run("mmap a 4M\nwrite a 0 2M\n")
    renderer = Renderer("test", "rgb_array")
    renderer.note(machine, {"walk_cost": -3.0, "memory_cost": -1.0, "tlb_reach": 2.0})
    picture = renderer.render(machine)
    terms = ["walk_cost", "memory_cost", "tlb_reach"]
    inks = [TERM_COLORS[name] for name in terms]
    assert shares(picture, COLUMNS, CHART, inks) == pytest.approx([3 / 6, 1 / 6, 2 / 6], abs=0.02)
    rows = {n: np.flatnonzero((picture[CHART, 300] == color(i)).all(axis=1)) for n, i in zip(terms, inks, strict=True)}
    assert rows["tlb_reach"].max() < rows["walk_cost"].min()
    assert rows["walk_cost"].max() < rows["memory_cost"].min(), "the first term is next to zero"


def test_a_step_is_as_wide_as_its_time() -> None:
    renderer = Renderer("test", "rgb_array")
    for ms, name in ((1, "walk_cost"), (4, "memory_cost")):
        machine = run(f"mmap a 4M\nwrite a 0 4K\ncompute {ms * 10**9}\n")
        renderer.note(machine, {name: -1.0})
    first, second = shares(renderer.render(machine), COLUMNS, CHART, [TERM_COLORS[n] for n in renderer.totals])
    assert second / first == pytest.approx(3, rel=0.05)


def test_what_translated_is_stacked_too() -> None:
    """One page accessed for ever hits the first level; a page each time once round a region beyond both walks."""
    for pattern, level in (("access a 0 4K uniform count=9000", 0), ("access a 0 32M stride count=8192 stride=4K", 2)):
        renderer = Renderer("test", "rgb_array")
        renderer.note(run("mmap a 32M\nwrite a 0 32M\n"), {})
        machine = run(f"mmap a 32M\nwrite a 0 32M\n{pattern}\n")
        renderer.note(machine, {"walk_cost": -1.0})
        got = shares(renderer.render(machine), slice(406, 788), slice(275, 381), [ink for _, ink in LEVELS])
        assert got[level] > 0.97


def test_what_does_not_fit_on_the_scale_is_said() -> None:
    machine = run("mmap a 4M\nwrite a 0 2M\n")
    title, pictures = (slice(414, 428), slice(400, 598)), []
    for last in (-1.0, -1000.0):
        renderer = Renderer("test", "rgb_array")
        for reward in [-1.0] * 299 + [last]:
            renderer.note(machine, {"walk_cost": reward})
        pictures.append(renderer.render(machine)[title])
    assert (pictures[0] == 255).all()
    assert (pictures[1] < 255).any()


def test_a_long_episode_keeps_its_sums_and_its_shape() -> None:
    machine = run("mmap a 4M\nwrite a 0 2M\n")
    renderer = Renderer("test", "rgb_array", moments=4)
    for _ in range(64):
        renderer.note(machine, {"cost": -1.0})
    assert len(renderer.moments) < 9
    assert sum(m.terms["cost"] for m in renderer.moments) == renderer.totals["cost"] == -64
    assert renderer.steps == 64
    renderer.begin()
    assert (renderer.moments, renderer.totals) == ([], {})


def test_a_canvas_draws_inside_only() -> None:
    canvas = Canvas(20, 10)
    canvas.box(-5, -5, 8, 8, (1, 2, 3))
    canvas.box(18, 8, 100, 100, (4, 5, 6))
    canvas.text(-3, 5, "thé", (7, 8, 9))
    assert (canvas.pixels[:3, :3] == [1, 2, 3]).all()
    assert canvas.pixels[8, 19].tolist() == [4, 5, 6]


def test_text_is_readable() -> None:
    """An I is a bar in the middle, an L has its foot at the bottom."""
    canvas = Canvas(12, 13)
    canvas.text(0, 0, "IL", (0, 0, 0))
    ink = (canvas.pixels == 0).all(axis=2)
    assert ink[:, :6].sum(axis=0).argmax() == 2
    assert ink[:, 6:].any(axis=1).nonzero()[0].max() == ink[:, 6:].sum(axis=1).argmax()


def test_unknown_modes_and_too_early_calls_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'braille'.*rgb_array, human, ansi"):
        Renderer("test", "braille")
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"reset\(\) before render"):
        Renderer("test", "rgb_array").render(None)


def test_a_window_without_pygame_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match="pip install pygame"):
        Renderer("test", "human").render(run("mmap a 4M\n"))


def test_a_window_shows_the_picture() -> None:
    pytest.importorskip("pygame")
    code = """
import os; os.environ["SDL_VIDEODRIVER"] = "dummy"
import sys; sys.path.insert(0, "tests")
import numpy as np, pygame
from support.episodes import ENVIRONMENTS, make, play
from support.machines import run
from thp_env.envs.rendering import Renderer
machine, shown = run("mmap a 8M\\nwrite a 0 8M\\n", "64"), Renderer("test", "human")
assert shown.render(machine) is None
there = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
assert (there == Renderer("test", "rgb_array").render(machine)).all()
shown.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_every_environment_is_rendered(env_id: str) -> None:
    env = make(env_id, render_mode="rgb_array")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.unwrapped.render()
    env.reset(seed=0)
    pictures = [env.render()]
    play(env, limit=5, seed=0)
    pictures.append(env.render())
    assert all(p.shape == (600, 800, 3) for p in pictures)
    assert (pictures[0] != pictures[1]).any()
    text = make(env_id, render_mode="ansi")
    play(text, limit=3, seed=0)
    assert "small" in text.render().splitlines()[0]


def test_rendering_changes_nothing() -> None:
    assert play(make(render_mode="rgb_array"), seed=1).digest() == play(make(), seed=1).digest()


def test_without_a_render_mode_there_is_a_warning() -> None:
    env = make().unwrapped
    env.reset(seed=0)
    with pytest.warns(UserWarning, match='render_mode="rgb_array"'):
        assert env.render() is None


def test_gymnasium_records_a_video(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = gymnasium.wrappers.RecordVideo(make(render_mode="rgb_array"), str(tmp_path / "video"), disable_logger=True)
    play(env, limit=8, seed=0)
    env.close()
    (video,) = tmp_path.glob("video/*.mp4")
    assert video.stat().st_size > 2000
