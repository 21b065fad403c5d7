"""Messages as JSON, one a line, for trying a policy by hand.

    {"verb": "act", "seq": 1, "obs": [0.1, 0.2], "reward": 0.5}

Only the verb is required. `obs` may also hold numbers by their names; `null` is a number that is
not finite.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from metarl.deployment.serving.messages import Flag, Refused, Reply, Request, Verb
from metarl.deployment.serving.wire import SEQUENCES

_VERBS = {verb.name.lower(): verb for verb in Verb}
_KEYS = {"verb", "seq", "obs", "reward", "done"}
_TYPES = {"seq": int, "reward": (int, float), "done": bool, "obs": (list, dict)}

MAX_LINE = 65536
"""Largest length of a line [bytes]."""


def decode_request(line: bytes) -> Request:
    """Decodes a request; some of its numbers may not be finite.

    Raises:
        Refused: It is none; names the first thing wrong.
    """
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: also bytes that are no UTF-8
        raise Refused("no JSON") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("verb"), str):
        raise Refused('no object with a "verb"')
    if tree["verb"] not in _VERBS:
        raise Refused("unknown verb")
    if set(tree) - _KEYS:
        raise Refused("unknown key")
    for key, kind in _TYPES.items():
        value = tree.get(key)
        is_number = kind is not bool and not isinstance(value, bool)
        if value is not None and not (isinstance(value, kind) and (is_number or kind is bool)):
            raise Refused(f"{key} is of another type")
    return _read(tree)


def _read(tree: Mapping[str, Any]) -> Request:
    """Returns the request of an object whose values have the right types."""
    verb, sequence, reward = _VERBS[tree["verb"]], tree.get("seq"), tree.get("reward")
    obs = tree.get("obs")
    if verb == Verb.ACT and obs is None:
        raise Refused("act without obs")
    if sequence is not None and not 0 <= sequence < SEQUENCES:
        raise Refused("seq beyond 32 bits")
    if isinstance(obs, dict):
        obs = {name: _number(value) for name, value in obs.items()}
    elif obs is not None:
        obs = [_number(value) for value in obs]
    reward = None if reward is None else _number(reward)
    return Request(verb, sequence, obs, reward, bool(tree.get("done")))


def _number(value: Any) -> float:
    """Returns a number, NaN for null.

    Raises:
        Refused: It is no number.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refused("obs holds what is no number")
    try:
        return float(value)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf


def encode_reply(reply: Reply) -> bytes:
    """Encodes a reply; controls have all their digits, unlike in the binary form."""
    tree = {
        "verb": reply.verb.name.lower(),
        "seq": reply.sequence,
        "controls": reply.controls.tolist(),
        **{flag.name.lower(): True for flag in Flag if flag in reply.flags},
        **asdict(reply.counters),
    }
    tree |= {"error": reply.error} if reply.error else {}
    return json.dumps(tree).encode() + b"\n"
