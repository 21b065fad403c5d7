"""Badge of a certificate: "survives 87 %" as an SVG that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metarl.core.machine.files import write_atomically

_COLOURS = ((0.9, "#2f855a"), (0.7, "#80761a"), (0.5, "#b7561c"), (0.0, "#b83232"))
"""Least survival, and colour; each has a contrast of at least 4.5 with white text."""

_LETTER = 6.6
"""Width of a letter [pixels]; the text is stretched to the width of its half."""


def write_badge(path: Path, certificate: Mapping[str, Any]) -> None:
    """Writes the badge: the share of episodes without a fall at the last attempt."""
    write_atomically(path, draw_badge(certificate["summary"]["survival"]["mean"][-1]))


def draw_badge(survival: float) -> str:
    """Returns the badge of a share in [0, 1] as SVG."""
    left, right = "survives", f"{100 * survival:.0f} %"
    colour = next(colour for least, colour in _COLOURS if survival >= least)
    widths = [round(_LETTER * len(text)) + 14 for text in (left, right)]
    texts, start = [], 0
    for text, width in zip((left, right), widths, strict=True):
        middle, length = start + width / 2, width - 14
        texts.append(f'<text x="{middle:g}" y="14" textLength="{length}">{text}</text>')
        start += width
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{start}" height="20" role="img" '
        f'aria-label="{left} {right}">\n<title>{left} {right}</title>\n'
        f'<clipPath id="r"><rect width="{start}" height="20" rx="3"/></clipPath>\n'
        f'<g clip-path="url(#r)"><rect width="{widths[0]}" height="20" fill="#464e58"/>'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="20" fill="{colour}"/></g>\n'
        '<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" '
        f'font-size="11">{"".join(texts)}</g>\n</svg>\n'
    )
