"""Policies that read what the transitions of earlier episodes say of the task, as graphs.

The graph reads a transition at every step, and what the policy reads changes with the first step of
an episode, as in a session that adapts after each. After the last action of an episode no
observation comes; the one before takes its place, as in a session that is not given it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from metarl.core.env import EnvSpec
from metarl.core.rollout import Params
from metarl.deployment.export import step
from metarl.deployment.export.graph import Graph, Value
from metarl.deployment.export.layers import State, array, sequential
from metarl.functional.running_moments import Moments
from metarl.learners.metric.metric import Metric
from metarl.learners.pearl.pearl import Pearl
from metarl.learners.reward_unit import RewardUnit

BEGUN, OBS, LATENT = "begun", "previous_obs", "latent"
"""States: 1 after the first step of all, the previous observation, and what the policy reads."""

Collect = Callable[[Graph, tuple[Value, ...], Value], tuple[list[Value], Value]]
"""Adds to sums what a transition says, if it counts; returns the sums, and what to read then.

Its arguments are the graph, the transition (observation, action, reward and next observation, each
(M, ...)), and a number (M, 1) that is 1 if there is such a transition, else 0.
"""

Act = Callable[[Graph, Value, Value], Value]
"""Adds the output of the policy for an observation (M, S) and what it reads of the task (M, Z)."""


def pearl_policy(learner: Pearl, spec: EnvSpec) -> step.PolicyGraph:
    """Builds the policy of PEARL, which reads the mean of the guess and sends its mode.

    The state `precision` is without that of the prior, so that it is zero at first. Where the guess
    is renewed after every step, the steps of the present episode count too.
    """
    config, params = learner.config, learner.params
    size, limit = config.latent_size, float(config.action_limit)

    def collect(
        graph: Graph, transition: tuple[Value, ...], counts: Value
    ) -> tuple[list[Value], Value]:
        obs, action, reward, after = transition
        parts = [obs, graph.op("Mul", action, 1.0 / limit)]
        parts.append(graph.op("Mul", reward, float(config.reward_scale)))
        parts += [after] if config.encode_next_obs else []
        output = _relu_network(graph, params, "encoder", graph.concat(parts))
        mean, raw = graph.split(output, [size] * 2)
        added = graph.op("Mul", graph.op("Softplus", raw), counts)
        precision = graph.op("Add", "precision", added)
        weighted = graph.op("Add", "weighted", graph.op("Mul", added, mean))
        return [precision, weighted], graph.op("Div", weighted, graph.op("Add", precision, 1.0))

    def act(graph: Graph, obs: Value, latent: Value) -> Value:
        output = _relu_network(graph, params, "actor", graph.concat([obs, latent]))
        mean, _ = graph.split(output, [spec.action_size] * 2)
        return graph.op("Mul", graph.op("Tanh", mean), limit)

    sums = [State("precision", (size,)), State("weighted", (size,))]
    is_renewed = config.guess == "step"
    return _build(spec, sums, size, collect, act, is_renewed=is_renewed)


def _relu_network(graph: Graph, params: Params, name: str, x: Value) -> Value:
    """Adds one of PEARL's networks, see `learners.pearl.networks.Networks.run`."""
    last = sum(each.startswith(f"{name}/") for each in params) // 2 - 1
    for i in range(last + 1):
        weight, bias = (array(params[f"{name}/{i}/{kind}"]) for kind in ("weight", "bias"))
        x = graph.affine(x, weight.T, bias)
        x = graph.op("Relu", x) if i < last else x
    return x


def metric_policy(learner: Metric, spec: EnvSpec) -> step.PolicyGraph:
    """Builds the policy of metric, which reads the mean embedding and sends its mode.

    The state `mean` is a running mean, which loses less to rounding than a sum.
    """
    network, state = learner.network, learner.state_dict()
    moments = {name: Moments.of(state, name) for name in ("obs", "transition", "embedding")}
    size, factor = learner.config.embedding_size, RewardUnit.of(state).factor

    def collect(
        graph: Graph, transition: tuple[Value, ...], counts: Value
    ) -> tuple[list[Value], Value]:
        obs, action, reward, after = transition
        read = graph.concat([obs, action, step.scale_reward(graph, reward, factor), after])
        scaled = step.normalize(graph, read, moments["transition"])
        embedded = sequential(graph, network.encoder, scaled)
        count = graph.op("Add", "count", counts)
        share = graph.op("Div", counts, graph.op("Max", count, 1.0))
        change = graph.op("Mul", share, graph.op("Sub", embedded, "mean"))
        mean = graph.op("Add", "mean", change)
        is_known = graph.op("Min", count, 1.0)
        read = graph.op("Mul", step.normalize(graph, mean, moments["embedding"]), is_known)
        return [mean, count], read

    def act(graph: Graph, obs: Value, latent: Value) -> Value:
        scaled = step.normalize(graph, obs, moments["obs"])
        return sequential(graph, network.policy.actor, graph.concat([scaled, latent]))

    return _build(spec, [State("mean", (size,)), State("count", (1,))], size, collect, act)


def _build(
    spec: EnvSpec,
    sums: Sequence[State],
    size: int,
    collect: Collect,
    act: Act,
    *,
    is_renewed: bool = False,
) -> step.PolicyGraph:
    """Builds the graph of a policy on what transitions said before the episode.

    With is_renewed it reads those of the present episode too, and keeps no latent numbers.
    """
    own = [State(step.ACTION, (spec.action_size,)), State(OBS, (spec.obs_size,))]
    kept = [] if is_renewed else [State(LATENT, (size,))]
    states = [*own, State(BEGUN, (1,)), *kept, *sums]
    graph = Graph()
    obs, (action, reward, done) = step.inputs(graph, spec, states)
    after = graph.op("Where", graph.op("Greater", done, 0.5), OBS, obs)
    collected, latent = collect(graph, (OBS, action, reward, after), BEGUN)
    if not is_renewed:
        latent = graph.op("Where", graph.op("Greater", done, 0.5), latent, LATENT)
    output = step.finish(graph, spec, act(graph, obs, latent))
    begun = graph.op("Max", BEGUN, np.ones((1, 1), dtype=np.float32))
    after_step = [output, obs, begun, *([latent] if kept else []), *collected]
    step.output_states(graph, states, after_step)
    return step.PolicyGraph(graph, tuple(states), "memory")
