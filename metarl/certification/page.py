"""One self-contained page of a certificate: tables whose cells have text and a colour."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.certification.cells import NOMINAL
from metarl.core.machine.files import write_atomically
from metarl.core.messages import format_number
from metarl.evaluation.table import format_interval
from metarl.reporting import markup
from metarl.reporting.markup import escape, note, row_head

_HEAT = (
    ".heat { display: inline-block; min-width: 7.5rem; padding: 0 0.4rem; border-radius: 3px; }\n"
)

Tree = Mapping[str, Any]


def write_page(path: Path, certificate: Tree) -> None:
    """Writes the page of a certificate, which loads nothing and runs nothing."""
    write_atomically(path, draw_page(certificate))


def draw_page(certificate: Tree) -> str:
    """Returns the page as HTML."""
    policy, env = certificate["policy"], certificate["env"]
    title = f"Certificate of {policy['name']}"
    trained = policy["trained_on"] or "an unknown distribution"
    about = f"{policy['algo']}, trained on {trained}, in {env}"
    axes = list(dict.fromkeys(cell["axis"] for cell in certificate["cells"]))
    sections = [
        _summary(certificate),
        *(_axis(certificate, axis) for axis in axes),
        _reward_terms(certificate),
        _settings(certificate),
    ]
    return markup.page(title, about, sections, _HEAT)


def format_share(share: float, ends: Sequence[float | None] = (None, None)) -> str:
    """Formats a share in percent, with its interval if it is known."""
    low, high = ends
    text = f"{100 * share:.0f} %"
    return text if low is None or high is None else f"{text} [{100 * low:.0f}, {100 * high:.0f}]"


def _summary(certificate: Tree) -> str:
    summary, cells = certificate["summary"], certificate["cells"]
    attempts = certificate["grid"]["attempts"]
    rows = [_summary_row("all cells", summary["survival"])]
    rows += [
        _summary_row(f"{kind} the training distribution" if kind != "unknown" else kind, found)
        for kind, found in summary["by_training"].items()
        if found["cells"] < len(cells)
    ]
    share = format_share(summary["survival"]["mean"][-1])
    worst = next(cell for cell in cells if cell["name"] == summary["worst"])
    sentence = (
        f"Survives {share} of the episodes at attempt {attempts}, over {len(cells)} cells with the "
        f"same weight. Worst cell: {worst['name']}, "
        f"{format_share(worst['survival']['mean'][-1])}."
    )
    text = (
        "Survival: share of episodes that last to their time limit, without a fall and without a "
        "failure of the simulation, with its 95 % interval over the tasks. Attempt k is the k-th "
        "episode with the same task; a policy that adapts does so from the attempts before. "
        "The policy sends its mode, without exploration noise."
    )
    if "unknown" in summary["by_training"]:
        text += " The training distribution of this policy is not known."
    head = ["", "cells", *_attempt_titles(attempts, "survival")]
    return markup.section(
        "Survival", [f"<p>{escape(sentence)}</p>", markup.table(head, rows), note(text)]
    )


def _attempt_titles(attempts: int, what: str) -> list[str]:
    return [f"{what}, attempt {k + 1}" for k in range(attempts)]


def _summary_row(name: str, found: Tree) -> list[str]:
    pairs = zip(found["mean"], found["ci95"], strict=True)
    shares = [_heat(share, format_share(share, ends)) for share, ends in pairs]
    return [row_head(name), str(found["cells"]), *shares]


def _heat(share: float, text: str) -> str:
    """Writes a text on a colour from red (0) over yellow to green (1)."""
    hue = round(120 * min(1.0, max(0.0, share)))
    return f'<span class="heat" style="background: hsl({hue} 65% 45% / 0.28)">{escape(text)}</span>'


def _axis(certificate: Tree, axis: str) -> str:
    """Writes the table of the cells of one axis."""
    attempts = certificate["grid"]["attempts"]
    cells = [cell for cell in certificate["cells"] if cell["axis"] == axis]
    has_oracle = any(cell["oracle"] for cell in cells)
    has_tracking = any("tracking" in terms for cell in cells for terms in cell["reward_terms"])
    head = [axis if axis != NOMINAL else "", *_attempt_titles(attempts, "survival")]
    head += _attempt_titles(attempts, "return")
    head += ["gain"] if attempts > 1 else []
    head += ["upright [s]", *(["tracking"] if has_tracking else []), "reference"]
    head += ["oracle survival", "oracle return"] if has_oracle else []
    head.append("training distribution")
    nominal = certificate["cells"][0]
    rows = []
    for cell in cells:
        row = [row_head(cell["level"] or "the environment itself"), *_results(cell, nominal)]
        row += (
            [_format_estimate(cell["gain"]["mean"], cell["gain"]["ci95"])] if attempts > 1 else []
        )
        row.append(f"{cell['seconds'][-1]:.1f}")
        row += [_format_tracking(cell)] if has_tracking else []
        row.append(_format_reference(cell))
        row += _oracle(cell["oracle"]) if has_oracle else []
        row.append(escape("; ".join([cell["training"], *cell["reasons"]])))
        rows.append(row)
    title = "The environment itself" if axis == NOMINAL else axis[:1].upper() + axis[1:]
    text = _explain(has_tracking) if axis == NOMINAL else ""  # once is enough
    return markup.section(title, [markup.table(head, rows), note(text) if text else ""])


def _explain(has_tracking: bool) -> str:
    """Returns the text that explains the columns of the tables of axes."""
    text = (
        "Return: mean over the tasks and its 95 % interval; the colour compares it with the "
        "return of the environment itself and the reference return. Gain: return of the last "
        "attempt minus that of the first. Upright: mean duration of an episode at the last "
        "attempt. Reference: largest return of a policy that does not adapt."
    )
    tracking = " Tracking: mean reward per step for following the command."
    return text + tracking if has_tracking else text


def _results(cell: Tree, nominal: Tree) -> list[str]:
    survival, returns = cell["survival"], cell["returns"]
    shares = [
        _heat(share, format_share(share, ends))
        for share, ends in zip(survival["mean"], survival["ci95"], strict=True)
    ]
    floors = cell["reference_returns"].values()
    best, floor = nominal["returns"]["mean"][-1], max(floors) if floors else None
    means = []
    for mean, ends in zip(returns["mean"], returns["ci95"], strict=True):
        text = _format_estimate(mean, ends)
        is_comparable = floor is not None and best > floor
        means.append(
            _heat((mean - floor) / (best - floor), text) if is_comparable else escape(text)
        )
    return shares + means


def _format_estimate(mean: float, ends: Sequence[float | None]) -> str:
    return f"{format_number(mean)} {format_interval(ends)}"


def _format_tracking(cell: Tree) -> str:
    return format_number(cell["reward_terms"][-1].get("tracking"))


def _format_reference(cell: Tree) -> str:
    floors = cell["reference_returns"]
    if not floors:
        return "-"
    name = max(floors, key=lambda each: floors[each])
    return escape(f"{floors[name]:.1f} ({name})")


def _oracle(oracle: Tree | None) -> list[str]:
    if oracle is None:
        return ["-", "-"]
    survival, returns = oracle["survival"], oracle["returns"]
    share = survival["mean"][-1]
    return [
        _heat(share, format_share(share, survival["ci95"][-1])),
        escape(_format_estimate(returns["mean"][-1], returns["ci95"][-1])),
    ]


def _reward_terms(certificate: Tree) -> str:
    """Writes the parts of the reward at the last attempt; nothing where they are not known."""
    cells = certificate["cells"]
    names = list(dict.fromkeys(name for cell in cells for name in cell["reward_terms"][-1]))
    if not names:
        return ""
    rows = [
        [row_head(cell["name"]), *(_format_term(cell["reward_terms"][-1], name) for name in names)]
        for cell in cells
    ]
    text = (
        "Mean of each part of the reward per step, over all steps of the last attempt: a robot "
        "that falls early has fewer steps in the mean."
    )
    return markup.section("Parts of the reward", [markup.table(["cell", *names], rows), note(text)])


def _format_term(terms: Tree, name: str) -> str:
    return f"{terms[name]:.3f}" if name in terms else "-"


def _settings(certificate: Tree) -> str:
    names = ("schema", "policy", "env", "env_versions", "seed", "oracles", "grid", "versions")
    text = json.dumps({name: certificate[name] for name in names}, indent=1)
    measured = certificate["measured"]
    sentence = (
        f"Measured at {measured['at']} in {markup.format_duration(measured['seconds'])}, on "
        f"{measured['platform']}. Intervals: {certificate['intervals']}."
    )
    body = (
        f"<details><summary>grid, policy and versions</summary><pre>{escape(text)}</pre></details>"
    )
    return markup.section("Settings", [note(sentence), body])
