"""The binary form against struct and zlib by hand, and what it refuses."""

import struct
import zlib

import numpy as np
import pytest

from metarl.deployment.serving.messages import Counters, Flag, Refused, Reply, Request, Verb
from metarl.deployment.serving.wire import WireFormat

FORM = WireFormat(2, 3)


def seal(raw):
    return raw + struct.pack("<I", zlib.crc32(raw))


def test_request_of_struct_by_hand_is_decoded():
    by_hand = seal(struct.pack("<4sBBHIf2f", b"MRTL", 1, 2, 3, 77, -0.5, 1.25, 3e-5))
    decoded = FORM.decode_request(by_hand)
    assert (decoded.verb, decoded.sequence, decoded.reward, decoded.done) == (2, 77, -0.5, True)
    np.testing.assert_array_equal(decoded.obs, np.array([1.25, 3e-5], dtype=np.float32))
    assert len(by_hand) == FORM.request_size == 28


def test_encoded_request_has_the_bytes_of_struct():
    request = Request(Verb.END, 2**32 - 1, np.array([1.5, -2.0]), 0.25, True)
    by_hand = seal(struct.pack("<4sBBHI3f", b"MRTL", 1, 3, 7, 2**32 - 1, 0.25, 1.5, -2.0))
    assert FORM.encode_request(request) == by_hand
    bare = seal(struct.pack("<4sBBHI3f", b"MRTL", 1, 5, 0, 8, 0.0, 0.0, 0.0))
    assert FORM.encode_request(Request(Verb.STATUS, 8)) == bare


def test_encoded_reply_has_the_bytes_of_struct():
    counters = Counters(1, 2, 3, 4, 5, 2**32 + 6)
    reply = Reply(Verb.ACT, 9, np.array([0.1, 0.2, 0.3]), Flag.SAFE | Flag.WATCHDOG, counters)
    numbers = (b"MRTL", 1, 130, 9, 9, 1, 2, 3, 4, 5, 6, 0.1, 0.2, 0.3)
    by_hand = seal(struct.pack("<4sBBHI6I3f", *numbers))
    assert FORM.encode_reply(reply) == by_hand
    assert len(by_hand) == FORM.reply_size == 52


@pytest.mark.parametrize("verb", Verb)
def test_messages_survive_the_round_trip(verb):
    request = Request(verb, 5, np.array([np.nan, np.inf]), None, False)
    decoded = FORM.decode_request(FORM.encode_request(request))
    np.testing.assert_array_equal(decoded.obs, request.obs)
    assert (decoded.verb, decoded.reward, decoded.done) == (verb, None, False)
    reply = Reply(verb, 6, np.zeros(3, dtype=np.float32), Flag.ERROR, Counters(7, 8))
    again = FORM.decode_reply(FORM.encode_reply(reply))
    assert (again.verb, again.sequence, again.flags) == (verb, 6, Flag.ERROR)
    assert again.counters == reply.counters


GOOD = FORM.encode_request(Request(Verb.ACT, 1, np.zeros(2)))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "no message"),
        (b"GET / HTTP/1.1\r\n\r\n", "no message"),
        (GOOD[:-1], "wrong size"),
        (GOOD + b"\0", "wrong size"),
        (GOOD[:4], "wrong size"),
        (WireFormat(3, 3).encode_request(Request(Verb.STATUS, 1)), "wrong size"),
        (seal(GOOD[:4] + b"\2" + GOOD[5:-4]), "another version"),
        (GOOD[:-1] + bytes([GOOD[-1] ^ 1]), "wrong checksum"),
        (seal(GOOD[:5] + b"\7" + GOOD[6:-4]), "unknown verb"),
        (seal(GOOD[:5] + b"\x82" + GOOD[6:-4]), "unknown verb"),
        (seal(GOOD[:6] + b"\x08" + GOOD[7:-4]), "unknown flags"),
    ],
)
def test_other_bytes_are_refused(message, reason):
    with pytest.raises(Refused, match=f"^{reason}$"):
        FORM.decode_request(message)


def test_every_flipped_bit_is_refused():
    for place in range(8 * len(GOOD)):
        damaged = bytearray(GOOD)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(Refused):
            FORM.decode_request(bytes(damaged))
