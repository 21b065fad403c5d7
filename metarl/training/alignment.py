"""Learners of several processes that must have the same state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metarl.core.learner import Learner
from metarl.core.machine.parallel import Group


def align(learner: Learner[Any], group: Group) -> bool:
    """Gives the learners of all processes the state of the first one.

    They are the same bit for bit on processors of one kind. Those of others may round in another
    way, which training would amplify.

    Returns:
        One of them was another one.
    """
    if group.size == 1:
        return False
    state = learner.state_dict()
    if len(set(group.gather(lambda: digest(state)))) == 1:
        return False
    first, *_ = group.gather(lambda: state if group.rank == 0 else {})
    learner.load_state_dict(first)
    return True


def digest(state: Mapping[str, Tensor]) -> str:
    """Returns a text that tells two states apart."""
    found = hashlib.blake2b(digest_size=16)
    for name, value in sorted(state.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.numpy().tobytes())  # whatever its strides are
    return found.hexdigest()
