"""Transports of messages: UDP, a Unix socket, standard input and output.

Each gives the messages of its peers one by one, as bytes with the peer's address, and sends bytes
to an address. They keep no message but those that are not read yet, of bounded size, and no peer
can stop them: what cannot be sent at once is not sent.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import selectors
import socket
import stat
import sys
from collections import deque
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Protocol

from metarl.core.errors import ConfigError
from metarl.deployment.serving.json_lines import MAX_LINE
from metarl.deployment.serving.wire import MAGIC

MAX_CONNECTIONS = 8
"""Connections to a Unix socket at a time; one of them is the robot's."""

_CHUNK = 65536
"""Bytes that are read at once."""


class Transport(Protocol):
    """Carries messages between a server and its peers.

    Attributes:
        name: For people: the kind and the address.
        is_text: All messages are JSON.
    """

    name: str
    is_text: bool

    @property
    def is_over(self) -> bool:
        """No message will come any more."""

    def receive(self, timeout: float) -> tuple[bytes, Hashable] | None:
        """Returns the next message and its sender; None after the timeout [s].

        An empty message says that the peer has left.
        """

    def send(self, message: bytes, peer: Any) -> None:
        """Sends a message to a peer, unless it does not read."""

    def drop(self, peer: Any) -> None:
        """Closes the connection to a peer that has sent what is no message, if there is one."""

    def close(self) -> None:
        """Closes everything."""


def is_loopback(host: str) -> bool:
    """Returns whether only programs on this machine reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Udp:
    """Datagrams; each is one message.

    Args:
        host: Address of this machine on which it listens.
        port: Port; 0 takes a free one.

    Raises:
        ConfigError: Host or port cannot be used.
    """

    def __init__(self, host: str, port: int):
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        except (OSError, UnicodeError) as error:  # UnicodeError: more letters than names have
            raise ConfigError(f"--host {host:.80}: is no address of this machine") from error
        self._socket = socket.socket(found[0], socket.SOCK_DGRAM)
        try:
            self._socket.bind(found[4])
        except OSError as error:
            self._socket.close()
            raise ConfigError(_describe_bind(host, port, error)) from error
        self._socket.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        self.port = int(self._socket.getsockname()[1])
        self.name, self.is_text = f"udp {host} port {self.port}", False

    @property
    def is_over(self) -> bool:
        """Never: another robot may come."""
        return False

    def receive(self, timeout: float) -> tuple[bytes, Hashable] | None:
        """See `Transport`."""
        if not self._selector.select(timeout):
            return None
        with contextlib.suppress(OSError):  # a datagram with a wrong checksum, or an ICMP error
            message, peer = self._socket.recvfrom(_CHUNK)
            return message or b"\0", peer  # nobody leaves by an empty datagram
        return None

    def send(self, message: bytes, peer: Any) -> None:
        """See `Transport`."""
        with contextlib.suppress(OSError):  # the buffer is full, or the network is away
            self._socket.sendto(message, peer)

    def drop(self, peer: Any) -> None:
        """Does nothing: there are no connections."""

    def close(self) -> None:
        """Closes the socket."""
        self._selector.close()
        self._socket.close()


def _describe_bind(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port}: is in use on {host}; stop the other program, or choose another port"
    if error.errno == errno.EACCES:
        return f"--port {port}: needs the rights of an administrator; choose one from 1024 on"
    return f"--host {host}: is no address of this machine ({error.strerror})"


class Framer:
    """Cuts a stream of bytes into messages: binary ones of one size, and lines of JSON.

    Args:
        size: Size of a binary message [bytes].
    """

    def __init__(self, size: int):
        self._size, self._rest = size, b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Returns the messages that are complete with another chunk.

        Where a message must begin and none does, all bytes are returned as one: no later message
        could be found.
        """
        data, start, messages = self._rest + chunk, 0, []
        while length := self._measure(data, start):
            messages.append(data[start : start + length])
            start += length
        self._rest = data[start:]
        return messages

    def _measure(self, data: bytes, start: int) -> int:
        """Returns the length of the message that begins at `start`, 0 if it is not complete."""
        length = len(data) - start
        if data.startswith(b"{", start):
            end = data.find(b"\n", start) + 1
            return end - start if end else length * (length > MAX_LINE)
        if not data.startswith(MAGIC[:length], start):
            return length
        return self._size if length >= self._size else 0


class Unix:
    """A Unix socket with connections, of which only programs of this user can make one.

    Args:
        path: Where the socket is made; `close` removes it.
        size: Size of a binary request [bytes].

    Raises:
        ConfigError: The path is used or cannot be made.
    """

    def __init__(self, path: Path, size: int):
        _require_unused(path)
        self.name, self.is_text = f"unix {path}", False
        self._path, self._size = path, size
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _bind(self._listener, path)
        except OSError as error:
            self._listener.close()
            raise ConfigError(f"--path {path}: {error.strerror or error}") from error
        self._listener.listen(MAX_CONNECTIONS)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[int, tuple[socket.socket, Framer]] = {}
        self._waiting: deque[tuple[bytes, Hashable]] = deque()
        self._number = 0

    @property
    def is_over(self) -> bool:
        """Never: another robot may come."""
        return False

    def receive(self, timeout: float) -> tuple[bytes, Hashable] | None:
        """See `Transport`."""
        if not self._waiting:
            for key, _ in self._selector.select(timeout):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
        return self._waiting.popleft() if self._waiting else None

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has left already
            connection = self._listener.accept()[0]
            if len(self._peers) == MAX_CONNECTIONS:
                connection.close()
                return
            connection.setblocking(False)
            self._number += 1
            self._peers[self._number] = connection, Framer(self._size)
            self._selector.register(connection, selectors.EVENT_READ, self._number)

    def _read(self, peer: int) -> None:
        connection, framer = self._peers[peer]
        try:
            chunk = connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self._waiting.extend((message, peer) for message in framer.feed(chunk))
        if not chunk:
            self._waiting.append((b"", peer))
            self._disconnect(peer)

    def _disconnect(self, peer: int) -> None:
        if peer in self._peers:
            connection = self._peers.pop(peer)[0]
            self._selector.unregister(connection)
            connection.close()

    def send(self, message: bytes, peer: Any) -> None:
        """See `Transport`; after half a message, which cannot be taken back, it disconnects."""
        if peer not in self._peers:
            return
        try:
            is_whole = self._peers[peer][0].send(message) == len(message)
        except OSError:
            is_whole = False
        if not is_whole:
            self.drop(peer)

    def drop(self, peer: Any) -> None:
        """See `Transport`."""
        self._waiting = deque(item for item in self._waiting if item[1] != peer)
        self._waiting.append((b"", peer))
        self._disconnect(peer)

    def close(self) -> None:
        """Closes all connections and removes the socket."""
        for peer in list(self._peers):
            self._disconnect(peer)
        self._selector.close()
        self._listener.close()
        self._path.unlink(missing_ok=True)


def _require_unused(path: Path) -> None:
    """Removes the socket of a server that was killed.

    Raises:
        ConfigError: There is a file, or a server that listens.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"--path {path}: {error.strerror or error}") from error
    if not stat.S_ISSOCK(kind):
        raise ConfigError(f"--path {path}: exists and is no socket; choose another name")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # the queue of a server that accepts nobody
            pass
        except OSError as error:
            raise ConfigError(f"--path {path}: {error.strerror or error}") from error
    raise ConfigError(f"--path {path}: is in use by another server; choose another name")


def _bind(listener: socket.socket, path: Path) -> None:
    """Makes the socket's file, which only its user may open."""
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)


class Stdin:
    """Lines of JSON from the standard input; replies go to the standard output.

    Raises:
        ConfigError: One of them is closed.
    """

    def __init__(self) -> None:
        if sys.stdin is None or sys.stdout is None:
            raise ConfigError("--transport stdin: the standard input or output is closed")
        self.name, self.is_text, self._is_ended = "the standard input", True, False
        self._rest, self._lines = b"", deque[bytes]()

    @property
    def is_over(self) -> bool:
        """The input has ended, and all its lines are read."""
        return self._is_ended and not self._lines

    def receive(self, timeout: float) -> tuple[bytes, Hashable] | None:
        """See `Transport`."""
        if not self._lines:
            self._read(timeout)
        return (self._lines.popleft(), "stdin") if self._lines else None

    def _read(self, timeout: float) -> None:
        with selectors.SelectSelector() as selector:  # epoll refuses files
            selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
            if not selector.select(timeout):
                return
        chunk = os.read(sys.stdin.fileno(), _CHUNK)
        self._is_ended = not chunk
        *lines, self._rest = (self._rest + (chunk or b"\n")).split(b"\n")
        self._lines.extend(line for line in lines if line.strip())
        if len(self._rest) > MAX_LINE:
            self._rest = self._rest[:1]  # what is left of it is refused at its end

    def send(self, message: bytes, peer: Any) -> None:
        """See `Transport`."""
        sys.stdout.write(message.decode())
        sys.stdout.flush()

    def drop(self, peer: Any) -> None:
        """Does nothing: the next line may be a message."""

    def close(self) -> None:
        """Does nothing."""
