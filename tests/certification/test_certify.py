"""Certificates: against plain loops, stopped and resumed, and what is refused."""

import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from certificates import (
    HOPPER_GRID,
    NAVIGATION_GRID,
    play_episode,
    read_certificate,
    save_linear_onnx,
    save_ppo,
    without_times,
    write_grid,
)

import metarl
from metarl.certification import certify as module
from metarl.certification.candidates import Source, open_candidate
from metarl.certification.cells import draw_tasks, make_cells
from metarl.certification.grid import read_grid
from metarl.core.errors import CheckpointError, ConfigError, NumericalError, Preempted
from metarl.core.rng import stream
from metarl.envs.registry import make
from metarl.evaluation.evaluate import evaluate
from metarl.sampling.sampler import Key

LEARNERS = {
    "rl2": {"memory_size": 8, "hidden_size": 8, "minibatches": 1},
    "maml-trpo": {"hidden_sizes": (8,)},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one iteration on navigation-2d, by the learner, and an oracle of hopper."""
    folder, paths = tmp_path_factory.mktemp("runs"), {}
    sampler = {"num_tasks": 2, "num_episodes": 2, "threads": 1}
    for name, env, algo, more in (
        ("rl2", "navigation-2d", "rl2", {}),
        ("maml-trpo", "navigation-2d", "maml-trpo", {}),
        ("oracle", "hopper-vel-friction", "maml-trpo", {"observe_task": True}),
    ):
        settings = {"iterations": 1, "sampler": sampler, "run_dir": folder / name, **more}
        settings |= {"learner": LEARNERS[algo], "trainer": {"tensorboard": False}}
        metarl.train(env, algo, evaluate=False, **settings).close()
        paths[name] = folder / name
    return paths


@pytest.fixture(scope="module")
def ppo(tmp_path_factory):
    path = tmp_path_factory.mktemp("sb3") / "walker.zip"
    return path, save_ppo(path)


def test_environment_of_an_old_run_is_closed(runs, tmp_path, monkeypatch):
    """Runs of old versions have no spec of their environment, which is built to read it."""
    run = tmp_path / "run"
    shutil.copytree(runs["rl2"], run)
    record = json.loads((run / "run.json").read_text())
    del record["env"]
    (run / "run.json").write_text(json.dumps(record))
    built, closed = [], []

    def build(*arguments, **options):
        built.append(make("navigation-2d", 1))
        monkeypatch.setattr(built[-1], "close", lambda: closed.append(True), raising=False)
        return built[-1]

    monkeypatch.setattr("metarl.trained_policy.build_env", build)
    open_candidate(Source(run), make("navigation-2d", 1).spec, 1)
    assert len(built) == len(closed) == 1


SB3 = {"sb3_class": "PPO", "trusts_pickle": True}


def check_against_loops(folder, certificate, policy):
    """Plays the tasks of every cell in plain loops over Gymnasium environments."""
    built = {}

    def spec_of(name):
        built.setdefault(name, make(name, 1))
        return built[name].spec

    cells = make_cells(read_grid(folder / "grid.yaml"), "hopper-vel", spec_of)
    assert [cell.name for cell in cells] == [cell["name"] for cell in certificate["cells"]]
    for cell, result in zip(cells, certificate["cells"], strict=True):
        env = built[cell.env]
        tasks = draw_tasks(cell, env.spec, 0, 3)
        # every attempt of a policy that does not adapt has the same starts, and so the same episode
        played = [play_episode(env, task, policy, 0, index) for index, task in enumerate(tasks)]
        returns, steps, fell = map(np.array, zip(*played, strict=True))
        for attempt in range(2):
            assert result["returns"]["per_task"][attempt] == pytest.approx(returns, rel=1e-5)
            assert result["survival"]["per_task"][attempt] == (1.0 - fell).tolist()
            assert result["seconds"][attempt] == pytest.approx(steps.mean() * env.spec.dt)
    for env in built.values():
        env.close()


def test_sb3_policy_has_the_returns_of_plain_loops(ppo, tmp_path, capsys):
    path, model = ppo
    grid, output = write_grid(tmp_path, HOPPER_GRID), tmp_path / "out"
    options = {"grid": grid, "output": output, "threads": 1, **SB3}
    certificate = metarl.certify(path, "hopper-vel", **options)
    assert f"warning: loading {path} runs code that is in it" in capsys.readouterr().err
    assert certificate["cells"][0]["training"] == "unknown"
    assert certificate["policy"]["algo"] == "PPO of Stable-Baselines3"
    check_against_loops(
        tmp_path, certificate, lambda obs: model.predict(obs, deterministic=True)[0]
    )


def test_onnx_policy_has_the_returns_of_plain_loops(tmp_path):
    weights = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    path = save_linear_onnx(tmp_path / "linear.onnx", weights)
    grid, output = write_grid(tmp_path, HOPPER_GRID), tmp_path / "out"
    certificate = metarl.certify(path, "hopper-vel", grid=grid, output=output, threads=1)
    assert read_certificate(output) == certificate
    check_against_loops(tmp_path, certificate, lambda obs: np.tanh(obs @ weights))
    again = metarl.certify(path, "hopper-vel", grid=grid, output=tmp_path / "two", threads=2)
    assert without_times(again) == without_times(certificate)


@pytest.mark.parametrize("name", LEARNERS)
def test_exported_policy_has_the_certificate_of_its_run(runs, tmp_path, name):
    """With the memory or the gradient steps of the run, from the file alone."""
    grid, path = write_grid(tmp_path, NAVIGATION_GRID), tmp_path / "policy.onnx"
    with metarl.load(runs[name], threads=1) as policy:
        metarl.export(policy, path)
    options = {"grid": grid, "seed": 5, "axes": ["goal"], "threads": 1}
    own, exported = (
        metarl.certify(each, output=tmp_path / f"out-{i}", **options)
        for i, each in enumerate((runs[name], path))
    )
    assert exported["env"] == own["env"]
    for one, other in zip(own["cells"], exported["cells"], strict=True):
        assert one["training"] == other["training"]
        assert one["episodes_per_task"] == other["episodes_per_task"]
        for left, right in zip(*(c["returns"]["per_task"] for c in (one, other)), strict=True):
            assert left == pytest.approx(right, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("name", LEARNERS)
def test_own_policy_has_the_returns_of_an_evaluation(runs, tmp_path, name):
    grid = write_grid(tmp_path, NAVIGATION_GRID)
    options = {"grid": grid, "output": tmp_path / "out", "seed": 5, "axes": ["goal"]}
    certificate = metarl.certify(runs[name], threads=1, **options)
    nominal = certificate["cells"][0]
    assert nominal["training"] == "inside" and certificate["env"] == "navigation-2d"
    with metarl.load(runs[name], threads=1) as policy:
        tasks = policy.env.spec.tasks.test.sample(stream(5, "certify-tasks"), 3)
        pools = policy.learner.pools_episodes
        assert nominal["episodes_per_task"] == (2 if pools else 1)
        size = {"num_episodes": 2 if pools else 1, "num_adaptations": 1}
        key = Key(5, "certify", 0)
        expected = evaluate(policy.env, policy.learner, tasks, **size, key=key, explore=False)
    assert nominal["returns"]["per_task"] == expected.returns.mean(axis=2).tolist()
    gain = np.diff(expected.returns.mean(axis=(1, 2)))[0]
    assert nominal["gain"]["mean"] == pytest.approx(gain)
    assert nominal["survival"]["mean"] == [1.0, 1.0]


def test_oracle_is_played_in_its_environment(runs, ppo, tmp_path):
    grid = write_grid(tmp_path, HOPPER_GRID)
    options = {"grid": grid, "output": tmp_path / "out", "threads": 1, **SB3}
    certificate = metarl.certify(ppo[0], "hopper-vel", oracles=[runs["oracle"]], **options)
    is_played = {cell["axis"]: cell["oracle"] is not None for cell in certificate["cells"]}
    assert is_played == {"nominal": False, "friction": True, "delay": False}
    page = (tmp_path / "out" / "certificate.html").read_text()
    assert "oracle return" in page
    with pytest.raises(ConfigError, match="its policy does not observe the task"):
        metarl.certify(ppo[0], "hopper-vel", oracles=[runs["rl2"]], **options)
    with pytest.raises(
        ConfigError, match="it is of hopper-vel-friction; the grid has hopper-vel, "
    ):
        again = {**options, "axes": ["delay"], "output": tmp_path / "other"}
        metarl.certify(ppo[0], "hopper-vel", oracles=[runs["oracle"]], **again)
    assert not (tmp_path / "other").exists()


def test_reward_terms_add_up_to_the_return(runs, tmp_path):
    grid, options = write_grid(tmp_path, HOPPER_GRID), {"axes": ["friction"], "threads": 1}
    output = tmp_path / "out"
    certificate = metarl.certify(runs["oracle"], grid=grid, output=output, **options)
    assert certificate["env"] == "hopper-vel-friction"
    assert [cell["training"] for cell in certificate["cells"]] == ["outside", "inside", "outside"]
    for cell in certificate["cells"]:
        assert cell["episodes_per_task"] == 2
        for terms, seconds, mean in zip(
            cell["reward_terms"], cell["seconds"], cell["returns"]["mean"], strict=True
        ):
            steps = seconds / 0.008  # of a control step of the hopper
            assert sum(terms.values()) * steps == pytest.approx(mean, rel=1e-5)


def test_stopped_certificate_goes_on_and_is_the_same(runs, tmp_path, monkeypatch, capsys):
    grid = write_grid(tmp_path, NAVIGATION_GRID)
    options = {"grid": grid, "threads": 1}
    whole = metarl.certify(runs["rl2"], output=tmp_path / "whole", **options)
    measure, played = module._measure, []

    def stop_in_third(plan, cell):
        played.append(cell.name)
        if len(played) == 3:
            raise KeyboardInterrupt
        return measure(plan, cell)

    monkeypatch.setattr(module, "_measure", stop_in_third)
    text = "stopped by SIGINT; 2 of 5 cells are kept; go on with: metarl certify X"
    with pytest.raises(Preempted, match=text):
        metarl.certify(
            runs["rl2"], output=tmp_path / "cut", resume_hint="metarl certify X", **options
        )
    assert not (tmp_path / "cut" / "certificate.json").exists()
    capsys.readouterr()
    resumed = metarl.certify(runs["rl2"], output=tmp_path / "cut", **options)
    assert "2 of 5 cells are finished already" in capsys.readouterr().out
    assert len(played) == 6  # two, the one that was stopped, and three
    assert without_times(resumed) == without_times(whole)
    files = {path.name for path in (tmp_path / "cut").iterdir()}
    names = ["settings.json", "cells", "certificate.json", "certificate.html", "badge.svg"]
    assert files == set(names)


def test_other_settings_are_refused(runs, tmp_path):
    grid, output = write_grid(tmp_path, NAVIGATION_GRID), tmp_path / "out"
    options = {"grid": grid, "output": output, "threads": 1}
    metarl.certify(runs["rl2"], **options)
    before = read_certificate(output)
    for change, message in (
        ({"seed": 1}, "has seed 0, now it is 1; choose another folder with -o"),
        ({"num_tasks": 4}, "has grid.num_tasks 3, now it is 4"),
        ({"product": True}, "has grid.product False, now it is True"),
    ):
        with pytest.raises(ConfigError, match=message):
            metarl.certify(runs["rl2"], **options, **change)
    with pytest.raises(ConfigError, match=r"has policy.name 'rl2', now it is 'maml-trpo'"):
        metarl.certify(runs["maml-trpo"], **options)
    assert read_certificate(output) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(ConfigError, match="mine: exists and is no certificate"):
        metarl.certify(runs["rl2"], **options | {"output": tmp_path / "mine"})


def refuse(path, error, message, env="hopper-vel", folder=None, **options):
    grid = write_grid(folder, HOPPER_GRID)
    with pytest.raises(error, match=message):
        metarl.certify(path, env, grid=grid, output=folder / "out", threads=1, **options)
    assert not (folder / "out").exists()


def test_unusable_policies_are_refused(runs, ppo, tmp_path):
    path, weights = ppo[0], np.zeros((11, 3))
    trusted = {"folder": tmp_path, "trusts_pickle": True}
    refuse(tmp_path / "no", CheckpointError, "there is no such run folder or file", folder=tmp_path)
    refuse(path, ConfigError, "--sb3 is missing: name the class that saved", **trusted)
    text = "runs code that is in such a file; if you trust its origin, add --trust-pickle"
    refuse(path, ConfigError, text, sb3_class="PPO", folder=tmp_path)
    refuse(
        path, ConfigError, "--sb3 PPPO: must be one of A2C.*mean PPO", sb3_class="PPPO", **trusted
    )
    refuse(runs["rl2"], ConfigError, "--sb3 PPO: .* is no zip", sb3_class="PPO", **trusted)
    broken = tmp_path / "broken.zip"
    broken.write_bytes(path.read_bytes()[:100])
    refuse(broken, CheckpointError, "broken.zip is damaged", sb3_class="PPO", **trusted)
    text = "walker.zip: it has 11 observations, ant-vel has 27"
    refuse(path, ConfigError, text, env="ant-vel", sb3_class="PPO", **trusted)
    text = "rl2: it has 2 observations, hopper-vel has 11"
    refuse(runs["rl2"], ConfigError, text, folder=tmp_path)
    refuse(path, ConfigError, "--env is missing", env="", sb3_class="PPO", **trusted)
    onnx = tmp_path / "bad.onnx"
    onnx.write_bytes(b"no graph")
    refuse(onnx, CheckpointError, "bad.onnx is no ONNX file", folder=tmp_path)
    save_linear_onnx(onnx, weights[:, :2])
    refuse(onnx, ConfigError, "action_size is 2; the environment hopper-vel has 3", folder=tmp_path)
    shutil.copytree(runs["rl2"], tmp_path / "empty")
    (tmp_path / "empty" / "config.yaml").unlink()
    refuse(tmp_path / "empty", CheckpointError, "is not a run folder", env="", folder=tmp_path)


def test_action_that_is_not_finite_ends_with_the_cell(tmp_path):
    path = save_linear_onnx(tmp_path / "nan.onnx", np.full((11, 3), np.nan))
    grid = write_grid(tmp_path, HOPPER_GRID)
    with pytest.raises(NumericalError, match="nominal: task 0.*the policy chose action nan"):
        metarl.certify(path, "hopper-vel", grid=grid, output=tmp_path / "out", threads=1)


def test_page_and_badge_load_nothing(runs, tmp_path):
    grid, output = write_grid(tmp_path, NAVIGATION_GRID), tmp_path / "out"
    certificate = metarl.certify(runs["rl2"], grid=grid, output=output, threads=1)
    page = (output / "certificate.html").read_text()
    assert not re.search(r"https?:|<script|<link|src=|@import|url\(", page)
    for cell in certificate["cells"]:
        assert f">{cell['level'] or 'the environment itself'}</th>" in page
        assert f"{cell['returns']['mean'][-1]:.2f}" in page
    assert "goal_x" in page and "metarl-certificate/1" in page
    badge = ElementTree.parse(output / "badge.svg")
    texts = [node.text for node in badge.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["survives", "100 %"]
