"""Files of sweeps: what they ask for, and what is refused."""

import pytest

from metarl.config.schema import build_config
from metarl.core.errors import ConfigError
from metarl.sweeps.sweep import Choices, Interval, find_sweep, list_sweeps, read_sweep

GOOD = """
env: navigation-2d
algo: rl2
trials: 7
seeds: [3, 4]
settings: {iterations: 5, sampler: {num_tasks: 8}}
search:
  learner.lr: {low: 3e-4, high: 1e-2, log: true}
  learner.memory_size: {low: 16, high: 64, step: 16}
  learner.memory: {choices: [gru, mingru]}
"""


def read(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return read_sweep(path, tmp_path / "out")


def test_file_says_what_is_searched_for(tmp_path):
    sweep = read(tmp_path, GOOD)
    assert sweep.search == {
        "learner.lr": Interval(3e-4, 1e-2, log=True),
        "learner.memory_size": Interval(16, 64, step=16, is_whole=True),
        "learner.memory": Choices(("gru", "mingru")),
    }
    assert (sweep.trials, sweep.seeds, sweep.name) == (7, (3, 4), "mine")


@pytest.mark.parametrize("ends", [(0, 1), (0.0, 1.0), (1, 2)])
def test_whole_ends_of_a_real_setting_leave_it_real(tmp_path, ends):
    low, high = ends
    name = "learner.max_kl" if high == 2 else "learner.discount"
    text = f"env: ant-dir\nalgo: rl2\nsearch: {{{name}: {{low: {low}, high: {high}}}}}"
    (found,) = read(tmp_path, text).search.values()
    optuna = pytest.importorskip("optuna", reason="needs the extra sweep")
    drawn = found.suggest(optuna.trial.FixedTrial({name: low + 0.25}), name)
    assert found == Interval(low, high) and drawn == low + 0.25


@pytest.mark.parametrize(("low", "high", "step"), [(0.1, 0.7, 0.2), (0.8, 0.98, 0.06)])
def test_step_of_decimals_divides_the_interval(low, high, step):
    assert Interval(low, high, step=step).ends() == (low, high)


def test_choices_with_exponents_are_numbers(tmp_path):
    text = "env: ant-dir\nalgo: rl2\nsearch: {learner.lr: {choices: [1e-3, 3e-4]}}"
    assert read(tmp_path, text).search == {"learner.lr": Choices((1e-3, 3e-4))}


def test_runs_of_a_trial_differ_in_their_seed_alone(tmp_path):
    sweep = read(tmp_path, GOOD)
    values = {"learner.lr": 1e-3, "learner.memory": "mingru", "learner.memory_size": 32}
    first, second = sweep.runs(values)
    settings = {"iterations": 5, "sampler": {"num_tasks": 8, "threads": 1}, **values}
    assert first.config == build_config("navigation-2d", "rl2", {**settings, "seed": 3})
    assert second.config == build_config("navigation-2d", "rl2", {**settings, "seed": 4})
    assert first.folder.parent == second.folder.parent != first.folder
    again = sweep.runs(dict(reversed(values.items())))
    assert [run.folder for run in again] == [first.folder, second.folder]
    assert sweep.runs({**values, "learner.lr": 2e-3})[0].folder.parent != first.folder.parent


BAD = [
    ("{}", "env = '': must be the name of an environment"),
    ("env: ant-dir", "search is missing"),
    ("env: ant-dri\nsearch: {seed: {low: 0, high: 3}}", "search.seed: is fixed already"),
    ("env: ant-dir\nsaerch: {}", "unknown key saerch; did you mean search"),
    ("env: ant-dir\nsearch: 3", "search = 3: must be a group of keys"),
    ("env: ant-dir\ntrials: 0\nsearch: {x: 1}", "trials = 0: must be at least 1"),
    ("env: ant-dir\nseeds: [1, 1]\nsearch: {x: 1}", "seeds = .*: must be distinct"),
    ("env: ant-dir\nsearch: {learner.inner_lr: 3}", "search.learner.inner_lr: 3: must be"),
    (
        "env: ant-dir\nsearch: {learner.inner_lr: {low: 2, high: 1}}",
        "search.learner.inner_lr: low = 2.0: must be less than high = 1.0",
    ),
    (
        "env: ant-dir\nsearch: {learner.inner_lr: {low: 0, high: 1, log: true}}",
        "low = 0.0: must be > 0 where log is true",
    ),
    (
        "env: ant-dir\nsearch: {learner.inner_lr: {low: 1}}",
        "low = 1.0: must be less than high = nan",
    ),
    (
        "env: ant-dir\nsearch: {iterations: {low: 1, high: 2.5}}",
        "search.iterations: high = 2.5: must be whole, as the setting is",
    ),
    (
        "env: ant-dir\nsearch: {iterations: {low: 1, high: 2, is_whole: true}}",
        "search.iterations: unknown key is_whole",
    ),
    ("env: ant-dir\nsearch: {learner.inner_lr: {choices: [1]}}", "a list of two or more"),
    ("env: ant-dir\nsearch: {learner.inner_lr: {choices: [1, [2]]}}", r"\[2\]: must be a number"),
    ("env: ant-dir\nsearch: {learner.inner_lr: {choices: [1, 2, 1.0]}}", "1: is given twice"),
    (
        "env: ant-dir\nsearch: {iterations: {low: 1, high: 10, step: 2}}",
        "search.iterations: step = 2.0: must be a divisor of high - low = 9",
    ),
    (
        "env: ant-dir\nsearch: {learner.inner_lr: {low: 0.1, high: 0.2, step: 0.5}}",
        "search.learner.inner_lr: step = 0.5: must be a divisor of high - low = 0.1",
    ),
    (
        "env: ant-dir\nsearch: {learner.inner_rl: {low: 1, high: 2}}",
        "search.learner.inner_rl = 1.0: unknown key learner.inner_rl; did you mean",
    ),
    (
        "env: ant-dir\nsearch: {learner.inner_lr: {low: -1.5, high: 2}}",
        r"search.learner.inner_lr = -1.5: learner.inner_lr = -1.5: must be",
    ),
    (
        "env: ant-dir\nsettings: {iterations: 3}\nsearch: {iterations: {low: 1, high: 2}}",
        "search.iterations: is fixed already",
    ),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_file_that_cannot_be_used_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_shipped_sweeps_can_be_read():
    assert list(list_sweeps()) == ["navigation-2d"]
    for path in list_sweeps().values():
        assert read_sweep(path).about
    with pytest.raises(ConfigError, match="no such file; did you mean navigation-2d"):
        find_sweep("navigation-3d")
