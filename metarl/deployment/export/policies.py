"""Learners as graphs: one step of the policy, from observation to controls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from metarl.core.env import EnvSpec
from metarl.core.errors import ConfigError
from metarl.core.rollout import Params
from metarl.deployment.export import step
from metarl.deployment.export.contexts import metric_policy, pearl_policy
from metarl.deployment.export.graph import Graph, Value
from metarl.deployment.export.layers import (
    State,
    array,
    hyper_actor,
    lstm_cell,
    memory_states,
    memory_step,
    sequential,
)
from metarl.functional.running_moments import Moments
from metarl.learners.bmaml.bmaml import Bmaml
from metarl.learners.gp.gp import Gp
from metarl.learners.grbal.grbal import Grbal
from metarl.learners.maml.maml import Maml
from metarl.learners.metric.metric import Metric
from metarl.learners.pearl.pearl import Pearl
from metarl.learners.reward_unit import RewardUnit
from metarl.learners.rl2.rl2 import Rl2
from metarl.learners.teacher_student.teacher_student import TeacherStudent
from metarl.learners.varibad.varibad import Varibad
from metarl.networks.hypernetwork import HyperActor
from metarl.networks.latent import LatentNetwork
from metarl.networks.memories.memory import Memory
from metarl.networks.memories.transformer import AttentionMemory
from metarl.networks.mlp import ContextNetwork, TanhMLP, fold_context
from metarl.networks.module_network import ModuleNetwork

DOUBLE = 11
"""Number of the type float64 in ONNX."""


def build_policy(
    learner: Any, spec: EnvSpec, *, max_steps: int, params: Params | None = None
) -> step.PolicyGraph:
    """Builds the graph of a learner's policy, which sends its mode.

    Args:
        learner: One of metarl's.
        spec: Of the environment of training.
        max_steps: Steps that attention without a window keeps.
        params: Adapted parameters (*shape) of a `HasFixedPolicy`; by default those before.

    Raises:
        ConfigError: There is no graph for this learner, or for a layer of its network.
    """
    from metarl.learners.sb3.learner import Sb3Baseline

    if isinstance(learner, TeacherStudent) and learner.config.mode == "oracle":
        hint = "it observes the task, and only the student, who does not, has one"
        raise ConfigError(f"export: the teacher of teacher-student has no graph; {hint}")
    if isinstance(learner, (Maml, Bmaml, Gp)):
        params = params or learner.read_policy(learner.begin(1, 1, []))
        is_given = isinstance(learner, Gp)
        return _universal(learner, spec, params) if is_given else _plain(learner, spec, params)
    if isinstance(learner, Sb3Baseline):
        return _sb3(learner, spec)
    if isinstance(learner, Pearl):
        return pearl_policy(learner, spec)
    if isinstance(learner, Metric):
        return metric_policy(learner, spec)
    if not isinstance(learner, (Rl2, TeacherStudent, Varibad)):
        hint = "it plans with a model" if isinstance(learner, Grbal) else "those of metarl have one"
        raise ConfigError(f"export: a learner {type(learner).__name__} has no graph; {hint}")
    moments = Moments.of(learner.state_dict(), "obs")
    if isinstance(learner, Rl2):
        memory, head = learner.policy.memory, _rl2_head(learner)
    else:
        network = learner.network
        is_belief = isinstance(learner, Varibad)
        guess = network.belief if is_belief else network.guess
        memory, head = network.memory, _guessing_head(guess, network.actor)
    factor = RewardUnit.of(learner.state_dict()).factor
    return _with_memory(spec, memory, moments, head, max_steps, factor)


Head = Callable[[Graph, Value, Value], Value]
"""Adds the actor on the features (M, H) of a memory and the scaled observation (M, S)."""


def _rl2_head(learner: Rl2) -> Head:
    actor = learner.policy.actor

    def add(graph: Graph, features: Value, obs: Value) -> Value:
        if isinstance(actor, HyperActor):
            return hyper_actor(graph, actor, features, obs)
        return sequential(graph, [actor], graph.concat([features, obs]))

    return add


def _guessing_head(guess: Any, actor: Any) -> Head:
    """Adds an actor on the observation and on what a layer guesses from the memory."""

    def add(graph: Graph, features: Value, obs: Value) -> Value:
        latent = sequential(graph, [guess], features)
        return sequential(graph, [actor], graph.concat([obs, latent]))

    return add


def _with_memory(
    spec: EnvSpec,
    memory: Memory,
    moments: Moments,
    head: Head,
    max_steps: int,
    reward_factor: float,
) -> step.PolicyGraph:
    """Builds the graph of a policy whose memory reads previous action, reward and done.

    The reward is multiplied by a factor.
    """
    graph, states = Graph(), [State(step.ACTION, (spec.action_size,))]
    own = memory_states(memory, max_steps)
    states += own
    obs, (before, reward, done) = step.inputs(graph, spec, states)
    previous = [before, step.scale_reward(graph, reward, reward_factor), done]
    scaled = step.normalize(graph, obs, moments)
    features, after = memory_step(graph, memory, graph.concat([scaled, *previous]), own)
    action = step.finish(graph, spec, head(graph, features, scaled))
    step.output_states(graph, states, [action, *after])
    has_limit = isinstance(memory, AttentionMemory) and not memory.window
    return step.PolicyGraph(graph, tuple(states), "memory", max_steps if has_limit else 0)


# --- policies without a memory --------------------------------------------------------------------


def _universal(learner: Gp, spec: EnvSpec, params: Params) -> step.PolicyGraph:
    """Builds the policy of gp, which is given numbers of the task: an input with a default."""
    graph, moments = Graph(), Moments.of(learner.state_dict(), "obs")
    first, *rest = learner.network.policy.actor
    assert isinstance(first, nn.Linear)
    weight = array(first.weight).T
    latent = graph.default("latent", array(params["latent"]))
    bias = graph.op("Add", graph.op("MatMul", latent, weight[spec.obs_size :]), array(first.bias))
    obs = step.normalize(graph, graph.input("obs", [spec.obs_size]), moments)
    hidden = graph.affine(obs, weight[: spec.obs_size], bias)
    step.finish(graph, spec, sequential(graph, rest, hidden))
    return step.PolicyGraph(graph, (), "no", facts={"weights": ["latent"]})


def _plain(learner: Maml | Bmaml, spec: EnvSpec, params: Params) -> step.PolicyGraph:
    """Builds a policy whose parameters are those of a task, or of a particle of bmaml."""
    graph, network = Graph(), learner.policy.network
    if isinstance(network, (ContextNetwork, LatentNetwork)):
        one_task = {name: value.unsqueeze(0) for name, value in params.items()}
        is_latent = isinstance(network, LatentNetwork)
        folded = network.fold(one_task) if is_latent else fold_context(one_task)
        params = {name: value.squeeze(0) for name, value in folded.items()}
        network = network.inner
    weights = {name: array(value) for name, value in params.items()}
    obs = graph.input("obs", [spec.obs_size])
    x = scale_obs(graph, learner, obs)
    facts: dict[str, Any] = {}
    if isinstance(network, TanhMLP):
        names = declare_weights(graph, network, weights)
        for i in range(len(network.hidden_sizes) + 1):
            x = graph.affine(x, names[f"weight{i}"], names[f"bias{i}"])
            x = graph.op("Tanh", x) if i < len(network.hidden_sizes) else x
        facts["weights"] = list(names)
    elif isinstance(network, ModuleNetwork):
        x = sequential(graph, [network.with_params(params)], x)
    else:
        raise ConfigError(f"export: a network {type(network).__name__} has no graph")
    step.finish(graph, spec, x)
    adapts: step.Adapts = "gradient" if isinstance(learner, Maml) else "no"
    return step.PolicyGraph(graph, (), adapts, facts=facts)


def scale_obs(graph: Graph, learner: Maml | Bmaml, obs: Value) -> Value:
    """Scales observations as the learner does, if it does."""
    if not learner.config.normalize_obs:
        return obs
    return step.normalize(graph, obs, Moments.of(learner.state_dict(), "obs"))


def declare_weights(
    graph: Graph, network: TanhMLP, weights: dict[str, np.ndarray]
) -> dict[str, Value]:
    """Declares the network's weights as inputs with default values; returns their names."""
    kinds = [
        f"{kind}{i}" for i in range(len(network.hidden_sizes) + 1) for kind in ("weight", "bias")
    ]
    return {name: graph.default(name, weights[name]) for name in kinds}


# --- Stable-Baselines3 ----------------------------------------------------------------------------


def _sb3(learner: Any, spec: EnvSpec) -> step.PolicyGraph:
    from metarl.learners.sb3.config import Sb3Rl2Config

    member, graph = learner.members[0], Graph()
    policy = member.model.policy
    if not isinstance(learner.config, Sb3Rl2Config):
        x = _sb3_scale(graph, member.normalizer, graph.input("obs", [spec.obs_size]))
        x = sequential(graph, [policy.mlp_extractor.policy_net, policy.action_net], x)
        step.finish(graph, spec, x)
        return step.PolicyGraph(graph, (), "no")
    size = policy.lstm_actor.hidden_size
    states = [
        State(step.ACTION, (spec.action_size,)),
        State("hidden", (size,)),
        State("cell", (size,)),
    ]
    obs, previous = step.inputs(graph, spec, states)
    parts = tuple(array(value) for value in policy.lstm_actor.parameters())
    hidden, cell = lstm_cell(graph, parts, graph.concat([obs, *previous]), "hidden", "cell")
    x = sequential(graph, [policy.mlp_extractor.policy_net, policy.action_net], hidden)
    action, space = step.finish(graph, spec, x), member.model.action_space
    sent = graph.op("Max", graph.op("Min", action, space.high), space.low)
    step.output_states(graph, states, [sent, hidden, cell])
    return step.PolicyGraph(graph, tuple(states), "memory")


def _sb3_scale(graph: Graph, normalizer: Any, obs: Value) -> Value:
    """Scales observations as VecNormalize does, in float64 as there."""
    if normalizer is None or not normalizer.norm_obs:
        return obs
    moments = normalizer.obs_rms
    factor = 1.0 / np.sqrt(moments.var + normalizer.epsilon)
    wide = graph.op("Sub", graph.op("Cast", obs, to=DOUBLE), np.asarray(moments.mean, np.float64))
    wide = graph.op("Mul", wide, np.asarray(factor, np.float64))
    return graph.op("Clip", graph.op("Cast", wide, to=1), -normalizer.clip_obs, normalizer.clip_obs)
