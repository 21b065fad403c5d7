"""Commands of metarl in forked processes: torch is imported once, so that a start takes 10 ms."""

from __future__ import annotations

import gc
import importlib
import os
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from metarl.cli import commands
from metarl.learners.registry import ALGORITHMS

LONGEST = 60.0
"""Time after which a command counts as hanging [s]."""

CODES = frozenset({0, 2, 3, 4, 5, 6, 75})
"""Exit codes of the documentation."""


@dataclass(frozen=True)
class Outcome:
    """End of a command.

    Attributes:
        code: Exit code, negative for the signal that killed it; None if it hung.
        out: Its standard output.
        err: Its standard error.
        seconds: Wall-clock time [s].
    """

    code: int | None
    out: str
    err: str
    seconds: float

    def find_fault(self, codes: frozenset[int] = CODES) -> str:
        """Returns what no command may do: hang, print a traceback or end with another code."""
        last = self.err.strip().splitlines()[-1:] or [""]
        if self.code is None:
            return f"hangs: {last[0]}"
        if "Traceback" in self.err:
            return f"traceback: {last[0]}"
        if self.code not in codes:
            return f"exit code {self.code}: {last[0]}"
        if self.code and not last[0].startswith("metarl: "):
            return f"exit code {self.code} without a line: {last[0]}"
        return ""


def import_all(scouts: Sequence[Sequence[str]] = ()) -> None:
    """Imports what commands need, so that forked processes need not; starts no thread.

    Args:
        scouts: Commands that run once in a process each, to see what they import late.
    """
    modules = {algorithm.build.partition(":")[0] for algorithm in ALGORITHMS.values()}
    modules |= {"metarl.api", "metarl.training.trainer", "metarl.envs.registry"}
    modules |= {"metarl.evaluation.evaluate", "metarl.evaluation.table", "metarl.reporting.report"}
    modules |= {"metarl.runs.sinks", "metarl.sampling.sampler", "metarl.envs.env_checker"}
    for name in sorted(modules):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    for words in scouts:
        for name in _late_imports(words):
            with suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # forked processes share these pages


def _late_imports(words: Sequence[str]) -> list[str]:
    """Returns the modules that a command imports while it runs."""
    known = set(sys.modules)

    def note() -> None:
        names = [name for name in sys.modules if name not in known]
        Path("modules").write_text("\n".join(names), encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        call(words, Path(folder), finish=note)
        path = Path(folder, "modules")
        return path.read_text(encoding="utf-8").split() if path.exists() else []


def call(
    arguments: Sequence[object],
    folder: Path,
    *,
    prepare: Sequence[Callable[[], None] | None] = (),
    signals: Sequence[tuple[float, int]] = (),
    longest: float = LONGEST,
    finish: Callable[[], None] | None = None,
) -> Outcome:
    """Runs a command of metarl in a process of its own.

    Args:
        arguments: Those of `metarl`.
        folder: Working directory.
        prepare: Called in the process before the command.
        signals: (time since the start [s], signal to send), in the order of time.
        longest: Time after which the process is killed, because it hangs [s].
        finish: Called in the process after the command.
    """
    words, began = [str(each) for each in arguments], time.monotonic()
    # pipes and not files, which a limit on the size of files would cut
    out, err = os.pipe(), os.pipe()
    number = os.fork()
    if number == 0:
        _run_child(words, folder, (prepare, finish), out[1], err[1])
    os.close(out[1])
    os.close(err[1])
    code, texts = _wait(number, (out[0], err[0]), began, [*signals, (longest, signal.SIGKILL)])
    is_hanging = time.monotonic() - began >= longest
    return Outcome(None if is_hanging else code, *texts, time.monotonic() - began)


def _wait(
    number: int, pipes: tuple[int, int], began: float, signals: Sequence[tuple[float, int]]
) -> tuple[int, list[str]]:
    """Waits for a child, sends it signals and reads its output; ends what it started.

    Returns:
        Its exit code, and the text of each pipe.
    """
    handle, content, coming = os.pidfd_open(number), {pipe: b"" for pipe in pipes}, list(signals)
    for pipe in pipes:
        os.set_blocking(pipe, False)
    while True:
        left = max(0.0, began + coming[0][0] - time.monotonic())
        ready = select.select([handle, *pipes], [], [], left)[0]
        for pipe in pipes:
            content[pipe] = (content[pipe] + _read(pipe))[:_LONGEST_TEXT]
        if handle in ready:
            break
        if not ready:
            os.kill(number, coming[0][1])
            coming = coming[1:] or [(LONGEST, signal.SIGKILL)]
        elif all(pipe in ready and not content[pipe] for pipe in pipes):
            time.sleep(0.001)  # both streams are closed
    with suppress(ProcessLookupError):  # its workers; the group lives as long as its zombie
        os.killpg(number, signal.SIGKILL)
    texts = [(content[pipe] + _read(pipe)).decode("utf-8", "replace") for pipe in pipes]
    for each in (handle, *pipes):
        os.close(each)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]), texts


_LONGEST_TEXT = 1_000_000
"""Output that is kept of a stream [bytes]."""


def _read(pipe: int) -> bytes:
    """Reads what is in a pipe; b"" for nothing."""
    parts = []
    with suppress(BlockingIOError):
        while part := os.read(pipe, 1 << 20):
            parts.append(part)
    return b"".join(parts)


def _run_child(
    words: list[str],
    folder: Path,
    around: tuple[Sequence[Callable[[], None] | None], Callable[[], None] | None],
    out: int,
    err: int,
) -> None:
    code = 70
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, target)
        os.closerange(3, 512)
        options = {"encoding": "utf-8", "errors": "backslashreplace", "closefd": False}
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        sys.stdout, sys.stderr = open(1, "w", **options), open(2, "w", buffering=1, **options)
        sys.argv = ["metarl", *words]
        os.chdir(folder)
        prepare, finish = around
        for function in prepare:
            if function:
                function()
        code = commands.main(words)
        if finish:
            finish()
        sys.stdout.flush()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:  # before or after the command: the interpreter would end likewise
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 0xFF)
