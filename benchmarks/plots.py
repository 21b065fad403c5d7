"""Draws plots of run folders: learning curves, adaptation, and return over the space of tasks.

python -m benchmarks.plots curves docs/curves.png RUN [RUN ...]
python -m benchmarks.plots adaptation docs/experience.png RUN [RUN ...]
python -m benchmarks.plots tasks docs/polar.png RUN [RUN ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from metarl.envs.registry import make
from metarl.reporting import plots
from metarl.runs.reader import group_runs, load_all


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("curves", "adaptation", "tasks"))
    parser.add_argument("path", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    groups = group_runs(load_all(options.runs))
    if options.kind == "curves":
        floors = {group.env: make(group.env).spec.floors for group in groups}
        figure = plots.draw_learning_curves(groups, floors)
    elif options.kind == "adaptation":
        figure = plots.draw_adaptation(groups, {})
    else:
        figure = plots.draw_task_space(groups[0])
        if figure is None:
            parser.error(f"{options.runs[0]} has no evaluation.json")
    figure.savefig(options.path, dpi=110)
    print(options.path)


if __name__ == "__main__":
    main()
