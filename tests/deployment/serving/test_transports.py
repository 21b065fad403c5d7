"""Sockets and standard input with a server: load, strangers, floods, files of sockets."""

import os
import socket
import stat
from contextlib import closing

import numpy as np
import pytest
from served_policy import EchoPolicy, make_server, running

from metarl.core.errors import ConfigError
from metarl.deployment.serving import transports
from metarl.deployment.serving.client import Client
from metarl.deployment.serving.json_lines import MAX_LINE
from metarl.deployment.serving.messages import Request, Verb
from metarl.deployment.serving.server import wire_format
from metarl.deployment.serving.transports import Framer, Stdin, Udp, Unix, is_loopback
from metarl.deployment.serving.wire import WireFormat

FORM = WireFormat(2, 3)
SIZE = FORM.request_size


@pytest.fixture(params=["udp", "unix"])
def place(request, tmp_path):
    """A transport and the address of its clients."""
    if request.param == "udp":
        transport = Udp("127.0.0.1", 0)
        address = "127.0.0.1", transport.port
    else:
        transport = Unix(tmp_path / "socket", SIZE)
        address = str(tmp_path / "socket")
    with closing(transport):
        yield transport, address


def test_nothing_is_lost_or_out_of_order_at_full_speed(place):
    transport, address = place
    policy = EchoPolicy()
    server = make_server(policy, transport, watchdog=10.0)
    with running(server), closing(Client(address, 2, 3, timeout=5.0)) as client:
        for t in range(2000):
            reply = client.act([1.0, t], reward=float(t))
            assert reply.controls[2] == t and reply.counters.steps == t + 1
        client.end_episode(0.0, done=True)
        client.stop()
    calls = policy.sessions[0].calls
    assert [call[1][1] for call in calls[:-1]] == list(range(2000))
    assert server.latencies.count == 2000


def test_lost_reply_is_asked_for_again(place, monkeypatch):
    """Every third reply of UDP is lost; no observation is taken twice."""
    transport, address = place
    if not isinstance(transport, Udp):
        pytest.skip("a stream loses nothing")
    policy, sent = EchoPolicy(), []

    def lose(message, peer):
        sent.append(message)
        if len(sent) % 3:
            Udp.send(transport, message, peer)

    monkeypatch.setattr(transport, "send", lose)
    server = make_server(policy, transport, watchdog=10.0)
    with running(server), closing(Client(address, 2, 3, timeout=0.02)) as client:
        for t in range(20):
            assert client.act([1.0, t]).controls[2] == t
        assert client.num_repeated >= 9
    assert [call[1][1] for call in policy.sessions[0].calls] == list(range(20))


def test_stranger_gets_nothing_and_disturbs_nobody(place):
    transport, address = place
    kind = socket.SOCK_DGRAM if isinstance(transport, Udp) else socket.SOCK_STREAM
    family = socket.AF_INET if isinstance(transport, Udp) else socket.AF_UNIX
    policy = EchoPolicy()
    with (
        running(make_server(policy, transport, watchdog=10.0)),
        closing(Client(address, 2, 3, timeout=5.0)) as client,
        socket.socket(family, kind) as stranger,
    ):
        client.act([0.0, 0.0])
        stranger.connect(address)
        stranger.settimeout(0.3)
        stranger.send(FORM.encode_request(Request(Verb.BEGIN, 1)))
        try:
            assert stranger.recv(100) == b""  # the connection is closed
        except (TimeoutError, ConnectionResetError):
            pass
        reply = client.act([0.0, 1.0])
        assert (reply.counters.steps, reply.counters.refused) == (2, 1)
    assert len(policy.sessions) == 1


def test_random_bytes_break_no_socket(place):
    transport, address = place
    kind = socket.SOCK_DGRAM if isinstance(transport, Udp) else socket.SOCK_STREAM
    family = socket.AF_INET if isinstance(transport, Udp) else socket.AF_UNIX
    rng = np.random.default_rng(1)
    server = make_server(EchoPolicy(), transport, watchdog=10.0)
    with running(server):
        for _ in range(60):
            with socket.socket(family, kind) as stranger:
                stranger.connect(address)
                try:
                    stranger.send(rng.bytes(rng.integers(0, 3000)))
                    stranger.send(b"")
                except (BrokenPipeError, ConnectionResetError):
                    pass
        with closing(Client(address, 2, 3, timeout=5.0)) as client:
            assert client.act([1.0, 2.0]).controls.tolist() == [3.0, 1.0, 2.0]


def test_stream_is_cut_into_messages():
    good = [FORM.encode_request(Request(Verb.STATUS, i)) for i in range(3)]
    line = b'{"verb": "status"}\n'
    stream = good[0] + good[1] + line + good[2]
    framer, found = Framer(SIZE), []
    for byte in stream:
        found += framer.feed(bytes([byte]))
    assert found == [good[0], good[1], line, good[2]]
    assert Framer(SIZE).feed(stream) == found
    assert Framer(SIZE).feed(good[0] + b"garbage") == [good[0], b"garbage"]
    endless = Framer(SIZE)
    assert endless.feed(b"{" * MAX_LINE) == [] and endless.feed(b"{") == [b"{" * (MAX_LINE + 1)]


def test_peer_that_does_not_read_is_disconnected(tmp_path):
    with closing(Unix(tmp_path / "s", SIZE)) as transport:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(tmp_path / "s"))
            peer.sendall(FORM.encode_request(Request(Verb.STATUS, 1)))
            found = None
            while found is None:
                found = transport.receive(1.0)
            for _ in range(10_000):
                transport.send(b"x" * 1000, found[1])
            assert transport.receive(0.0) == (b"", found[1])
            transport.send(b"x", found[1])


def test_connections_are_few(tmp_path):
    with closing(Unix(tmp_path / "s", SIZE)) as transport:
        peers = [socket.socket(socket.AF_UNIX) for _ in range(transports.MAX_CONNECTIONS + 1)]
        for peer in peers:
            peer.connect(str(tmp_path / "s"))
            assert transport.receive(1.0) is None
        assert peers[-1].recv(1) == b""
        for peer in peers:
            peer.close()


def test_socket_belongs_to_its_user_and_is_removed(tmp_path):
    path = tmp_path / "s"
    transport = Unix(path, SIZE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="is in use by another server"):
        Unix(path, SIZE)
    transport.close()
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    Unix(path, SIZE).close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: Unix(folder / "file", SIZE), "exists and is no socket"),
        (lambda folder: Unix(folder / ("x" * 200), SIZE), "--path .*: AF_UNIX path too long"),
        (lambda folder: Udp("no.such.host.invalid", 0), "--host .*: is no address of this machine"),
        (lambda folder: Udp("x" * 300, 0), "--host x{80}: is no address of this machine"),
        (lambda folder: Udp("192.0.2.1", 0), "--host 192.0.2.1: is no address of this machine"),
    ],
)
def test_unusable_address_is_refused(make, message, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=message):
        make(tmp_path)


def test_used_port_is_refused():
    with closing(Udp("127.0.0.1", 0)) as first:
        with pytest.raises(ConfigError, match=f"--port {first.port}: is in use on 127.0.0.1; "):
            Udp("127.0.0.1", first.port)


@pytest.mark.parametrize(
    ("host", "is_own"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True),
     ("0.0.0.0", False), ("192.168.1.2", False), ("robot", False)],
)  # fmt: skip
def test_loopback_addresses_are_known(host, is_own):
    assert is_loopback(host) == is_own


def test_lines_of_standard_input_are_messages(monkeypatch, capsys):
    read, write = os.pipe()
    with os.fdopen(read) as stdin, os.fdopen(write, "wb", buffering=0) as robot:
        monkeypatch.setattr("sys.stdin", stdin)
        transport = Stdin()
        robot.write(b"one\n\ntwo\nth")
        assert [transport.receive(0.0) for _ in range(3)] == [
            (b"one", "stdin"), (b"two", "stdin"), None
        ]  # fmt: skip
        robot.write(b"ree")
        robot.close()
        assert transport.receive(1.0) is None and not transport.is_over
        assert transport.receive(1.0) == (b"three", "stdin") and transport.is_over
    transport.send(b"reply\n", "stdin")
    assert capsys.readouterr().out == "reply\n"


def test_closed_standard_input_is_refused(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match="--transport stdin: the standard input or output is clo"):
        Stdin()


def test_wire_format_of_discrete_actions_has_one_number():
    policy = EchoPolicy(discrete=True, action_centre=0.0)
    assert wire_format(policy.spec) == WireFormat(2, 1)
