"""A run keeps a copy of the user's robot, and can be used after its files have changed."""

import re
import shutil
from pathlib import Path

import pytest
from commands import damage, read_files

import metarl
from metarl.core.errors import CheckpointError, ConfigError
from metarl.envs.locomotion.variations import Wind
from metarl.envs.robots import copies
from metarl.envs.robots.guessing.guess import guess_robot
from metarl.envs.robots.guessing.guesses import to_yaml

MODEL = """
<mujoco>
  <compiler meshdir="shapes"/>
  <include file="more.xml"/>
  <asset><mesh file="roof.obj"/></asset>
  <worldbody>
    <body name="base" pos="0 0 0.5">
      <freejoint/>
      <geom type="box" size="0.3 0.15 0.05"/>
      <geom type="mesh" mesh="roof" contype="0" conaffinity="0"/>
      <body pos="0.2 0 0">
        <joint name="front" axis="0 1 0" range="-60 60"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0 0 -0.3"/>
      </body>
      <body pos="-0.2 0 0">
        <joint name="rear" axis="0 1 0" range="-60 60"/>
        <geom type="capsule" size="0.03" fromto="0 0 0 0 0 -0.3"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""

MORE = """
<mujoco>
  <actuator>
    <motor joint="front" ctrlrange="-5 5"/><motor joint="rear" ctrlrange="-5 5"/>
  </actuator>
</mujoco>
"""

ROOF = "v 0 0 0\nv 0.1 0 0\nv 0 0.1 0\nv 0 0 0.1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"

SMALL = {"iterations": 1, "sampler": {"num_tasks": 2, "num_episodes": 1}}
OFF = {"trainer": {"video": False, "evaluate_tasks": 0}}

GRID = """
num_tasks: 2
attempts: 1
axes:
  load: {variation: load, vary: load, levels: [0.2]}
"""


@pytest.fixture
def folder(tmp_path):
    robot = tmp_path / "robot"
    (robot / "shapes").mkdir(parents=True)
    (robot / "dog.xml").write_text(MODEL)
    (robot / "more.xml").write_text(MORE)
    (robot / "shapes" / "roof.obj").write_text(ROOF)
    (robot / "dog.yaml").write_text(to_yaml(guess_robot(robot / "dog.xml"), "dog.xml"))
    return robot


@pytest.fixture
def run(folder, tmp_path):
    path = tmp_path / "run"
    metarl.train(f"{folder}/dog.yaml:dir", "rl2", run_dir=path, **SMALL, **OFF).close()
    return path


def returns(run):
    return metarl.evaluate(run, num_tasks=2, num_adaptations=1)["returns"]["mean"]


def change(folder):
    """Changes the model: another mass, and an actuator less."""
    text = (folder / "dog.xml").read_text().replace('size="0.3 0.15 0.05"', 'size="0.2 0.1 0.05"')
    (folder / "dog.xml").write_text(text)


def remove(folder):
    for name in ("dog.yaml", "dog.xml", "more.xml"):
        (folder / name).unlink()


@pytest.mark.parametrize("happens", [change, remove])
def test_run_is_evaluated_with_its_copy_of_the_robot(happens, folder, run, capsys):
    before = returns(run)
    assert "has changed" not in capsys.readouterr().err
    happens(folder)
    (run / "evaluation.json").unlink()
    assert returns(run) == before
    err = capsys.readouterr().err
    assert f"the robot of {folder}/dog.yaml:dir has changed; the copy in {run} is used" in err
    assert "not comparable" not in err


@pytest.mark.parametrize("happens", [change, remove])
def test_certificate_is_of_the_copy_of_the_robot(happens, folder, run, tmp_path, capsys):
    """In all its environments, which have the robot's file in their names."""
    (tmp_path / "grid.yaml").write_text(GRID)

    def certify(name):
        options = {"grid": tmp_path / "grid.yaml", "output": tmp_path / name, "threads": 1}
        found = metarl.certify(run, **options)
        return [cell["returns"] for cell in found["cells"]], found["env_versions"]

    before = certify("before")
    assert "has changed" not in capsys.readouterr().err
    happens(folder)
    assert certify("after") == before
    assert capsys.readouterr().err.count("has changed; the copy in") == 1


def test_exported_policy_says_that_its_robot_has_changed(folder, run, tmp_path, capsys):
    metarl.export(run, tmp_path / "p.onnx")
    assert "warning" not in capsys.readouterr().err
    text = (folder / "dog.yaml").read_text()
    (folder / "dog.yaml").write_text(re.sub("lowpass: .*", "lowpass: 0.05", text))
    metarl.run_policy(tmp_path / "p.onnx", num_tasks=1, num_adaptations=0)
    assert re.search(r"warning: .*p.onnx was trained on version \d+ of", capsys.readouterr().err)


def test_evaluation_of_a_copy_has_the_name_of_the_run(folder, run):
    remove(folder)
    with metarl.load(run) as policy:
        assert policy.env.spec.name == f"{folder}/dog.yaml:dir"


@pytest.mark.parametrize("what", ["is missing", "has changed since the run"])
def test_copy_whose_mesh_is_gone_names_it(what, folder, run):
    remove(folder)
    mesh = folder / "shapes" / "roof.obj"
    mesh.unlink() if what == "is missing" else mesh.write_text(ROOF.replace("0.1", "0.2"))
    with pytest.raises(ConfigError, match=f"{mesh} {what}; the robot of this run needs it"):
        returns(run)


def test_resumed_run_refuses_a_robot_that_has_changed(folder, run):
    change(folder)
    with pytest.raises(metarl.core.errors.CheckpointError, match="was trained on version"):
        metarl.train(resume=run, iterations=2, evaluate=False)


def nest(folder, where):
    """Moves the model into a file that a scene includes, as MuJoCo Menagerie has it."""
    target = folder / where / "dog.xml"
    target.parent.mkdir(exist_ok=True)
    (folder / "dog.xml").rename(target)
    if where:
        text = target.read_text().replace("more.xml", "../more.xml")
        target.write_text(text.replace('meshdir="shapes"', 'meshdir="../shapes"'))
    scene = f'<mujoco><include file="{Path(where) / "dog.xml"}"/></mujoco>'
    (folder / "scene.xml").write_text(scene)
    (folder / "dog.yaml").write_text(to_yaml(guess_robot(folder / "scene.xml"), "scene.xml"))


def test_model_of_a_scene_can_be_copied(folder, tmp_path, capsys):
    nest(folder, "")
    run = tmp_path / "run"
    metarl.train(f"{folder}/dog.yaml:dir", "rl2", run_dir=run, **SMALL, **OFF).close()
    before = returns(run)
    for name in ("dog.yaml", "scene.xml", "dog.xml", "more.xml"):
        (folder / name).unlink()
    (run / "evaluation.json").unlink()
    assert returns(run) == pytest.approx(before, rel=1e-4)
    assert "keeps no copy" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["{folder}/more.xml", "../robot/more.xml", "shapes/../more.xml"])
def test_copy_never_touches_an_included_file(name, folder, tmp_path, capsys):
    named = MODEL.replace("more.xml", name.format(folder=folder))
    # a mesh beside an included file, which an unresolved copy does not find
    (folder / "dog.xml").write_text(named.replace('"shapes"', '"."'))
    (folder / "shapes" / "roof.obj").rename(folder / "roof.obj")
    before = read_files(folder)
    run = tmp_path / "run"
    metarl.train(f"{folder}/dog.yaml:dir", "rl2", run_dir=run, **SMALL, **OFF).close()
    assert read_files(folder) == before
    assert "keeps no copy" not in capsys.readouterr().err
    expected = returns(run)
    remove(folder)
    (run / "evaluation.json").unlink()
    assert returns(run) == pytest.approx(expected, rel=1e-4)
    assert str(folder / "more.xml") not in (run / "robot" / "dog.xml").read_text()


def publish_elsewhere(run, folder, tmp_path):
    """Publishes a run, removes its robot, and moves the published policy."""
    metarl.publish(run, tmp_path / "small")
    shutil.rmtree(folder)
    return (tmp_path / "small").rename(tmp_path / "elsewhere")


def test_published_robot_is_evaluated_elsewhere(folder, run, tmp_path, monkeypatch, capsys):
    before = returns(run)
    moved = publish_elsewhere(run, folder, tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dog.yaml").write_text("model: another.xml")
    assert returns(moved) == before
    assert "has changed" not in capsys.readouterr().err
    assert metarl.load(moved).spec.name == "dog.yaml:dir"
    names = {path.relative_to(moved).as_posix() for path in moved.rglob("*") if path.is_file()}
    robot = "dog.yaml dog.xml more.xml meshes/roof.obj definition.json metarl-assets.json".split()
    assert {f"robot/{name}" for name in robot} == {n for n in names if n.startswith("robot/")}


def test_published_robot_names_no_folder_of_the_machine(folder, run, tmp_path):
    returns(run)
    moved = publish_elsewhere(run, folder, tmp_path)
    for content in read_files(moved).values():
        assert str(tmp_path).encode() not in content
    # and neither does one that is published again
    again = metarl.publish(moved, tmp_path / "again")
    assert read_files(again / "robot") == read_files(moved / "robot")


def test_published_robot_of_a_scene_is_evaluated_elsewhere(folder, tmp_path, monkeypatch):
    nest(folder, "")
    run = tmp_path / "run"
    metarl.train(f"{folder}/dog.yaml:dir", "rl2", run_dir=run, **SMALL, **OFF).close()
    before = returns(run)
    moved = publish_elsewhere(run, folder, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert returns(moved) == pytest.approx(before, rel=1e-4)
    for content in read_files(moved).values():
        assert str(tmp_path).encode() not in content


def test_damaged_mesh_of_a_published_robot_is_found(folder, run, tmp_path):
    returns(run)
    moved = publish_elsewhere(run, folder, tmp_path)
    damage(moved / "robot" / "meshes" / "roof.obj")
    with pytest.raises(CheckpointError, match="roof.obj is not what was written"):
        metarl.load(moved)


def test_publish_refuses_a_robot_without_its_mesh(folder, run, tmp_path):
    returns(run)
    (folder / "shapes" / "roof.obj").unlink()
    with pytest.raises(ConfigError, match="roof.obj is missing"):
        metarl.publish(run, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_publish_refuses_meshes_outside_of_their_folder(folder, tmp_path):
    (folder / "shapes" / "roof.obj").rename(folder / "roof.obj")
    text = (folder / "dog.xml").read_text().replace('file="roof.obj"', 'file="../roof.obj"')
    (folder / "dog.xml").write_text(text)
    run = tmp_path / "run"
    metarl.train(f"{folder}/dog.yaml:dir", "rl2", run_dir=run, **SMALL, **OFF).close()
    returns(run)
    with pytest.raises(ConfigError, match="is not in the folder of the robot's meshes"):
        metarl.publish(run, tmp_path / "small")


def test_run_without_a_copy_is_published_with_a_warning(folder, run, tmp_path, capsys):
    returns(run)
    shutil.rmtree(run / "robot")
    metarl.publish(run, tmp_path / "small")
    assert "keeps no copy of its robot" in capsys.readouterr().err


def test_other_variation_is_no_change_of_the_robot(folder, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    metarl.train(f"{folder}/dog.yaml:dir-wind", "rl2", run_dir=run, **SMALL, **OFF).close()
    monkeypatch.setattr(Wind, "revisions", 1)
    returns(run)
    err = capsys.readouterr().err
    assert "has changed" not in err and "their returns are not comparable" in err
    change(folder)
    returns(run)
    assert "has changed" in (err := capsys.readouterr().err) and "not comparable" in err


def test_failed_copy_does_not_stop_the_training(folder, tmp_path, monkeypatch, capsys):
    def fails(file, target):
        (target / "half").write_text("")
        raise OSError("no space")

    monkeypatch.setattr(copies, "copy_robot", fails)
    run = tmp_path / "run"
    metarl.train(f"{folder}/dog.yaml:dir", "rl2", run_dir=run, **SMALL, **OFF).close()
    assert "the run keeps no copy of" in capsys.readouterr().err
    assert not list(run.glob("*robot*")) and not list(run.glob(".robot*"))
    returns(run)
