"""Plug-ins: found by name, their tasks, and whole runs."""

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import gymnasium
import numpy as np
import plugin_envs
import pytest

from metarl import builders
from metarl.cli import commands
from metarl.cli import train as cli
from metarl.core.errors import ConfigError, EnvironmentContractError
from metarl.core.tasks import fixed_set
from metarl.envs.plugins.discovery import UnknownEnvironment, entry_points
from metarl.envs.plugins.subproc_env import PluginFailure, SubprocEnv
from metarl.envs.registry import make
from metarl.evaluation.evaluate import held_out_tasks
from metarl.runs import checkpoint
from metarl.runs.logger import without_time

TINY = (
    "--device cpu --learner.hidden-sizes 8 --sampler.num-tasks 2 --sampler.num-episodes 2 "
    "--sampler.threads 1 --trainer.no-tensorboard"
).split()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Returns a function that writes a package with entry points into a folder on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(package, text, **points):
        (tmp_path / f"{package}.py").write_text(text)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = {value}\n" for name, value in points.items()]
        (info / "entry_points.txt").write_text("[metarl.envs]\n" + "".join(lines))

    return install


# ------------------------------------------------------------------------------------------- names


def test_entry_point_is_found_by_name_without_loading_others(installed):
    installed(
        "spot_package",
        "from plugin_envs import Spot\n",
        my_spot="spot_package:Spot",
    )
    installed("bad_package", "raise RuntimeError('loaded')\n", my_bad_one="bad_package:Env")
    assert {"my-spot", "my-bad-one"} <= set(entry_points())
    assert cli.list_envs().splitlines()[-1] == f"installed plug-ins: {', '.join(entry_points())}"
    assert "spot_package" not in sys.modules and "bad_package" not in sys.modules
    with closing(make("my-spot", 1)) as env:
        assert isinstance(env, SubprocEnv) and env.spec.name == "my-spot"
    assert make("navigation-2d").spec.obs_size == 2  # built-in names come first
    with pytest.raises(UnknownEnvironment, match="did you mean my-spot"):
        make("my-spott")
    with pytest.raises(EnvironmentContractError, match=r"RuntimeError: loaded \(.*bad_package.py"):
        builders.make_env("my-bad-one")


def test_entry_point_to_nothing_is_reported(installed):
    installed("gone_package", "Spot = 3\n", gone="gone_package:Spott", lost="lost_package:Spot")
    with pytest.raises(UnknownEnvironment, match="gone_package has no class or function 'Spott'"):
        make("gone")
    with pytest.raises(UnknownEnvironment, match="no module 'lost_package' can be imported"):
        make("lost")


def test_class_runs_in_workers_and_function_makes_a_batch(installed):
    with closing(make("plugin_envs:Spot", 3)) as env:
        assert isinstance(env, SubprocEnv) and env.spec.horizon == 8
    installed(
        "batches",
        "from metarl.envs.navigation import DenseGoal, NavigationEnv\n"
        "def fast(name, threads):\n    return NavigationEnv(name, DenseGoal(), horizon=threads)\n",
    )
    assert make("batches:fast", 5).spec.horizon == 5


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("plug/bad.py:Good", "plug.bad:Good"),
        ("./plug/bad.py:Good", "plug.bad:Good"),
        ("{here}/plug/bad.py:Good", "plug.bad:Good"),
        ("plug/gone:Good", "plug.gone:Good"),
        ("bad.py:Good", "bad:Good"),
        ("../plug/bad.py:Good", "bad:Good with PYTHONPATH=../plug"),
    ],
)
def test_file_instead_of_module_gets_the_module_as_hint(name, hint, installed, tmp_path):
    (tmp_path / "plug").mkdir()
    (tmp_path / "plug" / "bad.py").write_text("from plugin_envs import Spot as Good\n")
    with pytest.raises(ConfigError) as caught:
        builders.make_env(name.format(here=tmp_path))
    assert str(caught.value).endswith(f"; give a module, not a file: {hint}")
    if hint == "plug.bad:Good":
        with closing(builders.make_env(hint)) as env:
            assert env.spec.horizon == 8


def test_missing_module_gets_no_hint_about_files(installed):
    with pytest.raises(ConfigError, match="no module 'nowhere' can be imported$"):
        builders.make_env("nowhere.bad:Good")


def test_error_inside_a_batch_function_names_its_line(installed):
    installed("faulty", "def make(name, threads, extra=1):\n    return len(5)\n")
    with pytest.raises(EnvironmentContractError, match=r"TypeError: .*faulty.py, line 2"):
        builders.make_env("faulty:make")


@pytest.mark.parametrize("name", ["HiddenSpot-v0", "plugin_ids:HiddenSpot-v0"])
def test_gymnasium_id_runs_with_its_time_limit(installed, name):
    installed(
        "plugin_ids",
        "import gymnasium\n"
        "gymnasium.register('HiddenSpot-v0', 'plugin_envs:NoHorizon', max_episode_steps=3)\n",
    )
    gymnasium.registry.pop("HiddenSpot-v0", None)
    sys.modules.pop("plugin_ids", None)
    if ":" not in name:
        import plugin_ids

        assert plugin_ids
    try:
        with closing(make(name, 2)) as env:
            assert (env.spec.name, env.spec.horizon) == (name, 3)
            env.set_tasks(np.array([[0.1], [0.2]]), 1)
            env.reset([np.random.default_rng(0), np.random.default_rng(1)])
            for _ in range(3):
                step = env.step(np.zeros((2, 1)), np.ones(2, dtype=bool))
            assert not step.terminated.any()
    finally:
        gymnasium.registry.pop("HiddenSpot-v0", None)


def test_environment_without_tasks_is_refused():
    for name in ("Pendulum-v1", "plugin_envs:NoTasks"):
        with pytest.raises(PluginFailure, match=f"{name}: lacks sample_tasks and set_task"):
            make(name)
        with pytest.raises(EnvironmentContractError, match=f"--env {name}: lacks sample_tasks"):
            builders.make_env(name)


def test_old_mujoco_is_reported(monkeypatch):
    monkeypatch.setattr("metarl.envs.locomotion.env.Batch", None)
    with pytest.raises(
        ConfigError, match="--env ant-dir: ant-dir needs mujoco.batch; this is MuJoCo"
    ):
        builders.make_env("ant-dir")


def test_registry_imports_with_an_old_mujoco():
    code = (
        "import sys; sys.modules['mujoco.batch'] = None\n"
        "from metarl.envs.registry import make; print(make('navigation-2d').spec.name)"
    )
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "navigation-2d\n", done.stderr


# ------------------------------------------------------------------------------------------- tasks


def draw_tasks(kind, seed=0, size=4):
    with closing(SubprocEnv("env", kind, 1)) as env:
        return env.spec.tasks.sample(np.random.default_rng(seed), size)


@pytest.mark.parametrize("kind", ["Spot", "Vector", "TwoWays", "Mazes"])
def test_tasks_are_a_function_of_the_stream(kind):
    kind = getattr(plugin_envs, kind)
    assert np.array_equal(draw_tasks(kind), draw_tasks(kind))
    assert not np.array_equal(draw_tasks(kind, size=16), draw_tasks(kind, seed=1, size=16))


def test_numbers_reach_set_task_in_their_sampled_type():
    for kind in (plugin_envs.Vector, plugin_envs.TwoWays):  # they check the type
        with closing(SubprocEnv("env", kind, 1)) as env:
            tasks = env.spec.tasks.sample(np.random.default_rng(0), 3)
            env.set_tasks(tasks, 1)
            obs = env.reset([np.random.default_rng(0)] * 3)
            reward = env.step(np.zeros((3, 1)), np.ones(3, dtype=bool)).reward
        spot = tasks[:, 0] - (tasks[:, 1] if tasks.shape[1] == 2 else 0)
        np.testing.assert_allclose(reward, -np.abs(obs[:, 0] - spot))


@pytest.fixture(scope="module")
def mazes():
    with closing(SubprocEnv("mazes", plugin_envs.Mazes, 2)) as env:
        yield env


def spots(env, tasks):
    """Returns the positions of the hidden spots, from their distances to points 0.1 apart."""
    env.set_tasks(tasks, 1)
    obs = env.reset([np.random.default_rng(0) for _ in tasks])[:, 0].copy()
    one = env.step(np.zeros((len(tasks), 1)), np.ones(len(tasks), dtype=bool)).reward
    other = env.step(np.ones((len(tasks), 1)), np.ones(len(tasks), dtype=bool)).reward
    return obs + (one**2 - other**2 + 0.01) / 0.2


def test_opaque_task_is_encoded_as_its_address(mazes):
    tasks = mazes.spec.tasks.sample(np.random.default_rng(0), 5)
    assert mazes.spec.tasks.opaque and tasks.shape == (5, 3)
    assert [v.name for v in mazes.spec.tasks.variables] == ["draw", "size", "index"]
    assert (tasks[:, 1] == 5).all() and tasks[:, 2].tolist() == [0, 1, 2, 3, 4]
    places = spots(mazes, tasks)
    np.testing.assert_allclose(np.sort(places), np.linspace(-1, 1, 5), atol=1e-12)
    np.testing.assert_allclose(spots(mazes, tasks[[3, 1]]), places[[3, 1]], atol=1e-12)


def test_test_tasks_come_from_sample_test_tasks(mazes):
    tasks = held_out_tasks(mazes.spec, 0, 3)
    assert mazes.spec.tasks.held_out and (tasks[:, 0] < 0).all()
    assert mazes.task_words(tasks[1]) == "maze test 1"
    train = mazes.spec.tasks.sample(np.random.default_rng(0), 3)
    assert mazes.task_words(train[2]) == "maze train 2"


def test_oracle_needs_tasks_with_ranges():
    with pytest.raises(ConfigError, match="tasks of plugin_envs:Mazes are not numbers"):
        builders.make_env("plugin_envs:Mazes", 1, observe_task=True)
    with pytest.raises(ConfigError, match="plugin_envs:Spot: the task numbers have no range; give"):
        builders.make_env("plugin_envs:Spot", 1, observe_task=True)
    with closing(builders.make_env("plugin_envs:TwoWays", 1, observe_task=True)) as env:
        env.set_tasks(np.array([[-1.0], [1.0]]), 1)
        assert env.reset([np.random.default_rng(0)] * 2)[:, 2].tolist() == [-1.0, 1.0]


def test_fixed_set_of_opaque_tasks_repeats_its_tasks(mazes):
    chosen = fixed_set(mazes.spec.tasks, np.random.default_rng(0), 3)
    rows = chosen.sample(np.random.default_rng(1), 6)
    assert sorted({mazes.task_words(row) for row in rows}) == [
        "maze train 0",
        "maze train 1",
        "maze train 2",
    ]


# -------------------------------------------------------------------------------------------- runs


def records(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [without_time(json.loads(line)) for line in lines]


def test_run_with_opaque_tasks_resumes_and_is_filmed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = [*TINY, "--env", "plugin_envs:Mazes", "--trainer.evaluate-tasks", "3"]
    assert cli.main([*args, "--iterations", "4", "--run-dir", "whole"]) == 0
    out = capsys.readouterr().out
    assert "3 held-out tasks" in out and "floors: not known" in out
    assert (tmp_path / "whole" / "videos" / "adaptation.mp4").read_bytes()[4:8] == b"ftyp"

    quiet = ["--trainer.evaluate-tasks", "0", "--trainer.no-video"]
    assert cli.main([*args, *quiet, "--iterations", "2", "--run-dir", "parts"]) == 0
    more = ["--resume", "parts", "--iterations", "4", "--sampler.threads", "2"]
    assert cli.main(more) == 0
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    one, other = (
        checkpoint.load_newest(tmp_path / run / "checkpoints").tensors for run in ("whole", "parts")
    )
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_run_without_pictures_succeeds_and_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = [*TINY, "--env", "plugin_envs:Blind", "--iterations", "1", "--run-dir", "run"]
    assert cli.main([*args, "--trainer.evaluate-tasks", "0"]) == 0
    out, err = capsys.readouterr()
    reason = "plugin_envs:Blind draws no pictures: its metadata names no render mode 'rgb_array'"
    assert f"no video: {reason}\ndone: run\n" in out and err == ""
    assert commands.main(["video", "run"]) == 3
    assert capsys.readouterr().err == f"metarl: error: {reason}\n"


def test_failing_plugin_ends_training_with_exit_code_3(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = [*TINY, "--env", "plugin_envs:Raises", "--sampler.num-tasks", "20", "--run-dir", "run"]
    assert cli.main([*args, "--iterations", "2"]) == 3  # found by the check before the training
    err = capsys.readouterr().err
    assert "breaks the contract: episode: " in err and not (tmp_path / "run").exists()
    assert cli.main([*args, "--iterations", "2", "--no-check"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "iteration 1: plugin_envs:Raises, task " in err and "step 2: step raised Zero" in err
    assert "resume with: " in err


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("RaisesInTest", "ZeroDivisionError"),
        ("FewTestTasks", "sample_test_tasks(rng, 20) returned 3 tasks"),
        ("OtherTestTasks", "the tasks are not all of one form: (0.1, 0.2)"),
    ],
)
def test_unusable_test_tasks_are_found_before_the_training(
    tmp_path, monkeypatch, capsys, kind, problem
):
    monkeypatch.chdir(tmp_path)
    args = [*TINY, "--env", f"odd_envs:{kind}", "--iterations", "1", "--run-dir", "run"]
    assert cli.main([*args, "--no-check"]) == 3
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"test tasks: odd_envs:{kind}: sample: " in err
    assert problem in err and not (tmp_path / "run").exists()


def test_run_leaves_no_output_and_no_shared_memory(tmp_path):
    train = Path(__file__).resolve().parents[3] / "train.py"
    path = os.path.dirname(plugin_envs.__file__)
    args = [*TINY, "--env", "plugin_envs:Spot", "--iterations", "1", "--run-dir", "run"]
    with subprocess.Popen(
        [sys.executable, train, *args, "--trainer.evaluate-tasks", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.endswith("video: run/videos/adaptation.mp4\ndone: run\n")
    assert not list(Path("/dev/shm").glob(f"metarl-{process.pid}-*"))


def test_run_with_discrete_actions_learns(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = (
        "--env plugin_envs:Levers --device cpu --learner.hidden-sizes 8 --learner.inner-lr 3 "
        "--learner.max-kl 0.1 --sampler.num-tasks 6 --sampler.num-episodes 6 --iterations 4 "
        "--sampler.threads 1 --trainer.no-tensorboard --trainer.evaluate-tasks 6 --run-dir run"
    ).split()
    assert cli.main(args) == 0
    mean = json.loads((tmp_path / "run" / "evaluation.json").read_text())["returns"]["mean"]
    # eight random pulls pay 8 / 3
    assert mean[0] < 4.0 and mean[1] > 6.0 and mean[3] > 7.0
    assert "policy/log_std" not in records(tmp_path / "run")[0]
    capsys.readouterr()
