"""Messages as lines of JSON, and what is refused."""

import json
import math

import numpy as np
import pytest

from metarl.deployment.serving import json_lines
from metarl.deployment.serving.messages import Counters, Flag, Refused, Reply, Request, Verb


def test_line_becomes_a_request():
    line = b'{"verb": "act", "seq": 3, "obs": [1, null, 2.5], "reward": 1e999, "done": true}\n'
    request = json_lines.decode_request(line)
    assert (request.verb, request.sequence, request.done) == (Verb.ACT, 3, True)
    assert request.reward == math.inf
    np.testing.assert_array_equal(request.obs, [1.0, np.nan, 2.5])
    named = json_lines.decode_request(b'{"verb": "act", "obs": {"height": 0.3}}')
    assert named == Request(Verb.ACT, obs={"height": 0.3})
    assert json_lines.decode_request(b'{"verb": "stop"}') == Request(Verb.STOP)


def test_reply_becomes_a_line():
    reply = Reply(Verb.ACT, 4, np.array([0.1, 1 / 3]), Flag.SAFE, Counters(steps=2), "no reward")
    line = json_lines.encode_reply(reply)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert json.loads(line) == {
        "verb": "act", "seq": 4, "controls": [0.1, 1 / 3], "safe": True, "error": "no reward",
        "episodes": 0, "steps": 2, "adaptations": 0, "unusable": 0, "refused": 0, "silences": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "no JSON"),
        (b"\xff{}", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[1]", "no object"),
        (b"{}", "no object"),
        (b'{"verb": "fly"}', "unknown verb"),
        (b'{"verb": "act", "obs": [0], "speed": 1}', "unknown key"),
        (b'{"verb": "act"}', "act without obs"),
        (b'{"verb": "act", "obs": 1}', "obs is of another type"),
        (b'{"verb": "act", "obs": [true]}', "obs holds what is no number"),
        (b'{"verb": "act", "obs": [[1]]}', "obs holds what is no number"),
        (b'{"verb": "act", "obs": [0], "reward": "1"}', "reward is of another type"),
        (b'{"verb": "act", "obs": [0], "done": 1}', "done is of another type"),
        (b'{"verb": "stop", "seq": true}', "seq is of another type"),
        (b'{"verb": "stop", "seq": 4294967296}', "seq beyond 32 bits"),
        (b'{"verb": "stop", "seq": -1}', "seq beyond 32 bits"),
    ],
)
def test_other_lines_are_refused(line, reason):
    with pytest.raises(Refused, match=reason):
        json_lines.decode_request(line)
