"""Destinations of metrics beside metrics.jsonl: TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from metarl.config.schema import TrainerConfig
from metarl.core.errors import CheckpointError, ResourceError, require_package
from metarl.core.machine.files import load_json, name_disk_failures, write_atomically
from metarl.core.machine.yaml_files import load_yaml
from metarl.core.messages import warn
from metarl.core.trees import check_form, flatten
from metarl.evaluation.table import table

STATE_FILE = "tracking.json"
"""Identity of a run in Weights & Biases and in Trackio, so that a resumed run continues it, and the
last step that each logger has."""

_EVENTS = "events.out.tfevents.*"


class MetricSink(Protocol):
    """One destination of the metrics of a run. A step is the number of environment steps."""

    def open(self, settings: Mapping[str, Any], run_dir: Path, start_step: int | None) -> int:
        """Starts the record of a run, or continues it.

        Args:
            settings: The tree of config.yaml.
            run_dir: Run folder.
            start_step: Step of the last record that stays; later ones are written again. 0 starts
                afresh. None keeps everything, to add an evaluation.

        Returns:
            Step up to which the sink has the records, -1 for none; those after it that stay should
            be written.

        Raises:
            ResourceError: The disk refuses.
        """

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes the metrics of one iteration.

        Raises:
            ResourceError: The disk refuses.
        """

    def write_evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        """Writes the contents of evaluation.json.

        Raises:
            ResourceError: The disk refuses.
        """

    def flush(self) -> None:
        """Sends what is buffered."""

    def close(self) -> None:
        """Sends what is buffered and ends the record.

        Raises:
            ResourceError: The disk refuses.
        """


def make_sink(config: TrainerConfig) -> MetricSink | None:
    """Returns the sink that the settings name, None for none.

    Raises:
        ResourceError: The package of the sink is not installed.
    """
    if config.logger == "tensorboard":
        return TensorBoardSink() if config.tensorboard else None
    if config.logger == "none":
        return None
    package = require_package(config.logger, config.logger, f"--trainer.logger {config.logger}")
    return WandbSink(package) if config.logger == "wandb" else TrackioSink(package)


def log_evaluation(sink: MetricSink | None, run_dir: Path, result: Mapping[str, Any]) -> None:
    """Adds an evaluation to the record of a run whose training is over.

    Args:
        sink: As `make_sink` returns it, not open.
        run_dir: Run folder.
        result: Contents of evaluation.json, with its checkpoint.

    Raises:
        ResourceError: The disk refuses.
    """
    if sink is None:
        return
    sink.open(read_settings(run_dir), run_dir, None)
    try:
        sink.write_evaluation(result["checkpoint"]["env_steps"], result)
    finally:
        sink.close()


def read_settings(run_dir: Path) -> dict[str, Any]:
    """Returns the tree of config.yaml, empty if there is none."""
    path = run_dir / "config.yaml"
    return load_yaml(path) if path.exists() else {}


def evaluation_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Returns the mean return after each number of adaptations."""
    means = result["returns"]["mean"]
    return {f"evaluation/return_after_{k}": mean for k, mean in enumerate(means)}


# --- TensorBoard ---------------------------------------------------------------------------------


class TensorBoardSink:
    """Writes event files into the run folder; the x axis is environment steps."""

    def __init__(self) -> None:
        self._events: Any = None
        self._silence = ExitStack()
        self._path = Path()
        self._state: _State | None = None
        self._last_step = -1

    def open(self, settings: Mapping[str, Any], run_dir: Path, start_step: int | None) -> int:
        """Opens an event file; TensorBoard hides older events after those that stay."""
        from torch.utils.tensorboard import SummaryWriter

        is_known = any(run_dir.glob(_EVENTS))
        self._path = run_dir / _EVENTS
        with ExitStack() as silence, name_disk_failures(self._path):
            silence.enter_context(_SILENCE)
            last = self._find_last_step(run_dir, start_step, is_known)
            purge = last + 1 if is_known and start_step is not None else None
            try:
                self._events = SummaryWriter(str(run_dir), purge_step=purge, flush_secs=10)
            except UnicodeError:  # TensorBoard's own writer of files
                warn(f"{run_dir}: TensorBoard cannot write to a path that is no UTF-8")
                return -1
            if last < 0:
                self._write_settings(settings)
            self._silence = silence.pop_all()
        return last

    def _find_last_step(self, run_dir: Path, start_step: int | None, is_known: bool) -> int:
        """Returns the last step that the events have and that stays, -1 for none, and records it.

        A part of the training may have been logged elsewhere, and its evaluation here.
        """
        if is_known and start_step is None:
            return 0
        with suppress(CheckpointError):  # a damaged file is no reason not to train
            self._state = _State(run_dir, "tensorboard")
        last = start_step if is_known and start_step else -1
        if self._state is not None:
            if not self._state.is_new:  # older versions recorded none
                last = min(last, self._state.last_step)
            self._state.record(last)
        return last

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings as text and as hyper-parameters."""
        from torch.utils.tensorboard.summary import hparams

        flat = flatten(settings)
        text = "\n".join(f"    {name}: {value}" for name, value in flat.items())
        self._events.add_text("settings", text, 0)
        values = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in flat.items()
        }
        shown = ["train/return_post", *(f"evaluation/return_after_{k}" for k in range(4))]
        # `add_hparams` would write into another folder, which TensorBoard shows as another run
        for summary in hparams(values, dict.fromkeys(shown, 0.0)):
            self._events.file_writer.add_summary(summary, 0)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds scalars."""
        if self._events is None:
            return
        with name_disk_failures(self._path):
            for tag, value in metrics.items():
                self._events.add_scalar(tag, value, step)
        self._last_step = step

    def write_evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        """Adds the mean returns as scalars and the table as text."""
        if self._events is None:
            return
        self.write(step, evaluation_metrics(result))
        text = "\n".join(f"    {line}" for line in table(result).splitlines())
        with name_disk_failures(self._path):
            self._events.add_text("evaluation", text, step)

    def flush(self) -> None:
        """Brings the events to the disk; a failure is raised by the next write."""
        with suppress(OSError, ResourceError):
            if self._events is not None:
                self._events.flush()
                if self._state is not None and self._last_step >= 0:
                    self._state.record(self._last_step)

    def close(self) -> None:
        """Closes the event file."""
        with self._silence:
            if self._events is not None:
                with name_disk_failures(self._path):
                    self._events.close()


class _TensorBoardSilence:
    """Prints no tracebacks of TensorBoard's threads, whose next call raises the error again.

    The hook of threads is global: the first open sink sets it, and the last one restores it.
    """

    def __init__(self) -> None:
        self._lock, self._count = threading.Lock(), 0
        self._hook: Callable[[Any], Any] = threading.excepthook

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1
            if self._count == 1:
                self._hook, threading.excepthook = threading.excepthook, self.report

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0 and threading.excepthook == self.report:
                threading.excepthook = self._hook

    def report(self, args: Any) -> None:
        """Reports an exception of a thread, except failures of the disk in TensorBoard's."""
        is_theirs = type(args.thread).__module__.startswith("tensorboard.")
        if not (is_theirs and issubclass(args.exc_type, OSError)):
            self._hook(args)


_SILENCE = _TensorBoardSilence()


# --- experiment trackers -------------------------------------------------------------------------


class _State:
    """Identity of a run in a tracker, and the last step that was sent.

    A resumed run repeats the records after its checkpoint. Trackers keep what they have, so the
    repeated steps are not sent again.
    """

    def __init__(self, run_dir: Path, tracker: str) -> None:
        self._path, self._tracker = run_dir / STATE_FILE, tracker
        self._all: dict[str, Any] = {}
        if self._path.exists():
            try:
                self._all = load_json(self._path)
                check_form(self._all, {f"{tracker}?": {"id": str, "last_step": int}})
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{self._path} cannot be read ({error!r})") from error
        self.is_new = tracker not in self._all
        if self.is_new:
            name = f"{run_dir.resolve().name}-{uuid.uuid4().hex[:8]}"
            self._all[tracker] = {"id": name, "last_step": -1}
            self._save()

    @property
    def id(self) -> str:
        return self._all[self._tracker]["id"]

    @property
    def last_step(self) -> int:
        return self._all[self._tracker]["last_step"]

    def advance(self, step: int) -> bool:
        """Returns whether a step is new, and if so records it as the last one."""
        if step <= self.last_step:
            return False
        self.record(step)
        return True

    def record(self, step: int) -> None:
        self._all[self._tracker]["last_step"] = step
        self._save()

    def _save(self) -> None:
        with name_disk_failures(self._path):
            write_atomically(self._path, json.dumps(self._all) + "\n")


@contextmanager
def _name_tracker(name: str, hint: str) -> Generator[None]:
    """Turns any failure to start a tracker, such as a missing login, into a ResourceError."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split())
        hint = f"{hint}, or choose another --trainer.logger"
        raise ResourceError(f"--trainer.logger {name}: {text}; {hint}") from error


class WandbSink:
    """Sends metrics to Weights & Biases; the step is environment steps.

    `WANDB_PROJECT`, `WANDB_MODE` and the other variables of the package apply; the project is
    "metarl" by default.
    """

    def __init__(self, package: Any) -> None:
        self._package = package
        self._run: Any = None
        self._state: Any = None  # `_State` once it is open

    def open(self, settings: Mapping[str, Any], run_dir: Path, start_step: int | None) -> int:
        """Starts the run of the stored id, or a new one."""
        self._state = _State(run_dir, "wandb")
        with _name_tracker("wandb", "set WANDB_MODE=offline"):
            self._run = self._package.init(
                project=os.environ.get("WANDB_PROJECT", "metarl"),
                id=self._state.id,
                name=run_dir.resolve().name,
                dir=str(run_dir),
                config=dict(settings),
                resume="allow",
                settings=self._package.Settings(console="off"),  # else it records the progress
            )
        return self._state.last_step

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a new step."""
        if self._state.advance(step):
            self._run.log(dict(metrics), step=step)

    def write_evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        """Adds the mean returns to the summary of the run, as its history has this step already."""
        self._run.summary.update(evaluation_metrics(result))

    def flush(self) -> None:
        """Leaves it to the package, which sends from another process."""

    def close(self) -> None:
        """Ends the run."""
        if self._run is not None:
            self._run.finish()


class TrackioSink:
    """Writes metrics to Trackio's local store; the step is environment steps.

    `TRACKIO_DIR` and the other variables of the package apply; the project is "metarl".
    """

    def __init__(self, package: Any) -> None:
        self._package = package
        self._run: Any = None
        self._state: Any = None  # `_State` once it is open

    def open(self, settings: Mapping[str, Any], run_dir: Path, start_step: int | None) -> int:
        """Starts the run of the stored name, or a new one."""
        self._state = _State(run_dir, "trackio")
        with _name_tracker("trackio", "check TRACKIO_DIR"):
            self._run = self._package.init(
                project=os.environ.get("TRACKIO_PROJECT", "metarl"),
                name=self._state.id,
                config=flatten(settings),
                resume="allow",
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        return self._state.last_step

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a new step."""
        if self._state.advance(step):
            self._run.log(dict(metrics), step=step)

    def write_evaluation(self, step: int, result: Mapping[str, Any]) -> None:
        """Logs the mean returns."""
        self._run.log(evaluation_metrics(result), step=step)

    def flush(self) -> None:
        """Leaves it to the package, which writes from another thread."""

    def close(self) -> None:
        """Ends the run."""
        if self._run is not None:
            self._run.finish()
