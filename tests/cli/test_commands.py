"""python -m metarl evaluate and video as their users start them."""

import json
import os
import shutil
import signal
import struct

import pytest
from commands import ITERATIONS, METARL, REPOSITORY, call, content, damage, one_line

from metarl.cli import commands
from metarl.reporting import video
from metarl.runs import checkpoint


def test_evaluate_works_in_a_moved_folder_and_twice_gives_the_same_numbers(copy, tmp_path, capsys):
    words = ["evaluate", str(copy), "--num-tasks", "4", "--num-adaptations", "2"]
    done = call(*METARL, *words, "--json", tmp_path / "out.json", cwd=REPOSITORY)
    assert (done.code, done.err) == (0, "")
    first = json.loads((tmp_path / "out.json").read_text())
    assert first == json.loads((copy / "evaluation.json").read_text())
    assert first["num_tasks"] == 4 and len(first["returns"]["mean"]) == 3
    assert "4 held-out tasks" in done.out and f"{first['returns']['mean'][2]:.2f}" in done.out
    assert commands.main([*words, "--threads", "2"]) == 0
    assert capsys.readouterr().out == done.out
    assert json.loads((copy / "evaluation.json").read_text()) == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["moved", "out.json"]


def test_evaluate_repeats_the_evaluation_at_the_end_of_training(whole, copy, capsys):
    assert commands.main(["evaluate", str(copy), "--num-tasks", "3"]) == 0
    out = capsys.readouterr().out
    assert out in whole[1].out
    found = json.loads((copy / "evaluation.json").read_text())["checkpoint"]
    last = checkpoint.load_newest(copy / "checkpoints").state
    assert found == {"iteration": ITERATIONS, "env_steps": last["env_steps"]}
    assert f", after {ITERATIONS} iterations and {last['env_steps']:,} training steps\n" in out
    assert (copy / "evaluation.json").read_bytes() == (whole[0] / "evaluation.json").read_bytes()


def test_evaluate_says_that_it_took_an_older_checkpoint(copy, capsys):
    before, newest = sorted((copy / "checkpoints").iterdir())[-2:]
    damage(newest / "tensors.safetensors")
    assert commands.main(["evaluate", str(copy), "--num-tasks", "1"]) == 0
    state = json.loads((before / "state.json").read_text())["state"]
    assert state["iteration"] < ITERATIONS
    assert f"after {state['iteration']} iterations and" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["evaluate", "video"])
def test_a_run_on_another_version_of_its_environment_is_used_with_a_warning(verb, copy, capsys):
    words = [verb, str(copy), "--num-tasks", "1"]
    path = copy / "run.json"
    record = json.loads(path.read_text())
    env = record.pop("env")
    for changed, warns in ((record, False), ({**record, "env": {**env, "version": 0}}, True)):
        path.write_text(json.dumps(changed))
        assert commands.main(words) == 0
        err = capsys.readouterr().err
        said = f"metarl: warning: {copy} was trained on version 0 of navigation-2d, and this is"
        assert one_line(err) and err.startswith(said) if warns else err == ""


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
    assert commands.main(["evaluate", str(copy), str(other), *words]) == 0
    runs = [json.loads((run / "evaluation.json").read_text()) for run in (copy, other)]
    assert [run["seed"] for run in runs] == [0, 1] and runs[0]["tasks"] != runs[1]["tasks"]
    found = json.loads(out.read_text())
    assert found["seeds"] == [0, 1] and found["runs"] == [str(copy), str(other)]
    for k in range(2):
        mean = sum(run["returns"]["mean"][k] for run in runs) / 2
        assert found["returns"]["mean"][k] == pytest.approx(mean)
    shown = capsys.readouterr().out
    assert f"{found['returns']['mean'][1]:.2f}" in shown and "2 seeds,  6 held-out tasks" in shown
    assert commands.main(["evaluate", str(copy), *words, "--oracle", str(other)]) == 0
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
        assert commands.main(["evaluate", str(copy), str(other)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and one_line(err) and words in err
    assert content(copy) == before


def test_an_oracle_without_an_evaluation_is_one_line_with_exit_code_5(copy, tmp_path, capsys):
    assert commands.main(["evaluate", str(copy), "--oracle", str(tmp_path)]) == 5
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and f"python -m metarl evaluate {tmp_path}" in err


def test_video_films_a_run_in_a_moved_folder(copy, capsys):
    assert commands.main(["video", str(copy), "--num-tasks", "1"]) == 0
    path = copy / "videos" / "adaptation.mp4"
    replay = path.with_suffix(".html")
    assert capsys.readouterr().out == f"{path}\n{replay}\n" and path.read_bytes()[4:8] == b"ftyp"
    assert "WebGL" in replay.read_text() and "navigation-2d, maml-trpo: run" in replay.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_film_that_is_stopped_leaves_nothing_behind(number, code, copy, monkeypatch, capsys):
    caption = video._caption

    def stopped(episode, step, size):
        if step == 30:
            assert [path.suffix for path in (copy / "videos").iterdir()] == [".mp4"]
            os.kill(os.getpid(), number)
        return caption(episode, step, size)

    shutil.rmtree(copy / "videos", ignore_errors=True)
    monkeypatch.setattr(video, "_caption", stopped)
    assert commands.main(["video", str(copy), "--num-tasks", "1"]) == code
    assert capsys.readouterr().err == "metarl: interrupted\n"
    assert list((copy / "videos").iterdir()) == []


def test_video_takes_format_size_tasks_and_episodes(copy, capsys):
    shutil.rmtree(copy / "videos", ignore_errors=True)
    words = "--format gif --tasks 1 --episodes 2 --size 64".split()
    assert commands.main(["video", str(copy), *words]) == 0
    path = copy / "videos" / "adaptation.gif"
    assert capsys.readouterr().out == f"{path}\n"
    assert [p.name for p in path.parent.iterdir()] == ["adaptation.gif"]
    width, height = struct.unpack("<HH", path.read_bytes()[6:10])
    assert (width, height) == (2 * 64 + 4, 64 + 2 * 5)


@pytest.mark.parametrize("camera", ["--camera -90,-20", "--camera=-90,-20", "--camera -90.0,-20"])
def test_an_azimuth_may_be_negative(camera, copy, capsys):
    words = f"{camera} --format html --tasks 1 --episodes 1 --size 64"
    assert commands.main(["video", str(copy), *words.split()]) == 0
    replay = copy / "videos" / "adaptation.html"
    assert capsys.readouterr().out == f"{replay}\n"
    assert '"azimuth":-90.0,"elevation":-20.0' in replay.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--episodes 3", "--episodes 3: the run adapts from 2 episodes"),
        ("--camera top", "--camera: navigation-2d has a fixed camera"),
    ],
)
def test_a_film_that_cannot_be_made_is_one_line_with_exit_code_2(words, message, copy, capsys):
    before = content(copy)
    assert commands.main(["video", str(copy), *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and message in err and content(copy) == before


@pytest.mark.parametrize("verb", ["evaluate", "video"])
def test_a_verb_on_a_folder_that_is_no_run_is_one_line_with_exit_code_5(verb, tmp_path, capsys):
    assert commands.main([verb, str(tmp_path)]) == 5
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and "is not a run folder" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "evaluat runs/x",
            "unknown verb evaluat; did you mean evaluate? (python -m metarl --help)",
        ),
        ("", "required: VERB"),
        ("check_env x", "unknown verb check_env; did you mean check-env?"),
        ("evaluate runs/x --num-task 20", "unknown flag --num-task; did you mean --num-tasks? ("),
        ("evaluate runs/x --num-task=20", "unknown flag --num-task; did you mean --num-tasks?"),
        ("video runs/x --epsodes 2", "--epsodes; did you mean --episodes? (python -m metarl video"),
        ("report runs/x --xyz 2", "unknown flag --xyz (python -m metarl report --help)"),
        ("video runs/x runs/y", "a value without a flag: runs/y (python -m metarl video --help)"),
        ("evaluate", "required: RUN"),
        ("evaluate runs/x --num-tasks 0", "--num-tasks: 0: must be a whole number >= 1"),
        ("video runs/x --json out.json", "unknown flag --json (python -m metarl video"),
        ("video runs/x --size 481", "--size: 481: must be even"),
        ("video runs/x --camera above", "--camera: above: must be side, behind, front, top, or AZ"),
        ("video runs/x --camera 0,-90", "--camera: 0,-90: must be"),
        ("video runs/x --camera -90", "--camera: -90: must be side, behind"),
        ("video runs/x --camera --size 64", "--camera: expected one argument"),
        ("video runs/x --size 64 -90,-20", "a value without a flag: -90,-20 (python"),
        ("video runs/x --format avi", "invalid choice: 'avi'"),
        ("evaluate runs/x --json no/folder/out.json", "there is no folder no/folder"),
    ],
)
def test_a_verb_that_is_not_understood_is_one_line_with_exit_code_2(words, message, capsys):
    assert commands.main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and one_line(err) and message in err
