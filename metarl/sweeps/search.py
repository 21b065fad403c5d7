"""The search: which trials there are, what they are worth, and which of them stop early.

Optuna proposes the trials. Its study is a journal of JSON lines beside the run folders, so that a
search that was stopped in any way goes on; trials that were running then are asked for again, and
equal values have equal run folders, so these resume.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metarl import builders
from metarl.core.errors import ConfigError, require_package
from metarl.runs.folder import check_parent
from metarl.runs.logger import read_records
from metarl.suites.plan import Failure
from metarl.suites.stages import find_evaluation
from metarl.suites.suite import Run
from metarl.sweeps.sweep import Sweep

JOURNAL = "study.jsonl"
"""Name of the study's file."""

NUM_REPORTS = 20
"""Times at which the learning of a trial is compared with that of the others."""

WARMUP = 5
"""Reports and trials before which no trial is stopped."""

_LOOK = 1.0
"""Time between two looks at the metrics of a run [s]."""


def check_sweep(sweep: Sweep) -> None:
    """Requires Optuna, a folder for the runs, and that the environment can be built.

    Raises:
        ResourceError: Optuna is missing.
        ConfigError: Another of them is.
        EnvironmentContractError: A plug-in cannot be started.
    """
    require_package("optuna", "sweep", "metarl sweep")
    check_parent("--run-dir", sweep.root)
    first = {name: dimension.ends()[0] for name, dimension in sweep.search.items()}
    try:
        builders.build_env(sweep.config(first)).close()
    except ConfigError as error:
        raise ConfigError(f"{sweep.path}: {error}") from error


def open_study(sweep: Sweep) -> Any:
    """Opens the study of a sweep, or begins it; its folder exists, and this process has locked it.

    Raises:
        ConfigError: The journal is damaged, or of other settings.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = sweep.root / JOURNAL
    pruner = optuna.pruners.MedianPruner(n_startup_trials=WARMUP, n_warmup_steps=WARMUP - 1)
    try:
        _clear_after_kill(path)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            pruner=pruner if sweep.prune else optuna.pruners.NopPruner(),
            study_name=sweep.name,
            direction="maximize",
            load_if_exists=True,
        )
        begun: dict[str, str] = study.user_attrs.get("sweep", {})
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); move it away") from error
    now = describe(sweep)
    if not begun:
        study.set_user_attr("sweep", now)
    for name in now if begun else ():
        if begun.get(name) != now[name]:
            hint = "choose another --run-dir"
            raise ConfigError(f"{path}: {name} was {begun.get(name)}, now {now[name]}; {hint}")
    return study


def _clear_after_kill(path: Path) -> None:
    """Removes the lock and the half line that a search killed while it wrote a line has left.

    Optuna waits for such a lock, and for ever if the path is relative; its next line would be
    joined to the half one, and the journal lost.
    """
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.is_file():
        return
    with path.open("r+b") as file:
        content = file.read()
        size = content.rfind(b"\n") + 1
        if size < len(content):
            file.truncate(size)


def describe(sweep: Sweep) -> dict[str, str]:
    """Returns what must stay the same while a sweep goes on, as text."""
    names = ("env", "algo", "seeds", "settings", "search")
    return {name: str(vars(sweep)[name]) for name in names}


@dataclass
class Trial:
    """A trial that is not finished.

    Attributes:
        handle: Optuna's.
        runs: One for each seed.
        waiting: Runs that are not started; none starts before the first has finished.
        num_done: Finished runs.
        reports: Times at which its learning was compared.
        looked_at: Time of the last look at its metrics [s].
        is_lost: It was stopped.
        twins: Optuna's handles of trials with the same values, which are worth the same.
    """

    handle: Any
    runs: Sequence[Run]
    waiting: deque[Run] = field(default_factory=deque)
    num_done: int = 0
    reports: int = 0
    looked_at: float = 0.0
    is_lost: bool = False
    twins: list[Any] = field(default_factory=list)

    def handles(self) -> list[Any]:
        """Returns Optuna's handles of this trial and of its twins."""
        return [self.handle, *self.twins]


class Search:
    """The plan of a sweep, see `metarl.suites.plan.Plan`.

    Args:
        sweep: The sweep, checked.

    Attributes:
        study: Its study; None before `begin`.
    """

    def __init__(self, sweep: Sweep):
        from optuna.trial import TrialState

        self.root, self._sweep, self._states = sweep.root, sweep, TrialState
        self.study: Any = None
        self._active: dict[str, Trial] = {}
        self._failed: dict[str, str] = {}  # folder of a trial -> why it failed in this search
        self._known: list[Run] = []
        self._template = sweep.runs({n: d.ends()[0] for n, d in sweep.search.items()})[0]

    def begin(self) -> None:
        """Opens the study; trials that were running when the search stopped are repeated."""
        self.study = open_study(self._sweep)
        running = self.study.get_trials(deepcopy=False, states=(self._states.RUNNING,))
        for trial in running:
            self.study.enqueue_trial(trial.params)
            self.study.tell(trial.number, state=self._states.FAIL)

    def count(self) -> int:
        """See `Plan`."""
        return self._sweep.trials * len(self._sweep.seeds)

    def list_runs(self) -> Sequence[Run]:
        """See `Plan`."""
        return self._known

    def waiting(self) -> Sequence[Run]:
        """See `Plan`."""
        queued = [run for trial in self._active.values() for run in trial.waiting]
        return queued + [self._template] * self._num_left() * len(self._sweep.seeds)

    def _num_left(self) -> int:
        active = sum(len(trial.handles()) for trial in self._active.values())
        return max(0, self._sweep.trials - len(finished_trials(self.study)) - active)

    def take(self) -> Run | None:
        """Returns a run of another seed of a trial whose first has finished, or of a new trial."""
        for trial in self._active.values():
            if trial.num_done and trial.waiting:
                return trial.waiting.popleft()
        while self._num_left():
            if trial := self._ask():
                return trial.waiting.popleft()
        return None

    def _ask(self) -> Trial | None:
        """Begins a trial.

        Returns:
            None if its values do not fit each other, or are those of a trial that is running or
            has failed.
        """
        from optuna.samplers import TPESampler

        number = len(self.study.get_trials(deepcopy=False))
        # by number, so that a search that goes on does not propose its first trials again
        seed = (self._sweep.sampler_seed + number) % 2**32
        self.study.sampler = TPESampler(seed=seed, constant_liar=True)
        handle = self.study.ask()
        values = {n: d.suggest(handle, n) for n, d in self._sweep.search.items()}
        try:
            runs = self._sweep.runs(values)
        except ConfigError as error:
            handle.set_user_attr("reason", str(error))
            self.study.tell(handle, state=self._states.FAIL)
            return None
        name = runs[0].folder.parent.name
        handle.set_user_attr("folder", name)
        if name in self._failed:  # its other seeds may still be running
            handle.set_user_attr("reason", self._failed[name])
            self.study.tell(handle, state=self._states.FAIL)
            return None
        if name in self._active:
            self._active[name].twins.append(handle)
            return None
        trial = Trial(handle, runs, deque(runs))
        self._active[name] = trial
        self._known += runs
        return trial

    def is_lost(self, run: Run) -> bool:
        """Reports how the first seed learns; returns whether the trial is to be stopped."""
        trial = self._active.get(run.folder.parent.name)
        if trial is None:  # another seed of it has failed
            return True
        now = time.monotonic()
        if self._sweep.prune and run == trial.runs[0] and now - trial.looked_at >= _LOOK:
            trial.looked_at = now
            self._report(trial, read_returns(run))
            trial.is_lost = trial.is_lost or self._falls_behind(trial)
        return trial.is_lost

    def _report(self, trial: Trial, returns: np.ndarray) -> None:
        total = trial.runs[0].config.iterations
        while trial.reports < NUM_REPORTS:
            begin, end = (total * (trial.reports + k) // NUM_REPORTS for k in (0, 1))
            if len(returns) < end:
                return
            if end > begin:
                trial.handle.report(float(returns[begin:end].mean()), trial.reports)
            trial.reports += 1

    def _falls_behind(self, trial: Trial) -> bool:
        return WARMUP <= trial.reports < NUM_REPORTS and trial.handle.should_prune()

    def note_end(self, run: Run, failure: Failure | None) -> None:
        """Tells Optuna what a trial was worth, once all its runs are finished."""
        name = run.folder.parent.name
        trial = self._active.get(name)
        if trial is None:  # another seed of it has failed
            return
        trial.num_done += 1
        if failure:
            self._fail(trial, failure.reason)
        elif trial.is_lost:
            self._tell(trial, state=self._states.PRUNED)
        elif trial.num_done < len(trial.runs):
            return
        else:
            self._report(trial, read_returns(trial.runs[0]))
            value = float(np.mean([find_value(r) for r in trial.runs]))
            if math.isfinite(value):
                self._tell(trial, value)
            else:  # Optuna refuses NaN, and would propose another trial in its place for ever
                self._fail(trial, f"the mean return is {value}")
        del self._active[name]

    def _fail(self, trial: Trial, reason: str) -> None:
        for handle in trial.handles():
            handle.set_user_attr("reason", reason)
        self._failed[trial.runs[0].folder.parent.name] = reason
        self._tell(trial, state=self._states.FAIL)

    def _tell(self, trial: Trial, value: float | None = None, state: Any = None) -> None:
        for handle in trial.handles():
            self.study.tell(handle, value, state=state)


def finished_trials(study: Any) -> list[Any]:
    """Returns Optuna's records of the trials that are finished, were stopped early, or failed."""
    from optuna.trial import TrialState

    ended = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    trials = study.get_trials(deepcopy=False, states=ended)
    # a trial that was repeated after a stop has no reason
    return [t for t in trials if t.state != TrialState.FAIL or "reason" in t.user_attrs]


def read_returns(run: Run) -> np.ndarray:
    """Returns the mean return after adaptation of every iteration that a run has recorded."""
    records = read_records(run.folder / "metrics.jsonl")
    return np.array([record["return_post"] for _, record in records], dtype=float)


def find_value(run: Run) -> float:
    """Returns what a finished run is worth.

    Returns:
        The mean return after adaptation on held-out tasks, or where `evaluate_tasks` is 0 in the
        last fifth of the training.
    """
    evaluation = find_evaluation(run) if run.config.trainer.evaluate_tasks else None
    if evaluation:
        return float(evaluation["returns"]["mean"][-1])
    returns = read_returns(run)
    return float(returns[-max(1, len(returns) // 5) :].mean()) if len(returns) else -math.inf


def find_best(study: Any) -> Mapping[str, Any] | None:
    """Returns the values of the best trial, None without a finished one."""
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return dict(max(done, key=lambda trial: trial.value).params) if done else None
