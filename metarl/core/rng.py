"""Counter-based random streams: a stream is a function of its name, not of what was drawn before.

Every random number comes from Philox keyed by a hash of (seed, stream, iteration, task, episode, ...). Adding instead of
hashing (`seed + i`) would make neighbouring runs share streams.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, name: str, *indices: int) -> np.random.Generator:
    """Builds the generator of one stream.

    Args:
        seed: The seed of the run.
        name: What the stream is for, for example "tasks".
        *indices: Where in the run: iteration, rollout, task, episode.

    Returns:
        A generator at the start of the stream; the same arguments give the same numbers on every machine.
    """
    text = "\x00".join([str(int(seed)), name, *(str(int(i)) for i in indices)])
    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
