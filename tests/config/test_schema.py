import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metarl.config.schema import (
    PRESETS,
    SamplerConfig,
    TrainConfig,
    TrainerConfig,
    from_yaml,
    parse,
    to_yaml,
)
from metarl.core.errors import CheckpointError, ConfigError
from metarl.envs import make
from metarl.learners.maml.config import MamlConfig
from metarl.learners.registry import ALGORITHMS

REPOSITORY = Path(__file__).resolve().parents[2]
NO_PRESETS = Path("/nonexistent")


def write_preset(folder, text, env="ant-dir", algo="maml-trpo"):
    path = folder / algo / f"{env}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return folder


def read(*arguments, presets=NO_PRESETS):
    return parse(arguments, presets=presets)


# --- defaults -------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_dataclasses():
    assert read("--env", "ant-dir") == TrainConfig(env="ant-dir")


def test_preset_overrides_defaults_and_flags_override_it(tmp_path):
    write_preset(tmp_path, "iterations: 7\nlearner: {inner_lr: 0.5, max_kl: 0.03}\n")
    config = read("--env=ant-dir", "--learner.inner-lr", "0.4", presets=tmp_path)
    assert config.iterations == 7
    assert config.learner == MamlConfig(inner_lr=0.4, max_kl=0.03)
    assert config.sampler == SamplerConfig()


@pytest.mark.parametrize("off", ["--trainer.no-video", "--no-trainer.video", "--trainer.no_video"])
def test_switch_is_off_with_either_form_of_no(off):
    assert not read("--env", "ant-dir", off).trainer.video


def test_preset_of_a_name_with_a_slash_is_in_a_folder(tmp_path):
    write_preset(tmp_path, "iterations: 9\n", env="half-cheetah-dir/rllib")
    assert read("--env", "half-cheetah-dir/rllib", presets=tmp_path).iterations == 9


def test_variant_without_a_preset_has_that_of_its_base(tmp_path):
    write_preset(tmp_path, "iterations: 9\n", env="ant-cripple")
    config = read("--env", "ant-cripple/hip_1", presets=tmp_path)
    assert (config.iterations, config.env) == (9, "ant-cripple/hip_1")


def test_name_without_a_preset_has_that_of_its_longest_beginning(tmp_path):
    write_preset(tmp_path, "iterations: 9\n", env="ant-dir")
    write_preset(tmp_path, "iterations: 8\n", env="ant-dir-wind")
    for env, iterations in {
        "ant-dir-payload": 9,
        "ant-dir-wind-payload": 8,
        "ant-vel": 500,
        "ant-dir-wind:my_class": 500,
    }.items():
        assert read("--env", env, presets=tmp_path).iterations == iterations, env


@pytest.mark.parametrize(("algo", "field"), [("grbal", "action_bound"), ("pearl", "action_limit")])
@pytest.mark.parametrize("env", ["navigation-2d", "navigation-2d-sparse"])
def test_planar_robots_may_use_their_whole_speed(env, algo, field):
    limit = vars(parse(["--env", env, "--algo", algo]).learner)[field]
    assert limit * make(env).spec.action_scale == pytest.approx(0.1)  # largest step [m]


@pytest.mark.parametrize("env", ["my.yaml:dir", "/home/me/my.yml:vel-payload", "a/my.yaml:dir"])
def test_own_robot_has_the_preset_of_robots(tmp_path, env):
    write_preset(tmp_path, "iterations: 9\n", env="robot")
    assert read("--env", env, presets=tmp_path).iterations == 9


@pytest.mark.parametrize("env", ["../outside", "/outside", "module:attribute", "a//b", "..", "."])
def test_preset_outside_the_folder_is_not_read(tmp_path, env):
    write_preset(tmp_path, "iterations: 9\n", env="outside", algo="")
    assert read("--env", env, presets=tmp_path).iterations == TrainConfig().iterations


def test_file_of_settings_has_numbers_with_exponents(tmp_path):
    """Where a field may also be None; a name that looks like one remains a text."""
    (tmp_path / "s.yaml").write_text("env: '1e5'\niterations: 2E1\ncurriculum: {success: 1e-1}\n")
    config = read("--config", str(tmp_path / "s.yaml"), presets=tmp_path)
    assert (config.env, config.iterations, config.curriculum.success) == ("1e5", 20, 0.1)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_yaml(tmp_path / "config.yaml").env == "1e5"


def test_preset_number_has_the_type_of_its_field(tmp_path):
    write_preset(tmp_path, "iterations: 1e3\nlearner: {cg_damping: 3e-4, initial_log_std: -1}\n")
    config = read("--env", "ant-dir", presets=tmp_path)
    assert config.iterations == 1000 and type(config.iterations) is int
    assert config.learner.cg_damping == 3e-4
    assert type(config.learner.initial_log_std) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learner: {iner_lr: 0.1}", "unknown key learner.iner_lr; did you mean inner_lr?"),
        ("sampler: {num_task: 3}", "unknown key sampler.num_task; did you mean num_tasks?"),
        ("learnr: {inner_lr: 0.1}", "unknown key learnr; did you mean learner?"),
        ("env: ant-dir", "unknown key env"),
        ("learner: 3", "learner = 3: must be a group of keys"),
        ("learner: {inner_lr: fast}", "learner.inner_lr = 'fast': must be a number"),
        ("learner: {inner_lr: true}", "learner.inner_lr = True: must be a number"),
        ("learner: {inner_lr: [0.1]}", r"learner.inner_lr = \[0.1\]: must be a number"),
        ("learner: {inner_lr: null}", "learner.inner_lr = None: must be a number"),
        ("learner: {hidden_sizes: 64}", "learner.hidden_sizes = 64: must be a list"),
        ("learner: {hidden_sizes: [64, 1.5]}", "must be a whole number"),
        ("learner: {surrogate: lcv}", "must be one of lvc, loglik, dice; did you mean lvc?"),
        ("learner: {first_order: 1}", "learner.first_order = 1: must be true or false"),
        ("iterations: 2.5", "iterations = 2.5: must be a whole number"),
        ("iterations: inf", "iterations = 'inf': must be a whole number"),
        ("iterations: .inf", "iterations = inf: must be a whole number"),
        ("iterations: 0", "iterations = 0: must be at least 1"),
        ("iterations: 3\niterations: 4", "line 2: key iterations is given twice"),
        ("sampler: {num_tasks: 3, num_tasks: 4}", "key num_tasks is given twice"),
        ("[1, 2]", "must hold a group of keys"),
        ("", "must hold a group of keys"),
        ("learner: {", "while parsing"),
        ("? [1, 2]\n: 3", "ant-dir.yaml: "),
    ],
)
def test_wrong_preset_names_file_key_and_hint(tmp_path, text, message):
    write_preset(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        read("--env", "ant-dir", presets=tmp_path)
    line = str(caught.value)
    assert line.startswith(str(tmp_path / "maml-trpo" / "ant-dir.yaml")) and "\n" not in line


def test_presets_of_the_repository_are_read():
    for path in sorted(PRESETS.glob("*/**/*.yaml")):
        algo, *env = path.relative_to(PRESETS).with_suffix("").parts
        if algo in ("suites", "certify", "sweeps"):
            continue
        config = parse(["--algo", algo, "--env", "/".join(env)])
        assert (config.algo, config.env) == (algo, "/".join(env))


# --- flags ----------------------------------------------------------------------------------------


def test_flags_of_every_kind_are_read():
    config = read(
        *("--env", "ant-dir", "--seed=3", "--device", "cuda:1", "--run-dir", "runs/x"),
        *("--sampler.num-tasks", "5", "--trainer.no-video", "--trainer.checkpoint-minutes", "1"),
        *("--learner.hidden-sizes", "32", "16", "--learner.initial-log-std", "-0.5"),
        *("--learner.first-order", "--learner.surrogate", "dice"),
    )
    assert config == TrainConfig(
        env="ant-dir",
        seed=3,
        device="cuda:1",
        run_dir=Path("runs/x"),
        sampler=SamplerConfig(num_tasks=5),
        trainer=TrainerConfig(video=False, checkpoint_minutes=1.0),
        learner=MamlConfig(
            hidden_sizes=(32, 16), initial_log_std=-0.5, first_order=True, surrogate="dice"
        ),
    )


def test_last_of_equal_flags_counts_and_underscores_are_hyphens():
    assert read("--env", "a", "--seed", "1", "--seed", "2").seed == 2
    assert read("--env", "a", "--sampler.num_tasks", "2").sampler.num_tasks == 2


def test_list_envs_needs_no_environment():
    assert read("--list-envs").list_envs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--env is missing; --list-envs"),
        (["--env"], "--env takes one value, but none follows it"),
        (["--evn", "a"], r"unknown flag --evn; did you mean --env\?"),
        (
            ["--env", "a", "--inner-lr", "1"],
            r"unknown flag --inner-lr; did you mean --learner.inner-lr\?",
        ),
        (["--env", "a", "--learner.inner-rl", "1"], r"did you mean --learner.inner-lr\?"),
        (["--env", "a", "--zzzzzzzz"], r"unknown flag --zzzzzzzz \(--help"),
        (["--env", "a", "b"], "--env takes one value, but 'a b' follows it"),
        (["ant-dir"], "a value without a flag: ant-dir"),
        (["--env", "a", "--trainer.video", "no"], "on and --trainer.no-video off"),
        (["--env", "a", "--trainer.video=no"], "--trainer.video takes no value, but 'no'"),
        (["--env", "a", "--seed", "x"], "--seed = 'x': must be a whole number"),
        (["--env", "a", "--seed", "-1"], "seed = -1: must be at least 0"),
        (
            ["--env", "a", "--algo", "maml-trp"],
            r"--algo maml-trp: no such learner; did you mean maml-trpo\?",
        ),
        (["--env", "a", "--device", "gpu"], "device = 'gpu': must be auto, cpu, cuda or cuda:N"),
        (["--env", "a", "--learner.surrogate", "x"], "--learner.surrogate = 'x': must be one of"),
        (["--env", "a", "--learner.inner-lr", "nan"], "learner.inner_lr = nan: must be"),
        (["--env", "a", "--learner.hidden-sizes"], r"learner.hidden_sizes = \(\): must be"),
    ],
)
def test_wrong_arguments_name_the_flag_and_the_nearest(arguments, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize(
    "kind_and_values",
    [
        (SamplerConfig, dict(num_tasks=0, num_episodes=0, num_adaptations=-1, threads=-1)),
        (SamplerConfig, dict(train_tasks=-1)),
        (TrainerConfig, dict(checkpoint_minutes=0.0, keep_checkpoints=0, evaluate_tasks=-1)),
        (MamlConfig, dict(inner_lr=0.0, max_kl=-1.0, cg_iterations=0, cg_damping=-1e-9)),
        (MamlConfig, dict(curvature_fraction=0.0, line_search_steps=0, line_search_decay=1.0)),
        (MamlConfig, dict(discount=1.01, gae_lambda=-0.1, initial_log_std=-4.0, task_chunk=-1)),
        (MamlConfig, dict(later_lr=0.0, later_decay=1.01)),
        (MamlConfig, dict(later_decay=0.0)),
        (MamlConfig, dict(hidden_sizes=(64, 0), min_log_std=float("-inf"))),
    ],
)
def test_value_out_of_range_is_refused_by_name(kind_and_values):
    kind, values = kind_and_values
    for name, value in values.items():
        with pytest.raises(ConfigError, match=rf"{name} = .*: must be"):
            kind(**{name: value})


def test_learner_must_be_that_of_algo():
    with pytest.raises(ConfigError, match="learner = .*MamlConfig"):
        TrainConfig(learner=SamplerConfig())
    assert all(isinstance(a.config(), a.config) for a in ALGORITHMS.values())


# --- config.yaml, resume --------------------------------------------------------------------------


@settings(deadline=None)
@given(
    inner_lr=st.floats(1e-300, 1e30),
    damping=st.floats(0, 1e-3),
    sizes=st.lists(st.integers(1, 10**5), min_size=1).map(tuple),
    seed=st.integers(0, 2**64 - 1),
    env=st.text(min_size=1).filter(lambda text: text.isprintable()),
    video=st.booleans(),
)
def test_config_yaml_restores_the_same_values(
    tmp_path_factory, inner_lr, damping, sizes, seed, env, video
):
    learner = MamlConfig(inner_lr=inner_lr, cg_damping=damping, hidden_sizes=sizes)
    config = TrainConfig(env=env, seed=seed, learner=learner, trainer=TrainerConfig(video=video))
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert from_yaml(path) == config


def test_config_yaml_leaves_out_the_start_settings():
    config = TrainConfig(env="a", run_dir=Path("x"), resume=Path("x"), list_envs=True)
    assert to_yaml(config) == to_yaml(TrainConfig(env="a"))


@pytest.fixture
def run(tmp_path):
    config = TrainConfig(env="ant-dir", iterations=5, learner=MamlConfig(inner_lr=0.3))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    return tmp_path, config


def test_resume_takes_the_settings_of_the_run(run):
    folder, config = run
    resumed = parse(["--resume", str(folder), "--iterations", "8", "--trainer.no-video"])
    trainer = TrainerConfig(video=False)
    assert resumed == replace(config, resume=folder, run_dir=folder, iterations=8, trainer=trainer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "ant-vel"], "--env ant-vel: the run has ant-dir"),
        (["--seed", "1"], "--seed 1: the run has 0"),
        (["--learner.inner-lr", "0.1"], "--learner.inner-lr 0.1: the run has 0.3"),
        (["--sampler.num-tasks", "3"], "--sampler.num-tasks 3: the run has 20"),
        (["--run-dir", "elsewhere"], "--run-dir: a resumed run stays in its folder"),
    ],
)
def test_resume_refuses_changes_of_the_run(run, arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse(["--resume", str(run[0]), *arguments])


def test_resume_accepts_equal_settings_and_other_threads(run):
    arguments = ["--env", "ant-dir", "--learner.inner-lr", "0.3", "--sampler.threads", "7"]
    assert parse(["--resume", str(run[0]), *arguments]).sampler.threads == 7


@pytest.mark.parametrize("text", [None, "", "x: 1", "algo: ppo", "iterations: -3", "\x00"])
def test_resume_of_a_foreign_folder_has_exit_code_5(tmp_path, text):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=f"--resume {tmp_path}: .*give the folder") as caught:
        parse(["--resume", str(tmp_path)])
    assert "\n" not in str(caught.value) and caught.value.exit_code == 5


# --- help -----------------------------------------------------------------------------------------


def run_python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)


HELP = """
import sys, time
start = time.perf_counter()
from metarl.config.schema import parse
try:
    parse(["--env", "ant-dir", "--help"])
except SystemExit as stop:
    print("status", stop.code, "torch", "torch" in sys.modules, "numpy", "numpy" in sys.modules)
    print("seconds", time.perf_counter() - start)
"""


def test_help_shows_the_fields_and_imports_no_torch():
    start = time.perf_counter()
    done = run_python(HELP)
    assert "status 0 torch False numpy False" in done.stdout, done.stderr
    assert time.perf_counter() - start < 5  # other processes may share the cores
    for flag in ("--env", "--learner.inner-lr", "--sampler.num-tasks", "--trainer.no-video"):
        assert flag in done.stdout
    assert "ty: ignore" not in done.stdout


def test_help_shows_the_preset_as_default(tmp_path, capsys):
    write_preset(tmp_path, "learner: {inner_lr: 0.12345}\n")
    with pytest.raises(SystemExit) as stop:
        read("--env", "ant-dir", "--help", presets=tmp_path)
    assert stop.value.code == 0 and "(default: 0.12345)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_relative_of_maml_has_its_presets_and_its_own_settings():
    algos = "maml-trpo", "anil"
    plain, relative = (parse(["--env", "half-cheetah-vel", "--algo", algo]) for algo in algos)
    assert relative.learner == replace(plain.learner, adapts="head")
    assert relative.iterations == plain.iterations != TrainConfig().iterations
    assert parse(["--env", "hopper-dir", "--algo", "promp"]).learner.inner_kl == 0.01


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--iterations 1e18", "iterations = .*: must be at most 1,000,000,000"),
        (
            "--sampler.num-episodes 9223372036854775808",
            "num_episodes = .*at most 1,000,000",
        ),
        ("--sampler.num-tasks 1e12", "num_tasks = .*: must be at most 1,000,000"),
        (
            "--algo rl2 --learner.memory-size 2147483648",
            "memory_size = .*at most 100,000",
        ),
        ("--learner.hidden-sizes 8,1e12", "hidden_sizes = .*: must be at most 100,000"),
        ("--algo sb3-rl2 --learner.lstm-size 1e9", "lstm_size = .*: must be at most 100,000"),
        ("--seed 18446744073709551616", "seed = .*: must be at most"),
        ("--sampler.threads 1e9", "threads = .*: must be at most 4,096"),
    ],
)
def test_extreme_number_is_refused_with_the_range(flags, message):
    with pytest.raises(ConfigError, match=message):
        parse(["--env", "navigation-2d", *flags.split()])
