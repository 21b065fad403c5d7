"""The robot's side against servers by hand: lost datagrams, silence, a server that starts late."""

import gc
import socket
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from metarl.core.errors import ConfigError
from metarl.deployment.serving.client import Client
from metarl.deployment.serving.messages import Flag, Reply, Verb
from metarl.deployment.serving.transports import Udp, Unix
from metarl.deployment.serving.wire import WireFormat

FORM = WireFormat(2, 3)


def reply(verb, sequence, flags=Flag.SAFE):
    return FORM.encode_reply(Reply(verb, sequence, np.zeros(3), flags))


def test_lost_request_is_repeated_while_the_watchdog_speaks():
    """The first request is lost, and the safe control comes more often than the time limit."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.01)
        arrived = []

        def serve():
            end = time.monotonic() + 3.0
            while len(arrived) < 2 and time.monotonic() < end:
                try:
                    arrived.append(server.recvfrom(100))
                except TimeoutError:
                    pass
                if arrived:
                    server.sendto(reply(Verb.ACT, 0, Flag.SAFE | Flag.WATCHDOG), arrived[0][1])
            server.sendto(reply(Verb.STATUS, 1), arrived[0][1])

        thread = threading.Thread(target=serve)
        thread.start()
        with closing(Client(server.getsockname(), 2, 3, timeout=0.1)) as client:
            client.status()
        thread.join()
        assert client.num_repeated >= 1 and client.num_unasked >= 1
        assert arrived[0] == arrived[1]


def test_half_a_reply_outlasts_a_timeout(tmp_path):
    """The stream went on in the middle of it, and no later reply was found."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "robot"))
        server.listen()
        with closing(Client(str(tmp_path / "robot"), 2, 3, timeout=0.2, tries=1)) as client:
            connection, _ = server.accept()
            with connection:
                first = reply(Verb.STATUS, 1)
                connection.sendall(first[:10])
                with pytest.raises(TimeoutError, match="status: the server does not reply"):
                    client.status()
                connection.sendall(first[10:] + reply(Verb.ACT, 2))
                assert client.act([0.0, 0.0]).sequence == 2


def test_client_reaches_a_server_by_ipv6():
    try:
        server = Udp("::1", 0)
    except ConfigError:
        pytest.skip("this machine has no IPv6")
    with closing(server), closing(Client(("::1", server.port), 2, 3, timeout=1.0)) as client:

        def serve():
            _, peer = server.receive(3.0) or (b"", None)
            server.send(reply(Verb.STATUS, 1), peer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert client.status().sequence == 1
        thread.join()


def test_client_waits_for_a_server_that_starts_later():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        address = server.getsockname()

    def serve():
        time.sleep(0.3)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
            late.bind(address)
            late.settimeout(10.0)
            late.sendto(reply(Verb.STATUS, 1), late.recvfrom(100)[1])

    thread = threading.Thread(target=serve)
    thread.start()
    with closing(Client(address, 2, 3, timeout=0.05, tries=200)) as client:
        client.status()
    thread.join()
    assert 1 <= client.num_repeated < 200


def test_observation_of_another_size_is_not_sent():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)
        with closing(Client(server.getsockname(), 2, 3, timeout=0.01, tries=1)) as client:
            with pytest.raises(ConfigError, match=r"obs has the shape \(3,\): must be \(2,\)"):
                client.act(np.zeros(3))
        with pytest.raises(BlockingIOError):
            server.recv(100)


def test_client_without_a_server_leaves_no_socket_open(tmp_path):
    with pytest.raises(FileNotFoundError):
        Client(str(tmp_path / "none"), 2, 3)
    gc.collect()  # an open socket would warn, which is an error here


@pytest.fixture
def full_queue(tmp_path):
    """A listening Unix socket whose queue is full, and its address."""
    address = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(address)
        listener.listen(0)
        first.connect(address)
        yield listener, address


def test_client_waits_in_a_full_queue(full_queue):
    listener, address = full_queue

    def accept():
        time.sleep(0.2)
        listener.accept()[0].close()

    thread = threading.Thread(target=accept)
    thread.start()
    began = time.monotonic()
    Client(address, 2, 3, timeout=1.0).close()
    thread.join()
    assert time.monotonic() - began >= 0.1


def test_client_gives_up_in_a_queue_that_stays_full(full_queue):
    with pytest.raises(BlockingIOError):
        Client(full_queue[1], 2, 3, timeout=0.01, tries=5)


def test_server_takes_no_path_from_one_whose_queue_is_full(full_queue):
    with pytest.raises(ConfigError, match="is in use by another server"):
        Unix(Path(full_queue[1]), FORM.request_size)
