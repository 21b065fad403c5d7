"""ONNX policies in general: foreign and damaged files, observations, the simulator."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import metarl
from metarl import builders
from metarl.core.errors import CheckpointError, ConfigError, ResourceError
from metarl.deployment import onnx_file
from metarl.deployment.export.policies import build_policy
from metarl.deployment.onnx_policy import OnnxPolicy
from metarl.envs.registry import make
from metarl.learners.grbal.config import GrbalConfig
from metarl.learners.grbal.grbal import Grbal
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.learners.teacher_student.teacher_student import TeacherStudent

FLOAT = onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def policy_file(run_of, tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "p.onnx"
    metarl.export(run_of("rl2, gru", "navigation-2d"), path)
    return path


def foreign(path, *, rows="batch", obs_size=3, action_size=2, metadata=None, inputs=1, rank=2):
    """Writes actions = obs @ weight, as other exporters do."""
    weight = np.arange(obs_size * action_size, dtype=np.float32).reshape(obs_size, action_size)
    shapes = [[rows, obs_size][:rank], [rows, action_size]]
    names = ["obs", "time_step"][:inputs]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["obs", "w"], ["actions"])],
        "foreign",
        [helper.make_tensor_value_info(name, FLOAT, shapes[0]) for name in names],
        [helper.make_tensor_value_info("actions", FLOAT, shapes[1])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path, weight


def test_onnx_policy_needs_neither_torch_nor_simulator(policy_file):
    code = """
import sys, numpy as np
from metarl.deployment.onnx_policy import OnnxPolicy
session = OnnxPolicy(sys.argv[1]).start()
session.act(np.zeros(2)), session.act(np.zeros(2), 1.0)
found = {"torch", "mujoco", "gymnasium", "onnx", "scipy", "yaml"} & set(sys.modules)
assert not found, found
"""
    command = [sys.executable, "-c", code, str(policy_file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rows", ["batch", 1])
def test_foreign_policy_without_metadata_is_taken_as_it_is(tmp_path, rows):
    path, weight = foreign(tmp_path / "f.onnx", rows=rows)
    obs = np.array([[1.0, -2.0, 3.0], [0.5, 0.0, 1.0]], np.float32)
    session = OnnxPolicy(path).start(num_robots=2)
    np.testing.assert_allclose(session.act(obs), obs @ weight)
    np.testing.assert_allclose(session.act(2 * obs), 2 * obs @ weight)


def test_foreign_policy_is_scaled_by_the_metadata_of_mjlab(tmp_path):
    metadata = {
        "joint_names": "hip,knee",
        "default_joint_pos": "0.100,-1.600",
        "action_scale": "0.500,0.250",
        "observation_names": "a,b,c",
    }
    path, weight = foreign(tmp_path / "f.onnx", metadata=metadata)
    session, obs = OnnxPolicy(path).start(), np.array([1.0, 2.0, 3.0])
    expected = np.array([0.1, -1.6]) + np.array([0.5, 0.25]) * (obs @ weight)
    np.testing.assert_allclose(session.act(obs), expected)
    np.testing.assert_allclose(session.act({"c": 3.0, "b": 2.0, "a": 1.0}), expected)
    with pytest.raises(ConfigError, match=r"unknown number 'd'"):
        session.act({"a": 0, "b": 0, "c": 0, "d": 0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": 2}, r"2 inputs \(obs \['batch', 3\], time_step .*\); a policy that metarl did"),
        ({"rank": 1}, "must be robots x numbers, with a fixed count of numbers"),
        ({"metadata": {"action_scale": "0.5,0.5,0.5"}}, "action_scale has 3 numbers for 2 actions"),
        ({"metadata": {"action_scale": "half"}}, "action_scale is 'half': must be numbers"),
        ({"metadata": {"metarl": "{}"}}, r"its metadata cannot be read \(KeyError"),
        ({"metadata": {"metarl": '{"format": 99}'}}, "its format is 99; this version of metarl"),
    ],
)
def test_unusable_foreign_policy_is_refused(tmp_path, options, message):
    if options.get("rank") == 1:
        options = {**options, "obs_size": 3}
    path, _ = foreign(tmp_path / "f.onnx", **options)
    with pytest.raises(CheckpointError, match=message):
        OnnxPolicy(path)


def test_damaged_file_is_refused_whichever_byte_is_wrong(policy_file, tmp_path):
    content, rng = policy_file.read_bytes(), np.random.default_rng(0)
    copy = tmp_path / "copy.onnx"
    for place in rng.integers(0, len(content), 60):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        copy.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            OnnxPolicy(copy)
        assert "\n" not in str(caught.value)
    for length in (0, 100, len(content) - 1):
        copy.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            OnnxPolicy(copy)


def test_missing_file_and_package_are_named(tmp_path, monkeypatch, policy_file):
    with pytest.raises(CheckpointError, match=r"x.onnx: No such file"):
        OnnxPolicy(tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResourceError, match=r"p.onnx: .*onnxruntime.*pip install 'metarl-robots"):
        OnnxPolicy(policy_file)


def test_export_names_the_missing_package(run_of, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ResourceError, match=r"pip install 'metarl-robots\[onnx\]'"):
        metarl.export(run_of("rl2, gru", "navigation-2d"), tmp_path / "p.onnx")
    assert not (tmp_path / "p.onnx").exists()


def test_checksum_of_foreign_files_is_not_wanted(tmp_path):
    path, _ = foreign(tmp_path / "f.onnx")
    assert onnx_file.verify(path.read_bytes())


def test_session_counts_unusable_observations(policy_file):
    session, other = OnnxPolicy(policy_file).start(), OnnxPolicy(policy_file).start()
    session.act(np.ones(2)), other.act(np.ones(2))
    np.testing.assert_array_equal(session.act(np.array([np.nan, 0.0]), 0.5), np.zeros(2))
    other.act(np.ones(2), 0.5)
    np.testing.assert_array_equal(session.act(np.ones(2), 0.5), other.act(np.ones(2), 0.5))
    session.act(np.ones(2), np.inf)
    assert session.num_unusable == 2 and other.num_unusable == 0


def wrong(case, policy):
    session = policy.start()
    if case == "size":
        session.act(np.zeros(3))
    elif case == "no reward":
        session.act(np.zeros(2)), session.act(np.zeros(2))
    elif case == "no step":
        session.end_episode()
    elif case == "robots":
        policy.start(num_robots=0)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("size", r"obs has the shape \(3,\): must be \(1, 2\) or \(2,\)"),
        ("no reward", "the reward of step 0 is missing"),
        ("no step", "end_episode: the episode has no step"),
        ("robots", "num_robots = 0: must be at least 1"),
    ],
)
def test_onnx_session_refuses_what_does_not_fit(policy_file, case, message):
    with pytest.raises(ConfigError, match=message):
        wrong(case, OnnxPolicy(policy_file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_tasks": 1.5}, "num_tasks = 1.5: must be a whole number"),
        ({"num_robots": 10**9}, "num_robots = 1000000000: must be at most 1,000,000"),
        ({"seed": 1.5}, "seed = 1.5: must be a whole number"),
    ],
)
def test_onnx_session_refuses_what_is_no_count(policy_file, options, message):
    with pytest.raises(ConfigError, match=message):
        OnnxPolicy(policy_file).start(**options)


def test_metadata_names_robot_learner_and_checkpoint(run_of, tmp_path):
    run = run_of("rl2, gru", "quadruped-command")
    metarl.export(run, tmp_path / "p.onnx")
    texts = {p.key: p.value for p in onnx.load(tmp_path / "p.onnx").metadata_props}
    split = {name: text.split(",") for name, text in texts.items()}
    assert split["joint_names"][:3] == ["FL_hip", "FL_thigh", "FL_knee"]
    assert [float(each) for each in split["default_joint_pos"][:3]] == [0.0, 0.8, -1.6]
    assert split["action_scale"] == ["0.4"] * 12
    assert split["joint_stiffness"] == ["40.0"] * 12 and split["joint_damping"] == ["1.0"] * 12
    assert len(split["observation_names"]) == 36 and len(split["command_names"]) == 3
    assert texts["control_period"] == "0.02"
    record = json.loads(texts["metarl"])
    assert record["learner"] == "rl2" and record["reference_returns"]["stand still"] > 0
    assert len(record["checkpoint_sha256"]) == 64 and str(run) not in str(texts)
    state = {"input": "hidden", "output": "next_hidden", "shape": [8], "initial": 0.0}
    assert record["states"][1] == state


def test_metadata_names_scaled_commands(run_of, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_of("rl2, gru", "quadruped-command"), run)
    record = json.loads((run / "run.json").read_text())
    observed = record["env"]["observed"]
    record["env"]["observed"] = [[f"2 x {name}", unit] for name, unit in observed]
    record["env"]["version"] = 0  # so that the record counts
    (run / "run.json").write_text(json.dumps(record))
    metarl.export(run, tmp_path / "p.onnx")
    texts = {p.key: p.value for p in onnx.load(tmp_path / "p.onnx").metadata_props}
    assert texts["command_names"].split(",")[0] == "2 x command: speed forward"
    assert len(texts["command_names"].split(",")) == 3


@pytest.mark.parametrize("is_gone", [True, False])
def test_export_without_the_environment_has_the_recorded_scaling(
    run_of, tmp_path, is_gone, capsys, monkeypatch
):
    """The environment is gone, or is another one today."""
    run = tmp_path / "run"
    shutil.copytree(run_of("rl2, gru", "quadruped-command"), run)
    record = json.loads((run / "run.json").read_text())
    record["env"] |= {"action_scale": 0.7} | ({} if is_gone else {"version": 0})
    (run / "run.json").write_text(json.dumps(record))
    if is_gone:

        def refuse(*_arguments, **_options):
            raise ConfigError("no environment 'quadruped-command'")

        monkeypatch.setattr(builders, "make_env", refuse)
    metarl.export(run, tmp_path / "p.onnx")
    texts = {p.key: p.value for p in onnx.load(tmp_path / "p.onnx").metadata_props}
    assert texts["action_scale"] == ",".join(["0.7"] * 12) and "joint_stiffness" not in texts
    assert OnnxPolicy(tmp_path / "p.onnx").spec.action_scale == (0.7,) * 12
    warning = "exported without gains" if is_gone else "was trained on version 0"
    assert warning in capsys.readouterr().err


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_export_to_a_folder_is_refused(run_of, tmp_path, form):
    with pytest.raises(ConfigError, match=r"--output .*: is a folder; name a file"):
        metarl.export(run_of("maml-trpo", "navigation-2d"), tmp_path, format=form)


def test_export_takes_an_address_on_the_hub(tmp_path):
    with pytest.raises(ConfigError, match="hf://a: must be hf://ORG/NAME"):
        metarl.export("hf://a", tmp_path / "p.onnx")


def test_teacher_that_observes_the_task_has_no_graph():
    spec = make("hopper-vel", 1).spec
    config = TeacherStudentConfig(mode="oracle")
    sizes = spec.obs_size + len(spec.tasks.variables), spec.action_size
    teacher = TeacherStudent(config, *sizes, tasks=spec.tasks, seed=0)
    with pytest.raises(ConfigError, match="the teacher of teacher-student has no graph; it obs"):
        build_policy(teacher, spec, max_steps=1)


def test_planner_on_a_model_has_no_graph():
    spec = make("hopper-vel", 1).spec
    planner = Grbal(GrbalConfig(), spec.obs_size, spec.action_size, seed=0)
    with pytest.raises(ConfigError, match="a learner Grbal has no graph; it plans with a model"):
        build_policy(planner, spec, max_steps=1)


# --- in the simulator -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rl2, gru", "maml-trpo", "sb3-ppo"])
def test_run_has_the_returns_of_evaluate(run_of, tmp_path, name):
    run = run_of(name, "navigation-2d")
    metarl.export(run, tmp_path / "p.onnx")
    sizes = {"num_tasks": 5, "num_adaptations": 2}
    found = metarl.run_policy(tmp_path / "p.onnx", "navigation-2d", threads=1, **sizes)
    with metarl.load(run, threads=1) as policy:
        expected = metarl.evaluate(policy, deterministic=True, **sizes)
    for key in ("mean", "per_task"):
        np.testing.assert_allclose(found["returns"][key], expected["returns"][key], atol=1e-3)
    assert found["algo"] == expected["algo"] and found["tasks"] == expected["tasks"]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("rl2, gru", ["adapts while it acts", "after 2 rollouts"]),
        ("maml-trpo", ["before adaptation", "after 2 adaptations"]),
        ("sb3-ppo", ["does not adapt"]),
    ],
)
def test_film_of_a_file_says_how_it_adapts(run_of, tmp_path, monkeypatch, name, stages):
    rows = []
    monkeypatch.setattr(
        "metarl.reporting.film.write_films",
        lambda _path, _env, panels, *_, **__: rows.extend(panels),
    )
    metarl.export(run_of(name, "navigation-2d"), tmp_path / "p.onnx")
    sizes = {"num_tasks": 1, "num_adaptations": 2, "threads": 1}
    metarl.run_policy(tmp_path / "p.onnx", film=tmp_path / "film.gif", **sizes)
    assert [[episode.stage for episode in row] for row in rows] == [stages]


def test_foreign_policy_plays_in_the_units_of_the_environment(tmp_path):
    """Zero outputs stand at the home pose of the metadata, which is not that of the robot."""
    home = ["0.0", "0.8", "-1.6"] * 4
    metadata = {"action_scale": "0.25", "default_joint_pos": ",".join(home)}
    returns = []
    for given in (metadata, {}, {**metadata, "default_joint_pos": ",".join(["0.0"] * 12)}):
        path = tmp_path / f"{len(returns)}.onnx"
        zeros(path, 36, 12, given)
        options = {"num_tasks": 1, "num_adaptations": 0, "threads": 1}
        result = metarl.run_policy(path, "quadruped-command", **options)
        returns.append(result["returns"]["mean"][0])
    assert returns[0] == returns[1]  # both stand at the robot's own home pose
    assert returns[2] < returns[0] - 10


def zeros(path, obs_size, action_size, metadata):
    foreign(path, obs_size=obs_size, action_size=action_size, metadata=metadata)
    model = onnx.load(path)
    weight = np.zeros((obs_size, action_size), np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    onnx.save(model, path)


def test_run_refuses_an_environment_of_other_sizes(policy_file, tmp_path):
    with pytest.raises(ConfigError, match="obs_size is 2; the environment hopper-vel has 11"):
        metarl.run_policy(policy_file, "hopper-vel", threads=1)
    path, _ = foreign(tmp_path / "f.onnx")
    with pytest.raises(ConfigError, match="--env is missing"):
        metarl.run_policy(path)
    with pytest.raises(ConfigError, match=r"must be a file that ends in .mp4, .gif, .html"):
        metarl.run_policy(policy_file, film=tmp_path / "film.avi")
