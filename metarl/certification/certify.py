"""Certifies a policy: plays it in every cell of a grid, and writes JSON, a page and a badge."""

from __future__ import annotations

import platform
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from metarl.certification import store
from metarl.certification.badge import write_badge
from metarl.certification.candidates import Candidate, Source
from metarl.certification.cells import Cell, describe_outside, draw_tasks
from metarl.certification.grid import DEFAULT, find_grid, read_grid, select_axes
from metarl.certification.measure import play, summarise
from metarl.certification.plan import Order, Plan, make_plan
from metarl.core.errors import Preempted, Terminated, require
from metarl.core.messages import show
from metarl.core.ranges import require_seed
from metarl.evaluation import statistics
from metarl.policies import Given, find_folder
from metarl.runs import folder
from metarl.runs.progress import format_time_left, heartbeat
from metarl.sampling.sampler import Key


def certify(
    policy: Given,
    env: str = "",
    *,
    output: str | Path = "certificate",
    grid: str | Path = DEFAULT,
    axes: Sequence[str] = (),
    oracles: Sequence[Given] = (),
    seed: int = 0,
    threads: int = 0,
    resume_hint: str = "",
    trust_env: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Certifies a policy, also one of another library, and writes the certificate.

    A certificate that was stopped goes on where it was; one with other settings is refused.

    Args:
        policy: A run folder, a policy that was loaded from it, its address on the hub, a zip of
            Stable-Baselines3, or an ONNX file.
        env: Name of the environment; by default that of the run.
        output: Folder of certificate.json, certificate.html and badge.svg.
        grid: File of the grid, or a name of `configs/certify`.
        axes: Names of axes; () takes all.
        oracles: Runs of policies that observe the task, for comparison.
        seed: Of all random numbers.
        threads: Physics threads; 0 takes all cores.
        resume_hint: Command that goes on, for the message of an interrupt.
        trust_env: Load the plug-ins that the run folders name, which runs their code.
        **options: `num_tasks`, `attempts` and `product` of the grid; and for a zip `sb3_class`,
            `trusts_pickle` and `normalizer`, the file of a `VecNormalize`.

    Returns:
        The contents of certificate.json.

    Raises:
        ConfigError: A setting cannot be used; nothing has been written.
        CheckpointError: The policy cannot be loaded.
        NumericalError: The policy's action is not finite.
        Preempted: Ctrl-C or SIGTERM; the finished cells are kept.
    """
    require_seed(seed)
    require(isinstance(env, str), "env", env, "the name of an environment")
    read = read_grid(find_grid(str(grid)))
    known = {name: options.pop(name) for name in list(options) if name in vars(read)}
    read = replace(read, axes=select_axes(read, axes), **known)
    if normalizer := options.pop("normalizer", None):
        options["normalizer"] = Path(normalizer)
    source = Source(find_folder(policy), **options)
    runs = tuple(find_folder(each, "oracles") for each in oracles)
    hint = resume_hint or "the same call"
    return run(Order(source, env, read, seed, runs, Path(output), threads, hint, trust_env))


def run(order: Order, stream: TextIO | None = None) -> dict[str, Any]:
    """Carries out an order; see `certify`. The progress goes to a stream, by default stdout."""
    from metarl.certification.page import write_page  # imports matplotlib

    with ExitStack() as stack:
        plan = make_plan(order, stack)
        store.open_folder(order.output, plan.settings)
        stack.enter_context(folder.lock(order.output, "certified"))
        try:
            results = _play_cells(plan, stream or sys.stdout)
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Terminated) else signal.SIGINT
            name = signal.Signals(number).name
            done = store.count_cells(order.output, plan.cells)
            text = f"stopped by {name}; {done} of {len(plan.cells)} cells are kept"
            raise Preempted(f"{text}; go on with: {order.resume_hint}") from error
        certificate = _join(plan, results)
        store.write_certificate(order.output, certificate)
        write_page(order.output / "certificate.html", certificate)
        write_badge(order.output / "badge.svg", certificate)
    return certificate


# --- the cells ------------------------------------------------------------------------------------


def _play_cells(plan: Plan, stream: TextIO) -> list[dict[str, Any]]:
    """Plays the cells that are not finished; returns the results of all."""
    output, total = plan.order.output, len(plan.cells)
    results = [store.read_cell(output, i, cell) for i, cell in enumerate(plan.cells)]
    todo = [i for i, result in enumerate(results) if result is None]
    if todo and len(todo) < total:
        show(f"{total - len(todo)} of {total} cells are finished already", stream=stream)
    began = time.monotonic()
    for count, number in enumerate(todo, 1):
        cell, start = plan.cells[number], time.monotonic()
        with heartbeat(f"[{number + 1}/{total}] {cell.name}", stream=stream):
            result = _measure(plan, cell)
        result["measured_in"] = time.monotonic() - start
        store.write_cell(output, number, cell, result)
        results[number] = result
        left = (time.monotonic() - began) / count * (len(todo) - count)
        line = f"[{number + 1}/{total}] {cell.name}: {_describe(result)}"
        rest = f"; about {format_time_left(left)} left" if count < len(todo) else ""
        show(line + rest, stream=stream)
    return [result for result in results if result is not None]


def _describe(result: Mapping[str, Any]) -> str:
    survival, mean = result["survival"]["mean"][-1], result["returns"]["mean"][-1]
    return f"survives {100 * survival:.0f} %, return {mean:.2f}"


def _measure(plan: Plan, cell: Cell) -> dict[str, Any]:
    """Plays the policy, and the oracle of the cell's environment, in one cell."""
    candidate, spec, seed = plan.candidate, plan.spec(cell), plan.order.seed
    tasks = draw_tasks(cell, spec, seed, plan.order.grid.num_tasks)
    training, reasons = "unknown", []
    if candidate.training:
        reasons = describe_outside(cell, spec, tasks, candidate.training)
        training = "outside" if reasons else "inside"
    result = {
        "name": cell.name,
        "axis": cell.axis,
        "level": cell.level,
        "env": cell.env,
        "training": training,
        "reasons": reasons,
        "reference_returns": {name: float(value) for name, value in spec.floors.items()},
        **_play_one(plan, candidate, cell, tasks),
    }
    oracle = plan.oracles.get(cell.env)
    result["oracle"] = oracle and _play_one(plan, oracle, cell, tasks)
    return result


def _play_one(plan: Plan, player: Candidate, cell: Cell, tasks: np.ndarray) -> dict[str, Any]:
    env, seed = plan.envs.make(cell.env, player.observation), plan.order.seed
    played = play(
        env,
        player.learner,
        tasks,
        num_episodes=player.num_episodes,
        attempts=plan.order.grid.attempts,
        key=Key(seed, "certify", 0),
        name=cell.name,
    )
    return summarise(played, tasks, env.spec.dt, seed) | {"episodes_per_task": player.num_episodes}


# --- the certificate ------------------------------------------------------------------------------


def _join(plan: Plan, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the contents of certificate.json."""
    seconds = sum(result["measured_in"] for result in results)
    cells = [{k: v for k, v in result.items() if k != "measured_in"} for result in results]
    grid = plan.settings["grid"] | {"about": plan.order.grid.about}
    return {
        **plan.settings,
        "grid": grid,
        "summary": summarise_cells(cells),
        "intervals": "95 %, over the tasks of a cell; survival: Wilson, returns: bootstrap",
        "cells": cells,
        "measured": {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": seconds,
            "platform": platform.platform(),
        },
    }


def summarise_cells(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Averages the survival over cells, each with the same weight.

    A task has the same start and commands in every cell, so the tasks, averaged over the cells, are
    the sample of the interval, which is Wilson's as in a cell.

    Returns:
        `survival` of all cells (`mean`, `ci95`, lists over the attempts), the same of those inside,
        outside and of unknown relation to the training distribution, and the `worst` cell.
    """

    def average(chosen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        per_task = np.mean([cell["survival"]["per_task"] for cell in chosen], axis=0)
        mean = per_task.mean(axis=1).tolist()
        ends = [list(statistics.share_interval(each, per_task.shape[1])) for each in mean]
        return {"cells": len(chosen), "mean": mean, "ci95": ends}

    kinds = {}
    for kind in ("inside", "outside", "unknown"):
        chosen = [cell for cell in cells if cell["training"] == kind]
        if chosen:
            kinds[kind] = average(chosen)
    worst = min(cells, key=lambda cell: cell["survival"]["mean"][-1])
    return {"survival": average(cells), "by_training": kinds, "worst": worst["name"]}
