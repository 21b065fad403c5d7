"""The examples, installed and run as a user does."""

import importlib
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from served_policy import make_server, running

import metarl
from metarl.cli import commands
from metarl.cli import train as cli
from metarl.deployment.onnx_policy import OnnxPolicy
from metarl.deployment.serving.transports import Udp
from metarl.envs.env_checker import check
from metarl.envs.plugins.subproc_env import SubprocEnv
from metarl.envs.registry import make

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PRETRAINED = EXAMPLES.parent / "pretrained"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Installs examples/hidden_spot with pip, without a network; returns the folder."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLES / "hidden_spot", folder / "source")  # a build writes into its folder
    command = "-m pip install --quiet --no-index --no-deps --no-build-isolation --target"
    subprocess.run(
        [sys.executable, *command.split(), folder / "target", folder / "source"],
        check=True,
        capture_output=True,
    )
    return folder / "target"


def test_plugin_with_packaging_has_fewer_than_25_lines():
    files = [*EXAMPLES.glob("hidden_spot/*.py"), *EXAMPLES.glob("hidden_spot/*.toml")]
    lines = [line for path in files for line in path.read_text().splitlines() if line.strip()]
    assert len(files) == 2 and len(lines) < 25


def test_installed_plugin_is_checked_and_trained_by_name(installed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(installed))
    assert commands.main(["check-env", "hidden-spot"]) == 0
    args = (
        "--env hidden-spot --iterations 2 --run-dir run --device cpu --learner.hidden-sizes 8 "
        "--sampler.num-tasks 2 --sampler.num-episodes 2 --sampler.threads 2 "
        "--trainer.evaluate-tasks 2 --trainer.no-tensorboard"
    )
    assert cli.main(args.split()) == 0
    assert "2 held-out tasks x 2 episodes" in capsys.readouterr().out


def test_vectorised_example_keeps_the_contract_and_agrees(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "vectorised"))
    monkeypatch.syspath_prepend(str(EXAMPLES / "hidden_spot"))
    findings = check(lambda threads: make("hidden_spots:make", threads))
    assert not any(f.violation for f in findings) and all(f.checked for f in findings)
    tasks, alive = np.array([[0.5], [-0.2]]), np.ones(2, dtype=bool)
    fast = make("hidden_spots:make")
    with closing(make("hidden_spot:HiddenSpot", 1)) as slow:
        assert isinstance(slow, SubprocEnv)
        changes = []
        for env in (fast, slow):
            env.set_tasks(tasks, 1)
            start = env.reset([np.random.default_rng(i) for i in range(2)]).copy()
            steps = [env.step(np.array([[1.0], [-3.0]]), alive) for _ in range(3)]
            moved, reward = steps[-1].obs - start, steps[-1].reward
            np.testing.assert_allclose(reward, -np.abs(steps[-1].obs - tasks)[:, 0], rtol=1e-6)
            changes.append(moved)
    np.testing.assert_allclose(changes, [[[0.3], [-0.3]]] * 2, rtol=1e-6)
    with pytest.raises(RuntimeError, match="hidden_spots:make draws no pictures"):
        fast.snapshot()


# --- exported policies ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("policy") / "policy.onnx"
    metarl.export(EXAMPLES.parent / "pretrained" / "half-cheetah-dir", path)
    return path


def play_with_session(path, observations):
    session = OnnxPolicy(path).start()
    return [session.act(obs, 0.0 if t else None) for t, obs in enumerate(observations)]


def test_python_example_plays_as_a_session(policy_file, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "onnx"))
    play_policy = importlib.import_module("play_policy")
    policy, rng = play_policy.Policy(str(policy_file)), np.random.default_rng(0)
    observations = rng.standard_normal((20, 17))
    found = [policy.act(obs) for obs in observations]
    np.testing.assert_allclose(found, play_with_session(policy_file, observations), atol=1e-6)


def test_python_example_needs_no_torch(policy_file):
    code = "import sys, runpy\nsys.argv = ['play', sys.argv[1]]\n"
    code += f"runpy.run_path({str(EXAMPLES / 'onnx' / 'play_policy.py')!r}, run_name='__main__')\n"
    code += "assert not {'torch', 'metarl', 'mujoco', 'onnx'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code, policy_file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rl2 on half-cheetah-dir, 20 steps a second\nstep    0: [" in done.stdout


def test_cpp_example_plays_as_a_session(policy_file, tmp_path):
    """ONNXRUNTIME is the folder of onnxruntime's C++ package, with include/ and lib/."""
    package, compiler = Path(os.environ.get("ONNXRUNTIME", "/usr")), shutil.which("g++")
    headers = [package / "include", package / "include" / "onnxruntime"]
    include = next((each for each in headers if (each / "onnxruntime_cxx_api.h").exists()), None)
    if compiler is None or include is None:
        pytest.skip("needs g++ and onnxruntime's C++ package; ONNXRUNTIME names its folder")
    source, program = EXAMPLES / "onnx" / "play_policy.cpp", tmp_path / "play_policy"
    command = f"-std=c++17 -O2 {source} -I{include} -L{package}/lib -Wl,-rpath,{package}/lib"
    subprocess.run([compiler, *command.split(), "-lonnxruntime", "-o", program], check=True)
    done = subprocess.run([program, policy_file, "20"], capture_output=True, text=True, check=True)
    found = np.array([line.split() for line in done.stdout.splitlines()], dtype=float)
    steps, numbers = np.arange(20)[:, None], np.arange(17)
    expected = play_with_session(policy_file, np.sin(0.1 * steps + numbers))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture
def leg_dies(monkeypatch):
    """The example whose robot asks a server."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "live"))
    import leg_dies

    return leg_dies


def test_live_robot_plays_episodes_with_a_dead_leg(leg_dies, monkeypatch, capsys):
    with (
        metarl.load(PRETRAINED / "half-cheetah-dir", threads=1) as policy,
        closing(Udp("127.0.0.1", 0)) as transport,
    ):
        server = make_server(policy, transport, watchdog=10.0)
        env = "half-cheetah-dir-cripple"
        flags = ["--env", env, "--port", str(transport.port), "--trials", "1", "--limb", "bfoot"]
        monkeypatch.setattr("sys.argv", ["leg_dies.py", *flags])
        with running(server):
            leg_dies.main()
    # cleared before each step, an episode has one step
    assert server.steps == 3 * 3 * 200 and server.episodes == 2 * 3 + 3 * 200
    lines = capsys.readouterr().out.splitlines()
    kept, cleared, forgetful = ([float(word) for word in line.split()[-6:]] for line in lines[2:5])
    # the trials begin alike, and the leg dies
    assert kept[:2] == cleared[:2] != forgetful[:2] and kept[2:] != cleared[2:]
    assert kept[0] > 300.0 and kept[0] + kept[1] > kept[2] + kept[3]


def test_live_robot_sends_the_servers_controls(leg_dies):
    with closing(make("quadruped-command-cripple", 1)) as env:
        env.set_tasks(np.zeros((1, 2)), 1)
        env.reset([np.random.default_rng(0)])
        controls = np.float32(env.spec.action_centre) + np.linspace(-0.3, 0.3, 12, dtype="f4")
        env.step(leg_dies.to_output(env.spec, controls), np.ones(1, dtype=bool))
        np.testing.assert_allclose(env._ctrl[0, 3:], controls[3:], atol=1e-6)
