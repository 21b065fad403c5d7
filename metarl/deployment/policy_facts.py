"""Facts about an exported policy, read from the metadata of its file; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metarl.core.env import EnvSpec, Quantity
from metarl.core.errors import CheckpointError
from metarl.core.machine.files import parse_json
from metarl.deployment.onnx_file import OnnxFile
from metarl.runs.recorded import RecordedTasks, read_variable

KEY = "metarl"
"""Metadata: our facts as JSON."""

FORMAT = 1
"""Version of these facts."""


@dataclass(frozen=True)
class PolicyFacts:
    """Facts about an exported policy.

    Attributes:
        spec: Of the environment of training; of a foreign policy, its sizes and its scaling.
        is_foreign: The file was not written by metarl.
        adapts: "memory", "gradient" or "no".
        states: Shape of every state, without the axis of robots, by the name of its input.
        max_steps: Steps that the memory keeps, 0 for no limit.
        adaptations: Gradient steps that the weights have taken.
        obs: Name of the input with the observation.
        actions: Name of the output with the policy's outputs.
        has_scaling: Outputs become controls by the scale and the centre of `spec`; without it they
            are what an environment takes.
        record: The facts as they are in the file.
    """

    spec: EnvSpec
    is_foreign: bool
    adapts: str
    states: Mapping[str, tuple[int, ...]]
    max_steps: int
    adaptations: int
    obs: str
    actions: str
    has_scaling: bool
    record: Mapping[str, Any]

    @property
    def adaptation(self) -> Mapping[str, Any]:
        """Settings of the adaptation by gradient steps."""
        return self.record["adaptation"]


def read_facts(file: OnnxFile) -> PolicyFacts:
    """Returns the facts about a policy.

    Raises:
        CheckpointError: The file is no policy; the message says what does not fit.
    """
    if KEY not in file.metadata:
        return _read_foreign(file)
    try:
        record = parse_json(file.metadata[KEY])
        if record["format"] != FORMAT:
            hint = f"this version of metarl reads {FORMAT}"
            raise CheckpointError(f"{file.path}: its format is {record['format']}; {hint}")
        states = {each["input"]: tuple(each["shape"]) for each in record["states"]}
        facts = PolicyFacts(
            spec=_read_spec(record),
            is_foreign=False,
            adapts=record["adapts"],
            states=states,
            max_steps=record["max_steps"],
            adaptations=record["adaptations"],
            obs="obs",
            actions="actions",
            has_scaling=True,
            record=record,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file.path}: its metadata cannot be read ({error!r})") from error
    wanted = {"obs": (facts.spec.obs_size,), **states}
    wanted |= {"reward": (1,), "done": (1,)} if states else {}
    if {name: tuple(shape[1:]) for name, shape in file.inputs.items()} != wanted:
        raise CheckpointError(f"{file.path}: its inputs are not those of its metadata")
    return facts


def _read_spec(record: Mapping[str, Any]) -> EnvSpec:
    variables = tuple(read_variable(each) for each in record["task_variables"])
    ends = record["action_range"]
    return EnvSpec(
        name=record["env"],
        version=record["env_version"],
        obs_size=record["obs_size"],
        action_size=record["action_size"],
        horizon=record["horizon"],
        dt=record["dt"],
        action_scale=tuple(record["action_scale"]),
        tasks=RecordedTasks(variables, True, variables),
        reward="",
        floors=record["reference_returns"],
        discrete=record["discrete"],
        action_centre=tuple(record["action_centre"]),
        # infinity is a text in JSON
        action_range=None if ends is None else (_floats(ends[0]), _floats(ends[1])),
        observed=tuple(Quantity(*each) for each in record["observed"]),
        actuators=tuple(Quantity(*each) for each in record["actuators"]),
    )


def _floats(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(map(float, values))


# --- files of others ------------------------------------------------------------------------------


def _read_foreign(file: OnnxFile) -> PolicyFacts:
    """Reads a policy of mjlab's kind: one observation in, one action out."""
    obs, obs_size = _only(file, "input", file.inputs)
    actions, action_size = _only(file, "output", file.outputs)
    if file.types[obs] != "tensor(float)":
        raise CheckpointError(f"{file.path}: input {obs} is {file.types[obs]}, not float32")
    names = [name for name in file.metadata.get("observation_names", "").split(",") if name]
    observed = tuple(Quantity(name, "1") for name in names) if len(names) == obs_size else ()
    joints = [name for name in file.metadata.get("joint_names", "").split(",") if name]
    tasks = RecordedTasks((), True, ())
    infinite = (np.inf,) * action_size
    spec = EnvSpec(
        name=file.path.stem,
        version=1,
        obs_size=obs_size,
        action_size=action_size,
        horizon=0,
        dt=0.0,
        action_scale=_read_list(file, "action_scale", action_size, 1.0),
        tasks=tasks,
        reward="",
        floors={},
        action_centre=_read_list(file, "default_joint_pos", action_size, 0.0),
        action_range=(tuple(-each for each in infinite), infinite),
        observed=observed,
        actuators=tuple(Quantity(name, "rad") for name in joints),
    )
    has_scaling = "action_scale" in file.metadata
    return PolicyFacts(spec, True, "no", {}, 0, 0, obs, actions, has_scaling, {})


def _only(file: OnnxFile, kind: str, ports: Mapping[str, Any]) -> tuple[str, int]:
    """Returns name and size of the one input or output."""
    names = ", ".join(f"{name} {list(shape)}" for name, shape in ports.items())
    if len(ports) != 1:
        hint = f"a policy that metarl did not export has one {kind}"
        raise CheckpointError(f"{file.path}: {len(ports)} {kind}s ({names}); {hint}")
    ((name, shape),) = ports.items()
    if len(shape) != 2 or not isinstance(shape[1], int):
        hint = "must be robots x numbers, with a fixed count of numbers"
        raise CheckpointError(f"{file.path}: {kind} {names}: {hint}")
    return name, shape[1]


def _read_list(file: OnnxFile, key: str, size: int, missing: float) -> tuple[float, ...]:
    """Returns numbers separated by commas: one for each action, or one for all."""
    text = file.metadata.get(key)
    if text is None:
        return (missing,) * size
    try:
        numbers = [float(each) for each in text.split(",")]
    except ValueError as error:
        raise CheckpointError(f"{file.path}: {key} is {text!r:.60}: must be numbers") from error
    if len(numbers) not in (1, size):
        raise CheckpointError(f"{file.path}: {key} has {len(numbers)} numbers for {size} actions")
    return tuple(numbers * (size if len(numbers) == 1 else 1))
