"""Plug-in environments that misbehave: does a training name what is wrong, and does check-env?"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

from metarl.envs.plugins.subproc_env import SubprocEnv
from torture import trainings
from torture.plugin_kinds import KINDS
from torture.processes import Outcome, call
from torture.records import Break, Row, run_trials

_WHERE = "torture.plugin_kinds:"

_MARKS = ("metarl: warning", f"metarl: {_WHERE}Floods prints: ... (more is not shown)")
"""Words that name a plug-in in a training that goes on."""

_TIMEOUT = 15.0
"""Time after which a plug-in that hangs is given up; by default the product waits longer [s]."""


def misbehave(seed: int, count: int, broken: Break = None) -> Row:
    """Trains the first `count` kinds, and as many of those that training does not name checks."""
    with tempfile.TemporaryDirectory() as folder:

        def trial(name: str) -> str:
            place = trainings.fresh(Path(folder, "x"))
            more = "--seed", seed, "--trainer.env-timeout", _TIMEOUT
            words = trainings.command("maml-trpo", *more, env=_WHERE + name, iterations=2)
            done = call(words, place, prepare=[broken])
            if fault := done.find_fault():
                return fault
            is_named = done.code != 0 or any(mark in done.err for mark in _MARKS)
            if name == "Good":
                return "a good environment is blamed: " + done.err if is_named else ""
            if is_named:
                return _find_flaw(done)
            checked = call(["check-env", _WHERE + name], place, prepare=[_wait_less, broken])
            if checked.code == 3:
                return "named by check-env only"
            return "named by neither"

        names = ["Good", *KINDS][: count + 1]
        row = run_trials("plug-ins", [(name, partial(trial, name)) for name in names])
        return row


def _wait_less() -> None:
    """Gives up sooner a plug-in that hangs; the product waits for two minutes."""
    defaults = SubprocEnv.__init__.__kwdefaults__
    assert defaults is not None
    defaults["timeout"] = _TIMEOUT


def _find_flaw(done: Outcome) -> str:
    """Returns what is wrong with the message about a plug-in."""
    if "\x1b" in done.err or "\x07" in done.err:
        return "control characters reach the terminal"
    longest = max(map(len, done.err.splitlines()), default=0)
    return f"a line of {longest} characters" if longest > 2000 else ""


def see_no_fault() -> None:
    """Takes every failure of a plug-in for an end of the episode that says nothing."""
    from metarl.core import errors

    errors._report = lambda error: 0
