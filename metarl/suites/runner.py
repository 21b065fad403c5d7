"""Runs trainings: a child process for each, some at a time, stopped and resumed together.

Which runs there are, a `Plan` says: those that a suite declares, or those that a sweep asks for.
"""

from __future__ import annotations

import heapq
import math
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from metarl.core.errors import CheckpointError, MetarlError, Preempted, handle_signals
from metarl.core.messages import notify, show
from metarl.runs import folder
from metarl.runs.progress import estimate_finish, format_time_left, is_terminal, shorten
from metarl.suites.plan import Declared, Failure, Plan
from metarl.suites.processes import Machines, Process, ThisMachine
from metarl.suites.stages import next_command, prepare, read_progress
from metarl.suites.suite import Run, Suite

_POLL = 0.1
"""Time between two looks at the processes [s]."""

_SILENCE = 9.0
"""Time between two heartbeats where there is no terminal [s]; users were promised at most 10 s."""

_CLEAR_LINE = "\r\x1b[2K"

_RESOURCES = 6
"""Exit code of a run that was killed: by the kernel, for want of memory."""

_MOST_LOSSES = 5
"""Times that a run is started again because its machine was lost."""

_LOCK_LIMIT = 600.0
"""Time in which a training whose suite or machine was lost ends and frees its folder [s]."""


@dataclass
class _Active:
    """A run that has a process.

    Attributes:
        run: The run.
        command: Its arguments.
        child: The process.
        log_start: End of the log where its output starts [bytes].
        is_lost: It has got the signal to stop, because it cannot become the best.
    """

    run: Run
    command: list[str]
    child: Process
    log_start: int
    is_lost: bool = False


THIS_MACHINE = ThisMachine()


def run_suite(
    suite: Suite,
    jobs: int,
    resume_hint: str,
    *,
    machines: Machines = THIS_MACHINE,
    stream: TextIO | None = None,
) -> list[Failure]:
    """Does what is missing of every run of a suite, which is checked; see `run_plan`."""
    return run_plan(Declared(suite), jobs, resume_hint, machines=machines, stream=stream)


def run_plan(
    plan: Plan,
    jobs: int,
    resume_hint: str,
    *,
    machines: Machines = THIS_MACHINE,
    stream: TextIO | None = None,
) -> list[Failure]:
    """Does what is missing of every run.

    Finished runs are skipped, interrupted ones resumed, also those whose machine was lost. A run
    that fails does not stop the others.

    Args:
        plan: The runs.
        jobs: Most processes at a time, >= 1.
        resume_hint: Command that continues, for the message of an interrupt.
        machines: Where the processes run.
        stream: Destination of the progress, by default the standard output.

    Returns:
        The runs that failed.

    Raises:
        Preempted: SIGINT or SIGTERM; it was passed on, and every run is saved.
        ConfigError: Another process works in the same folder.
    """
    plan.root.mkdir(parents=True, exist_ok=True)
    with folder.lock(plan.root):
        plan.begin()
        runner = _Runner(plan, jobs, machines, stream or sys.stdout)
        with handle_signals(runner.note_signal):
            runner.loop()
    if runner.stop:
        states = f"{runner.num_done} of {plan.count()} runs are done, the others are saved"
        raise Preempted(f"stopped by {runner.stop.name}; {states}; go on with: {resume_hint}")
    return runner.failures


class _Runner:
    """The processes of a plan."""

    def __init__(self, plan: Plan, jobs: int, machines: Machines, stream: TextIO):
        self._plan, self._jobs, self._stream = plan, jobs, stream
        self._machines = machines
        self._losses: Counter[Path] = Counter()
        self._locked: list[tuple[Run, float]] = []  # and since when they wait [s]
        self._active: list[_Active] = []
        self.num_done = 0
        self.failures: list[Failure] = []
        self.stop: signal.Signals | None = None
        self._unsent: list[int] = []  # signals that arrived and are not yet passed on
        self._shown_at = time.monotonic()

    def loop(self) -> None:
        """Starts and watches processes until all are done, or until all have stopped."""
        try:
            while self._fill() or self._active or self._locked:
                self._pass_on()
                self._start_unlocked()
                for process in list(self._active):
                    code = process.child.poll()
                    if code is not None:
                        self._active.remove(process)
                        self._end(process, code)
                self._stop_lost()
                self._beat()
                time.sleep(_POLL if self._active or self._locked else 0)
        finally:  # of a failure of this process, such as that of a closed output
            self._send(signal.SIGTERM)
            for process in self._active:
                process.child.wait()

    # --- processes --------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Starts runs while there is room; returns whether it took one."""
        has_taken = False
        while len(self._active) + len(self._locked) < self._jobs and not self.stop:
            run = self._plan.take()
            if run is None:
                break
            self._start(run)
            has_taken = True
        return has_taken

    def _stop_lost(self) -> None:
        for process in self._active:
            if not process.is_lost and self._plan.is_lost(process.run):
                process.is_lost = True
                process.child.send_signal(signal.SIGTERM)

    def _start_unlocked(self) -> None:
        """Starts the runs whose folders are free again, or are not after a long time."""
        waiting, self._locked = self._locked, []
        for run, since in () if self.stop else waiting:
            is_late = time.monotonic() - since > _LOCK_LIMIT
            if is_late or not folder.is_locked(run.folder):
                self._start(run, waits=not is_late)
            else:
                self._locked.append((run, since))

    def _start(self, run: Run, last: list[str] | None = None, *, waits: bool = True) -> None:
        """Starts the next stage of a run, if one is missing, or once its folder is free."""
        if waits and folder.is_locked(run.folder):
            self._print(f"waiting for the process that still works in {run.folder}")
            self._locked.append((run, time.monotonic()))
            return
        try:
            command = next_command(run)
            if command is not None and command == last:
                raise CheckpointError(f"{shlex.join(['metarl', *command])} did not do its work")
            if command is not None:
                prepare(run)
        except MetarlError as error:
            self._fail(Failure(run, str(error), error.exit_code))
            return
        if command is None:
            self._finish(run, "already done" if last is None else "finished")
            return
        if last is None:
            self._print(
                f"{'resumed' if '--resume' in command else 'started'} {run.name}: {run.log}"
            )
        with open(run.log, "ab") as log:
            log.write(f"$ {shlex.join(['metarl', *command])}\n".encode())
            log.flush()
            begin = log.tell()
        self._active.append(_Active(run, command, self._machines.spawn(command, run.log), begin))

    def _finish(self, run: Run, how: str) -> None:
        self.num_done += 1
        self._print(f"{how} {run.name}")
        self._plan.note_end(run, None)

    def _end(self, process: _Active, code: int) -> None:
        run = process.run
        if process.is_lost and code in (0, Preempted.exit_code):
            self._finish(run, "stopped early")
        elif self.stop:
            self.num_done += code == 0 and next_command(run) is None
        elif process.child.refusal:
            self._print(f"warning: {process.child.refusal}; its processor is not used")
            self._start(run)
        elif process.child.loss:
            self._note_loss(process)
        elif code == 0:
            self._start(run, process.command)
        elif code < 0:
            name = signal.Signals(-code).name
            self._fail(Failure(run, f"killed by {name}", _RESOURCES))
        else:
            reason = _read_reason(run.log, process.log_start)
            self._fail(Failure(run, reason or "no message", code))

    def _note_loss(self, process: _Active) -> None:
        """Starts a run again whose machine was lost."""
        run, reason = process.run, process.child.loss
        self._losses[run.folder] += 1
        if self._losses[run.folder] > _MOST_LOSSES:
            text = f"its machine was lost {_MOST_LOSSES + 1} times ({reason})"
            self._fail(Failure(run, text, _RESOURCES))
            return
        self._print(f"lost {run.name} with its machine ({reason}): it is started again")
        self._start(run)

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        self._plan.note_end(failure.run, failure)
        self._print(f"failed {failure.run.name} (exit {failure.exit_code}): {failure.reason}")

    # --- signals ----------------------------------------------------------------------------------

    def note_signal(self, number: int, frame: object) -> None:
        """Notes SIGINT and SIGTERM, which the loop passes on."""
        del frame
        self.stop = self.stop or signal.Signals(number)
        self._unsent.append(number)

    def _pass_on(self) -> None:
        while self._unsent:
            number = self._unsent.pop(0)
            self._send(number)
            name = signal.Signals(number).name
            text = "the runs finish their iterations and are saved; once more stops them at once"
            notify(f"{name}: {text}")

    def _send(self, number: int) -> None:
        for process in self._active:
            process.child.send_signal(number)  # does nothing once the process has ended

    # --- progress ---------------------------------------------------------------------------------

    def _print(self, line: str) -> None:
        start = _CLEAR_LINE if is_terminal(self._stream) else ""
        show(line, start=start, stream=self._stream)

    def _beat(self) -> None:
        terminal, now = is_terminal(self._stream), time.monotonic()
        is_idle = not self._active and not self._locked
        if is_idle or now - self._shown_at < (1.0 if terminal else _SILENCE):
            return
        self._shown_at = now
        start, end = (_CLEAR_LINE, "") if terminal else ("", "\n")
        line = self._describe()
        line = shorten(line, self._stream) if terminal else line
        show(line, start=start, end=end, stream=self._stream)

    def _describe(self) -> str:
        running = [process.run for process in self._active]
        states = [_describe_state(process) for process in self._active]
        states += [f"{run.name} waiting for its folder" for run, _ in self._locked]
        plan = self._plan
        left = estimate_time_left(plan.list_runs(), running, plan.waiting(), self._jobs)
        ends = f"about {format_time_left(left)} left" if math.isfinite(left) else ""
        failed = f", {len(self.failures)} failed" if self.failures else ""
        done = f"{self.num_done} of {plan.count()} done{failed}"
        return "; ".join(filter(None, [done, f"running {', '.join(states)}", ends]))


def _describe_state(process: _Active) -> str:
    run = process.run
    if process.child.is_waiting():
        return f"{run.name} waiting for a processor"
    done, total = read_progress(run.folder)[0], run.config.iterations
    return f"{run.name} {'evaluating' if done >= total else f'{done}/{total}'}"


def _read_reason(log: Path, start: int) -> str:
    """Returns the last error message of a log after `start` [bytes], else its last line."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    messages = [line for line in lines if line.startswith("metarl: ")]
    return next(reversed(messages or [line for line in lines if line]), "")


def estimate_time_left(
    runs: Iterable[Run], running: Iterable[Run], waiting: Iterable[Run], jobs: int
) -> float:
    """Estimates the time until the last run ends [s]; infinite if nothing is known.

    A run takes as long for an iteration as so far, or as the other seeds of its entry, or else the
    whole of it as long as the mean of the runs that are known.

    Args:
        runs: All runs.
        running: Those that have a process.
        waiting: Those that follow, in this order.
        jobs: Processes at a time.
    """
    paces: dict[Path, float] = {}  # by entry [s per iteration]
    iterations = {}
    for run in runs:
        iterations[run.folder], seconds = read_progress(run.folder)
        if iterations[run.folder]:
            paces[run.folder.parent] = seconds / iterations[run.folder]

    def full(run: Run) -> float:
        return run.config.iterations + estimate_finish(run.config)

    known = [full(run) * paces[run.folder.parent] for run in runs if run.folder.parent in paces]
    if not known:
        return math.inf

    def left(run: Run) -> float:
        pace = paces.get(run.folder.parent, sum(known) / len(known) / full(run))
        return max(0.0, full(run) - iterations.get(run.folder, 0)) * pace

    ends = [left(run) for run in running]
    ends += [0.0] * (jobs - len(ends))
    heapq.heapify(ends)
    for run in waiting:
        heapq.heapreplace(ends, ends[0] + left(run))
    return max(ends)
