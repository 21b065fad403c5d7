"""Damaged files of run folders, links planted in them, and run folders of strangers."""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from torture import trainings
from torture.processes import Outcome, call
from torture.records import Break, Row, run_trials

LEARNERS = ("maml-trpo", "rl2", "teacher-student", "sb3-ppo")
MORE = 1
"""Iterations that a damaged run is resumed for."""


def _truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(max(1, path.stat().st_size)))


def _flip_bits(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 3)):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    path.write_bytes(raw)


def _flip_last_number(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1  # in the last number of a file of tensors, the header stands before
    path.write_bytes(raw)


def _zero_block(path: Path, rng: random.Random) -> None:
    raw, size = bytearray(path.read_bytes()), rng.choice([16, 64, 512])
    start = rng.randrange(len(raw))
    raw[start : start + size] = bytes(len(raw[start : start + size]))
    path.write_bytes(raw)


def _insert(path: Path, rng: random.Random) -> None:
    raw = bytearray(path.read_bytes())
    start = rng.randrange(len(raw))
    raw[start:start] = raw[: rng.randint(1, 200)]
    path.write_bytes(raw)


def _swap(path: Path, rng: random.Random) -> None:
    run = next(parent for parent in path.parents if parent.name == "run")
    other = rng.choice([p for p in _files(run) if p != path])
    mine, its = path.read_bytes(), other.read_bytes()
    path.write_bytes(its)
    other.write_bytes(mine)


def _delete(path: Path, rng: random.Random) -> None:
    path.unlink()


def _become_pipe(path: Path, rng: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _become_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _become_link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(rng.choice(["nowhere", path.name, "/dev/zero"]))


DAMAGES = (_truncate, _flip_bits, _zero_block, _insert, _swap, _delete, _flip_bits, _truncate)
DAMAGES += (_become_pipe, _become_folder, _become_link)
"""Often those that disks make, sometimes those that people make."""


def _files(run: Path) -> list[Path]:
    """Returns the files of a run that are not empty."""
    found = (p for p in sorted(run.rglob("*")) if p.is_file() and not p.is_symlink())
    return [path for path in found if path.stat().st_size]


def _choose_file(run: Path, rng: random.Random) -> Path:
    """Returns any file of a run, in every third case one of its newest checkpoint."""
    newest = max(run.glob("checkpoints/it_*"))
    return rng.choice(_files(newest if rng.random() < 1 / 3 else run))


class _Runs:
    """Finished runs to be damaged, and what they give undamaged."""

    def __init__(self, folder: Path, broken: Break):
        self.folder, self.broken = folder, broken
        self.known: dict[str, tuple[Path, trainings.Result, str]] = {}

    def take(self, algo: str) -> tuple[Path, trainings.Result, str]:
        """Returns the folder of a run, the result of its resume, and that of its evaluation."""
        if algo not in self.known:
            place = trainings.fresh(self.folder / algo)
            words = trainings.command(algo, "--trainer.evaluate-tasks", 2, iterations=3)
            _require(call(words, place))
            copy = self.copy(place)
            _require(self.verb("resume", copy))
            result = trainings.read_result(copy / "run")
            self.known[algo] = place, result, _evaluation(place)
        return self.known[algo]

    def copy(self, place: Path) -> Path:
        """Returns a folder with a copy of a run."""
        target = trainings.fresh(self.folder / "x")
        shutil.copytree(place / "run", target / "run", symlinks=True)
        return target

    def verb(self, name: str, place: Path) -> Outcome:
        """Runs a command on a run."""
        more = str(3 + MORE)
        words = {
            "resume": ["train", "--resume", "run", "--iterations", more, *trainings.QUIET],
            "evaluate": ["evaluate", "run", "--num-tasks", "2", "--json", "result.json"],
            "report": ["report", "run"],
        }
        return call(words[name], place, prepare=[self.broken], longest=30.0)


def _require(done: Outcome) -> None:
    if fault := done.find_fault(frozenset({0})):
        raise RuntimeError(f"a whole run failed: {fault}")


def _evaluation(place: Path) -> str:
    path = place / "result.json"
    path = path if path.exists() else place / "run" / "evaluation.json"
    return json.dumps(json.loads(path.read_text(encoding="utf-8"))["returns"])


def damage(seed: int, count: int, broken: Break = None) -> Row:
    """Damages files of runs, which are then resumed, evaluated or reported."""
    with tempfile.TemporaryDirectory() as folder:
        runs = _Runs(Path(folder), broken)

        def trial(rng: random.Random, algo: str, verb: str, is_first: bool) -> str:
            place, expected, evaluation = runs.take(algo)
            copy = runs.copy(place)
            path, kind = _choose_file(copy / "run", rng), rng.choice(DAMAGES)
            if is_first:  # the short form has this one too
                path, kind = max(copy.rglob("tensors.safetensors")), _flip_last_number
            kind(path, rng)
            fault = _judge(runs.verb(verb, copy), verb, copy, expected, evaluation)
            return f"{kind.__name__} {path.relative_to(copy)}: {fault}" if fault else ""

        def trials() -> Iterator[tuple[str, Callable[[], str]]]:
            for number in range(count):
                rng = random.Random(f"{seed}:{number}")
                algo = LEARNERS[number % (len(LEARNERS) if count > 100 else 1)]
                verb = rng.choices(["resume", "evaluate", "report"], [6, 3, 1])[0]
                verb = verb if number else "resume"
                yield f"trial {number}, {verb} {algo}", partial(trial, rng, algo, verb, not number)

        return run_trials("damaged files", trials())


def _judge(
    done: Outcome, verb: str, place: Path, expected: trainings.Result, evaluation: str
) -> str:
    """Returns what is wrong with the answer to a damaged run."""
    if fault := done.find_fault(frozenset({0, 2, 5, 6})):
        return fault
    if done.code:
        return ""
    if verb == "resume":
        return trainings.compare(expected, place / "run", since=3)
    is_older = "passed over" in done.err
    if verb == "evaluate" and not is_older and _evaluation(place) != evaluation:
        return "another evaluation, and no word of it"
    return ""


# --- links ----------------------------------------------------------------------------------------

LINKS = (
    *("config.yaml", "run.json", "metrics.jsonl", "evaluation.json", "report.html"),
    *("checkpoints/.saving-it_00000004", "checkpoints/it_00000004", "checkpoints/it_00000003"),
    *("checkpoints/it_00000003/manifest.json", ".config.yaml.1", ".metrics.jsonl.1-01234567"),
)


def plant_links(seed: int, count: int, broken: Break = None) -> Row:
    """Plants links to a file outside in runs; the file must stay as it is."""
    with tempfile.TemporaryDirectory() as folder:
        runs = _Runs(Path(folder), broken)

        def trial(name: str, verb: str) -> str:
            copy, victim = runs.copy(runs.take("maml-trpo")[0]), Path(folder) / "victim"
            content = (
                (copy / "run" / name).read_bytes() if (copy / "run" / name).is_file() else b"x"
            )
            victim.write_bytes(content)
            target = copy / "run" / name
            if target.is_dir():
                shutil.rmtree(target)
            target.unlink(missing_ok=True)
            target.symlink_to(victim)
            fault = runs.verb(verb, copy).find_fault(frozenset({0, 2, 5, 6}))
            return fault or ("" if victim.read_bytes() == content else "the link was followed")

        pairs = [(name, verb) for name in LINKS for verb in ("resume", "evaluate", "report")]
        random.Random(seed).shuffle(pairs)
        trials = [(f"{verb} with {name}", partial(trial, name, verb)) for name, verb in pairs]
        return run_trials("planted links", trials[:count])


STRANGER = """
from pathlib import Path
Path("ran").touch()
from metarl.envs.navigation import NavigationEnv
"""


def open_strangers(seed: int, count: int, broken: Break = None) -> Row:
    """Opens run folders of strangers whose config.yaml names a module beside them."""
    with tempfile.TemporaryDirectory() as folder:
        runs = _Runs(Path(folder), broken)

        def trial(field: str, words: list[str]) -> str:
            copy = runs.copy(runs.take("maml-trpo")[0])
            config = copy / "run" / "config.yaml"
            text = config.read_text(encoding="utf-8")
            name = {"env": "navigation-2d", "algo": "maml-trpo"}[field]
            config.write_text(text.replace(f"{field}: {name}", f"{field}: stranger:Thing"))
            for place in (copy, copy / "run"):
                (place / "stranger.py").write_text(STRANGER, encoding="utf-8")
            done = call(words, copy, prepare=[broken], longest=30.0)
            if list(copy.rglob("ran")):
                return "its code ran"
            return done.find_fault(frozenset({0, 2, 3, 5}))

        verbs = [
            *(
                ["train", "--resume", "run"],
                ["evaluate", "run"],
                ["video", "run"],
                ["report", "run"],
            ),
            *(["explain", "run"], ["export", "run", "-o", "x.onnx"], ["publish", "run", "y"]),
            ["train", "--env", "navigation-2d", "--init-from", "run", *trainings.QUIET],
        ]
        pairs = [(field, words) for words in verbs for field in ("env", "algo")]
        random.Random(seed).shuffle(pairs)
        trials = [(f"{words[0]} {field}", partial(trial, field, words)) for field, words in pairs]
        return run_trials("foreign runs", trials[:count])


# --- the product, broken --------------------------------------------------------------------------


def trust_every_byte() -> None:
    """Accepts a file whose hash is wrong."""
    from metarl.runs import checkpoint, storage

    def read(path, expected):
        return path.read_bytes()

    checkpoint.read_verified = storage.read_verified = read


def write_through_links() -> None:
    """Writes a file without a temporary name."""
    from metarl import experiment
    from metarl.reporting import report
    from metarl.runs import logger, provenance

    def write(path, content):
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    for module in (experiment, logger, provenance, report):
        module.write_atomically = write


def trust_everybody() -> None:
    """Runs the code that any folder names."""
    from metarl.config import trust

    trust.is_trusted = lambda name: True
