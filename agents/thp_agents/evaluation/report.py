"""The report of an evaluation: HTML pages that need nothing else, with tables and pictures of its results."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from thp_agents.evaluation import tables
from thp_agents.evaluation.episode import Run
from thp_agents.evaluation.pictures import address_space, costs, curve_picture, png, savings_picture
from thp_agents.evaluation.results import Results, save_results
from thp_agents.evaluation.scores import NEVER, ORACLE, Scores
from thp_agents.files import write_bytes, write_text
from thp_agents.policy import PolicyError

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1060px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .3em .8em; text-align: right }
th:first-child, td:first-child { text-align: left } tr:nth-child(even) { background: #f4f6f8 }
th { border-bottom: 2px solid #888 } tr.best { font-weight: 600 } img { max-width: 100% } .note { color: #555 }
"""


def image(figure: Figure) -> str:
    """Return a picture as an HTML element."""
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png(figure)).decode()}">'


def page(title: str, parts: Sequence[str]) -> str:
    """Return an HTML page."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>"
    return "\n".join([f"{head}<style>{STYLE}</style>", f"<h1>{html.escape(title)}</h1>", *parts]) + "</html>\n"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], best: int | None = None) -> str:
    """Return a table as an HTML element, with one row set off."""
    cells = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join(
        f"<tr{' class=best' if i == best else ''}>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>"
        for i, row in enumerate(rows)
    )
    return f"<table><tr>{cells}</tr>{body}</table>"


def file_name(workload: str) -> str:
    """Return the name of a workload's page; a workload may be a file, in any folder."""
    return f"{workload.replace('/', '-')}.html"


def index(results: Results, pictured: Sequence[str] = ()) -> str:
    """Return the first page.

    Args:
        results: of the evaluation.
        pictured: workloads that have a page of their own.
    """
    runs = [row.run for row in results.runs if results.kinds.get(row.policy) != "reference"]
    links = " · ".join(f'<a href="{html.escape(file_name(w))}">{html.escape(w)}</a>' for w in pictured)
    note, table = "<p class=note>{}</p>".format, html_table
    has_score = {NEVER, ORACLE} <= results.kinds.keys()
    return page(results.title, [
        *(note(html.escape(line)) for line in results.notes),
        f"<p>{html.escape(tables.lead(results))}</p>",
        image(savings_picture(results)),
        table(*tables.savings(results), best=0),
        *(note(f"Left out: {html.escape(line)}") for line in results.failures),
        "<h2>By family</h2>", table(*tables.by_family(results)),
        "<h2>By workload</h2>", table(*tables.by_workload(results)),
        "<h2>Other prices</h2>",
        note("Policies decided at the usual prices; their runs are charged at others."),
        table(*tables.by_price(results)),
        "<h2>Where the cost goes</h2>", image(costs(runs)), table(*tables.figures(runs)),
        *(["<h2>Learning curves</h2>", image(curve_picture(results.curves))] if results.curves else []),
        *([f"<h2>What policies did</h2><p>{links}</p>"] if links else []),
        *(["<h2>Appendix: the score of version 0.1</h2>",
           note("0 is 4K everywhere, 1 the static oracle, which bounds nothing."),
           table(*Scores(results.comparison).table())] if has_score else []),
    ])  # fmt: skip


def write_report(results: Results, pictures: Sequence[Run], folder: Path) -> None:
    """Write index.html, its first picture as savings.png, results.json, and a page for each workload with pictures.

    Args:
        results: of the evaluation.
        pictures: runs with frames.
        folder: where the pages go.

    Raises:
        PolicyError: when the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PolicyError(f"cannot make {folder}: {error.strerror or error}") from None
    pictured = list(dict.fromkeys(r.workload for r in pictures))
    write_bytes(folder / "savings.png", png(savings_picture(results)))
    write_text(folder / "index.html", index(results, pictured))
    save_results(results, folder / "results.json")
    order = results.comparison.ranking()
    for workload in pictured:
        runs = sorted((r for r in pictures if r.workload == workload), key=lambda r: order.index(r.policy))
        write_text(folder / file_name(workload), page(f"{workload}, seed {runs[0].seed}", [
            '<p><a href="index.html">all workloads</a></p>', image(costs(runs)),
            "<h2>The address space over time</h2>",
            "<p class=note>Anonymous memory in address order, from low to high; colours are folio sizes.</p>",
            image(address_space(runs)),
        ]))  # fmt: skip
