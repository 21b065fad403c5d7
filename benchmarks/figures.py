"""Draws the README's pictures from run folders: learning curves, and return over the direction of the task.

python -m benchmarks.figures curves docs/curves.png RUN [RUN ...]
python -m benchmarks.figures polar docs/polar.png RUN
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from envs.registry import make
from metarl.config import from_yaml


def read_metrics(run: Path) -> dict[str, np.ndarray]:
    """Columns of a run's metrics.jsonl."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("env_steps", "return_pre", "return_post")
    return {name: np.array([row[name] for row in rows], dtype=float) for name in names}


def smooth(values: np.ndarray, width: int = 9) -> np.ndarray:
    """Running mean; at the ends over what there is."""
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")


def curves(path: Path, runs: list[Path]) -> None:
    """One panel an environment, one pair of lines a run: before and after adaptation."""
    groups = defaultdict(list)
    for run in runs:
        groups[from_yaml(run / "config.yaml").env].append(read_metrics(run))
    figure, axes = plt.subplots(1, len(groups), figsize=(4.2 * len(groups), 3.2), squeeze=False)
    for axis, (env, members) in zip(axes[0], groups.items(), strict=True):
        for i, metrics in enumerate(members):
            steps = metrics["env_steps"] / 1e6
            for name, color, label in (
                ("return_post", "tab:blue", "after one step"),
                ("return_pre", "tab:gray", "before adaptation"),
            ):
                axis.plot(
                    steps, smooth(metrics[name]), color=color, lw=1.3, label=None if i else label
                )
                axis.plot(steps, metrics[name], color=color, lw=0.5, alpha=0.25)
        floor = make(env).spec.floors["stand still"]
        axis.axhline(floor, color="black", lw=0.8, ls=":", label="stand still")
        axis.set(title=env, xlabel="environment steps [M]", ylabel="return of an episode")
        axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def polar(path: Path, run: Path) -> None:
    """Return of held-out directions after 0 .. K adaptations."""
    result = json.loads((run / "evaluation.json").read_text())
    angles = np.array(result["tasks"])[:, 0]
    order = np.argsort(angles)
    closed = np.append(order, order[0])
    figure, axis = plt.subplots(figsize=(4.4, 4.4), subplot_kw={"projection": "polar"})
    per_task = np.array(result["returns"]["per_task"])
    colors = plt.get_cmap("viridis")(np.linspace(0.0, 0.85, len(per_task)))
    for k, (values, color) in enumerate(zip(per_task, colors, strict=True)):
        label = "before" if k == 0 else f"after {k}"
        axis.plot(angles[closed], values[closed], "o-", ms=3, lw=1, color=color, label=label)
    axis.plot(
        np.linspace(0, 2 * np.pi, 200), np.full(200, result["floors"]["stand still"]), "k:", lw=0.8
    )
    axis.set_ylim(0, None)
    axis.set_title(f"{result['env']}: return over held-out directions", fontsize=10)
    axis.legend(loc="lower left", bbox_to_anchor=(-0.15, -0.12), fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("curves", "polar"))
    parser.add_argument("path", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    if options.kind == "curves":
        curves(options.path, options.runs)
    else:
        polar(options.path, options.runs[0])
    print(options.path)


if __name__ == "__main__":
    main()
