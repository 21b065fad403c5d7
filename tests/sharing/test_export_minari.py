"""Learning histories as data sets of Minari, against the sampler's rollouts number by number."""

import sys
from contextlib import closing
from importlib.util import find_spec

import numpy as np
import pytest
from commands import REPOSITORY, is_one_line

import metarl
from metarl.cli import commands
from metarl.core.errors import ConfigError, RunExists
from metarl.core.rollout import Rollout
from metarl.evaluation.evaluate import held_out_tasks
from metarl.sampling.sampler import Collector, Key
from metarl.sharing.histories import export_minari

minari = pytest.importorskip("minari", reason="pip install 'metarl-robots[minari]'")
needs_hdf5 = pytest.mark.skipif(find_spec("h5py") is None, reason="pip install h5py")

SIZES = {"num_tasks": 3, "num_episodes": 2, "num_adaptations": 1, "threads": 1}
LEARNERS = {"maml-trpo": {"hidden_sizes": (8,)}, "rl2": {"minibatches": 2}}
OFF = {"evaluate_tasks": 0, "video": False, "logger": "none"}
K = 2


@pytest.fixture(scope="module", params=LEARNERS)
def policy(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("histories") / "run"
    settings = {"learner": LEARNERS[request.param], "sampler": SIZES, "trainer": OFF}
    with metarl.train("ant-dir", request.param, iterations=1, run_dir=path, **settings) as policy:
        yield policy


def play(policy, num_tasks):
    """Plays the trial of an evaluation by the sampler."""
    config, env = policy.config, policy.env
    tasks = held_out_tasks(env.spec, config.seed, num_tasks)
    with closing(Collector(env)) as collector:
        key = Key(config.seed, "evaluate", 0)
        rollouts, _ = collector.trial(policy.learner, tasks, 2, K, key)
        copies = [Rollout(**{n: a.clone() for n, a in vars(r).items()}) for r in rollouts]
    return tasks, copies


@needs_hdf5
def test_data_set_has_the_numbers_of_the_sampler(policy, tmp_path):
    folder = policy.path.parent / "set"
    options = {"num_tasks": 3, "num_adaptations": K, "distribution": "test"}
    assert export_minari(policy, folder, **options) == folder
    tasks, rollouts = play(policy, 3)
    data, pools = minari.MinariDataset(folder), policy.config.algo == "maml-trpo"
    assert data.total_episodes == 3 * 2 * (K + 1)
    assert data.total_steps == sum(rollout.num_steps() for rollout in rollouts)
    following = iter(data.iterate_episodes())
    for task in range(3):
        orders = [[(k, e) for k in range(K + 1) for e in range(2)]]
        if not pools:
            orders = [[(k, e) for k in range(K + 1)] for e in range(2)]
        for own, order in enumerate(orders):
            for number, (k, e) in enumerate(order):
                episode, rollout = next(following), rollouts[k]
                length = int(rollout.valid[task, e].sum())
                assert len(episode) == length
                for t in range(length):
                    np.testing.assert_array_equal(episode.observations[t], rollout.obs[task, e, t])
                    np.testing.assert_array_equal(episode.actions[t], rollout.action[task, e, t])
                    assert episode.rewards[t] == rollout.reward[task, e, t]
                    has_ended = t == length - 1
                    failed = bool(rollout.terminated[task, e])
                    assert episode.terminations[t] == (has_ended and failed)
                    assert episode.truncations[t] == (has_ended and not failed)
                np.testing.assert_array_equal(
                    episode.observations[length], rollout.last_obs[task, e]
                )
                infos = episode.infos
                assert (infos["task"] == tasks[task]).all() and len(infos["task"]) == length + 1
                assert (infos["trial"] == task * len(orders) + own).all()
                assert (infos["episode"] == number).all() and (infos["adaptations"] == k).all()


@needs_hdf5
def test_held_out_returns_are_those_of_the_evaluation(policy, tmp_path):
    folder = export_minari(
        policy, tmp_path / "set", num_tasks=2, num_adaptations=1, distribution="test"
    )
    returns = [[], []]
    for episode in minari.MinariDataset(folder):
        returns[episode.infos["adaptations"][0]].append(episode.rewards.sum(dtype=float))
    result = metarl.evaluate(policy, num_tasks=2, num_adaptations=1)
    np.testing.assert_allclose(np.mean(returns, axis=1), result["returns"]["mean"], rtol=1e-12)


@needs_hdf5
def test_command_writes_a_listed_data_set(policy, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    words = ["export", str(policy.path), "--format", "minari", "-o", "ant-dir/mine-v1"]
    flags = "--num-tasks 2 --num-adaptations 0 --seed 5 --threads 1".split()
    assert commands.main([*words, *flags]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path}/ant-dir/mine-v1/data\n")
    assert list(minari.list_local_datasets()) == ["ant-dir/mine-v1"]
    data = minari.load_dataset("ant-dir/mine-v1")
    assert data.total_episodes == 4
    facts = data.storage.metadata["metarl"]
    assert facts["env"] == "ant-dir" and facts["seed"] == 5
    assert facts["task_variables"] == [{"name": "angle", "unit": "rad"}]
    assert data.storage.metadata["algorithm_name"] == policy.config.algo
    env = data.recover_environment()
    assert env.unwrapped.spec.id == "metarl/ant-dir"
    env.close()
    angles = {episode.infos["task"][0, 0] for episode in data}
    again = export_minari(policy, tmp_path / "b", num_tasks=2, num_adaptations=0, seed=5)
    assert {episode.infos["task"][0, 0] for episode in minari.MinariDataset(again)} == angles
    other = export_minari(policy, tmp_path / "c", num_tasks=2, num_adaptations=0, seed=6)
    assert not {episode.infos["task"][0, 0] for episode in minari.MinariDataset(other)} & angles
    assert commands.main([*words, *flags]) == 2
    assert "exists and is never overwritten" in capsys.readouterr().err
    with pytest.raises(RunExists):
        export_minari(policy, tmp_path / "b")


@needs_hdf5
def test_bad_arguments_write_nothing(policy, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "a b-v0", "mine-v", "../x/y/mine", ""):
        with pytest.raises(ConfigError, match="data set"):
            export_minari(policy, name)
    for options in ({"num_tasks": 0}, {"num_adaptations": -1}, {"distribution": "all"}):
        (name,) = options
        with pytest.raises(ConfigError, match=f"{name} = .* must be"):
            export_minari(policy, "mine-v0", **options)
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob(".mine*"))


@needs_hdf5
def test_failed_disk_leaves_no_half(policy, tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.rename", fails)
    with pytest.raises(metarl.core.errors.ResourceError, match="No space left"):
        export_minari(policy, tmp_path / "set", num_tasks=1, num_adaptations=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["minari", "h5py"])
def test_missing_package_says_what_to_install(package, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    run = REPOSITORY / "pretrained" / "navigation-2d"
    assert commands.main(["export", str(run), "--format", "minari", "-o", f"{tmp_path}/x"]) == 6
    err = capsys.readouterr().err
    assert is_one_line(err) and "pip install 'metarl-robots[minari]'" in err
