"""The Python interface: train, load, evaluate, film."""

import json
import shutil
import subprocess
import sys
import threading

import gymnasium
import numpy as np
import plugin_envs
import pytest
from commands import REPOSITORY, TINY, call, read_records
from small_runs import RUNS, WITHOUT_GRAPH

import metarl
import metarl.envs
from metarl.cli import train as cli
from metarl.core.errors import CheckpointError, ConfigError
from metarl.envs.navigation import DenseGoal, NavigationEnv
from metarl.evaluation.results import read_oracle
from metarl.runs.logger import without_time

SMALL = {
    "iterations": 2,
    "sampler": {"num_tasks": 2, "num_episodes": 2, "threads": 1},
    "trainer": {"evaluate_tasks": 3, "video": False, "logger": "none"},
    "device": "cpu",
}
LEARNER = {"hidden_sizes": [8]}
QUIET = ["--trainer.evaluate-tasks", "0", "--trainer.no-video", "--trainer.logger", "none"]


def read_metrics(run):
    """Returns the records of metrics.jsonl without their times."""
    return [without_time(record) for record in read_records(run)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("api") / "run"
    return metarl.train("navigation-2d", learner=LEARNER, run_dir=path, **SMALL)


def test_train_gives_the_numbers_of_the_command_line(policy, tmp_path):
    arguments = [*TINY, *QUIET, "--iterations", "2", "--run-dir", str(tmp_path / "run")]
    assert cli.main(arguments) == 0
    assert read_metrics(policy.path) == read_metrics(tmp_path / "run")
    assert policy.progress.iteration == policy.num_trained == 2


def test_load_and_evaluate_repeat_the_evaluation(policy):
    before = json.loads((policy.path / "evaluation.json").read_text())
    loaded = metarl.load(policy.path)
    result = metarl.evaluate(loaded, num_tasks=3)
    assert result["returns"] == before["returns"] and len(result["returns"]["mean"]) == 4


def test_load_builds_no_environment(policy, tmp_path):
    code = (
        "import sys, metarl\n"
        f"policy = metarl.load({str(policy.path)!r})\n"
        "print(policy.progress.iteration, 'mujoco' in sys.modules)"
    )
    done = call(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert (done.err, done.out) == ("", "2 False\n")


def test_evaluations_with_other_settings_are_kept_apart(policy):
    before = (policy.path / "evaluation.json").read_bytes()
    noisy = metarl.evaluate(policy, num_tasks=3, num_adaptations=1)
    calm = metarl.evaluate(policy, num_tasks=3, num_adaptations=1, deterministic=True)
    chosen = metarl.evaluate(policy, tasks=[[0.1, -0.2]], num_adaptations=1)
    assert calm["deterministic"] and not noisy["deterministic"]
    assert calm["returns"]["mean"] != noisy["returns"]["mean"]
    assert chosen["tasks"] == [[0.1, -0.2]]
    assert (policy.path / "evaluation.json").read_bytes() == before
    names = sorted(path.name for path in (policy.path / "evaluations").iterdir())
    assert len(names) == 3 and all(name.endswith(".json") for name in names)


def test_evaluation_has_the_returns_without_noise_too(policy):
    both = metarl.evaluate(policy, num_tasks=3, num_adaptations=1)
    calm = metarl.evaluate(policy, num_tasks=3, num_adaptations=1, deterministic=True)
    assert "without_noise" not in calm
    for name, values in both["without_noise"]["returns"].items():
        assert values == calm["returns"][name], name
    recorded = json.loads((policy.path / "evaluation.json").read_text())
    assert len(recorded["without_noise"]["returns"]["mean"]) == 4


def test_evaluation_json_is_the_first_plain_evaluation(policy, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(policy.path, run, ignore=shutil.ignore_patterns("evaluation*"))
    loaded, files = metarl.load(run), []
    for settings in (
        {"num_tasks": 4, "deterministic": True},
        {"num_tasks": 3},
        {"num_tasks": 3, "deterministic": True},
        {"num_tasks": 4},
        {},  # as many tasks as the run's own evaluation has: 3
    ):
        before = set(run.glob("evaluation*/*.json"))
        metarl.evaluate(loaded, num_adaptations=1, **settings)
        files += [sorted(path.name for path in set(run.glob("evaluation*/*.json")) - before)]
        assert (run / "evaluation.json").exists() == (len(files) > 1)
    assert [len(names) for names in files] == [1, 0, 1, 1, 0]
    assert json.loads((run / "evaluation.json").read_text())["num_tasks"] == 3


def test_resume_evaluates_once_beside_other_settings(policy, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(policy.path, run, ignore=shutil.ignore_patterns("evaluation*"))
    metarl.evaluate(metarl.load(run), num_tasks=2)
    for count in (1, 0):
        capsys.readouterr()
        assert cli.main(["--resume", str(run)]) == 0
        assert capsys.readouterr().out.count("3 held-out tasks") == count
    assert json.loads((run / "evaluation.json").read_text())["num_tasks"] == 2


def test_evaluation_json_follows_the_newest_checkpoint(policy, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(policy.path, run, ignore=shutil.ignore_patterns("evaluation*"))
    metarl.evaluate(metarl.load(run), num_tasks=2)
    for name in ("published", "published-again"):
        metarl.publish(run, tmp_path / name)
        if name == "published":
            assert cli.main(["--resume", str(run), "--iterations", "3"]) == 0
    result = json.loads((run / "evaluation.json").read_text())
    assert (result["num_tasks"], result["checkpoint"]["iteration"]) == (3, 3)
    assert not (run / "evaluations").exists()


def test_evaluate_transfers_to_another_environment(policy):
    result = metarl.evaluate(policy, "navigation-2d-sparse", num_tasks=2, num_adaptations=1)
    assert result["env"] == "navigation-2d-sparse"
    assert result["trained_on"] == "navigation-2d" and result["chosen_tasks"] is False
    with pytest.raises(ConfigError, match="--env hopper-vel: obs_size is 11; .* which has 2"):
        metarl.evaluate(policy, "hopper-vel")


@pytest.mark.parametrize("tasks", [[], [[0.1]], [0.1, 0.2], [[0.1, float("nan")]], [["north", 1]]])
def test_evaluate_refuses_tasks_that_do_not_fit(policy, tasks):
    with pytest.raises(ConfigError, match="--task .* is 2 finite numbers: goal_x .m., goal_y .m."):
        metarl.evaluate(policy, tasks=tasks)


def test_evaluate_takes_options_on_the_command_line(policy, capsys):
    from metarl.cli import commands

    run = str(policy.path)
    flags = ["--deterministic", "--task", "0.3,-0.2", "--task", "-0.1,0", "--num-adaptations", "1"]
    assert commands.main(["evaluate", run, *flags]) == 0
    assert "2 chosen tasks x " in capsys.readouterr().out
    assert commands.main(["evaluate", run, "--task", "north"]) == 2
    assert "--task: north: must be numbers" in capsys.readouterr().err


def test_train_accepts_a_class_and_an_object(tmp_path):
    settings = {**SMALL, "learner": LEARNER, "trainer": {**SMALL["trainer"], "evaluate_tasks": 0}}
    by_class = metarl.train(plugin_envs.Spot, run_dir=tmp_path / "class", **settings)
    assert by_class.config.env == "plugin_envs:Spot"
    by_class.close()
    named = metarl.train("plugin_envs:Spot", run_dir=tmp_path / "name", **settings)
    assert read_metrics(by_class.path) == read_metrics(named.path)
    env = NavigationEnv("my-navigation", DenseGoal(half_width=0.1), horizon=20)
    policy = metarl.train(env, run_dir=tmp_path / "object", **settings)
    assert policy.config.env == "my-navigation" and policy.env is env
    result = metarl.evaluate(metarl.load(policy.path), env, num_tasks=2, num_adaptations=1)
    assert result["env"] == "my-navigation" and (policy.path / "evaluation.json").exists()


@pytest.mark.parametrize("env", [3, ["ant-dir"]])
def test_train_refuses_what_is_not_an_environment(env):
    with pytest.raises(ConfigError, match="must be a name, a class, a function or a BatchEnv"):
        metarl.train(env)


def test_train_needs_an_environment():
    with pytest.raises(ConfigError, match="env is missing; metarl train --list-envs shows"):
        metarl.train()


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ConfigError, match="unknown key learner.iner_lr; did you mean inner_lr"):
        metarl.train("navigation-2d", learner={"iner_lr": 0.1})
    with pytest.raises(ConfigError, match="unknown key iteration; did you mean iterations"):
        metarl.train("navigation-2d", iteration=3)


def test_train_works_in_a_thread(tmp_path, policy):
    policies = []
    settings = {**SMALL, "learner": LEARNER, "trainer": {**SMALL["trainer"], "evaluate_tasks": 0}}

    def train():
        policies.append(metarl.train("navigation-2d", run_dir=tmp_path / "run", **settings))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert read_metrics(policies[0].path) == read_metrics(policy.path)


def test_fine_tuning_starts_from_the_weights(policy, tmp_path):
    tuned = metarl.train(
        "navigation-2d",
        learner=LEARNER,
        init_from=policy.path,
        run_dir=tmp_path / "tuned",
        evaluate=False,
        **{**SMALL, "iterations": 1},
    )
    start = json.loads((tmp_path / "tuned" / "run.json").read_text())["init_from"]
    assert start["iteration"] == 2 and start["run"] == str(policy.path)
    assert tuned.progress.iteration == 1
    first = read_records(tmp_path / "tuned")[0]
    assert first["return_pre"] != read_records(policy.path)[0]["return_pre"]
    with pytest.raises(ConfigError, match="--init-from .*: a run of maml-trpo; .* --algo maml"):
        metarl.train("navigation-2d", "rl2", init_from=policy.path, run_dir=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_import_is_light():
    code = (
        "import sys, time; start = time.process_time(); import metarl\n"
        "heavy = {'torch', 'gymnasium', 'mujoco', 'numpy'} & set(sys.modules)\n"
        "print(time.process_time() - start < 0.3, sorted(heavy), sorted(metarl.__all__)[:2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.stdout == "True [] ['Robot', 'TrainedPolicy']\n", done.stderr


def test_gymnasium_makes_registered_environments():
    env = gymnasium.make("metarl/navigation-2d")
    obs, _ = env.reset(seed=0, options={"task": [0.1, 0.2]})
    assert obs.shape == (2,) and env.action_space.shape == (2,)
    env.close()
    vector = gymnasium.make_vec("metarl/navigation-2d", num_envs=3)
    assert vector.reset(seed=0)[0].shape == (3, 2)
    vector.close()


def test_make_env_returns_a_batch():
    env = metarl.make_env("navigation-2d", observe_task=True)
    env.set_tasks(np.zeros((2, 2)), 1)
    assert env.reset([np.random.default_rng(i) for i in range(2)]).shape == (2, 4)
    env.close()


class Closing(NavigationEnv):
    """Counts how often it is closed."""

    num_closed = 0

    def close(self):
        self.num_closed += 1
        super().close()


NO_EVALUATION = {**SMALL, "learner": LEARNER, "evaluate": False}


def test_resume_from_python_continues_bit_for_bit(policy, tmp_path):
    run = tmp_path / "run"
    metarl.train("navigation-2d", run_dir=run, **{**NO_EVALUATION, "iterations": 1})
    resumed = metarl.train(resume=run, iterations=2, evaluate=False)
    assert read_metrics(run) == read_metrics(policy.path) and resumed.num_trained == 1
    text = (run / "config.yaml").read_text()
    with pytest.raises(ConfigError, match="--seed 7: the run has 0; leave the flag out"):
        metarl.train(resume=run, iterations=3, seed=7)
    with pytest.raises(ConfigError, match="algo rl2: the run has maml-trpo; leave it out"):
        metarl.train(algo="rl2", resume=run)
    assert (run / "config.yaml").read_text() == text


@pytest.mark.parametrize(
    ("algo", "size"), [("pearl", "replay/episodes"), ("grbal", "update/replay_size")]
)
def test_fine_tuning_starts_with_an_empty_replay_store(algo, size, tmp_path):
    settings = {**SMALL, **{**RUNS, **WITHOUT_GRAPH}[algo], "evaluate": False}
    source, run = tmp_path / "source", tmp_path / "run"
    metarl.train("navigation-2d", algo, run_dir=source, **settings)
    metarl.train("navigation-2d", algo, run_dir=run, init_from=source, **settings)
    first, second = read_records(source)
    assert second[size] > first[size] == read_records(run)[0][size]


def test_config_file_chooses_environment_and_learner(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("env: navigation-2d\nalgo: rl2\nlearner: {memory_size: 8}\n")
    settings = {**SMALL, "iterations": 1, "evaluate": False, "run_dir": tmp_path / "run"}
    trained = metarl.train(config=file, **settings)
    assert (trained.config.algo, trained.config.learner.memory_size) == ("rl2", 8)


def test_fine_tuned_run_resumes_without_its_source(policy, tmp_path):
    source, run = tmp_path / "source", tmp_path / "run"
    shutil.copytree(policy.path, source)
    settings = {**NO_EVALUATION, "iterations": 1}
    metarl.train("navigation-2d", init_from=source, run_dir=run, **settings)
    shutil.rmtree(source)
    assert metarl.train(resume=run, iterations=2, evaluate=False).num_trained == 1
    with pytest.raises(CheckpointError, match="--init-from .*source is not a run folder"):
        metarl.train("navigation-2d", init_from=source, run_dir=tmp_path / "x", **settings)


def test_policies_from_scratch_have_no_source(policy, tmp_path):
    learner = {"mode": "scratch"}
    with pytest.raises(ConfigError, match="policies from scratch start untrained"):
        metarl.train("navigation-2d", "sb3-ppo", learner=learner, init_from=policy.path)


@pytest.mark.parametrize("name", ["seeds", "list_envs", "list_algos"])
def test_settings_of_the_command_line_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: only for the command line"):
        metarl.train("navigation-2d", **{name: [0, 1]})


def test_group_of_settings_cannot_be_a_number():
    with pytest.raises(ConfigError, match="learner = 3: must be a group of keys"):
        metarl.train("navigation-2d", **{"learner": 3, "learner.inner_lr": 0.1})


def test_given_environment_stays_open_and_a_built_one_is_closed(tmp_path, monkeypatch):
    env = Closing("my-navigation", DenseGoal(half_width=0.1), horizon=20)
    settings = {**NO_EVALUATION, "iterations": 1}
    with metarl.train(env, run_dir=tmp_path / "run", **settings):
        pass
    with metarl.load(tmp_path / "run", env=env) as loaded:
        metarl.evaluate(loaded, num_tasks=2, num_adaptations=1)
        assert (tmp_path / "run" / "evaluation.json").exists()
    with pytest.raises(ConfigError, match="because the checks compare two of it"):
        metarl.check_env(env)
    assert env.num_closed == 0
    built = []
    monkeypatch.setattr("metarl.experiment.build_env", lambda *_: built.append(env) or env)
    with pytest.raises(ConfigError, match="exists and is never overwritten"):
        metarl.train("navigation-2d", run_dir=tmp_path / "run", **settings)
    assert built and env.num_closed == 1


def test_evaluate_takes_a_run_folder(policy):
    assert metarl.evaluate(policy.path, num_tasks=3)["num_tasks"] == 3
    with pytest.raises(ConfigError, match="num_tasks = 0: must be at least 1"):
        metarl.evaluate(policy, num_tasks=0)
    with pytest.raises(ConfigError, match="num_tasks = 10+: must be at most 1,000,000"):
        metarl.evaluate(policy, num_tasks=10**12)
    with pytest.raises(ConfigError, match="num_adaptations = 1.5: must be a whole number"):
        metarl.evaluate(policy, num_adaptations=1.5)


def test_envs_offers_make():
    assert metarl.envs.make("navigation-2d").spec.name == "navigation-2d"


def test_task_outside_its_range_gets_a_warning(policy, capsys):
    metarl.evaluate(policy, tasks=[[3.0, 0.1]], num_adaptations=1)
    err = capsys.readouterr().err
    assert "warning: task 0: goal_x 3 m is outside [-0.5, 0.5]" in err and err.count("\n") == 1
    metarl.evaluate(policy, tasks=[[0.3, 0.1]], num_adaptations=1)
    assert capsys.readouterr().err == ""


def test_oracle_must_observe_the_task(policy):
    with pytest.raises(ConfigError, match="its policy does not observe the task; give a run"):
        read_oracle(policy.path, "navigation-2d")


def test_learner_that_sees_tasks_loads_without_an_environment(tmp_path, monkeypatch):
    learner = {"teacher_updates": 1, "hidden_size": 8, "memory_size": 8}
    sampler = {"num_tasks": 2, "num_episodes": 1}
    settings = {
        "iterations": 2,
        "learner": learner,
        "sampler": sampler,
        "run_dir": tmp_path / "run",
    }
    with metarl.train("navigation-2d", "teacher-student", evaluate=False, **settings) as policy:
        expected = metarl.evaluate(policy, num_tasks=2)["returns"]["mean"]
    with monkeypatch.context() as patch:
        patch.setattr(metarl.experiment, "build_env", None)
        loaded = metarl.load(tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").unlink()
    with loaded:
        assert metarl.evaluate(loaded, num_tasks=2)["returns"]["mean"] == expected


def test_training_that_ends_before_the_student_is_refused(tmp_path):
    settings = {"iterations": 2, "learner": {"teacher_updates": 2}, "run_dir": tmp_path / "run"}
    with pytest.raises(metarl.core.errors.ConfigError, match="more than learner.teacher_updates"):
        metarl.train("navigation-2d", "teacher-student", **settings)
    assert not (tmp_path / "run").exists()
