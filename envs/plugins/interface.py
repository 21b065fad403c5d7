"""Contract of a plug-in: a Gymnasium environment with `sample_tasks(rng, n)` and `set_task(task)`.

Optional attributes and methods: `horizon` (required unless its registration has a time limit),
`dt` [s], `action_scale`, `task_variables` ((name, unit, low, high) of each number of a task),
`task_words(task)`, `floors`, `sample_test_tasks(rng, n)`.
"""

from __future__ import annotations

import inspect
import pickle
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.core.env import EnvSpec
from metarl.core.tasks import Variable
from metarl.envs.plugins.task_encoding import (
    ADDRESS,
    PluginTasks,
    TaskForm,
    infer_common_form,
    make_generator,
)
from metarl.envs.plugins.values import (
    UNBOUNDED,
    InvalidPlugin,
    check_bounds,
    read_number,
    read_numbers,
    read_text,
)

NUM_SAMPLES = 64
"""Tasks in each of the two draws that show the form of the tasks and whether they repeat."""

MAX_RARE = 3
"""Largest number of occurrences in both draws of a task that is not frequent."""


@dataclass(frozen=True)
class ActionMap:
    """Mapping of the policy's output to actions: centre + scale * output, clipped to [low, high].

    Attributes:
        low: Smallest action (A,); 0 for discrete actions.
        high: Largest action (A,); 1 for discrete actions.
        centre: Action for an output of zero (A,).
        scale: Factors (A,).
        discrete: An action is one of A alternatives; only the largest entry matters.
        is_default: The mapping follows from the bounds; the plug-in has no `action_scale`.
    """

    low: np.ndarray
    high: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    discrete: bool
    is_default: bool

    @property
    def is_identity(self) -> bool:
        """The action is the output itself, but for clipping."""
        return not self.centre.any() and bool((self.scale == 1.0).all())

    def convert(self, output: np.ndarray) -> np.ndarray:
        """Maps output (M, A) of the policy to actions (M, A) in float64."""
        actions = np.multiply(output, self.scale, dtype=float)
        if self.discrete:
            return actions
        if self.centre.any():  # else -0.0 would become 0.0
            actions += self.centre
        return np.clip(actions, self.low, self.high, out=actions)


@dataclass(frozen=True)
class Facts:
    """Properties of a plug-in.

    Attributes:
        obs_low: Smallest observation (S,).
        obs_high: Largest observation (S,).
        actions: Mapping of the policy's output to actions.
        horizon: T.
        dt: Duration of a control step [s].
        variables: The D numbers of a task.
        form: Encoding of a task as numbers; None for opaque tasks.
        repeats: The tasks are a finite set; None is not known.
        has_test_tasks: The plug-in has `sample_test_tasks`.
        floors: See EnvSpec.
        why_no_pictures: Reason why the plug-in cannot be rendered; "" if it can.
        summary: First line of its docstring.
    """

    obs_low: np.ndarray
    obs_high: np.ndarray
    actions: ActionMap
    horizon: int
    dt: float
    variables: tuple[Variable, ...]
    form: TaskForm | None
    repeats: bool | None
    has_test_tasks: bool
    floors: dict[str, float]
    why_no_pictures: str
    summary: str


def read_optional(env: Any, name: str, default: Any = None) -> Any:
    """Reads an optional attribute of a plug-in or of the environment that it wraps.

    A user's class declares no protocol of metarl and may be wrapped by Gymnasium, which hides the
    attributes of the inner environment. So this function looks attributes up by name.
    """
    return env.get_wrapper_attr(name) if env.has_wrapper_attr(name) else default


def draw_tasks(env: Any, draw: int, size: int) -> list[Any]:
    """Draws tasks; a negative draw stands for test tasks.

    Raises:
        InvalidPlugin: The plug-in returned no tasks, or another number of them.
    """
    method = "sample_tasks" if draw >= 0 else "sample_test_tasks"
    rng = make_generator(draw if draw >= 0 else -1 - draw)
    found = env.get_wrapper_attr(method)(rng, size)
    if not isinstance(found, Iterable):
        hint = f"it must be a list of {size} tasks"
        raise InvalidPlugin(f"{method}(rng, {size}) returned {found!r:.80}; {hint}")
    tasks = list(found)
    if len(tasks) != size:
        raise InvalidPlugin(f"{method}(rng, {size}) returned {len(tasks)} tasks")
    return tasks


def read_facts(env: Any, make: Any) -> Facts:
    """Reads the properties of a plug-in.

    Args:
        env: An instance.
        make: The function or class that made it.

    Raises:
        InvalidPlugin: The plug-in cannot be run; the message says why.
    """
    from gymnasium import Env

    if not isinstance(env, Env):
        raise InvalidPlugin(f"makes a {type(env).__name__}, not a gymnasium.Env")
    missing = [name for name in ("sample_tasks", "set_task") if read_optional(env, name) is None]
    if missing:
        raise InvalidPlugin(
            f"lacks {' and '.join(missing)}; "
            "the contract is sample_tasks(rng, n) and set_task(task)"
        )
    obs_space, actions = read_obs_space(env), read_action_map(env)
    tasks = draw_tasks(env, 0, NUM_SAMPLES)
    form = infer_common_form(tasks)
    has_test_tasks = read_optional(env, "sample_test_tasks") is not None
    return Facts(
        obs_low=obs_space.low.astype(float),
        obs_high=obs_space.high.astype(float),
        actions=actions,
        horizon=read_horizon(env),
        dt=_read_dt(env),
        variables=_read_variables(env, form),
        form=form,
        repeats=find_repeats(form, tasks, draw_tasks(env, 1, NUM_SAMPLES)),
        has_test_tasks=has_test_tasks,
        floors=read_numbers("floors", read_optional(env, "floors", {})),
        why_no_pictures=_find_why_no_pictures(env, make),
        summary=read_text((inspect.getdoc(type(env.unwrapped)) or "").partition("\n")[0]),
    )


def read_obs_space(env: Any) -> Any:
    """Returns the observation space, a Box of one dimension.

    Raises:
        InvalidPlugin: The observations are not a vector of numbers.
    """
    from gymnasium.spaces import Box

    space = env.observation_space
    if isinstance(space, Box) and len(space.shape) == 1:
        check_bounds("the observation space", space.low, space.high)
        return space
    if images := _find_images(space):
        raise InvalidPlugin(
            f"image observations {images[0]} are not supported; give a vector of numbers"
        )
    raise InvalidPlugin(
        f"the observation space {str(space):.120} is not a vector; wrap the environment in "
        "gymnasium.wrappers.FlattenObservation"
    )


def _find_images(space: Any) -> list[tuple[int, ...]]:
    """Returns the shapes of the images in a space, including the items of a Dict or Tuple."""
    from gymnasium.spaces import Box, Dict, Tuple

    if isinstance(space, (Dict, Tuple)):
        items = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return [shape for item in items for shape in _find_images(item)]
    if not isinstance(space, Box):
        return []
    # rows, columns and channels, in any order and of any type; byte images may lack channels
    is_image = len(space.shape) > (1 if space.dtype == np.uint8 else 2)
    return [space.shape] if is_image else []


def read_action_map(env: Any) -> ActionMap:
    """Returns the mapping of the policy's output to the action space.

    By default -1 and 1 are mapped to the ends of a finite Box, dimension by dimension. With the
    attribute `action_scale`, or if a side of the Box is infinite, nothing is added to the output.

    Raises:
        InvalidPlugin: The actions are neither a vector of numbers nor discrete.
    """
    from gymnasium.spaces import Box, Discrete

    space = env.action_space
    if isinstance(space, Discrete):
        zero, one = np.zeros(int(space.n)), np.ones(int(space.n))
        return ActionMap(zero, one, zero, one, discrete=True, is_default=True)
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InvalidPlugin(
            f"the action space {str(space):.120} is not supported; "
            "it must be a Box of one dimension or Discrete"
        )
    low, high = space.low.astype(float), space.high.astype(float)
    check_bounds("the action space", low, high)
    scale = read_optional(env, "action_scale")
    centre, half = np.zeros_like(low), np.ones_like(low)
    if scale is not None:
        half *= read_number("action_scale", scale, is_positive=True)
    elif max(np.abs(low).max(), np.abs(high).max()) < UNBOUNDED:
        centre, half = 0.5 * (low + high), 0.5 * (high - low)
        half[half == 0.0] = 1.0  # clipping leaves one value
    return ActionMap(low, high, centre, half, discrete=False, is_default=scale is None)


def to_action(space: Any, action: np.ndarray) -> Any:
    """Converts an action (A,) to the type of an action space.

    For a Discrete space it is the alternative with the largest entry; for a Box of whole numbers
    the nearest of them.
    """
    from gymnasium.spaces import Discrete

    if isinstance(space, Discrete):
        return space.dtype.type(space.start + np.argmax(action))
    is_whole = np.issubdtype(space.dtype, np.integer)
    return (np.rint(action) if is_whole else action).astype(space.dtype)


def read_horizon(env: Any) -> int:
    """Returns T, from the attribute `horizon` or the time limit of the registration.

    Raises:
        InvalidPlugin: There is neither, or it is not a positive whole number.
    """
    steps = read_optional(env, "horizon")
    if steps is None and env.spec is not None:
        steps = env.spec.max_episode_steps
    hint = "give the class one, as in `horizon = 200`"
    if steps is None:
        raise InvalidPlugin(f"has no horizon; {hint}")
    is_whole = isinstance(steps, (int, np.integer)) and not isinstance(steps, bool)
    if not is_whole or steps < 1:
        raise InvalidPlugin(f"the horizon is {steps!r:.80}, no whole number >= 1; {hint}")
    return int(steps)


def _read_dt(env: Any) -> float:
    dt = read_optional(env, "dt")
    if dt is not None:
        return read_number("dt", dt, is_positive=True)
    rate = env.metadata.get("render_fps")
    return 1.0 / read_number("render_fps", rate, is_positive=True) if rate else 1.0


def _read_variables(env: Any, form: TaskForm | None) -> tuple[Variable, ...]:
    if form is None:
        return ADDRESS
    names = form.names()
    rows = read_optional(env, "task_variables")
    if rows is None:
        return tuple(Variable(read_text(name), "1", -np.inf, np.inf) for name in names)
    if not isinstance(rows, Collection) or isinstance(rows, str):
        hint = "it must be a list of (name, unit, low, high)"
        raise InvalidPlugin(f"task_variables is {rows!r:.80}; {hint}")
    if len(rows) != len(names):
        raise InvalidPlugin(
            f"task_variables has {len(rows)} entries; a task has {len(names)} numbers"
        )
    return tuple(_read_variable(row) for row in rows)


def _read_variable(row: Any) -> Variable:
    try:
        name, unit, low, high = row
        ends = float(low), float(high)
    except (TypeError, ValueError) as error:
        hint = "it must be (name, unit, low, high)"
        raise InvalidPlugin(f"task_variables has the entry {row!r:.80}; {hint}") from error
    if not ends[0] <= ends[1]:  # also NaN
        raise InvalidPlugin(f"task_variables: {name!r:.40} goes from {low} to {high}")
    return Variable(read_text(name), read_text(unit), *ends)


def to_bytes(tasks: list[Any]) -> list[bytes]:
    """Pickles tasks in order to compare them; [] if one cannot be pickled. Nothing is unpickled."""
    try:
        return [pickle.dumps(task) for task in tasks]
    except Exception:  # a plug-in's objects may raise anything
        return []


def find_repeats(form: TaskForm | None, tasks: list[Any], others: list[Any]) -> bool | None:
    """Returns whether two draws come from a finite set; None for tasks that cannot be compared.

    It is finite if most tasks occur often, or if the draws share several of the others. A few
    tasks that occur often, such as a default, do not make a continuous distribution finite.
    """
    if form is not None:
        first, second = ([form.encode(task).tobytes() for task in draw] for draw in (tasks, others))
    else:
        first, second = to_bytes(tasks), to_bytes(others)
    if not first or not second:
        return None
    counts = Counter(first + second)
    rare = {key for key, count in counts.items() if count <= MAX_RARE}
    num_rare = sum(counts[key] for key in rare)
    return 2 * num_rare < counts.total() or len(rare & set(first) & set(second)) > 1


def _find_why_no_pictures(env: Any, make: Any) -> str:
    if "rgb_array" not in env.metadata.get("render_modes", ()):
        return "its metadata names no render mode 'rgb_array'"
    try:
        inspect.signature(make).bind(render_mode="rgb_array")
    except (TypeError, ValueError):
        return "its constructor takes no render_mode"
    return ""


def make_spec(name: str, facts: Facts, draw: Callable[[int, int], np.ndarray]) -> EnvSpec:
    """Describes a plug-in whose tasks (size, D) `draw(draw, size)` draws."""
    actions = facts.actions
    ends = _to_tuple(actions.low), _to_tuple(actions.high)
    held_out = facts.has_test_tasks or not facts.repeats
    note = "" if held_out else "test tasks are among the training tasks"
    if facts.repeats is None and not facts.has_test_tasks:
        note = "not known whether test tasks are among the training tasks: they cannot be compared"
    return EnvSpec(
        name=name,
        # since version 2 the output is mapped to the bounds of the actions
        version=2 if actions.is_default and not actions.is_identity else 1,
        obs_size=len(facts.obs_low),
        action_size=len(actions.low),
        horizon=facts.horizon,
        dt=facts.dt,
        action_scale=_simplify(actions.scale),
        tasks=PluginTasks(
            facts.variables, held_out, facts.form is None, draw, facts.has_test_tasks
        ),
        reward=facts.summary or "as the plug-in defines it",
        floors={key: float(value) for key, value in facts.floors.items()},
        note=note,
        discrete=actions.discrete,
        action_centre=_simplify(actions.centre),
        action_range=None if actions.discrete else ends,
    )


def _to_tuple(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values.tolist())


def _simplify(values: np.ndarray) -> float | tuple[float, ...]:
    """Returns the number that all values (A,) are, or else the values."""
    is_constant = bool((values == values[0]).all())
    return float(values[0]) if is_constant else _to_tuple(values)
