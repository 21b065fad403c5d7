"""The robot's side of the binary messages: needs NumPy only, no torch."""

from __future__ import annotations

import socket
import time
from typing import Any

import numpy as np

from metarl.core.errors import ConfigError
from metarl.deployment.serving.messages import UNASKED, Refused, Reply, Request, Verb
from metarl.deployment.serving.wire import SEQUENCES, WireFormat

_QUEUE_PAUSE = 0.002
"""Time between two tries to enter the queue of a server [s]."""


class Client:
    """Asks a server for controls, one request at a time.

    Over UDP a request without a reply is sent again with the same number, which the server answers
    from memory: no observation is taken twice. Replies to earlier requests are left out.

    Args:
        address: Host and port, or the path of a Unix socket.
        obs_size: S.
        num_controls: A, or 1 where actions are discrete.
        timeout: Time until a request is sent again [s].
        tries: Times that a request is sent.

    Raises:
        OSError: There is no server at the path, or it lets nobody in within `timeout * tries`.
    """

    def __init__(
        self,
        address: tuple[str, int] | str,
        obs_size: int,
        num_controls: int,
        *,
        timeout: float = 0.1,
        tries: int = 50,
    ):
        self._format = WireFormat(obs_size, num_controls)
        self._is_stream, self._tries = isinstance(address, str), tries
        self._timeout = timeout * tries if self._is_stream else timeout
        kind = socket.SOCK_STREAM if self._is_stream else socket.SOCK_DGRAM
        is_ipv6 = not self._is_stream and ":" in address[0]
        numbered = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        self._socket = socket.socket(socket.AF_UNIX if self._is_stream else numbered, kind)
        self._rest = b""
        try:
            self._connect(address)
        except OSError:
            self._socket.close()
            raise
        self._sequence = self.num_repeated = self.num_unasked = 0

    def _connect(self, address: tuple[str, int] | str) -> None:
        """Connects, and waits where others stand in the queue of a Unix socket."""
        self._socket.settimeout(self._timeout)
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return self._socket.connect(address)
            except BlockingIOError:  # the queue is full: Linux does not wait at a timeout
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_QUEUE_PAUSE)

    def begin(self) -> Reply:
        """Begins a new trial: the policy forgets the task."""
        return self.request(Verb.BEGIN)

    def act(self, obs: Any, reward: float | None = None, done: bool = False) -> Reply:
        """Returns the controls for an observation (S,), see `Session.act`."""
        return self.request(Verb.ACT, obs, reward, done)

    def end_episode(
        self, reward: float | None = None, done: bool = False, obs: Any = None
    ) -> Reply:
        """Ends the episode; a memory keeps what it knows."""
        return self.request(Verb.END, obs, reward, done)

    def adapt(self) -> Reply:
        """Takes a gradient step, where the policy adapts by them."""
        return self.request(Verb.ADAPT)

    def status(self) -> Reply:
        """Returns the counters."""
        return self.request(Verb.STATUS)

    def stop(self) -> Reply:
        """Leaves the server to the next robot."""
        return self.request(Verb.STOP)

    def request(
        self, verb: Verb, obs: Any = None, reward: float | None = None, done: bool = False
    ) -> Reply:
        """Sends a request and returns its reply.

        Raises:
            ConfigError: The observation has another size.
            TimeoutError: There is none.
            OSError: The server has closed the connection.
        """
        rows = None if obs is None else np.asarray(obs)
        size = self._format.obs_size
        if rows is not None and rows.shape != (size,):
            raise ConfigError(f"obs has the shape {rows.shape}: must be ({size},)")
        self._sequence = (self._sequence + 1) % SEQUENCES
        message = self._format.encode_request(Request(verb, self._sequence, rows, reward, done))
        for number in range(1 if self._is_stream else self._tries):
            self.num_repeated += number > 0
            deadline = time.monotonic() + self._timeout
            try:
                self._socket.sendall(message)
                return self._wait(deadline)
            except TimeoutError:
                continue
            except ConnectionRefusedError:  # the server is not yet there
                time.sleep(max(0.0, deadline - time.monotonic()))
        raise TimeoutError(f"{verb.name.lower()}: the server does not reply")

    def _wait(self, deadline: float) -> Reply:
        """Returns the reply to the present request.

        Raises:
            TimeoutError: It did not come until the deadline, whatever else the server sent.
        """
        while (left := deadline - time.monotonic()) > 0.0:
            self._socket.settimeout(left)
            try:
                reply = self._format.decode_reply(self._receive())
            except Refused:
                continue
            if reply.flags & UNASKED:
                self.num_unasked += 1
            elif reply.sequence == self._sequence:
                return reply
        raise TimeoutError

    def _receive(self) -> bytes:
        size = self._format.reply_size
        if not self._is_stream:
            return self._socket.recv(size + 1)
        # half a reply outlasts a timeout, so that the next one is found behind it
        while len(self._rest) < size:
            chunk = self._socket.recv(size - len(self._rest))
            if not chunk:
                raise ConnectionResetError("the server has closed the connection")
            self._rest += chunk
        data, self._rest = self._rest, b""
        return data

    def close(self) -> None:
        """Closes the socket; `stop` leaves at once."""
        self._socket.close()
