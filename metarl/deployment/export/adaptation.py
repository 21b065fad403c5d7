"""The adaptation step of MAML as a graph."""

from __future__ import annotations

import numpy as np

from metarl.deployment.export.graph import Graph, Value
from metarl.deployment.export.layers import array
from metarl.deployment.export.policies import declare_weights, scale_obs
from metarl.learners.maml.inner_loop import RATE
from metarl.learners.maml.maml import Maml
from metarl.networks.mlp import TanhMLP


def has_adaptation_graph(learner: Maml) -> bool:
    """Returns whether a step has a graph: by gradient, a plain tanh network, actions no indices."""
    if learner.config.inner != "gradient":
        return False
    return isinstance(learner.policy.network, TanhMLP) and "log_std" in learner.params


def build_adaptation(learner: Maml) -> Graph:
    """Builds the graph of one gradient step on a task, the gradient written out.

        theta' = c(theta) - alpha * grad mean[-log pi(a | o) A]

    It is the step of every surrogate (`learners/maml/surrogates.py`), because all have this
    gradient at the policy that acted. Inputs `obs` (B, S), `action` (B, A) and `advantage` (B, 1)
    [task's standard deviations] of B transitions of the task, `step_size` (1,), and the weights,
    whose default is theta_0; outputs `next_<weight>`.

    Args:
        learner: One whose network `has_adaptation_graph`.
    """
    network = learner.policy.network
    assert isinstance(network, TanhMLP)
    graph, last = Graph(), len(network.hidden_sizes)
    obs = graph.input("obs", [network.input_size], batch="transitions")
    action = graph.input("action", [network.output_size], batch="transitions")
    advantage = graph.input("advantage", [1], batch="transitions")
    graph.input("step_size", [], batch="one")
    weights = {name: array(value) for name, value in learner.params.items()}
    names = declare_weights(graph, network, weights)
    layers = [scale_obs(graph, learner, obs)]
    for i in range(last + 1):
        value = graph.affine(layers[-1], names[f"weight{i}"], names[f"bias{i}"])
        layers.append(graph.op("Tanh", value) if i < last else value)
    # d loss / d log pi of every transition
    count = graph.op("Cast", graph.op("Size", advantage), to=1)
    weight = graph.op("Neg", graph.op("Div", advantage, count))
    delta = _gaussian(graph, learner, action, layers[-1], weight)
    for i in range(last, -1, -1):
        below = graph.op("Transpose", layers[i], perm=[1, 0])
        _step(graph, learner, f"weight{i}", graph.op("MatMul", below, delta))
        _step(graph, learner, f"bias{i}", _sum(graph, delta))
        if i:
            back = graph.op("Transpose", f"weight{i}", perm=[1, 0])
            through = graph.op("Sub", 1.0, graph.op("Mul", layers[i], layers[i]))
            delta = graph.op("Mul", graph.op("MatMul", delta, back), through)
    return graph


def _gaussian(graph: Graph, learner: Maml, action: Value, mean: Value, weight: Value) -> Value:
    """Adds the step of log_std; returns the cotangent of the mean (B, A)."""
    initial, lowest = array(learner.params["log_std"]), learner.config.min_log_std
    raw = graph.default("log_std", initial)
    log_std = graph.op("Max", raw, float(lowest))
    precision = graph.op("Exp", graph.op("Neg", log_std))
    z = graph.op("Mul", graph.op("Sub", action, mean), precision)
    score = graph.op("Mul", weight, z)
    own = graph.op("Sub", _sum(graph, graph.op("Mul", score, z)), _sum(graph, weight))
    # below its bound log_std has no gradient
    is_free = graph.op("Cast", graph.op("GreaterOrEqual", raw, float(lowest)), to=1)
    step = _scale_step(graph, learner, "log_std", graph.op("Mul", own, is_free))
    after = graph.op("Sub", log_std, step)
    graph.output("next_log_std", after, initial.shape, np.float32)
    return graph.op("Mul", score, precision)


def _step(graph: Graph, learner: Maml, name: str, gradient: Value) -> None:
    if learner.adaptation.moves(name):
        after = graph.op("Sub", name, _scale_step(graph, learner, name, gradient))
    else:
        after = graph.op("Identity", name)
    graph.output(f"next_{name}", after, array(learner.params[name]).shape, np.float32)


def _scale_step(graph: Graph, learner: Maml, name: str, gradient: Value) -> Value:
    """Multiplies a gradient by the step size, and by a learned one in units of `inner_lr`."""
    if learner.config.learn_rates:
        own = array(learner.params[RATE + name]) / np.float32(learner.config.inner_lr)
        gradient = graph.op("Mul", gradient, own)
    return graph.op("Mul", "step_size", gradient)


def _sum(graph: Graph, value: Value) -> Value:
    """Sums over the transitions."""
    return graph.op("ReduceSum", value, np.array([0]), keepdims=0)
