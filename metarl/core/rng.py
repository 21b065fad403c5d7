"""Counter-based random streams: a stream depends on its name, not on earlier draws.

Every random number comes from Philox, keyed by a hash of (seed, stream, iteration, task, episode,
...). With sums (`seed + i`) in place of the hash, neighbouring runs would share streams.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, name: str, *indices: int) -> np.random.Generator:
    """Returns the generator of one stream, at its start.

    The same arguments give the same numbers on every machine.

    Args:
        seed: The seed of the run.
        name: Purpose of the stream, for example "tasks".
        *indices: Position in the run: iteration, rollout, task, episode.
    """
    text = "\x00".join([str(int(seed)), name, *(str(int(i)) for i in indices)])
    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
