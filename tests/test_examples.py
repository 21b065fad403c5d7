"""The examples, installed and run as a user does."""

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
