"""The command `explain` on trained runs, and its plot in the report."""

import json
import shutil

import pytest
from commands import is_one_line, read_files

import metarl
from metarl.cli import commands
from metarl.core.errors import ConfigError

SIZES = {
    "rl2": {"memory_size": 8, "hidden_size": 8, "minibatches": 1},
    "maml-trpo": {"hidden_sizes": (8,)},
    "sb3-ppo": {},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs of one iteration on navigation-2d, by the learner."""
    folder, paths = tmp_path_factory.mktemp("runs"), {}
    for algo, learner in SIZES.items():
        settings = {
            "iterations": 1,
            "learner": learner,
            "sampler": {"num_tasks": 4, "num_episodes": 2, "threads": 1},
            "trainer": {"tensorboard": False},
            "run_dir": folder / algo,
        }
        with metarl.train("navigation-2d", algo, evaluate=False, **settings) as policy:
            paths[algo] = policy.path
    return paths


@pytest.fixture
def copy(runs, tmp_path):
    """Copies the run of a learner, which a test may write to."""
    return lambda algo: shutil.copytree(runs[algo], tmp_path / algo)


def explain(run, *flags):
    return commands.main(["explain", str(run), "--threads", "1", *map(str, flags)])


def read(run):
    return json.loads((run / "explain.json").read_text())


def test_explain_probes_the_memory_of_rl2(copy, tmp_path, capsys):
    run, out = copy("rl2"), tmp_path / "out.json"
    assert explain(run, "--num-tasks", 30, "--num-adaptations", 1, "--json", out) == 0
    tree = read(run)
    assert tree == json.loads(out.read_text())
    assert (tree["kind"], tree["distribution"], tree["num_tasks"]) == ("memory", "train", 30)
    assert tree["checkpoint"]["iteration"] == 1 and tree["algo"] == "rl2"
    assert [number["name"] for number in tree["numbers"]] == ["goal_x", "goal_y"]
    assert tree["steps"][-1] == 2 * tree["horizon"] - 1
    for number in tree["numbers"]:
        curves = [*number["memory"].values(), *number["inputs"].values()]
        assert {len(curve) for curve in curves} == {len(tree["steps"])}
        assert abs(number["memory"]["value"][0]) < 0.3  # before any reward
    shown = capsys.readouterr().out
    assert "goal_x [m]" in shown and tree["sentences"][1] in shown
    assert (run / "explain.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_explain_measures_the_layers_of_maml(copy, capsys):
    run = copy("maml-trpo")
    assert explain(run, "--num-tasks", 6) == 0
    tree = read(run)
    assert (tree["kind"], tree["distribution"]) == ("parameters", "test")
    names = ["weight0", "bias0", "weight1", "bias1", "log_std"]
    assert [layer["name"] for layer in tree["layers"]] == names
    assert all(layer["change"]["mean"] > 0.0 for layer in tree["layers"])
    assert len(tree["similarity"]) == len(tree["tasks"]) == 6
    shown = capsys.readouterr().out
    assert all(name in shown for name in names) and tree["sentences"][0] in shown
    assert (run / "explain.png").exists()


def test_explain_repeats_and_equals_the_python_function(copy):
    run = copy("maml-trpo")
    assert explain(run, "--num-tasks", 3) == 0
    first = read_files(run)
    assert metarl.explain(run, num_tasks=3) == read(run)
    assert read_files(run) == first


@pytest.mark.parametrize("algo", ["rl2", "maml-trpo"])
def test_report_shows_the_plot_of_an_explanation(algo, copy, tmp_path):
    run, page = copy(algo), tmp_path / "report.html"
    metarl.report(run, page)
    before = page.read_text()
    tree = metarl.explain(run, num_tasks=20)
    metarl.report(run, page)
    after = page.read_text()
    assert "How the policy adapts" not in before and "How the policy adapts" in after
    assert after.count("<svg") == before.count("<svg") + 1
    assert tree["sentences"][0][1:].replace("'", "&#x27;") in after


@pytest.mark.parametrize("content", ["{", "[]", '{"kind": "other"}'])
def test_damaged_explanation_is_named_by_the_report(content, copy, capsys):
    run = copy("rl2")
    (run / "explain.json").write_text(content)
    assert commands.main(["report", str(run)]) == 5
    err = capsys.readouterr().err
    assert is_one_line(err) and f"{run / 'explain.json'} cannot be read" in err


def test_policy_that_does_not_adapt_has_no_explanation(copy, capsys):
    run = copy("sb3-ppo")
    before = read_files(run)
    assert explain(run) == 2
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err)
    assert "has no memory that can be read and adapts no single policy by gradient" in err
    assert "give a run of rl2, varibad, teacher-student, or of maml-trpo and its relatives" in err
    assert read_files(run) == before


@pytest.mark.parametrize(
    ("algo", "flags", "message"),
    [
        ("rl2", ("--num-tasks", 5), "num_tasks = 5: must be at least 20"),
        ("maml-trpo", ("--num-tasks", 1), "num_tasks = 1: must be at least 2"),
        ("maml-trpo", ("--num-adaptations", 0), "num_adaptations = 0: must be at least 1"),
        ("maml-trpo", ("--num-episodes", 3), "num_episodes = 3: must be 2, as many as the run"),
        ("rl2", ("--distribution", "all"), "invalid choice: 'all'"),
    ],
)
def test_unusable_arguments_are_one_line(algo, flags, message, runs, capsys):
    before = read_files(runs[algo])
    assert explain(runs[algo], *flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and is_one_line(err) and message in err
    assert read_files(runs[algo]) == before


def test_unknown_distribution_is_refused_in_python(runs):
    with pytest.raises(ConfigError, match="distribution = 'all': must be train or test"):
        metarl.explain(runs["rl2"], distribution="all")
