"""train.py and python -m metarl as their users start them: processes, exit codes, files."""

import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from metarl import checkpoint, cli, compose, run_folder
from metarl.errors import ConfigError, EnvironmentContractError, reporting
from metarl.log import without_time

REPOSITORY = Path(__file__).resolve().parent.parent
TRAIN = (sys.executable, str(REPOSITORY / "train.py"))
METARL = (sys.executable, "-m", "metarl")
ITERATIONS = 24
TINY = (
    f"--env navigation-2d --iterations {ITERATIONS} --device cpu --learner.hidden-sizes 8 "
    "--sampler.num-tasks 2 --sampler.num-episodes 2 --sampler.threads 1 "
    "--trainer.checkpoint-minutes 0.0001"
).split()
QUIET = "--trainer.evaluate-tasks 0 --trainer.no-video --trainer.no-tensorboard".split()


def start(*words, cwd, **variables):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", **variables}
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([str(w) for w in words], cwd=cwd, env=env, text=True, **pipes)


def finish(process):
    out, err = process.communicate(timeout=300)
    return SimpleNamespace(code=process.returncode, out=out, err=err)


def call(*words, cwd, **variables):
    return finish(start(*words, cwd=cwd, **variables))


def num_records(run):
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def after_records(process, run, count):
    """Waits until a run has written as many records."""
    deadline = time.monotonic() + 300.0
    while num_records(run) < count:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def records(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def one_line(text):
    return text.startswith("metarl: ") and text.count("\n") == 1 and text.endswith("\n")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing has interrupted, with all that stands at its end; its folder and its outcome."""
    cwd = tmp_path_factory.mktemp("whole")
    done = call(*TRAIN, *TINY, "--trainer.evaluate-tasks", "3", "--run-dir", "run", cwd=cwd)
    return cwd / "run", done


@pytest.fixture(scope="module")
def battered(tmp_path_factory):
    """The same run, killed by SIGKILL, SIGTERM and SIGINT, and resumed each time; folder and outcomes."""
    cwd = tmp_path_factory.mktemp("battered folder")  # a path that the shell would cut in two
    run, outcomes = cwd / "run", []
    words = [*TINY, *QUIET, "--run-dir", run]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        count = num_records(run)
        process = start(*TRAIN, *words, cwd=cwd)
        after_records(process, run, count + 3)
        process.send_signal(number)
        outcomes.append(finish(process))
        words = ["--resume", run]
    outcomes.append(call(*TRAIN, *words, cwd=cwd))
    return run, outcomes


# ---------------------------------------------------------------------------------------- a whole run


def test_a_run_leaves_all_that_is_promised(whole):
    run, done = whole
    assert (done.code, done.err) == (0, "")
    assert [r["iteration"] for r in records(run)] == list(range(ITERATIONS))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["env"], config["algo"], config["iterations"]) == (
        "navigation-2d",
        "maml-trpo",
        ITERATIONS,
    )
    record = json.loads((run / "run.json").read_text())
    assert record["device"] == "cpu" and record["versions"]["torch"] == torch.__version__
    assert list(run.glob("events.out.tfevents.*"))
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(names) == 3 and names[-1] == f"it_{ITERATIONS:08d}"
    film = (run / "videos" / "adaptation.mp4").read_bytes()
    assert film[4:8] == b"ftyp" and len(film) > 10_000
    assert not list(run.rglob(".*"))  # what is being written has a hidden name


def test_the_evaluation_at_the_end_has_the_keys_of_the_design(whole):
    run, done = whole
    result = json.loads((run / "evaluation.json").read_text())
    assert (result["env"], result["algo"]) == ("navigation-2d", "maml-trpo")
    assert (result["num_tasks"], result["episodes_per_task"]) == (3, 2)
    assert len(result["env_steps_per_rollout"]) == 4 and result["floors"]
    returns = result["returns"]
    assert [len(returns[key]) for key in ("mean", "stderr", "ci95", "per_task")] == [4] * 4
    assert all(len(row) == 3 for row in returns["per_task"])
    assert f"{returns['mean'][3]:.2f}" in done.out and "floors: stand still" in done.out


def test_piped_progress_is_plain_lines(whole):
    out = whole[1].out
    assert out.replace("\n", "").isprintable() and out.isascii()
    lines = [line for line in out.splitlines() if line.startswith("iteration ")]
    assert lines[0].startswith(f"iteration 1/{ITERATIONS}  steps 8")
    assert lines[-1].startswith(f"iteration {ITERATIONS}/{ITERATIONS}")
    assert all(re.search(r"return -[\d.]+ -> -[\d.]+  kl 0\.\d+  left \d", line) for line in lines)
    assert out.splitlines()[-1] == "done: run"


# ------------------------------------------------------------------------------------ kill and resume


def test_a_run_killed_and_resumed_three_times_equals_the_uninterrupted_one_bit_for_bit(
    whole, battered
):
    run, outcomes = battered
    assert [done.code for done in outcomes] == [-signal.SIGKILL, 75, 75, 0]
    expected, found = records(whole[0]), records(run)
    assert [without_time(r) for r in found] == [without_time(r) for r in expected]
    one, other = (checkpoint.load_newest(path / "checkpoints") for path in (whole[0], run))
    assert one.step == other.step == ITERATIONS and one.tensors.keys() == other.tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(value, other.tensors[name]), name
    assert one.state["env_steps"] == other.state["env_steps"]
    seconds = [r["seconds"] for r in found]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(("index", "name"), [(1, "SIGTERM"), (2, "SIGINT")])
def test_a_signal_saves_and_prints_the_command_that_goes_on(battered, index, name):
    run, outcomes = battered
    noticed, last = outcomes[index].err.strip().splitlines()
    assert noticed.startswith(f"metarl: {name}: stopping after this iteration")
    stopped, _, command = last.partition("; go on with: ")
    assert re.fullmatch(rf"metarl: stopped by {name} after iteration \d+", stopped)
    assert shlex.split(command) == ["python", TRAIN[1], "--resume", str(run)]
    assert "done" not in outcomes[index].out and not (run / "evaluation.json").exists()


def test_every_resume_is_recorded_and_voids_nothing(battered):
    run, outcomes = battered
    assert len(json.loads((run / "run.json").read_text())["resumed"]) == 3
    assert "void" not in "".join(done.err for done in outcomes)
    assert outcomes[3].err == "" and "from iteration" in outcomes[3].out


@pytest.fixture
def copy(battered, tmp_path):
    """A finished run, moved to another folder."""
    shutil.copytree(battered[0], tmp_path / "moved" / "run")
    return tmp_path / "moved" / "run"


def test_resume_of_a_finished_run_says_so_and_changes_nothing(copy, capsys):
    before = content(copy)
    assert cli.train_main(["--resume", str(copy)]) == 0
    out, err = capsys.readouterr()
    assert f"{copy} is finished, all {ITERATIONS} iterations are done; raise --iterations" in out
    assert out.count("\n") == 1 and err == "" and content(copy) == before


def test_what_a_kill_at_the_very_end_left_undone_is_made_up_for_once(copy, capsys):
    words = ["--resume", str(copy), "--trainer.evaluate-tasks", "2"]
    assert cli.train_main(words) == 0 and "2 held-out tasks" in capsys.readouterr().out
    before = content(copy)
    assert cli.train_main(words) == 0 and "held-out" not in capsys.readouterr().out
    assert content(copy) == before


@pytest.mark.parametrize(
    ("step", "left"),
    [
        ("metarl.evaluate.evaluate", ["evaluation.json", "mp4", "html"]),
        ("metarl.outcomes.film_trial", ["mp4", "html"]),
        ("metarl.film.write_replay", ["html"]),
    ],
)
def test_ctrl_c_after_training_is_exit_code_75_and_a_resume_makes_what_is_missing(
    step, left, tmp_path, monkeypatch, capsys
):
    def interrupted(*_args, **_named):
        raise KeyboardInterrupt

    run = tmp_path / "a run"
    words = ["--iterations", "1", "--trainer.evaluate-tasks", "2", "--trainer.no-tensorboard"]
    with monkeypatch.context() as patched:
        patched.setattr(step, interrupted)
        patched.setattr(sys, "argv", [TRAIN[1]])
        assert cli.train_main([*TINY, *words, "--run-dir", str(run)]) == 75
    out, err = capsys.readouterr()
    said = "metarl: stopped after training; what is missing is made by: "
    assert one_line(err) and err.startswith(said) and "done" not in out
    assert shlex.split(err.removeprefix(said)) == ["python", TRAIN[1], "--resume", str(run)]
    before = content(run)
    assert cli.train_main(["--resume", str(run)]) == 0
    made = content(run).keys() - before.keys()
    assert sorted(path.name for path in made) == sorted(
        name if "." in name else f"adaptation.{name}" for name in left
    )
    assert all(content(run)[path] == raw for path, raw in before.items())


def test_more_iterations_train_on_and_are_kept_for_the_next_resume(copy, capsys):
    first = records(copy)
    more = str(ITERATIONS + 2)
    assert cli.train_main(["--resume", str(copy), "--iterations", more]) == 0
    assert records(copy)[:ITERATIONS] == first and len(records(copy)) == ITERATIONS + 2
    capsys.readouterr()
    assert cli.train_main(["--resume", str(copy)]) == 0
    assert f"all {more} iterations are done" in capsys.readouterr().out


def test_another_number_of_threads_voids_nothing(copy, capsys):
    words = ["--iterations", str(ITERATIONS + 1), "--sampler.threads", "2"]
    assert cli.train_main(["--resume", str(copy), *words]) == 0
    assert capsys.readouterr().err == ""


def test_a_damaged_newest_checkpoint_is_passed_over_and_made_again(copy, whole, capsys):
    newest = copy / "checkpoints" / f"it_{ITERATIONS:08d}" / "tensors.safetensors"
    damage(newest)
    assert cli.train_main(["--resume", str(copy)]) == 0
    assert one_line(capsys.readouterr().err)
    assert [without_time(r) for r in records(copy)] == [without_time(r) for r in records(whole[0])]
    expected = checkpoint.load_newest(whole[0] / "checkpoints").tensors
    for name, value in checkpoint.load_newest(copy / "checkpoints").tensors.items():
        assert torch.equal(value, expected[name]), name


def test_two_processes_never_train_in_one_folder(copy, capsys):
    before = content(copy)
    with run_folder.locked(copy):
        assert cli.train_main(["--resume", str(copy), "--iterations", "99"]) == 2
    err = capsys.readouterr().err
    assert one_line(err) and "is being trained by another process" in err
    assert content(copy) == before


# --------------------------------------------------------------------------------------- what is refused


def damage(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        ("--env navigation2d", "did you mean 'navigation-2d'?"),
        ("--env navigation-2d --algo maml-trop", "did you mean maml-trpo?"),
        ("--env navigation-2d --learner.iner-lr 0.1", "did you mean --learner.inner-lr?"),
        ("--env navigation-2d --learner.max-kl -1", "learner.max_kl = -1.0: must be"),
        ("--env no_such_module:make", "no module 'no_such_module' can be imported"),
        ("--seed 1", "--env is missing"),
    ],
)
def test_what_does_not_exist_is_one_line_with_the_nearest_name_and_nothing_is_written(
    words, nearest, tmp_path
):
    done = call(*TRAIN, *words.split(), cwd=tmp_path)
    assert (done.code, done.out) == (2, "")
    assert one_line(done.err) and nearest in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_that_exists_is_refused_and_stays_as_it_was(copy, capsys):
    before = content(copy)
    assert cli.train_main([*TINY, *QUIET, "--run-dir", str(copy)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and f"by --resume {copy}" in err
    assert content(copy) == before


def test_resume_of_a_folder_that_is_no_run_is_one_line_with_exit_code_5(tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("learning_rate: 3\n")
    for folder in ("foreign", "missing"):
        done = call(*TRAIN, "--resume", folder, cwd=tmp_path)
        assert (done.code, done.out) == (5, "") and one_line(done.err), done.err
        assert f"--resume {folder}" in done.err
    assert [p.name for p in tmp_path.rglob("*")] == ["foreign", "config.yaml"]


def truncate_metrics(run):
    (run / "metrics.jsonl").write_text("no record\n" * ITERATIONS)
    for path in sorted((run / "checkpoints").iterdir())[2:]:
        shutil.rmtree(path)


def damage_all_checkpoints(run):
    for path in run.glob("checkpoints/*/tensors.safetensors"):
        damage(path)


def change_the_network(run):
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("  - 8\n", "  - 9\n"))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (damage_all_checkpoints, "no checkpoint verifies"),
        (change_the_network, "does not fit"),
        (truncate_metrics, "metrics.jsonl, line 1: no record"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "no folder of checkpoints"),
        (lambda run: (run / "config.yaml").write_text("env: ["), "config.yaml"),
    ],
)
def test_resume_of_a_damaged_run_is_one_line_with_exit_code_5_and_keeps_what_is_there(
    break_it, words, copy, capsys
):
    break_it(copy)
    before = content(copy)
    assert cli.train_main(["--resume", str(copy)]) == 5
    err = capsys.readouterr().err
    assert one_line(err) and words in err, err
    changed = {path.name for path, raw in content(copy).items() if before[path] != raw}
    assert changed <= {"run.json"}  # where the attempt is recorded


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_has_exit_code_6_and_the_cure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.train_main([*TINY, *QUIET, "--device", "cuda"]) == 6
    err = capsys.readouterr().err
    assert one_line(err) and "use --device cpu" in err and list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_with_exit_code_6(capsys):
    def full():
        raise OSError(28, "No space left on device", "metrics.jsonl")

    assert reporting(full) == 6
    err = capsys.readouterr().err
    assert one_line(err) and "No space left on device: 'metrics.jsonl'" in err


def test_a_reader_that_goes_away_is_one_line(tmp_path):
    process = start(*TRAIN, "--list-envs", cwd=tmp_path)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait() == 6 and one_line(err) and "nobody reads the output" in err
    process.stderr.close()


# ------------------------------------------------------------------------------------------ quick answers


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*TRAIN, "--help"], "--learner.inner-lr"),
        ([*TRAIN, "--list-envs"], "navigation-2d"),
        ([*METARL, "--help"], "evaluate"),
    ],
)
def test_help_and_the_list_answer_in_a_second_without_torch(words, expected):
    process = start(words[0], "-X", "importtime", *words[1:], cwd=REPOSITORY)
    out, err = process.stdout.read(), process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.communicate()
    assert process.returncode == 0 and expected in out
    assert used.ru_utime + used.ru_stime < 1.0  # not the wall clock, which others share
    assert re.search(r"\| +metarl\.config$", err, re.M)
    assert not re.search(r"\| +torch$", err, re.M)


# ------------------------------------------------------------------------------------------------- verbs


def test_evaluate_works_in_a_moved_folder_and_twice_gives_the_same_numbers(copy, tmp_path, capsys):
    words = ["evaluate", str(copy), "--num-tasks", "4", "--num-adaptations", "2"]
    done = call(*METARL, *words, "--json", tmp_path / "out.json", cwd=REPOSITORY)
    assert (done.code, done.err) == (0, "")
    first = json.loads((tmp_path / "out.json").read_text())
    assert first == json.loads((copy / "evaluation.json").read_text())
    assert first["num_tasks"] == 4 and len(first["returns"]["mean"]) == 3
    assert "4 held-out tasks" in done.out and f"{first['returns']['mean'][2]:.2f}" in done.out
    assert cli.main([*words, "--threads", "2"]) == 0
    assert capsys.readouterr().out == done.out
    assert json.loads((copy / "evaluation.json").read_text()) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved", "out.json"]


def test_evaluate_repeats_the_evaluation_at_the_end_of_training(whole, copy, capsys):
    assert cli.main(["evaluate", str(copy), "--num-tasks", "3"]) == 0
    assert capsys.readouterr().out in whole[1].out
    assert (copy / "evaluation.json").read_bytes() == (whole[0] / "evaluation.json").read_bytes()


def other_seed(run):
    """A copy of a run beside it that passes for one with seed 1."""
    path = run.with_name("seed1")
    shutil.copytree(run, path)
    config = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(config.replace("seed: 0\n", "seed: 1\n"))
    return path


def test_evaluate_puts_seeds_together_and_names_the_oracle(copy, tmp_path, capsys):
    other, out = other_seed(copy), tmp_path / "all.json"
    words = ["--num-tasks", "3", "--num-adaptations", "1", "--json", str(out)]
    assert cli.main(["evaluate", str(copy), str(other), *words]) == 0
    runs = [json.loads((run / "evaluation.json").read_text()) for run in (copy, other)]
    assert [run["seed"] for run in runs] == [0, 1] and runs[0]["tasks"] != runs[1]["tasks"]
    found = json.loads(out.read_text())
    assert found["seeds"] == [0, 1] and found["runs"] == [str(copy), str(other)]
    for k in range(2):
        mean = sum(run["returns"]["mean"][k] for run in runs) / 2
        assert found["returns"]["mean"][k] == pytest.approx(mean)
    shown = capsys.readouterr().out
    assert f"{found['returns']['mean'][1]:.2f}" in shown and "2 seeds,  6 held-out tasks" in shown
    assert cli.main(["evaluate", str(copy), *words, "--oracle", str(other)]) == 0
    oracle = json.loads((copy / "evaluation.json").read_text())["oracle"]
    assert oracle["mean"] == runs[1]["returns"]["mean"][-1]
    assert f"oracle (task observed): {oracle['mean']:.2f}" in capsys.readouterr().out


def test_runs_that_are_not_seeds_of_one_another_are_refused_and_stay_as_they_were(copy, capsys):
    other = other_seed(copy)
    config = (other / "config.yaml").read_text()
    before = content(copy)
    for text, words in (
        (config.replace("env: navigation-2d", "env: ant-dir"), f"{other}: env is ant-dir"),
        (config.replace("seed: 1", "seed: 0"), f"{other}: seed 0 is that of {copy} too"),
    ):
        (other / "config.yaml").write_text(text)
        assert cli.main(["evaluate", str(copy), str(other)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and one_line(err) and words in err
    assert content(copy) == before


def test_an_oracle_without_an_evaluation_is_one_line_with_exit_code_5(copy, tmp_path, capsys):
    assert cli.main(["evaluate", str(copy), "--oracle", str(tmp_path)]) == 5
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and f"python -m metarl evaluate {tmp_path}" in err


def test_video_films_a_run_in_a_moved_folder(copy, capsys):
    assert cli.main(["video", str(copy), "--num-tasks", "1"]) == 0
    path = copy / "videos" / "adaptation.mp4"
    replay = path.with_suffix(".html")
    assert capsys.readouterr().out == f"{path}\n{replay}\n" and path.read_bytes()[4:8] == b"ftyp"
    assert "WebGL" in replay.read_text() and "navigation-2d, maml-trpo: run" in replay.read_text()


def test_video_takes_format_size_tasks_and_episodes(copy, capsys):
    shutil.rmtree(copy / "videos", ignore_errors=True)
    words = "--format gif --tasks 1 --episodes 2 --size 64".split()
    assert cli.main(["video", str(copy), *words]) == 0
    path = copy / "videos" / "adaptation.gif"
    assert capsys.readouterr().out == f"{path}\n"
    assert [p.name for p in path.parent.iterdir()] == ["adaptation.gif"]
    width, height = struct.unpack("<HH", path.read_bytes()[6:10])
    assert (width, height) == (2 * 64 + 4, 64 + 2 * 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--episodes 3", "--episodes 3: the run adapts from 2 episodes"),
        ("--camera top", "--camera: navigation-2d is drawn from its own place"),
    ],
)
def test_a_film_that_cannot_be_made_is_one_line_with_exit_code_2(words, message, copy, capsys):
    before = content(copy)
    assert cli.main(["video", str(copy), *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and message in err and content(copy) == before


@pytest.mark.parametrize("verb", ["evaluate", "video"])
def test_a_verb_on_a_folder_that_is_no_run_is_one_line_with_exit_code_5(verb, tmp_path, capsys):
    assert cli.main([verb, str(tmp_path)]) == 5
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and "is not a run folder" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluat runs/x", "invalid choice: 'evaluat' (choose from"),
        ("evaluate", "required: RUN"),
        ("evaluate runs/x --num-tasks 0", "--num-tasks: 0: must be a whole number >= 1"),
        ("video runs/x --json out.json", "unrecognized arguments: --json out.json"),
        ("video runs/x --size 481", "--size: 481: must be even"),
        ("video runs/x --camera above", "--camera: above: must be side, behind, front, top, or AZ"),
        ("video runs/x --camera 0,-90", "--camera: 0,-90: must be"),
        ("video runs/x --format avi", "invalid choice: 'avi'"),
        ("evaluate runs/x --json no/folder/out.json", "there is no folder no/folder"),
    ],
)
def test_a_verb_that_is_not_understood_is_one_line_with_exit_code_2(words, message, capsys):
    assert cli.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and message in err


# ----------------------------------------------------------------------------------------------- plug-ins

PLUGIN = """
from envs.navigation import DenseGoal, NavigationEnv

def make_env(name, threads):
    return NavigationEnv(name, DenseGoal(half_width=0.1), horizon=20)

def breaks(name, threads):
    raise RuntimeError("no robot\\nis connected")

def gym_env(name, threads):
    import gymnasium
    return gymnasium.make("CartPole-v1")
"""


@pytest.mark.parametrize("place", ["current directory", "PYTHONPATH"])
def test_a_plug_in_is_found_and_trained(place, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    folder = here if place == "current directory" else there
    (folder / "my_robot.py").write_text(PLUGIN)
    words = [*TINY, *QUIET, "--env", "my_robot:make_env", "--iterations", "1", "--run-dir", "run"]
    variables = {"PYTHONPATH": str(there)} if folder == there else {}
    done = call(*TRAIN, *words, cwd=here, **variables)
    assert (done.code, done.err) == (0, ""), done.err
    assert "on my_robot:make_env" in done.out and records(here / "run")[0]["env_steps"] <= 160


@pytest.mark.parametrize(
    ("attribute", "failure", "words"),
    [
        ("breaks", EnvironmentContractError, r"RuntimeError: no robot is connected .*, line 8"),
        ("gym_env", EnvironmentContractError, "lacks set_tasks; envs/protocol.py"),
        ("make_evn", ConfigError, "did you mean 'make_env'?"),
    ],
)
def test_a_plug_in_that_breaks_is_one_line_that_names_the_place(
    attribute, failure, words, tmp_path, monkeypatch
):
    (tmp_path / "broken_robot.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(failure, match=words) as caught:
        compose.make_env(f"broken_robot:{attribute}")
    assert "\n" not in str(caught.value)
