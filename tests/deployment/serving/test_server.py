"""The server with a transport and a clock by hand: peers, numbers, watchdog, limits, records."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from served_policy import EchoPolicy, Wire, make_server

from metarl.deployment.serving.log import Log
from metarl.deployment.serving.messages import Flag, Request, Verb
from metarl.deployment.serving.server import RELEASE
from metarl.deployment.serving.wire import WireFormat

FORM = WireFormat(2, 3)
HOME = [0.5, -1.0, 0.0]


class Robot:
    """Sends requests to a server and reads its replies."""

    def __init__(self, **options):
        self.policy, self.wire = EchoPolicy(), Wire()
        self.server = make_server(self.policy, self.wire, clock=self.wire.clock, **options)
        self.number = 0

    def send(self, message, peer="robot"):
        """Returns the replies to a message."""
        del self.wire.replies[:]
        self.wire.arriving.append((message, peer))
        self.server.poll()
        return [FORM.decode_reply(each) for each, to in self.wire.replies if to == peer]

    def ask(self, verb, obs=None, reward=None, done=False, peer="robot", number=None):
        self.number = self.number + 1 if number is None else number
        request = Request(verb, self.number, None if obs is None else np.array(obs), reward, done)
        return self.send(FORM.encode_request(request), peer)

    def act(self, *obs, **options):
        (reply,) = self.ask(Verb.ACT, obs, **options)
        return reply

    def wait(self, seconds):
        """Returns what the server sends by itself."""
        self.wire.now += seconds
        del self.wire.replies[:]
        self.server.poll()
        return [FORM.decode_reply(each) for each, _ in self.wire.replies]

    @property
    def calls(self):
        return self.policy.sessions[-1].calls


def test_verbs_reach_the_session():
    robot = Robot()
    robot.ask(Verb.BEGIN)
    assert len(robot.policy.sessions) == 2
    assert robot.act(1.0, 2.0).controls.tolist() == [3.0, 1.0, 2.0]
    robot.act(0.0, 1.0, reward=0.5)
    robot.ask(Verb.END, reward=0.25, done=True)
    robot.ask(Verb.ADAPT)
    (status,) = robot.ask(Verb.STATUS)
    assert robot.calls == [
        ("act", [1.0, 2.0], None), ("act", [0.0, 1.0], 0.5), ("end", 0.25, True), ("adapt",)
    ]  # fmt: skip
    assert status.counters.episodes == 1 and status.counters.adaptations == 1
    assert status.controls.tolist() == HOME and status.flags == Flag.SAFE
    assert len(robot.policy.sessions) == 2


def test_repeated_request_is_answered_but_not_carried_out_again():
    robot = Robot()
    first = robot.act(1.0, 0.0, number=5)
    again = robot.act(1.0, 0.0, number=5)
    assert again.controls.tolist() == first.controls.tolist() and again.sequence == 5
    assert len(robot.calls) == 1 and again.counters.steps == 1
    assert robot.act(1.0, 0.0, number=6).controls[0] == 2.0


def test_earlier_request_gets_nothing():
    robot = Robot()
    robot.act(1.0, 0.0, number=5)
    assert robot.ask(Verb.ACT, (1.0, 0.0), number=4) == []
    assert len(robot.calls) == 1 and robot.wire.dropped == []
    assert robot.ask(Verb.BEGIN, number=1)[0].counters.refused == 1
    assert robot.act(1.0, 0.0, number=2).controls[0] == 1.0


def test_numbers_go_on_after_the_largest():
    robot = Robot()
    assert robot.act(1.0, 0.0, number=2**32 - 1).sequence == 2**32 - 1
    assert robot.act(1.0, 0.0, number=0).sequence == 0
    assert len(robot.calls) == 2


def test_another_peer_gets_nothing_until_the_robot_is_silent():
    robot = Robot(watchdog=1000.0)
    robot.act(1.0, 0.0)
    assert robot.ask(Verb.BEGIN, peer="other", number=1) == []
    assert robot.wire.dropped == ["other"] and len(robot.policy.sessions) == 1
    robot.wire.now += RELEASE - 0.1
    assert robot.ask(Verb.BEGIN, peer="other", number=2) == []
    robot.wire.now += 0.2
    assert len(robot.ask(Verb.STATUS, peer="other", number=1)) == 1
    assert robot.ask(Verb.ACT, (1.0, 0.0), number=9) == []
    assert len(robot.policy.sessions) == 1  # the memory remains


def test_peer_that_stops_or_leaves_makes_room():
    robot = Robot()
    robot.act(1.0, 0.0)
    robot.ask(Verb.STOP)
    assert len(robot.policy.sessions) == 2  # another robot, another task
    assert len(robot.ask(Verb.STATUS, peer="other", number=1)) == 1
    robot.send(b"", peer="other")
    assert robot.act(1.0, 0.0, number=1).controls[0] == 1.0


def test_random_bytes_get_nothing_and_change_nothing():
    """Random messages, cut ones and valid ones with changed bytes, from robot and strangers."""
    robot, rng = Robot(), np.random.default_rng(0)
    robot.act(1.0, 0.0)
    good = FORM.encode_request(Request(Verb.ACT, 2, np.ones(2)))
    for _ in range(3000):
        kind = rng.integers(4)
        data = bytearray(good if kind else rng.bytes(rng.integers(1, 200)))
        if kind == 1:
            data = data[: rng.integers(1, len(good))]
        elif kind == 2:
            data[rng.integers(len(data))] ^= rng.integers(1, 256)
        elif kind == 3:
            data = b'{"verb": "act"' + rng.bytes(rng.integers(1, 30))
        assert robot.send(bytes(data), rng.choice(["robot", "other"])) == []
    reply = robot.act(1.0, 0.0)
    assert reply.counters.refused == 3000 and len(robot.calls) == 2


def test_watchdog_sends_the_safe_control_until_an_observation(capsys):
    robot = Robot()
    robot.ask(Verb.BEGIN)
    assert robot.wait(50.0) == []
    robot.act(1.0, 0.0)
    assert robot.wait(0.09) == []
    (safe,) = robot.wait(0.02)
    assert safe.controls.tolist() == HOME
    assert safe.flags == Flag.SAFE | Flag.WATCHDOG and safe.sequence == robot.number
    assert robot.wait(0.05) == [] and len(robot.wait(0.06)) == 1
    reply = robot.act(1.0, 0.0)
    assert reply.controls[0] == 2.0 and reply.counters.silences == 1
    assert capsys.readouterr().err.splitlines() == [
        "metarl: no observation for 0.1 s in step 1: safe control",
        "metarl: heard again after 0.22 s",
    ]
    robot.ask(Verb.END)
    assert robot.wait(50.0) == []


def test_other_messages_are_no_observations_for_the_watchdog():
    robot = Robot()
    robot.act(1.0, 0.0)
    robot.wire.now += 0.09
    robot.ask(Verb.STATUS)
    assert len(robot.wait(0.02)) == 1


def test_slow_policy_is_no_silence_of_the_robot(monkeypatch):
    robot = Robot()
    act = robot.policy.sessions[0].act

    def slow(*arguments):
        robot.wire.now += 0.5
        return act(*arguments)

    monkeypatch.setattr(robot.policy.sessions[0], "act", slow)
    (reply,) = robot.ask(Verb.ACT, (1.0, 0.0))
    assert reply.flags == Flag(0) and robot.server.latencies.longest == 0.5
    assert robot.wait(0.09) == [] and len(robot.wait(0.02)) == 1


def test_watchdog_expires_while_garbage_arrives():
    robot = Robot()
    robot.act(1.0, 0.0)
    robot.wire.now += 0.11
    (safe,) = robot.send(b"x")
    assert safe.flags & Flag.WATCHDOG


def test_rate_limit_holds_from_the_home_pose_and_back():
    robot = Robot(rate=[10.0])  # 0.2 in a step of 0.02 s
    first, second = robot.act(5.0, 0.0), robot.act(0.0, 0.0)
    np.testing.assert_allclose(first.controls, [0.7, -0.8, 0.0], rtol=1e-6)
    np.testing.assert_allclose(second.controls, [0.9, -0.6, 0.0], rtol=1e-6)
    assert first.flags == Flag.LIMITED
    robot.act(5.0, 0.0)
    failed = robot.act(666.0, 0.0)
    np.testing.assert_allclose(failed.controls, [0.9, -0.6, 0.0], rtol=1e-6)
    assert failed.flags == Flag.SAFE | Flag.LIMITED | Flag.ERROR


def test_watchdog_approaches_the_safe_control_at_the_rate():
    robot = Robot(rate=[10.0], watchdog=1.0)  # 0.2 in a step of 0.02 s
    robot.act(5.0, 0.0), robot.act(5.0, 0.0)
    assert robot.wait(0.99) == []
    found = [robot.wait(seconds) for seconds in (0.02, 0.01, 0.02, 0.02, 0.9, 0.2)]
    assert [len(each) for each in found] == [1, 0, 1, 0, 0, 1]
    np.testing.assert_allclose(found[0][0].controls, [0.7, -0.8, 0.0], rtol=1e-6)
    assert found[0][0].flags == Flag.SAFE | Flag.WATCHDOG | Flag.LIMITED
    assert found[2][0].controls.tolist() == found[5][0].controls.tolist() == HOME
    assert found[2][0].flags == Flag.SAFE | Flag.WATCHDOG


@pytest.mark.parametrize("verb", [Verb.STATUS, Verb.END, Verb.BEGIN, Verb.ADAPT, Verb.STOP])
def test_rate_limit_holds_for_every_verb(verb):
    robot = Robot(rate=[10.0])
    for _ in range(4):
        robot.act(5.0, 5.0)  # 0.8 from the home pose
    (reply,) = robot.ask(verb)
    np.testing.assert_allclose(reply.controls, [1.1, -0.4, 0.6], rtol=1e-6)
    assert reply.flags == Flag.SAFE | Flag.LIMITED
    expected = [1.3, -0.2, 0.8] if verb != Verb.STOP else [0.7, -0.8, 0.2]  # another robot
    np.testing.assert_allclose(robot.act(5.0, 5.0).controls, expected, rtol=1e-6)


def test_rate_limit_holds_for_a_repeated_request_after_a_silence():
    robot = Robot(rate=[10.0])
    robot.act(5.0, 0.0), robot.act(5.0, 0.0, number=2)
    robot.wait(0.11), robot.wait(0.03)
    again = robot.act(5.0, 0.0, number=2)
    np.testing.assert_allclose(again.controls, [0.7, -0.8, 0.0], rtol=1e-6)
    assert again.flags == Flag.LIMITED and len(robot.calls) == 2


def test_rate_limit_holds_in_any_order_of_messages():
    """Of verbs, repetitions, faults, silences and a new connection after a long silence."""
    robot, rng = Robot(rate=[10.0], watchdog=0.05), np.random.default_rng(0)
    last, peer, number = np.array(HOME), "robot", 0
    for _ in range(2000):
        replies = robot.wait(rng.choice([0.0, 0.02, 0.06]))
        if rng.random() < 0.02:
            robot.wire.now, peer = robot.wire.now + RELEASE, f"robot {number}"
        number += rng.random() < 0.8
        verb = rng.choice([Verb.ACT] * 6 + [Verb.BEGIN, Verb.END, Verb.ADAPT, Verb.STATUS])
        first = rng.choice([-5.0, 5.0, 666.0, np.nan])
        replies += robot.ask(Verb(verb), (first, rng.normal()), peer=peer, number=number)
        for reply in replies:
            assert np.abs(reply.controls - last).max() <= 0.2 + 1e-5
            last = reply.controls


def test_unusable_observation_gets_the_safe_control():
    reply = Robot().act(np.nan, 0.0)
    assert reply.controls.tolist() == HOME and reply.flags == Flag.SAFE
    assert reply.counters.unusable == 1


def test_failing_policy_gives_the_safe_control(capsys):
    robot = Robot()
    reply = robot.act(666.0, 0.0)
    assert reply.controls.tolist() == HOME and reply.flags == Flag.SAFE | Flag.ERROR
    assert capsys.readouterr().err == "metarl: act: RuntimeError: the policy is broken\n"
    assert robot.act(1e30, 3e38).flags & Flag.ERROR == 0
    assert robot.act(3e38, 3e38).controls.tolist() == HOME  # the sum is infinite


def test_log_has_episodes_and_incidents(tmp_path):
    log = Log(tmp_path / "log")
    robot = Robot(log=log, rate=[10.0])
    robot.act(1.0, 0.0)
    robot.act(np.nan, 0.0, reward=0.5)
    robot.wait(0.15)
    robot.send(b"x"), robot.send(b"y")
    robot.act(0.5, 0.0, reward=np.inf)
    robot.ask(Verb.END, reward=0.25, done=True)
    robot.act(1.0, 0.0)
    robot.ask(Verb.BEGIN)
    line = robot.server.finish()
    log.close()
    records = [json.loads(each) for each in (tmp_path / "log").read_text().splitlines()]
    assert all(record.pop("time") > 1e9 for record in records)
    events = [record["event"] for record in records]
    assert events == ["silence", "refused", "heard", "episode", "episode", "begin", "summary"]
    assert records[3] == {
        "event": "episode", "number": 0, "end": "fall", "steps": 3, "return": 0.75, "unusable": 1,
        "limited": 2, "silences": 1,
    }  # fmt: skip
    assert records[4]["end"] == "aborted" and records[4]["steps"] == 1
    assert records[-1]["refused"] == {"no message": 2} and records[-1]["steps"] == 4
    assert line.startswith("served 4 steps in 2 episodes; latency ")
    assert line.endswith("; 1 silences, 2 refused")


@pytest.mark.parametrize("is_in_episode", [True, False])
def test_server_that_ends_sends_the_safe_control(is_in_episode):
    robot = Robot()
    robot.act(1.0, 0.0)
    if not is_in_episode:
        robot.ask(Verb.END)
    del robot.wire.replies[:]
    robot.server.stop()
    robot.server.run()
    flags = [FORM.decode_reply(message).flags for message, _ in robot.wire.replies]
    assert flags == [Flag.SAFE | Flag.CLOSED] * is_in_episode


def test_json_gets_json_where_messages_are_binary():
    robot = Robot()
    robot.wire.arriving.append((b'{"verb": "act", "obs": [1, 2]}', "robot"))
    robot.server.poll()
    ((line, _),) = robot.wire.replies
    reply = json.loads(line)
    assert reply["controls"] == [3.0, 1.0, 2.0] and reply["seq"] == 1


def test_server_that_fails_sends_the_safe_control(monkeypatch):
    robot = Robot()
    robot.act(1.0, 0.0)
    del robot.wire.replies[:]

    def fail(timeout):
        raise RuntimeError("the network card is gone")

    monkeypatch.setattr(robot.wire, "receive", fail)
    with pytest.raises(RuntimeError, match="the network card is gone"):
        robot.server.run()
    flags = [FORM.decode_reply(message).flags for message, _ in robot.wire.replies]
    assert flags == [Flag.SAFE | Flag.CLOSED]


def test_full_disk_ends_the_log_and_not_the_episode(monkeypatch, tmp_path, capsys):
    log = Log(tmp_path / "log")
    robot = Robot(log=log)
    robot.act(1.0, 0.0)

    def refuse(text):
        raise OSError(28, "No space left on device")

    log._file.close()
    monkeypatch.setattr(log, "_file", SimpleNamespace(write=refuse, close=lambda: None))
    (ended,) = robot.ask(Verb.END, reward=0.5)
    assert ended.flags == Flag.SAFE and ended.counters.episodes == 1
    assert robot.act(1.0, 0.0, reward=None).counters.steps == 1
    robot.server.finish()
    warning = f"metarl: warning: {tmp_path / 'log'}: No space left on device; no more records\n"
    assert capsys.readouterr().err == warning
