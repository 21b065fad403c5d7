"""Processes that train together, by torch.distributed: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import atexit
import itertools
import json
import signal
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from metarl.core import errors
from metarl.core.errors import ConfigError, MetarlError, ResourceError, handle_signals
from metarl.core.machine.parallel import ALONE, Group
from metarl.training.launch import Launch
from metarl.training.packing import from_bytes, list_forms, pack, to_bytes, unpack

Value = TypeVar("Value")

PATIENCE = timedelta(minutes=10)
"""Longest time that a process waits for another one; their work is the same, so it is short."""

_FRAME = 4096
"""Bytes of the first message of an exchange, which holds all of a short one."""

_CPU = torch.device("cpu")

_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        FloatingPointError,
        ValueError,
        MemoryError,
        torch.OutOfMemoryError,
        *(c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, MetarlError)),
    )
}
"""Exceptions that are raised alike in all processes; others become a RuntimeError."""


_stores: dict[str, tuple[Any, Iterator[int]]] = {}
"""The store in which processes meet, and the numbers of their groups, by address."""


def _next_store(launch: Launch, patience: timedelta) -> Any:
    """Returns the part of the store in which the next group of this process meets.

    The store stays open between groups. If it were closed with each of them, a process that is
    early for the next group would enter the one that is about to be closed.
    """
    if launch.address not in _stores:
        found, *_ = next(rendezvous("env://", launch.rank, launch.size, timeout=patience))
        _stores[launch.address] = found, itertools.count()
    store, numbers = _stores[launch.address]
    return dist.PrefixStore(f"group {next(numbers)}", store)


class ProcessGroup:
    """The processes that torchrun has started; see `metarl.core.machine.parallel.Group`.

    Every exchange begins with a message of fixed size that tells how long the rest is and whether a
    process has failed. So a failure in one process ends the next exchange of all others, wherever
    they are, instead of leaving them to wait.

    Args:
        launch: Place of this process.
        device: Of its updates.
        patience: Longest time to wait for another process.
        has_own_gpu: No other process uses the GPU. It exchanges tensors by nccl; everything else is
            exchanged by gloo.

    Raises:
        ResourceError: The processes do not meet; names the address.
    """

    def __init__(
        self,
        launch: Launch,
        device: torch.device = _CPU,
        patience: timedelta = PATIENCE,
        *,
        has_own_gpu: bool = False,
    ):
        self.rank, self.size, self._patience = launch.rank, launch.size, patience
        self._device = device
        self._wire = device if has_own_gpu else _CPU
        self._is_failed = False
        if has_own_gpu:
            torch.cuda.set_device(device)
        _leave()  # the group of a training that has failed
        atexit.unregister(_leave)
        atexit.register(_leave)
        options: dict[str, Any] = {"rank": launch.rank, "world_size": launch.size}
        try:
            backend = "cpu:gloo,cuda:nccl" if has_own_gpu else "gloo"
            with _die_of_signals():
                store = _next_store(launch, patience)
                dist.init_process_group(backend, store=store, timeout=patience, **options)
        except (RuntimeError, ValueError) as error:
            place = f"process {launch.rank} of {launch.size} at {launch.address}"
            reason = str(error).partition("\n")[0]
            raise ResourceError(f"{place}: the processes did not meet ({reason})") from error

    def gather(self, make: Callable[[], Value]) -> list[Value]:
        """Computes a value in every process; returns those of all, by rank; see `Group`."""
        try:
            mine = make()
            text, tensors = pack(mine)
        except Exception as error:
            self._announce(error)
            raise
        name = f"{make!r}".partition(" at ")[0]  # without the place in memory
        found = self._exchange({"tree": text, "call": name}, tensors)
        values = [unpack(message["tree"], own) for message, own in found]
        values[self.rank] = mine
        return values

    @contextmanager
    def share_failures(self) -> Generator[None]:
        """Makes an exception of this process one of all others, in their next exchange."""
        try:
            yield
        except Exception as error:
            if not self._is_failed:
                with suppress(Exception):  # that of another process, or nobody is left
                    self._announce(error)
            raise

    def wait_for_first(self) -> None:
        """Waits until process 0 has ended: torchrun stops all others as soon as one has failed."""
        if self.rank:
            with suppress(RuntimeError), _die_of_signals():  # the connection closes
                dist.recv(torch.zeros(1), src=0)

    def leave(self) -> None:
        """Leaves the group, which must not be used any more."""
        _leave()

    def _announce(self, error: Exception) -> None:
        """Tells the others of a failure, by its first cause that they can raise too.

        What this process has added to the message about places, they add themselves.

        Raises:
            Exception: That of a process of lower rank, if there is one.
        """
        kind, text = type(error).__name__, str(error)
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and not isinstance(cause, MetarlError):
                kind, text = ResourceError.__name__, " ".join(str(cause).split())
            elif type(cause).__name__ in _KINDS:
                kind, text = type(cause).__name__, str(cause)
            cause = cause.__cause__
        failure = {"kind": kind, "text": text}
        self._exchange({"failure": failure}, [])

    def _exchange(
        self, message: Mapping[str, Any], tensors: Sequence[Tensor]
    ) -> list[tuple[dict[str, Any], list[Tensor]]]:
        """Sends a message and tensors to all; returns those of all by rank.

        Raises:
            Exception: That of the first other process that has failed.
            ResourceError: A process has ended, or has not answered.
        """
        is_far = [self._wire.type != "cpu" and t.device.type == "cuda" for t in tensors]
        near = [t for t, far in zip(tensors, is_far, strict=True) if not far]
        away = [t for t, far in zip(tensors, is_far, strict=True) if far]
        on_gpu = [t.device.type == "cuda" for t in near]
        forms = {"near": list_forms(near), "on_gpu": on_gpu, "far": list_forms(away)}
        text = json.dumps({**message, **forms, "is_far": is_far}).encode()
        body, far_body = to_bytes(near, _CPU), to_bytes(away, self._wire)
        try:
            frames = self._send_frames(text, body)
            messages = [json.loads(raw) for raw, _ in frames]
            self._raise_failure(messages)
            self._require_same_call(messages)
            pieces: list[Tensor] = []
            if any(each["far"] for each in messages):
                pieces = self._send(far_body)
        except RuntimeError as error:
            if self._is_failed:
                raise
            self._is_failed = True
            reason = str(error).partition("\n")[0]
            limit = f"has ended, or has not answered for {self._patience}"
            raise ResourceError(f"one of the {self.size} processes {limit} ({reason})") from error
        return [
            (each, self._restore(each, raw, pieces[rank] if pieces else raw))
            for rank, (each, (_, raw)) in enumerate(zip(messages, frames, strict=True))
        ]

    def _require_same_call(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Requires that all processes have come to the same exchange.

        Raises:
            ResourceError: They have not: a search of one took another number of steps, say.
        """
        calls = {each["call"] for each in messages if "call" in each}  # not of one that failed
        if len(calls) > 1:
            self._is_failed = True
            hint = "they round in different ways; take processors of one kind"
            raise ResourceError(f"the processes do different work ({', '.join(calls)}): {hint}")

    def _restore(self, message: Mapping[str, Any], near: Tensor, far: Tensor) -> list[Tensor]:
        """Returns the tensors of a process, where those of this process would be."""
        raw = zip(from_bytes(near, message["near"]), message["on_gpu"], strict=True)
        own = iter([tensor.to(self._device) if gpu else tensor for tensor, gpu in raw])
        others = iter(from_bytes(far, message["far"]))
        return [next(others if is_far else own) for is_far in message["is_far"]]

    def _send_frames(self, text: bytes, body: Tensor) -> list[tuple[bytes, Tensor]]:
        """Sends a text and bytes (B,), in one message if they are few."""
        filled = text + bytes(-len(text) % 8)
        whole = torch.cat([torch.frombuffer(bytearray(filled), dtype=torch.uint8), body])
        first = torch.zeros(_FRAME, dtype=torch.uint8)
        first[:16].view(torch.int64)[:] = torch.tensor([len(text), len(whole)])
        if len(whole) <= _FRAME - 16:
            first[16 : 16 + len(whole)] = whole
        firsts = self._all_gather(first)
        lengths = [each[:16].view(torch.int64).tolist() for each in firsts]
        longest = max(length for _, length in lengths)
        raws = [each[16:] for each in firsts]
        if longest > _FRAME - 16:
            raws = self._all_gather(torch.cat([whole, whole.new_zeros(longest - len(whole))]))
        frames = []
        for raw, (count, length) in zip(raws, lengths, strict=True):
            start = count + -count % 8
            frames.append((bytes(raw[:count].numpy()), raw[start:length]))
        return frames

    def _send(self, own: Tensor) -> list[Tensor]:
        """Sends bytes (B,) of different lengths."""
        lengths = self._all_gather(torch.tensor([len(own)]))
        longest = max(int(length) for length in lengths)
        return self._all_gather(torch.cat([own, own.new_zeros(longest - len(own))]))

    def _all_gather(self, own: Tensor) -> list[Tensor]:
        """Returns the tensors of all processes, of the same shape, by rank."""
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        return found

    def _raise_failure(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raises the exception of the first process that has failed, unless it is this one."""
        failed = [rank for rank, each in enumerate(messages) if "failure" in each]
        if not failed:
            return
        self._is_failed = True
        if failed[0] == self.rank:
            return
        failure = messages[failed[0]]["failure"]
        if kind := _KINDS.get(failure["kind"]):
            raise kind(failure["text"])
        raise RuntimeError(f"process {failed[0]}: {failure['kind']}: {failure['text']}")


def _leave() -> None:
    """Ends the threads of torch's group, if there is one.

    At the end of the interpreter it would be too late: a thread that then waits for Python's lock
    ends the process with SIGABRT.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def _die_of_signals() -> AbstractContextManager[None]:
    """Lets signals end the process: Python's handlers do not run while it waits for others."""
    return handle_signals(signal.SIG_DFL)


@contextmanager
def open_group(launch: Launch, device: torch.device, name: str) -> Generator[Group]:
    """Yields the processes that train together; a failure in one of them is one of all.

    Args:
        launch: Place of this process.
        device: Of its updates.
        name: Of the device, as in `pick_own_device`.

    Raises:
        ResourceError: The processes do not meet.
    """
    if launch.size == 1:
        yield ALONE
        return
    has_own_gpu = device.type == "cuda" and name in _OWN
    group = ProcessGroup(launch, device, has_own_gpu=has_own_gpu)
    try:
        with group.share_failures():
            yield group
    except Exception:
        group.wait_for_first()  # which keeps its connections until its program is over
        raise
    group.leave()


_OWN = ("auto", "cuda")
"""Names of devices of which every process has its own."""


def pick_device(name: str) -> torch.device:
    """Returns the device of the update.

    Args:
        name: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".

    Returns:
        The device.

    Raises:
        ResourceError: The named GPU does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} GPUs; "
            "use --device cpu, or install a CUDA build of torch"
        )
    return device


def pick_own_device(name: str, launch: Launch) -> torch.device:
    """Returns the device of this process's updates.

    Args:
        name: "auto" or "cuda" for a GPU for each process of a machine, "cpu", or "cuda:N" for one
            that all processes of a machine use.
        launch: Place of this process.

    Raises:
        ResourceError: The machine has fewer GPUs.
    """
    count = torch.cuda.device_count()
    is_shared = name not in _OWN or (name == "auto" and not count)
    if launch.size == 1 or is_shared:
        return pick_device(name)
    if count < launch.local_size:
        hint = "start as many as GPUs, or give --device cuda:0 for one that they share, or cpu"
        place = f"{launch.local_size} processes of this machine and {count} GPUs"
        raise ResourceError(f"--device {name}: {place}; {hint}")
    return torch.device("cuda", launch.local_rank)


def require_same(group: Group, facts: Mapping[str, str]) -> None:
    """Requires that all processes start alike.

    Args:
        group: The processes.
        facts: Settings, versions and the like by name.

    Raises:
        ConfigError: One of them differs; names the process, the fact and both values.
    """
    first, *others = group.gather(lambda: dict(facts))
    for rank, own in enumerate(others, start=1):
        for name in {**first, **own}:
            before, now = first.get(name), own.get(name)
            if before != now:
                text = f"{name} is {now} in process {rank}, and {before} in process 0"
                raise ConfigError(f"{text}; start all with the same code, flags and files")
