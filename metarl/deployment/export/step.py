"""One step of a policy as a graph: its inputs, states, scaling and controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metarl.core.env import EnvSpec
from metarl.deployment.export.graph import Graph, Value
from metarl.deployment.export.layers import State, array
from metarl.functional.running_moments import MAX_SCALED, Moments

ACTION = "previous_action"
"""State with the previous output of the policy, an input of its memory."""

Adapts = Literal["memory", "gradient", "no"]


@dataclass(frozen=True)
class PolicyGraph:
    """One step of a policy as a graph.

    Inputs `obs` (rows, S), with a memory `reward` (rows, 1) and `done` (rows, 1), and the states;
    outputs `controls` (rows, A) in the robot's units, `actions` (rows, A), the outputs of the
    policy, and the next states.

    Attributes:
        graph: The graph.
        states: What is kept from step to step.
        adapts: How the policy adapts.
        max_steps: Steps that the memory keeps, 0 for no limit.
        facts: More for the metadata.
    """

    graph: Graph
    states: tuple[State, ...]
    adapts: Adapts
    max_steps: int = 0
    facts: dict[str, Any] | None = None


def inputs(graph: Graph, spec: EnvSpec, states: list[State]) -> tuple[Value, list[Value]]:
    """Declares the inputs; returns the observation, and the previous action, reward and done."""
    obs = graph.input("obs", [spec.obs_size])
    rest = [graph.input(name, [1]) for name in ("reward", "done")]
    for state in states:
        graph.input(state.name, state.shape)
    return obs, [ACTION, *rest]


def output_states(graph: Graph, states: list[State], values: list[Value]) -> None:
    """Declares the next value of every state as an output."""
    for state, value in zip(states, values, strict=True):
        graph.output(f"next_{state.name}", value, ("rows", *state.shape), np.float32)


def normalize(graph: Graph, obs: Value, moments: Moments) -> Value:
    """Scales observations as `functional.running_moments.normalize`."""
    mean, factor = (array(part) for part in moments.scale())
    scaled = graph.op("Mul", graph.op("Sub", obs, mean), factor)
    return graph.op("Clip", scaled, -MAX_SCALED, MAX_SCALED)


def scale_reward(graph: Graph, reward: Value, factor: float) -> Value:
    """Multiplies a reward (M, 1) by the factor of a `RewardUnit`."""
    return reward if factor == 1.0 else graph.op("Mul", reward, factor)


def finish(graph: Graph, spec: EnvSpec, output: Value) -> Value:
    """Adds the outputs `actions` and `controls`; returns the action.

    The controls are those of `deployment.signals.to_controls`.
    """
    if spec.discrete:
        index = graph.op("ArgMax", output, axis=-1, keepdims=1)
        same = graph.op("Equal", index, np.arange(spec.action_size))
        output = graph.op("Cast", same, to=1)
        graph.output("controls", graph.reshape(index, -1), ("rows",), np.int64)
    else:
        size = spec.action_size
        scale, centre = (
            np.broadcast_to(np.asarray(each, np.float32), size)
            for each in (spec.action_scale, spec.action_centre)
        )
        controls = graph.op("Add", graph.op("Mul", output, scale), centre)
        ends = spec.action_range or (
            None if centre.any() else (np.full(size, -1), np.full(size, 1))
        )
        if ends is not None:
            low, high = (np.array(each, dtype=np.float32) for each in ends)
            controls = graph.op("Max", graph.op("Min", controls, high), low)
        graph.output("controls", controls, ("rows", size), np.float32)
    graph.output("actions", output, ("rows", spec.action_size), np.float32)
    return output
