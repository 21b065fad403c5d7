"""The text of `--list-envs`: the recommended environments, and the parts of all other names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from metarl.core.env import EnvSpec
from metarl.core.machine.files import PACKAGED, PACKAGED_ARMS
from metarl.core.tasks import TaskDistribution, Variable
from metarl.envs.locomotion.world import Variation
from metarl.envs.registry import ENVIRONMENTS, FAMILIES, WORLDS, Recipe
from metarl.envs.robots.included.gymnasium import ANT
from metarl.envs.robots.included.quadruped import QUADRUPED

_NUM_LISTED = 6
"""Numbers of an action that are listed one by one."""


def list_environments() -> str:
    """Describes the recommended environments, and the robots, goals and variations of other names.

    It takes the specs of recipes without a simulation, to answer within a second.
    """
    texts = [
        describe_environment(factory.spec(name), factory.variations)
        if isinstance(factory, Recipe)
        else describe_environment(factory(name, 1).spec)
        for name, factory in ENVIRONMENTS.items()
    ]
    return "\n".join([*texts, "", _describe_families()])


def describe_environment(spec: EnvSpec, variations: Sequence[Variation] = ()) -> str:
    """Describes sizes, task, variations, split, reward and reference returns of an environment."""
    floors = ", ".join(f"{name} {value:.0f}" for name, value in spec.floors.items())
    lines = [
        f"{spec.name:24} T={spec.horizon} dt={spec.dt:g} s  S={spec.obs_size} "
        f"A={spec.action_size} {_summarize_actions(spec)}  version {spec.version}",
        f"    task    {describe_variables(spec.tasks.variables)}"
        + (f"  ({spec.note})" if spec.note else ""),
        *(f"    world   {variation.formula}" for variation in variations),
        f"    split   {_describe_split(spec.tasks, spec.task_split)}",
        f"    reward  {spec.reward}",
        f"    floors  {floors}",
    ]
    return "\n".join(lines)


def describe_actions(spec: EnvSpec) -> str:
    """Describes the mapping of the policy's output to actions, for example "200 x output"."""
    if spec.discrete:
        return f"action: one of {spec.action_size}, the largest of the policy's outputs"
    text = f"{_list_numbers(spec.action_scale)} x output"
    if np.any(spec.action_centre):
        text = f"{_list_numbers(spec.action_centre)} + {text}"
    if spec.action_range is None:
        return f"action = {text} of the policy, clipped"
    low, high = map(_list_numbers, spec.action_range)
    return f"action = {text} of the policy, clipped to [{low}, {high}]"


def _summarize_actions(spec: EnvSpec) -> str:
    centre = f"{_list_numbers(spec.action_centre)} + " if np.any(spec.action_centre) else ""
    return f"action {centre}x{_list_numbers(spec.action_scale)}"


def _list_numbers(values: float | Sequence[float]) -> str:
    """Lists the first numbers in parentheses; if all are equal, returns one."""
    numbers = np.atleast_1d(values)
    if (numbers == numbers[0]).all():
        return f"{numbers[0]:g}"
    texts = [f"{number:g}" for number in numbers[:_NUM_LISTED]]
    return f"({', '.join([*texts, '...'] if len(numbers) > _NUM_LISTED else texts)})"


def _describe_split(tasks: TaskDistribution, sizes: tuple[int, int] | None) -> str:
    if tasks.test.variables != tasks.variables:
        changed = [
            test
            for train, test in zip(tasks.variables, tasks.test.variables, strict=True)
            if test != train
        ]
        text = f"held out {describe_variables(changed)}"
    else:
        text = "fresh draws" if tasks.held_out else "none: test = train"
    if not sizes:
        return text
    # an evaluation draws as many test tasks as its settings say
    return f"{text}; {sizes[0]} fixed training tasks (the source tests on {sizes[1]})"


def describe_variables(variables: Sequence[Variable]) -> str:
    """Describes names, ranges and units of task numbers.

    Successive numbers with the same first word, range and unit are counted instead.
    """
    parts = []
    for (word, ends, unit), group in groupby(variables, key=_summarize):
        names = [variable.name for variable in group]
        name = names[0] if len(names) == 1 else f"{word} ({len(names)} numbers)"
        parts.append(f"{name} {ends}" + ("" if unit == "1" else f" {unit}"))
    return ", ".join(parts)


def _summarize(variable: Variable) -> tuple[str, str, str]:
    """Returns the first word of the name, the range and the unit."""
    if variable.labels:
        kinds = variable.labels[int(variable.low) : int(variable.high) + 1]
        return variable.name, "of " + ", ".join(kinds), variable.unit
    bands = variable.bands or ((variable.low, variable.high),)
    if bands == ((variable.low, variable.low),):
        return variable.name.split()[0], f"= {variable.low:g}", variable.unit
    ends = " or ".join(f"[{low:.4g}, {high:.4g}]" for low, high in bands)
    return variable.name.split()[0], f"in {ends}", variable.unit


def _describe_families() -> str:
    lines = [
        "robot-goal-variation-... names any other: one robot, one goal or none, any variations; "
        "--env NAME --list-envs describes it"
    ]
    for robot, goals in FAMILIES.items():
        texts = [
            f"{goal or '(none)'}: {recipe.terms.formula(recipe.goal)}"
            for goal, recipe in goals.items()
        ]
        lines.append(f"  {robot:14}{', '.join(texts)}")
    packaged = ", ".join(PACKAGED)
    arms = ", ".join(PACKAGED_ARMS)
    lines.append(
        f"  {packaged}: as quadruped ({arms}: as arm); their models come from a package "
        "(docs/own-robot.md)"
    )
    lines.append("variations, and their numbers for ant (planar robots and arms have fewer)")
    for name, variation in WORLDS.items():
        tasks = variation.tasks(QUADRUPED if variation.needs_servos else ANT)
        split = _describe_split(tasks, variation.task_split)
        lines.append(f"  {name:14}{variation.formula}")
        robot = " (quadruped)" if variation.needs_servos else ""
        lines.append(f"  {'':14}{describe_variables(tasks.variables)}; {split}{robot}")
    return "\n".join(lines)
