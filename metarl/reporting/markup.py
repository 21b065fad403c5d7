"""Parts of an HTML page: sections, tables and plots, each with a note that explains it."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from metarl.core.messages import printable
from metarl.reporting.plots.panels import INK, RULE, STYLE

_CSS = Path(__file__).with_name("report.css")

POLICY = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n"
)
"""Element of a page's head after which a browser neither runs nor loads anything."""

_HEAD = "\0"
"""First character of a cell that is the head of its row."""


def escape(text: object) -> str:
    """Returns a text as HTML, without control characters."""
    return html.escape(printable(text, keeps_lines=True), quote=True)


def row_head(text: object) -> str:
    """Returns the cell that names its row, for `table`."""
    return f"{_HEAD}{escape(text)}"


def page(title: str, about: str, sections: Iterable[str], style: str = "") -> str:
    """Returns a whole page, which loads nothing and runs nothing.

    Args:
        title: Of the page, as text.
        about: The line below it, as text.
        sections: As HTML; empty ones are left out.
        style: Further CSS.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"{POLICY}<title>metarl: {escape(title)}</title>\n"
        f"<style>\n{_CSS.read_text(encoding='utf-8')}{style}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="muted">{escape(about)}</p>\n'
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )


def section(title: str, parts: Iterable[str]) -> str:
    """Puts parts under a title; returns nothing if all are empty."""
    body = "\n".join(filter(None, parts))
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def note(text: str) -> str:
    """Writes a paragraph that explains a table or a list."""
    return f'<p class="muted">{escape(text)}</p>'


def plot(figure: Figure, name: str, caption: str) -> str:
    """Writes a plot with a caption; the name is the prefix of its ids, see `_to_svg`."""
    return (
        f'<figure role="group">{_to_svg(figure, name)}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _to_svg(figure: Figure, name: str) -> str:
    """Writes a plot as SVG for use inside a page: no address, the page's colours and fonts.

    Args:
        figure: The plot.
        name: Prefix of every id, unique on the page: letters, digits, "-".

    Returns:
        The element.
    """
    file = io.StringIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser draws the letters
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s(xmlns(:xlink)?|version)="[^"]*"', "", text)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r'\sid="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family:[^;\"]*", "font-family: inherit", text)
    text = text.replace(INK, "currentColor").replace(RULE, "var(--rule)")
    width = figure.get_figwidth() * 100
    return re.sub(
        r'<svg width="[^"]*" height="[^"]*"',
        f'<svg style="max-width: {width:.0f}px"',
        text,
        count=1,
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Writes a table.

    Args:
        columns: Titles, as text.
        rows: Cells, as HTML; `row_head` makes the head of a row.

    Returns:
        The table, which scrolls by itself where it is wider than the page.
    """
    head = "".join(
        f'<th class="name" scope="col">{escape(title)}</th>'
        if rows and rows[0][i].startswith(_HEAD)
        else f'<th scope="col">{escape(title)}</th>'
        for i, title in enumerate(columns)
    )
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}</tbody>\n</table></div>"
    )


def _cell(content: str) -> str:
    if content.startswith(_HEAD):
        return f'<th scope="row">{content[1:]}</th>'
    return f"<td>{content}</td>"


def format_steps(count: float) -> str:
    """Formats a number of steps, in millions from 100,000 up."""
    return f"{count / 1e6:.1f} M" if count >= 1e5 else f"{count:,.0f}"


def format_duration(seconds: float) -> str:
    """Formats seconds as hours:minutes:seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def format_finite(value: float, form: str) -> str:
    """Formats a number; "-" stands for one that is not finite, because it is not known."""
    return form.format(value) if math.isfinite(value) else "-"
