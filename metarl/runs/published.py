"""Published policies: small run folders that can be used, and neither changed nor resumed.

`published.json` marks such a folder and holds SHA-256 and size of every other file. Its one
checkpoint lacks what only updates need, as the state of an optimiser.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metarl.core.errors import CheckpointError
from metarl.core.machine.files import parse_json, read_file, write_atomically
from metarl.core.trees import check_form

if TYPE_CHECKING:
    from metarl.evaluation.results import EvaluationSettings

FILE = "published.json"

_FORM = {
    "source": str,
    "iteration": int,
    "env_steps": int,
    "omitted": [str],
    "files": {"*": {"sha256": str, "size": int}},
}

MAX_RECORDS = 200
"""Records of metrics.jsonl in a published folder; they draw the same curve as thousands."""

SIZE = 1_000_000
"""Size above which a published policy is too large for a repository [bytes]."""


@dataclass(frozen=True)
class Published:
    """Contents of published.json.

    Attributes:
        source: Name of the run.
        iteration: Iterations of training.
        env_steps: Environment steps of training.
        omitted: Names of the learner's tensors that the checkpoint lacks.
        files: Fingerprint of every other file by its relative path.
    """

    source: str
    iteration: int
    env_steps: int
    omitted: tuple[str, ...]
    files: Mapping[str, Mapping[str, Any]]


def is_published(run: Path) -> bool:
    """Returns whether a folder is a published policy."""
    return (run / FILE).exists()


def read(run: Path, hint: str = "restore the folder from a copy") -> Published | None:
    """Returns what published.json of a folder says, None if the folder is not published.

    Args:
        run: The folder.
        hint: What to do about a damaged folder.

    Raises:
        CheckpointError: A file is missing or is not what was published; names it.
    """
    if not is_published(run):
        return None
    from metarl.runs.storage import Damaged, read_bytes, read_verified  # imports torch

    path = run / FILE
    try:
        tree: dict[str, Any] = parse_json(read_bytes(path))
        check_form(tree, _FORM)
        tree["omitted"] = tuple(tree["omitted"])
        record = Published(**tree)
        for name, mark in record.files.items():
            read_verified(run / name, mark)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is not what metarl wrote ({error!r}); {hint}") from error
    except Damaged as error:
        raise CheckpointError(f"{run} is a damaged published policy: {error}; {hint}") from error
    return record


def read_evaluation_settings(run: Path) -> EvaluationSettings | None:
    """Returns the size of the evaluation that a published policy shows; None without one.

    Raises:
        CheckpointError: evaluation.json cannot be read.
    """
    from metarl.evaluation import results  # imports scipy

    if not is_published(run) or not (run / results.FILE).exists():
        return None
    return results.settings_of(results.read(run))


def write(run: Path, **facts: Any) -> None:
    """Writes published.json for all files that are in a folder.

    Args:
        run: The folder.
        **facts: The other fields of `Published`.
    """
    from metarl.runs.storage import fingerprint  # imports torch

    paths = sorted(path for path in run.rglob("*") if path.is_file())
    files = {path.relative_to(run).as_posix(): fingerprint(path.read_bytes()) for path in paths}
    write_atomically(run / FILE, json.dumps({**facts, "files": files}, indent=1) + "\n")


def refuse_resume(run: Path) -> None:
    """Refuses to continue the training of a published policy.

    Raises:
        CheckpointError: The folder is published.
    """
    if is_published(run):
        hint = f"start a new run from it with --init-from {shlex.quote(str(run))}"
        raise CheckpointError(f"--resume {run}: a published policy is not trained on; {hint}")


MARK = "published.sha256"
"""File in the output folder of a published policy: which policy it belongs to."""


def output_folder(run: Path) -> Path:
    """Returns the folder of new files about a run: its own, or one in `runs/` if it is published.

    The latter is created. So evaluations, films and reports never change a published policy.
    """
    folder = output_path(run)
    if is_published(run) and not (folder / MARK).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / MARK, _fingerprint(run) + "\n")
    return folder


def output_path(run: Path) -> Path:
    """Returns the folder of new files about a run, which need not exist; see `output_folder`.

    That of a published policy is `runs/pretrained/<name>`. Where another policy, or another version
    of it, has that folder, a digest follows the name.

    Raises:
        CheckpointError: published.json cannot be read.
    """
    if not is_published(run):
        return run
    folder, mark = Path("runs") / "pretrained" / name_of(run), _fingerprint(run)
    own = folder.with_name(f"{folder.name}-{mark[:8]}")
    return own if own.exists() or not _is_free(folder, mark) else folder


def _fingerprint(run: Path) -> str:
    """Returns the SHA-256 of published.json, which has those of all files of the policy."""
    path = run / FILE
    try:
        return hashlib.sha256(read_file(path)).hexdigest()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error


def _is_free(folder: Path, mark: str) -> bool:
    """Returns whether a folder is not there, is empty, or belongs to the policy of a mark."""
    try:
        return not os.listdir(folder) or read_file(folder / MARK).decode().strip() == mark
    except FileNotFoundError:
        return not folder.exists()
    except (OSError, ValueError):
        return False


def name_of(run: Path) -> str:
    """Returns the name of a run: that of its folder, or ORG--NAME of a downloaded policy.

    The cache of huggingface_hub has a download in models--ORG--NAME/snapshots/REVISION.
    """
    path = run.resolve()
    repository, snapshots = path.parent.parent.name, path.parent.name
    if snapshots == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--")
    return path.name


# --- metrics --------------------------------------------------------------------------------------


def thin(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Joins neighbouring records of metrics.jsonl, so that at most MAX_RECORDS are left.

    Times of parts and faults are summed, positions are those of the last record of a block, and
    other numbers are averaged.
    """
    width = -(-len(records) // MAX_RECORDS) or 1
    if width == 1:
        return [dict(record) for record in records]
    # blocks end at the last record, whose position is that of the policy
    ends = range(len(records), 0, -width)
    return [_join(records[max(0, end - width) : end]) for end in reversed(ends)]


def _join(block: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    joined = {}
    for name, last in block[-1].items():
        values = [record.get(name) for record in block]
        numbers = [float(value) for value in values if isinstance(value, (int, float))]
        if not isinstance(last, (int, float)) or name in ("iteration", "env_steps", "seconds"):
            joined[name] = last
        elif name.startswith("time/") or name == "rollout/faults":
            joined[name] = sum(numbers)
        else:
            joined[name] = sum(numbers) / len(numbers)
    return joined


def to_lines(records: Iterable[Mapping[str, Any]]) -> str:
    """Returns records as the text of a metrics.jsonl."""
    return "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
