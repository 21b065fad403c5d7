"""The commands `evaluate` and `video` on trained runs."""

import json
import os
import shutil
import signal
import struct

import pytest
from commands import ITERATIONS, METARL, REPOSITORY, call, damage, is_one_line, read_files

from metarl import api
from metarl.cli import commands, train
from metarl.config.identity import describe_identity
from metarl.config.schema import from_yaml
from metarl.core.errors import ConfigError
from metarl.reporting import video
from metarl.runs import checkpoint


def test_evaluate_works_in_a_moved_folder_and_repeats(run_copy, tmp_path, capsys):
    arguments = ["evaluate", str(run_copy), "--num-tasks", "4", "--num-adaptations", "2"]
    done = call(*METARL, *arguments, "--json", tmp_path / "out.json", cwd=REPOSITORY)
    assert (done.code, done.err) == (0, "")
    first = json.loads((tmp_path / "out.json").read_text())
    assert first == json.loads((run_copy / "evaluation.json").read_text())
    assert first["num_tasks"] == 4 and len(first["returns"]["mean"]) == 3
    assert "4 held-out tasks" in done.out and f"{first['returns']['mean'][2]:.2f}" in done.out
    assert commands.main([*arguments, "--threads", "2"]) == 0
    assert capsys.readouterr().out == done.out
    assert json.loads((run_copy / "evaluation.json").read_text()) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved", "out.json"]


def test_evaluate_repeats_the_one_after_training(finished_run, run_copy, capsys):
    assert commands.main(["evaluate", str(run_copy), "--num-tasks", "3"]) == 0
    out = capsys.readouterr().out
    assert out in finished_run[1].out
    trained = json.loads((run_copy / "evaluation.json").read_text())["checkpoint"]
    last = checkpoint.load_newest(run_copy / "checkpoints").state
    assert trained == {"iteration": ITERATIONS, "env_steps": last["env_steps"]}
    assert f", after {ITERATIONS} iterations and {last['env_steps']:,} training steps\n" in out
    assert (run_copy / "evaluation.json").read_bytes() == (
        finished_run[0] / "evaluation.json"
    ).read_bytes()


def test_evaluate_names_the_iteration_of_an_older_checkpoint(run_copy, capsys):
    before, newest = sorted((run_copy / "checkpoints").iterdir())[-2:]
    damage(newest / "tensors.safetensors")
    assert commands.main(["evaluate", str(run_copy), "--num-tasks", "1"]) == 0
    state = json.loads((before / "state.json").read_text())["state"]
    assert state["iteration"] < ITERATIONS
    assert f"after {state['iteration']} iterations and" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "video"])
def test_another_version_of_the_environment_gives_a_warning(command, run_copy, capsys):
    arguments = [command, str(run_copy), "--num-tasks", "1"]
    path = run_copy / "run.json"
    record = json.loads(path.read_text())
    env = record.pop("env")
    for changed, warns in ((record, False), ({**record, "env": {**env, "version": 0}}, True)):
        path.write_text(json.dumps(changed))
        assert commands.main(arguments) == 0
        err = capsys.readouterr().err
        warning = f"{run_copy} was trained on version 0 of navigation-2d, and this is"
        expected = f"metarl: warning: {warning}"
        assert is_one_line(err) and err.startswith(expected) if warns else err == ""


def copy_as_seed_1(run):
    """Copies a run beside itself as if it had been trained with seed 1; returns the folder."""
    path = run.with_name("seed1")
    shutil.copytree(run, path)
    change_settings(path, "seed: 0\n", "seed: 1\n")
    return path


def change_settings(run, old, new):
    """Changes a setting of a run in its config and in its last checkpoint, the only one left."""
    path = run / "config.yaml"
    path.write_text(path.read_text().replace(old, new))
    saved = checkpoint.load_newest(run / "checkpoints")
    shutil.rmtree(run / "checkpoints")
    settings = describe_identity(from_yaml(path))
    checkpoint.save(run / "checkpoints", saved.step, saved.tensors, saved.state, settings=settings)


def test_evaluate_combines_seeds_and_shows_the_oracle(run_copy, tmp_path, capsys):
    other, out = copy_as_seed_1(run_copy), tmp_path / "all.json"
    flags = ["--num-tasks", "3", "--num-adaptations", "1", "--json", str(out)]
    assert commands.main(["evaluate", str(run_copy), str(other), *flags]) == 0
    runs = [json.loads((run / "evaluation.json").read_text()) for run in (run_copy, other)]
    assert [run["seed"] for run in runs] == [0, 1] and runs[0]["tasks"] != runs[1]["tasks"]
    result = json.loads(out.read_text())
    assert result["seeds"] == [0, 1] and result["runs"] == [str(run_copy), str(other)]
    for k in range(2):
        mean = sum(run["returns"]["mean"][k] for run in runs) / 2
        assert result["returns"]["mean"][k] == pytest.approx(mean)
    shown = capsys.readouterr().out
    assert f"{result['returns']['mean'][1]:.2f}" in shown and "2 seeds,  6 held-out tasks" in shown
    as_oracle = ["evaluate", str(run_copy), *flags, "--oracle", str(other)]
    assert commands.main(as_oracle) == 2  # its policy does not observe the task
    change_settings(other, "observe_task: false", "observe_task: true")
    assert commands.main(as_oracle) == 0
    oracle = json.loads((run_copy / "evaluation.json").read_text())["oracle"]
    assert oracle["mean"] == runs[1]["returns"]["mean"][-1]
    assert f"oracle (task observed): {oracle['mean']:.2f}" in capsys.readouterr().out


def test_evaluate_refuses_runs_that_are_not_seeds(run_copy, capsys):
    other = copy_as_seed_1(run_copy)
    config = (other / "config.yaml").read_text()
    before = read_files(run_copy)
    for text, message in (
        (config.replace("env: navigation-2d", "env: ant-dir"), f"{other}: env is ant-dir"),
        (
            config.replace("observe_task: false", "observe_task: true"),
            f"{other}: algo is maml-trpo-observe-task, of {run_copy} maml-trpo; give runs",
        ),
        (
            config.replace("seed: 1", "seed: 0"),
            f"{other}: seed 0 is also that of {run_copy}; two samples",
        ),
    ):
        (other / "config.yaml").write_text(text)
        assert commands.main(["evaluate", str(run_copy), str(other)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and is_one_line(err) and message in err
    assert read_files(run_copy) == before


def test_evaluations_of_two_lengths_are_one_line(run_copy, monkeypatch, capsys):
    """As of policies from scratch, whose learning curves may differ in length."""
    other = copy_as_seed_1(run_copy)
    lengths = iter((1, 2))
    evaluate = api.evaluate

    def shorten(policy, *arguments, **options):
        return evaluate(policy, *arguments, **options | {"num_adaptations": next(lengths)})

    monkeypatch.setattr(api, "evaluate", shorten)
    assert commands.main(["evaluate", str(run_copy), str(other), "--num-tasks", "2"]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and "the runs differ in number of adaptations: 1 and 2; give" in err
    with pytest.raises(ConfigError, match="differ in number of adaptations"):
        train._print_together([run_copy, other])


def test_oracle_without_evaluation_has_exit_code_5(run_copy, tmp_path, capsys):
    assert commands.main(["evaluate", str(run_copy), "--oracle", str(tmp_path)]) == 5
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and f"python -m metarl evaluate {tmp_path}" in err


def test_video_works_in_a_moved_folder(run_copy, capsys):
    assert commands.main(["video", str(run_copy), "--num-tasks", "1"]) == 0
    path = run_copy / "videos" / "adaptation.mp4"
    replay = path.with_suffix(".html")
    assert capsys.readouterr().out == f"{path}\n{replay}\n" and path.read_bytes()[4:8] == b"ftyp"
    recorded = json.loads((run_copy / "films.json").read_text())
    assert recorded.keys() == {f"videos/{each.name}" for each in (path, replay)}
    assert {each["iteration"] for each in recorded.values()} == {24}
    assert "WebGL" in replay.read_text() and "navigation-2d, maml-trpo: run" in replay.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_video_leaves_no_files(number, code, run_copy, monkeypatch, capsys):
    caption = video._caption

    def stopped(episode, step, size):
        if step == 30:
            assert [path.suffix for path in (run_copy / "videos").iterdir()] == [".mp4"]
            os.kill(os.getpid(), number)
        return caption(episode, step, size)

    shutil.rmtree(run_copy / "videos", ignore_errors=True)
    monkeypatch.setattr(video, "_caption", stopped)
    assert commands.main(["video", str(run_copy), "--num-tasks", "1"]) == code
    assert capsys.readouterr().err == "metarl: interrupted\n"
    assert list((run_copy / "videos").iterdir()) == []


def test_video_takes_format_size_tasks_and_episodes(run_copy, capsys):
    shutil.rmtree(run_copy / "videos", ignore_errors=True)
    flags = "--format gif --tasks 1 --episodes 2 --size 64".split()
    assert commands.main(["video", str(run_copy), *flags]) == 0
    path = run_copy / "videos" / "adaptation.gif"
    assert capsys.readouterr().out == f"{path}\n"
    assert [p.name for p in path.parent.iterdir()] == ["adaptation.gif"]
    width, height = struct.unpack("<HH", path.read_bytes()[6:10])
    assert (width, height) == (2 * 64 + 4, 64 + 2 * 5)


@pytest.mark.parametrize("camera", ["--camera -90,-20", "--camera=-90,-20", "--camera -90.0,-20"])
def test_video_takes_a_negative_azimuth(camera, run_copy, capsys):
    flags = f"{camera} --format html --tasks 1 --episodes 1"
    assert commands.main(["video", str(run_copy), *flags.split()]) == 0
    replay = run_copy / "videos" / "adaptation.html"
    assert capsys.readouterr().out == f"{replay}\n"
    assert '"azimuth":-90.0,"elevation":-20.0' in replay.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--episodes 3", "--episodes 3: the run adapts from 2 episodes"),
        ("--camera top", "--camera: navigation-2d has a fixed camera"),
    ],
)
def test_impossible_video_has_exit_code_2(flags, message, run_copy, capsys):
    before = read_files(run_copy)
    assert commands.main(["video", str(run_copy), *flags.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and message in err and read_files(run_copy) == before


@pytest.mark.parametrize("command", ["evaluate", "video"])
def test_folder_that_is_no_run_has_exit_code_5(command, tmp_path, capsys):
    assert commands.main([command, str(tmp_path)]) == 5
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and "is not a run folder" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("evaluat runs/x", "unknown command evaluat; did you mean evaluate? (metarl --help)"),
        ("--env ant-dir", "unknown flag --env; flags follow a COMMAND (metarl --help)"),
        ("check_env x", "unknown command check_env; did you mean check-env?"),
        ("evaluate runs/x --num-task 20", "unknown flag --num-task; did you mean --num-tasks? ("),
        ("evaluate runs/x --num-task=20", "unknown flag --num-task; did you mean --num-tasks?"),
        ("video runs/x --epsodes 2", "--epsodes; did you mean --episodes? (metarl video"),
        ("report runs/x --xyz 2", "unknown flag --xyz (metarl report --help)"),
        ("explain runs/x runs/y", "a value without a flag: runs/y (metarl explain --help)"),
        ("evaluate", "required: RUN"),
        ("evaluate runs/x --num-tasks 0", "--num-tasks: 0: must be a whole number >= 1"),
        ("video runs/x --json out.json", "unknown flag --json (metarl video"),
        ("video runs/x --format html --size 64", "--size: not with --format html"),
        ("video runs/x --size 481", "--size: 481: must be even"),
        ("video runs/x --size 20000", "--size: 20000: must be even, from 16 to 4096"),
        ("video runs/x --camera above", "--camera: above: must be side, behind, front, top, or AZ"),
        ("video runs/x --camera 0,-90", "--camera: 0,-90: must be"),
        ("video runs/x --camera -90", "--camera: -90: must be side, behind"),
        ("video runs/x --camera --size 64", "--camera: expected one argument"),
        ("video runs/x --size 64 -90,-20", "a value without a flag: -90,-20 (metarl"),
        ("video runs/x --format avi", "invalid choice: 'avi'"),
        ("evaluate runs/x --json no/folder/out.json", "there is no folder no/folder"),
        ("evaluate runs/x --num-tasks 1000000000000", "0: must be at most 1,000,000,000"),
        ("evaluate runs/x --json hf://a/b", "--json: hf://a/b: an address on the hub is not taken"),
        ("publish hf://a x", "hf://a: must be hf://ORG/NAME"),
        ("push hf://a me/x", "hf://a: must be hf://ORG/NAME"),
        ("certify hf://a", "hf://a: must be hf://ORG/NAME"),
        ("certify x --oracle hf://a", "hf://a: must be hf://ORG/NAME"),
        ("report hf://a", "hf://a: must be hf://ORG/NAME"),
        ("run hf://a/b", "POLICY: hf://a/b: an address on the hub is not taken here"),
        (
            "train --init-from hf://a/b --env ant-dir",
            "--init-from = 'hf://a/b': must be a path; an",
        ),
        ("evaluate runs/x --json .", "--json .: is a folder; name a file"),
        ("evaluate runs/x --task 1 --num-tasks 3", "--num-tasks: not with --task, which names"),
        ("video runs/x --task 1 --tasks 3", "--num-tasks: not with --task, which names every"),
        ("evaluate runs/x --task 1,,2", "--task: '1,,2': an entry is empty; separate entries by"),
        ("push runs/x me/x --private --to y", "--private: not with --to, which uploads nothing"),
        ("suite --list --jobs 2", "--jobs: not with --list, which starts nothing"),
        ("sweep rl2 --list", "FILE: not with --list, which starts nothing"),
        ("sweep --list --trials 2", "--trials: not with --list, which starts nothing"),
        ("certify runs/x --axes=", "--axes: '': is empty; separate entries by single commas"),
        ("certify runs/x --axes ,", "--axes: ',': an entry is empty; separate entries by single"),
        ("evaluate runs/x --json x.csv", "--json x.csv: must end in .json"),
        ("explain runs/x --json x.png", "--json x.png: must end in .json"),
        ("report runs/x --json x.html", "--json x.html: must end in .json"),
        ("check-env ant-dir --json x.txt", "--json x.txt: must end in .json"),
        ("run x.onnx --json x.txt", "--json x.txt: must end in .json"),
        ("report runs/x -o x.pdf", "--output x.pdf: must end in .html or .htm"),
        ("export runs/x -o x.pt", "--output x.pt: must end in .onnx"),
        ("export runs/x -o x.onnx --format torchscript", "x.onnx: must end in .pt or .pth or .ts"),
        ("explain runs/x --json .", "--json .: is a folder; name a file"),
    ],
)
def test_wrong_arguments_have_exit_code_2(arguments, message, capsys):
    assert commands.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and message in err


def test_video_of_several_runs_shows_the_same_task_side_by_side(run_copy, tmp_path, capsys):
    file = tmp_path / "race.mp4"
    runs = [str(run_copy), str(run_copy)]
    flags = ["--task", "-0.25,0.5", "--format", "html"]
    assert commands.main(["video", *runs, "-o", str(file), *flags]) == 0
    page = file.with_suffix(".html")
    assert capsys.readouterr().out == f"{page}\n"
    text = page.read_text()
    assert text.count("after 1 adaptation") == 2 and "before adaptation" not in text
    assert "-0.25" in text


@pytest.mark.parametrize("num_runs", [1, 2])
def test_video_of_a_task_that_does_not_fit_is_refused(num_runs, run_copy, tmp_path, capsys):
    file = ["-o", str(tmp_path / "race.mp4")] if num_runs > 1 else []
    assert commands.main(["video", *[str(run_copy)] * num_runs, *file, "--task", "1"]) == 2
    assert "--task 1.0: a task of navigation-2d is 2 finite numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--output: which file the runs are filmed in"),
        (["-o", "no/race.mp4"], "--output no/race.mp4: there is no folder no"),
        (["-o", "race.avi"], "--output race.avi: must end in .mp4 or .gif or .html"),
        (["-o", "race.mp4", "--episodes", "2"], "--episodes: for one run only"),
    ],
)
def test_video_of_several_runs_without_its_file_is_refused(flags, message, run_copy, capsys):
    assert commands.main(["video", str(run_copy), str(run_copy), *flags]) == 2
    assert message in capsys.readouterr().err
