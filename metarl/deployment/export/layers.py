"""Networks and memories as graphs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from metarl.core.errors import ConfigError
from metarl.deployment.export.graph import Graph, Value
from metarl.networks.hypernetwork import HyperActor
from metarl.networks.layers import Tanh
from metarl.networks.memories.mann import DECAY, EMPTY, MannMemory
from metarl.networks.memories.memory import GruMemory, LstmMemory, Memory
from metarl.networks.memories.mingru import MinGruMemory
from metarl.networks.memories.transformer import AttentionMemory


@dataclass(frozen=True)
class State:
    """One tensor that a policy keeps from step to step; it is zero before the first one.

    Attributes:
        name: Of the input; the output is `next_<name>`.
        shape: Without the axis of robots.
    """

    name: str
    shape: tuple[int, ...]


def array(value: Tensor) -> np.ndarray:
    """Returns a tensor as an array on the CPU."""
    return value.detach().cpu().numpy()


def linear(graph: Graph, layer: nn.Linear, x: Value) -> Value:
    """Adds a fully connected layer on x (M, I)."""
    size = layer.out_features
    bias = np.zeros(size, np.float32) if layer.bias is None else array(layer.bias)
    return graph.affine(x, array(layer.weight).T, bias)


def layer_norm(graph: Graph, layer: nn.LayerNorm, x: Value) -> Value:
    """Adds a normalisation over the last axis of x."""
    weights = array(layer.weight), array(layer.bias)
    return graph.op("LayerNormalization", x, *weights, axis=-1, epsilon=layer.eps)


def gelu(graph: Graph, x: Value) -> Value:
    """Adds x Phi(x), with Phi the normal distribution function."""
    inner = graph.op("Erf", graph.op("Mul", x, 1.0 / math.sqrt(2.0)))
    return graph.op("Mul", graph.op("Mul", x, 0.5), graph.op("Add", inner, 1.0))


def sequential(graph: Graph, modules: Iterable[nn.Module], x: Value) -> Value:
    """Adds layers that follow one another on x (M, I).

    Raises:
        ConfigError: A layer is of a kind that has no graph; names it.
    """
    for module in modules:
        if isinstance(module, nn.Linear):
            x = linear(graph, module, x)
        elif isinstance(module, (Tanh, nn.Tanh)):
            x = graph.op("Tanh", x)
        elif isinstance(module, nn.ReLU):
            x = graph.op("Relu", x)
        elif isinstance(module, nn.ELU):
            x = graph.op("Elu", x, alpha=float(module.alpha))
        elif isinstance(module, nn.SiLU):
            x = graph.op("Mul", x, graph.op("Sigmoid", x))
        elif isinstance(module, nn.GELU):
            x = gelu(graph, x)
        elif isinstance(module, nn.LayerNorm):
            x = layer_norm(graph, module, x)
        elif isinstance(module, nn.Sequential):
            x = sequential(graph, module, x)
        else:
            hint = "Linear, LayerNorm and Tanh, ReLU, ELU, SiLU, GELU can be"
            raise ConfigError(f"export: a layer {type(module).__name__} has no graph; {hint}")
    return x


def hyper_actor(graph: Graph, actor: HyperActor, features: Value, obs: Value) -> Value:
    """Adds the network on obs (M, S) whose weights are made from features (M, H)."""
    parts = graph.split(linear(graph, actor.generate, features), actor.counts)
    x = graph.reshape(obs, 0, -1, 1)
    for i in (0, 2):
        weight = graph.reshape(parts[i], 0, *actor.shapes[i])
        bias = graph.reshape(parts[i + 1], 0, *actor.shapes[i + 1])
        x = graph.op("Add", graph.op("MatMul", weight, x), bias)
        x = graph.op("Tanh", x) if i == 0 else x
    return graph.reshape(x, 0, -1)


# --- memories -------------------------------------------------------------------------------------


def memory_states(memory: Memory, num_steps: int) -> list[State]:
    """Returns what a memory keeps.

    Args:
        memory: The memory.
        num_steps: Steps that attention without a window keeps.

    Raises:
        ConfigError: The memory has no graph.
    """
    if isinstance(memory, (GruMemory, MinGruMemory)):
        return [State("hidden", (memory.size,))]
    if isinstance(memory, LstmMemory):
        return [State("hidden", (memory.size,)), State("cell", (memory.size,))]
    if isinstance(memory, MannMemory):
        heads, slots, width = memory.num_heads, memory.num_slots, memory.width
        sizes = {"hidden": memory.size, "cell": memory.size, "slots": slots * width}
        sizes |= {"usage": slots, "weights": heads * slots, "read": heads * width}
        return [State(name, (size,)) for name, size in sizes.items()]
    if isinstance(memory, AttentionMemory):
        kept = memory.window or num_steps
        shape = (memory.num_heads, kept, memory.size // memory.num_heads)
        layers = range(len(memory.blocks))
        caches = [State(f"{kind}{i}", shape) for i in layers for kind in ("keys", "values")]
        return [*caches, State("length", (1,))]
    raise ConfigError(f"export: a memory {type(memory).__name__} has no graph")


def memory_step(
    graph: Graph, memory: Memory, x: Value, states: Sequence[State]
) -> tuple[Value, list[Value]]:
    """Adds one step of a memory on inputs x (M, I).

    Args:
        graph: The graph; the states are inputs of it.
        memory: The memory.
        x: Its inputs.
        states: As `memory_states` returns them.

    Returns:
        Features (M, H), and the next value of every state.
    """
    names = [state.name for state in states]
    if isinstance(memory, GruMemory):
        hidden = gru_cell(graph, memory, x, names[0])
        return hidden, [hidden]
    if isinstance(memory, LstmMemory):
        parts = tuple(array(value) for value in memory.cell.parameters())
        hidden, cell = lstm_cell(graph, parts, x, names[0], names[1])
        return hidden, [hidden, cell]
    if isinstance(memory, MinGruMemory):
        hidden = min_gru(graph, memory, x, names[0])
        return hidden, [hidden]
    if isinstance(memory, MannMemory):
        return mann(graph, memory, x, names)
    assert isinstance(memory, AttentionMemory)
    return attention(graph, memory, x, states)


def gru_cell(graph: Graph, memory: GruMemory, x: Value, hidden: Value) -> Value:
    """Adds a gated recurrent unit: h' = n + z (h - n)."""
    w_in, w_hidden, b_in, b_hidden = (array(value) for value in memory.cell.parameters())
    size = memory.size
    both = [size] * 3
    r_in, z_in, n_in = graph.split(graph.affine(x, w_in.T, b_in), both)
    r_h, z_h, n_h = graph.split(graph.affine(hidden, w_hidden.T, b_hidden), both)
    reset = graph.op("Sigmoid", graph.op("Add", r_in, r_h))
    update = graph.op("Sigmoid", graph.op("Add", z_in, z_h))
    new = graph.op("Tanh", graph.op("Add", n_in, graph.op("Mul", reset, n_h)))
    change = graph.op("Mul", update, graph.op("Sub", hidden, new))
    return graph.op("Add", new, change)


def lstm_cell(
    graph: Graph, parts: tuple[np.ndarray, ...], x: Value, hidden: Value, cell: Value
) -> tuple[Value, Value]:
    """Adds a long short-term memory; returns its hidden state and its cell.

    Args:
        graph: The graph.
        parts: w_ih (4 H, I), w_hh (4 H, H), b_ih (4 H,), b_hh (4 H,), in torch's order of gates.
        x: Inputs (M, I).
        hidden: (M, H).
        cell: (M, H).
    """
    w_in, w_hidden, b_in, b_hidden = parts
    size = w_hidden.shape[1]
    total = graph.op(
        "Add", graph.affine(x, w_in.T, b_in), graph.affine(hidden, w_hidden.T, b_hidden)
    )
    enter, forget, new, leave = graph.split(total, [size] * 4)
    kept = graph.op("Mul", graph.op("Sigmoid", forget), cell)
    added = graph.op("Mul", graph.op("Sigmoid", enter), graph.op("Tanh", new))
    after = graph.op("Add", kept, added)
    return graph.op("Mul", graph.op("Sigmoid", leave), graph.op("Tanh", after)), after


def min_gru(graph: Graph, memory: MinGruMemory, x: Value, hidden: Value) -> Value:
    """Adds a minimal gated recurrent unit: h' = c + a (h - c)."""
    embedded = graph.op("Tanh", linear(graph, memory.embed, x))
    gates = graph.affine(embedded, array(memory.gates.weight).T, array(memory.offset))
    logits, candidate = graph.split(gates, [memory.size] * 2)
    change = graph.op("Sub", hidden, candidate)
    return graph.op("Add", candidate, graph.op("Mul", graph.op("Sigmoid", logits), change))


def mann(
    graph: Graph, memory: MannMemory, x: Value, names: Sequence[Value]
) -> tuple[Value, list[Value]]:
    """Adds one step of an external memory, in single precision; see `memory_step`."""
    hidden, cell, kept, usage, weights, read = names
    parts = tuple(array(value) for value in memory.cell.parameters())
    hidden, cell = lstm_cell(graph, parts, graph.concat([x, read]), hidden, cell)
    heads, width = memory.num_heads, memory.width
    each = graph.reshape(linear(graph, memory.heads, hidden), 0, heads, width + 2)
    key, gate, strength = graph.split(each, [width, 1, 1])
    key, gate = graph.op("Tanh", key), graph.op("Sigmoid", gate)
    strength = graph.op("Add", graph.op("Softplus", strength), 1.0)
    free = _least_used(graph, memory, usage)
    previous = graph.reshape(weights, 0, heads, -1)
    change = graph.op("Mul", gate, graph.op("Sub", previous, free))
    write = graph.op("Add", free, change)
    stays = graph.op("Sub", 1.0, _sum_heads(graph, free))
    slots = graph.reshape(graph.op("Add", kept, EMPTY), 0, memory.num_slots, width)
    slots = graph.op("Mul", slots, graph.reshape(stays, 0, -1, 1))
    written = graph.op("MatMul", graph.op("Transpose", write, perm=[0, 2, 1]), key)
    slots = graph.op("Add", slots, written)
    content = graph.op("Transpose", _unit_rows(graph, slots, 1e-6), perm=[0, 2, 1])
    cosine = graph.op("MatMul", _unit_rows(graph, key, 1e-12), content)
    weights = graph.op("Softmax", graph.op("Mul", strength, cosine), axis=-1)
    read = graph.reshape(graph.op("MatMul", weights, slots), 0, -1)
    both = graph.op("Add", _sum_heads(graph, weights), _sum_heads(graph, write))
    usage = graph.op("Add", graph.op("Mul", usage, DECAY), both)
    features = graph.op("Add", hidden, linear(graph, memory.read, read))
    kept = graph.op("Sub", graph.reshape(slots, 0, -1), EMPTY)
    return features, [hidden, cell, kept, usage, graph.reshape(weights, 0, -1), read]


def _least_used(graph: Graph, memory: MannMemory, usage: Value) -> Value:
    """Returns the heads' least used slots (M, R, L) as ones among zeros; the first of equals."""
    ordered = graph.least(usage, memory.num_heads)
    same = graph.op("Equal", graph.reshape(ordered, 0, -1, 1), np.arange(memory.num_slots))
    return graph.op("Cast", same, to=1)


def _sum_heads(graph: Graph, values: Value) -> Value:
    """Sums (M, R, L) over the heads."""
    return graph.op("ReduceSum", values, np.array([1]), keepdims=0)


def _unit_rows(graph: Graph, values: Value, least: float) -> Value:
    """Divides vectors along the last axis by their lengths, or by `least` if that is more."""
    squares = graph.op("ReduceSum", graph.op("Mul", values, values), np.array([2]), keepdims=1)
    return graph.op("Div", values, graph.op("Max", graph.op("Sqrt", squares), least))


def attention(
    graph: Graph, memory: AttentionMemory, x: Value, states: Sequence[State]
) -> tuple[Value, list[Value]]:
    """Adds one step of a causal transformer on caches of keys and values.

    The newest step is the last one of a cache, and the oldest one leaves it, so the distance of
    every entry is constant.
    """
    kept, length = states[0].shape[1], states[-1].name
    distance = np.arange(kept - 1, -1, -1, dtype=np.float32)
    penalty = -array(memory.penalty_rates)[:, None, None] * distance
    steps = graph.reshape(length, 0, 1, 1, 1)
    is_empty = graph.op("Greater", distance[None, None, None], steps)
    bias = graph.op("Where", is_empty, np.array(-np.inf, np.float32), penalty[None])
    x, after, num_heads = linear(graph, memory.embed, x), [], memory.num_heads
    for i, block in enumerate(memory.blocks):
        before = layer_norm(graph, block.before_attention, x)
        parts = graph.split(linear(graph, block.query_key_value, before), [memory.size] * 3)
        query, key, value = (graph.reshape(part, 0, num_heads, 1, -1) for part in parts)
        keys, values = (
            graph.concat([_without_oldest(graph, state.name, kept), newest], axis=2)
            for state, newest in zip(states[2 * i : 2 * i + 2], (key, value), strict=True)
        )
        after += [keys, values]
        scores = graph.op("MatMul", query, graph.op("Transpose", keys, perm=[0, 1, 3, 2]))
        scale = 1.0 / math.sqrt(memory.size // num_heads)
        scores = graph.op("Add", graph.op("Mul", scores, scale), bias)
        weights = graph.op("Softmax", scores, axis=-1)
        attended = graph.reshape(graph.op("MatMul", weights, values), 0, -1)
        x = graph.op("Add", x, linear(graph, block.out, attended))
        inner = sequential(graph, block.network, layer_norm(graph, block.before_network, x))
        x = graph.op("Add", x, inner)
    longer = graph.op("Min", graph.op("Add", length, 1.0), float(kept))
    return layer_norm(graph, memory.last, x), [*after, longer]


def _without_oldest(graph: Graph, cache: Value, kept: int) -> Value:
    """Returns a cache (M, heads, kept, H / heads) without its first step."""
    ends = (np.array([each], dtype=np.int64) for each in (1, kept, 2))
    return graph.op("Slice", cache, *ends)
