"""Stages of a run of a suite: training, then evaluation with and without policy noise.

A stage is done when its files are there, so a suite that was stopped in any way goes on.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from metarl.config.schema import to_yaml
from metarl.config.trust import names_code
from metarl.core.errors import CheckpointError
from metarl.core.machine.files import load_json, parse_json, write_atomically
from metarl.evaluation import results
from metarl.runs import folder
from metarl.suites.suite import Run


def next_command(run: Run) -> list[str] | None:
    """Returns the arguments of `metarl` that do the next stage of a run, None if all are done."""
    trainer, path = run.config.trainer, str(run.folder)
    done = folder.newest_step(run.folder)
    if done is None:
        return ["train", "--config", str(run.settings), "--run-dir", path]
    is_evaluated = not trainer.evaluate_tasks or find_evaluation(run) is not None
    if done < run.config.iterations or not is_evaluated:
        words = ["train", "--resume", path, "--iterations", str(run.config.iterations)]
        # the file of the suite names them, so the user trusts them, and no others
        words += ["--env", run.config.env] if names_code(run.config.env) else []
        words += ["--algo", run.config.algo] if names_code(run.config.algo) else []
        words += ["--trainer.evaluate-tasks", str(trainer.evaluate_tasks)]
        return [*words, "--trainer.video" if trainer.video else "--trainer.no-video"]
    return None


def prepare(run: Run) -> None:
    """Writes the settings of a run that has no checkpoint yet, so that it can be started.

    Removes the folder of a training that was killed before its first checkpoint.

    Raises:
        RunExists: The folder has files that no training writes before its first checkpoint.
        CheckpointError: The folder has records of a training, and no checkpoint to continue from.
        ConfigError: Another process trains in the folder.
    """
    if folder.newest_step(run.folder) is not None:
        return
    metrics = run.folder / "metrics.jsonl"
    if metrics.exists() and metrics.stat().st_size:
        hint = "restore its checkpoints, or move it away"
        raise CheckpointError(f"{run.folder} has records, and no checkpoint; {hint}")
    if run.folder.exists():
        with folder.lock(run.folder):
            if not folder.is_untrained(run.folder):
                raise folder.exists_already(run.folder)
            shutil.rmtree(run.folder)
    run.settings.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(run.settings, to_yaml(run.config))


def find_evaluation(run: Run) -> dict[str, Any] | None:
    """Returns the evaluation of a finished run, None if there is none of its last iteration."""
    num_tasks = run.config.trainer.evaluate_tasks
    settings = results.EvaluationSettings(num_tasks)
    for path in (run.folder / results.FILE, results.evaluation_path(run.folder, settings)):
        result = _read(path)
        if not result or result["checkpoint"]["iteration"] < run.config.iterations:
            continue
        if run.role == "scratch" or result["num_tasks"] == num_tasks:
            return result
    return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        result = load_json(path)
        result["checkpoint"]["iteration"], result["num_tasks"], result["returns"]["per_task"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return result


_TAIL = 1 << 16
"""Bytes at the end of metrics.jsonl that are read; a record has about 2,000."""


def read_progress(folder: Path) -> tuple[int, float]:
    """Returns iterations and seconds [s] of the last record of metrics.jsonl; 0 and 0 without."""
    try:
        handle = os.open(folder / "metrics.jsonl", os.O_RDONLY | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            for line in reversed(file.read().splitlines()):
                try:
                    record = parse_json(line)
                    return int(record["iteration"]), float(record["seconds"])
                except (ValueError, KeyError, TypeError):
                    continue  # half a line
    except OSError:
        pass
    return 0, 0.0
