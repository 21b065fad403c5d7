"""Seeded damage to text files: bytes, truncations, and values of other types and shapes."""

import json
import random

ODD = [None, True, -1, 1e308, "x", "", [], {}, [[]], [1], {"a": 1}, [[1.0, 2.0]], 10**30, "\x1b[2J"]
TEXTS = ["[" * 5000, '{"a":' * 5000, "1e999", "NaN", "-Infinity", "9" * 5000, "", "null", "\x00"]


def places(tree, path=()):
    """Yields the path of every entry of a tree."""
    yield path
    if not isinstance(tree, (dict, list)):
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from places(value, (*path, key))


def replaced(tree, path, value):
    """Returns a copy of a tree with another value at a path; ... removes the entry."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if len(path) == 1 and value is ...:
        del copy[path[0]]
    else:
        copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


def mutate(text, rng):
    """Returns damaged bytes of a JSON file."""
    kind = rng.randrange(4)
    raw = bytearray(text.encode())
    if kind == 0:
        raw[rng.randrange(len(raw))] = rng.randrange(256)
        return bytes(raw)
    if kind == 1:
        return bytes(raw[: rng.randrange(len(raw))])
    tree = json.loads(text)
    path = rng.choice([p for p in places(tree) if p])
    if kind == 2:
        return json.dumps(replaced(tree, path, rng.choice([..., *ODD]))).encode()
    mark = "@here@"
    return json.dumps(replaced(tree, path, mark)).replace(f'"{mark}"', rng.choice(TEXTS)).encode()


def mutations(text, seed, count):
    """Yields `count` damaged versions of the text of a JSON file."""
    rng = random.Random(seed)
    for _ in range(count):
        yield mutate(text, rng)
