"""The command `new-robot`, and a training of the robot that it writes."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metarl import api
from metarl.cli.commands import main
from metarl.envs.robots.arms.arm import ARM
from metarl.envs.robots.guessing import drawing, inspection
from metarl.envs.robots.included.quadruped import QUADRUPED


def new_robot(tmp_path, capsys, *arguments):
    model = tmp_path / "my_robot.xml"
    model.write_bytes(Path(QUADRUPED.model_file).read_bytes())
    code = main(["new-robot", str(model), *map(str, arguments)])
    return code, capsys.readouterr()


def test_new_robot_writes_a_file_that_trains(tmp_path, capsys, monkeypatch):
    code, output = new_robot(tmp_path, capsys)
    assert code == 0 and not output.err
    file = tmp_path / "my_robot.yaml"
    assert "base          free " in output.out and "stands 2 s" in output.out
    assert output.out.endswith(f"{file}: check it, then metarl train --env {file}:dir\n")
    monkeypatch.chdir(tmp_path)
    policy = api.train(
        "my_robot.yaml:vel-payload",
        "rl2",
        iterations=1,
        sampler={"num_tasks": 2, "num_episodes": 1, "threads": 1},
        trainer={"video": False, "evaluate_tasks": 2},
        run_dir=tmp_path / "run",
    )
    policy.close()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", str(tmp_path / "run"), "--num-tasks", "2"]) == 0


def test_new_robot_draws_the_robot(tmp_path, capsys):
    code, output = new_robot(tmp_path, capsys)
    picture = tmp_path / "my_robot.png"
    assert code == 0 and f"{picture}: the robot in its home pose\n" in output.out
    with Image.open(picture) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (480, 640, 3)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100  # robot, ground and sky
    red, green, blue = pixels.astype(int).transpose(2, 0, 1)
    assert not ((green > 1.5 * red) & (green > 1.5 * blue)).any()  # goals are green


def test_new_robot_that_cannot_draw_goes_on(tmp_path, capsys, monkeypatch):
    def fail(robot):
        raise RuntimeError("no\ndriver")

    monkeypatch.setattr(drawing, "draw_robot", fail)
    code, output = new_robot(tmp_path, capsys)
    assert code == 0 and "warning: no picture of the robot: no driver\n" in output.out
    assert (tmp_path / "my_robot.yaml").exists() and not (tmp_path / "my_robot.png").exists()


def test_new_robot_keeps_a_picture_that_is_there(tmp_path, capsys):
    (tmp_path / "my_robot.png").write_text("mine")
    code, output = new_robot(tmp_path, capsys)
    assert code == 0 and "my_robot.png: exists already" in output.out
    assert (tmp_path / "my_robot.png").read_text() == "mine"


@pytest.mark.parametrize("robot", [QUADRUPED, ARM])
def test_new_robot_comments_on_every_line(robot, tmp_path, capsys):
    model = tmp_path / "robot.xml"
    model.write_bytes(Path(robot.model_file).read_bytes())
    assert main(["new-robot", str(model)]) == 0
    lines = model.with_suffix(".yaml").read_text().splitlines()
    assert all(line.partition("# ")[2] for line in lines)
    hip = next(line for line in lines if line.startswith("  ") and "stiffness" in line)
    assert hip.endswith(" [rad]") and " # a target of " in hip


def test_new_robot_names_the_goal_of_an_arm(tmp_path, capsys):
    model = tmp_path / "my_arm.xml"
    model.write_bytes(Path(ARM.model_file).read_bytes())
    code, file = main(["new-robot", str(model)]), model.with_suffix(".yaml")
    output = capsys.readouterr()
    assert code == 0 and output.out.endswith(f"metarl train --env {file}:reach\n")
    assert "effector      gripper " in output.out and "env FILE:reach" in file.read_text()


def test_new_robot_quotes_the_path_of_the_next_command(tmp_path, capsys):
    folder = tmp_path / "my robots"
    folder.mkdir()
    model = folder / "my_arm.xml"
    model.write_bytes(Path(ARM.model_file).read_bytes())
    assert main(["new-robot", str(model)]) == 0
    command = capsys.readouterr().out.rpartition("check it, then ")[2]
    words = ["metarl", "train", "--env", f"{model.with_suffix('.yaml')}:reach"]
    assert shlex.split(command) == words


def test_new_robot_never_overwrites(tmp_path, capsys):
    (tmp_path / "my_robot.yaml").write_text("mine")
    code, output = new_robot(tmp_path, capsys)
    assert code == 2 and "my_robot.yaml: exists already" in output.err
    assert (tmp_path / "my_robot.yaml").read_text() == "mine"


def test_new_robot_stays_beside_the_model(tmp_path, capsys):
    code, output = new_robot(tmp_path, capsys, "-o", tmp_path / "other" / "robot.yaml")
    assert code == 2 and "must be in the folder of the model" in output.err
    code, output = new_robot(tmp_path, capsys, "-o", tmp_path / "robot.txt")
    assert code == 2 and "must end in .yaml or .yml" in output.err


def test_new_robot_refuses_what_is_no_model(tmp_path, capsys):
    model = tmp_path / "robot.xml"
    model.write_text("<mujoco><worldbody><body></worldbody></mujoco>")
    assert main(["new-robot", str(model)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "robot.xml: " in error
    assert not (tmp_path / "robot.yaml").exists()


@pytest.mark.parametrize("model", [".", "missing.xml"])
def test_new_robot_needs_a_file(tmp_path, capsys, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    assert main(["new-robot", model]) == 2
    assert capsys.readouterr().err == f"metarl: error: {model}: there is no such model\n"


def test_new_robot_that_fails_leaves_no_file(tmp_path, capsys, monkeypatch):
    def fail(robot):
        raise KeyboardInterrupt

    monkeypatch.setattr(inspection, "inspect_robot", fail)
    code, _ = new_robot(tmp_path, capsys)
    assert code == 130 and not (tmp_path / "my_robot.yaml").exists()


def test_new_robot_refuses_a_home_that_falls(tmp_path, capsys):
    model = tmp_path / "fallen.xml"
    text = Path(QUADRUPED.model_file).read_text()
    place, upright = text.index("<key "), 'qpos="0 0 0.285 1 0 '
    upside_down = text[place:].replace(upright, 'qpos="0 0 0.285 0 1 ')
    model.write_text(text[:place] + upside_down)
    assert main(["new-robot", str(model)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "fallen.yaml: home: in this pose the robot" in error
    assert list(tmp_path.iterdir()) == [model]


def test_training_refuses_a_home_that_falls(tmp_path, capsys, monkeypatch):
    new_robot(tmp_path, capsys)
    file = tmp_path / "my_robot.yaml"
    file.write_text(file.read_text().replace("low: 0.", "low: 0.5"))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--env", "my_robot.yaml:dir", "--algo", "rl2"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the robot is not healthy" in error
    assert not (tmp_path / "runs").exists()
