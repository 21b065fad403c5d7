"""The binary form of messages: fixed sizes for a policy, little endian, with a checksum.

`docs/deployment.md` has the tables. A request and a reply begin with the same header and end with
the CRC-32 of all bytes before it, as `zlib.crc32` computes it.
"""

from __future__ import annotations

import zlib
from dataclasses import astuple, dataclass
from struct import Struct

import numpy as np

from metarl.deployment.serving.messages import Counters, Flag, Refused, Reply, Request, Verb

MAGIC = b"MRTL"
VERSION = 1
HEADER = Struct("<4sBBHI")
"""Magic, version, verb (that of a reply + 128), flags, sequence number."""

REPLY = 128
"""Added to the verb in a reply."""

HAS_REWARD, IS_DONE, HAS_OBS = 1, 2, 4
"""Flags of a request; an ACT has an observation without the last one."""

SEQUENCES = 2**32
"""Sequence numbers begin again after the largest of 32 bits."""

_REWARD = Struct("<f")
_COUNTERS = Struct("<6I")
_CHECKSUM = Struct("<I")


@dataclass(frozen=True)
class WireFormat:
    """Encodes and decodes the messages of a policy.

    Attributes:
        obs_size: S.
        num_controls: A, or 1 where actions are discrete.
    """

    obs_size: int
    num_controls: int

    @property
    def request_size(self) -> int:
        """Size of a request [bytes]."""
        return HEADER.size + _REWARD.size + 4 * self.obs_size + _CHECKSUM.size

    @property
    def reply_size(self) -> int:
        """Size of a reply [bytes]."""
        return HEADER.size + _COUNTERS.size + 4 * self.num_controls + _CHECKSUM.size

    def encode_request(self, request: Request) -> bytes:
        """Encodes a request with a sequence number and an observation (S,) or none."""
        flags = HAS_REWARD * (request.reward is not None) | IS_DONE * request.done
        flags |= HAS_OBS * (request.obs is not None)
        obs = np.zeros(self.obs_size) if request.obs is None else request.obs
        reward = 0.0 if request.reward is None else request.reward
        body = b"".join(np.asarray(part, dtype="<f4").tobytes() for part in (reward, obs))
        return _seal(request.verb, flags, request.sequence or 0, body)

    def decode_request(self, message: bytes) -> Request:
        """Decodes a request; some of its numbers may not be finite.

        Raises:
            Refused: It is none; names size, magic, version, checksum, verb or flags.
        """
        number, flags, sequence, body = _open(message, self.request_size)
        if number not in _VERBS:
            raise Refused("unknown verb")
        if flags & ~(HAS_REWARD | IS_DONE | HAS_OBS):
            raise Refused("unknown flags")
        verb, (reward,) = Verb(number), _REWARD.unpack_from(body)
        has_obs = verb == Verb.ACT or flags & HAS_OBS
        obs = np.frombuffer(body, "<f4", self.obs_size, _REWARD.size) if has_obs else None
        given = reward if flags & HAS_REWARD else None
        return Request(verb, sequence, obs, given, bool(flags & IS_DONE))

    def encode_reply(self, reply: Reply) -> bytes:
        """Encodes a reply; counters begin again after the largest of 32 bits."""
        body = _COUNTERS.pack(*(count % SEQUENCES for count in astuple(reply.counters)))
        body += np.asarray(reply.controls, dtype="<f4").tobytes()
        return _seal(reply.verb + REPLY, reply.flags, reply.sequence, body)

    def decode_reply(self, message: bytes) -> Reply:
        """Decodes a reply.

        Raises:
            Refused: It is none; names size, magic, version, checksum or verb.
        """
        number, flags, sequence, body = _open(message, self.reply_size)
        if number - REPLY not in _VERBS:
            raise Refused("unknown verb")
        controls = np.frombuffer(body, "<f4", self.num_controls, _COUNTERS.size)
        counters = Counters(*_COUNTERS.unpack_from(body))
        return Reply(Verb(number - REPLY), sequence, controls, Flag(flags), counters)


_VERBS = frozenset(Verb)


def _seal(number: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Returns header, body and checksum."""
    message = HEADER.pack(MAGIC, VERSION, number, flags, sequence % SEQUENCES) + body
    return message + _CHECKSUM.pack(zlib.crc32(message))


def _open(message: bytes, size: int) -> tuple[int, int, int, bytes]:
    """Checks a message of a size; returns number of the verb, flags, sequence number and body.

    Raises:
        Refused: Size, magic, version or checksum is another.
    """
    if not message.startswith(MAGIC):
        raise Refused("no message")
    if len(message) > 4 and message[4] != VERSION:
        raise Refused("another version")
    if len(message) != size:
        raise Refused("wrong size")
    end = size - _CHECKSUM.size
    if _CHECKSUM.unpack_from(message, end)[0] != zlib.crc32(message[:end]):
        raise Refused("wrong checksum")
    _, _, number, flags, sequence = HEADER.unpack_from(message)
    return number, flags, sequence, message[HEADER.size : end]
