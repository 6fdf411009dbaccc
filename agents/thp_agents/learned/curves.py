"""Learning curves: one row for each check of a training, as CSV and as a picture.

python -m thp_agents.learned.curves OUT.png CURVE.csv ...
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from thp_agents.files import write_text
from thp_agents.policy import PolicyError
from thp_env.reading import read_text, reading


class Row(msgspec.Struct):
    """The result of a check.

    Attributes:
        decisions: so far.
        episodes: so far.
        cpu_s: CPU seconds of the training's process so far.
        train: mean return of the last 100 episodes.
        held_out: 100 log(cost of the shadow / cost) on held-out programs, each capped at log 1.5.
        entropy: the weight of entropy in the loss.
    """

    decisions: int
    episodes: int
    cpu_s: float
    train: float
    held_out: float
    entropy: float


def write_curve(rows: Sequence[Row], path: Path) -> None:
    """Write rows as CSV; the file appears whole or not at all."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(Row.__struct_fields__)
    out.writerows(msgspec.structs.astuple(row) for row in rows)
    write_text(path, text.getvalue())


def read_curve(path: Path) -> list[Row]:
    """Read a curve of `write_curve`.

    Raises:
        PolicyError: when it is not a curve.
    """
    with reading(path, PolicyError, "a learning curve"):
        lines = list(csv.DictReader(read_text(path).splitlines()))
    try:
        return [msgspec.convert(line, Row, strict=False) for line in lines]
    except msgspec.ValidationError as error:
        raise PolicyError(f"{path}: not a learning curve ({error})") from None


def picture(curves: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw the savings on held-out programs, and the returns in training, over the decisions of several trainings.

    Trainings whose names differ only in the seed after the last "-" have the same colour.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    agents = list(dict.fromkeys(name.rpartition("-")[0] or name for name in curves))
    for name, rows in curves.items():
        agent = name.rpartition("-")[0] or name
        first = agent not in [line.get_label() for line in left.get_lines()]
        style = {"color": f"C{agents.index(agent) % 10}", "label": agent if first else "_", "linewidth": 1.2}
        decisions = [row.decisions / 1000 for row in rows]
        left.plot(decisions, [row.held_out for row in rows], **style)
        right.plot(decisions, [row.train for row in rows], **style)
    for axes, title in ((left, "held-out programs: 100 log(cost of all sizes / cost), capped"),
                        (right, "return of the last 100 episodes of training")):  # fmt: skip
        axes.axhline(0, color="gray", linewidth=0.8)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("decisions in thousands")
    left.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    picture({Path(name).stem: read_curve(Path(name)) for name in sys.argv[2:]}, Path(sys.argv[1]))
