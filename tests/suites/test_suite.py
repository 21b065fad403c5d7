import pytest

from metarl.core.errors import ConfigError
from metarl.suites.suite import check_suite, find_suite, list_suites, read_suite

TWO = """
about: two learners
seeds: [0, 1]
settings:
  iterations: 7
  trainer: {video: false}
runs:
  - {env: navigation-2d, algo: rl2, learner: {lr: 1e-3}, sampler: {threads: 3}}
  - {env: navigation-2d, algo: sb3-ppo, seeds: [4], iterations: 9, learner: {mode: oracle}}
  - {env: ant-dir, observe_task: true}
  - {env: ant-dir, label: a b, seeds: [2]}
"""


def write(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def refusal(folder, text):
    with pytest.raises(ConfigError) as caught:
        read_suite(write(folder, text))
    line = str(caught.value)
    assert line.startswith(str(folder / "mine.yaml")) and "\n" not in line
    return line


def test_suite_names_every_run(tmp_path):
    suite = read_suite(write(tmp_path, TWO))
    assert (suite.name, suite.about, len(suite.runs)) == ("mine", "two learners", 6)
    names = [run.folder.relative_to("runs/suites/mine").as_posix() for run in suite.runs]
    assert names == [
        "navigation-2d_rl2/seed-0",
        "navigation-2d_rl2/seed-1",
        "navigation-2d_sb3-ppo-oracle/seed-4",
        "ant-dir_maml-trpo-observe-task/seed-0",
        "ant-dir_maml-trpo-observe-task/seed-1",
        "ant-dir_a-b/seed-2",
    ]
    assert [run.role for run in suite.runs] == ["learner"] * 2 + ["oracle"] * 3 + ["learner"]


def test_entry_goes_over_settings_and_preset(tmp_path):
    first, _, third, fourth, *_ = (run.config for run in read_suite(write(tmp_path, TWO)).runs)
    assert (first.iterations, first.learner.lr, first.sampler.threads) == (7, 1e-3, 3)
    assert first.sampler.num_tasks == 128 and first.learner.initial_log_std == -2.3  # the preset
    assert (third.iterations, third.seed, third.sampler.threads) == (9, 4, 1)
    assert not first.trainer.video and fourth.observe_task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: [", "while parsing"),
        ("runs: []", "runs = []: must be a list of runs, such as [{env: navigation-2d, algo"),
        ("about: x", "runs = None: must be a list of runs"),
        ("run: [{env: ant-dir}]", "unknown key run; did you mean runs?"),
        ("runs: [ant-dir]", "run 1 = 'ant-dir': must be a group of keys"),
        ("{seeds: [0, 0], runs: [{env: ant-dir}]}", "seeds = [0, 0]: must be distinct"),
        ("{seeds: x, runs: [{env: ant-dir}]}", "seeds = 'x': must be a list"),
        ("runs: [{env: ant-dir, seeds: []}]", "seeds = []: must be distinct"),
        ("runs: [{env: ant-dir, iteration: 3}]", "iteration; did you mean iterations?"),
        ("runs: [{env: ant-dir, seed: 3}]", "unknown key seed; did you mean seeds?"),
        ("runs: [{env: ant-dir, run_dir: x}]", "unknown key run_dir"),
        ("runs: [{env: ant-dir, algo: rl3}]", "no such learner; did you mean rl2?"),
        ("runs: [{algo: rl2}]", "run 1: env is missing; name an environment of"),
        ("runs: [{env: }]", "run 1: env is missing; name an environment of"),
        ("runs: [{env: ant-dir, learner: {lrr: 1}}]", "unknown key learner.lrr"),
        ("runs: [{env: ant-dir, learner: 5}]", "learner = 5: must be a group of keys"),
        ("{settings: {env: ant-dir}, runs: [{env: ant-dir}]}", "settings: unknown key env"),
        ("runs: [{env: ant-dir}, {env: ant-dir}]", "two entries are ant-dir_maml-trpo; give"),
    ],
)
def test_wrong_suite_names_file_key_and_hint(tmp_path, text, message):
    assert message in refusal(tmp_path, text)


def test_unknown_environment_is_refused_before_the_start(tmp_path):
    suite = read_suite(write(tmp_path, "runs: [{env: navigation-2d}, {env: ant-dirr}]"))
    with pytest.raises(ConfigError, match="ant-dirr.*did you mean ant-dir"):
        check_suite(suite)


def test_known_suites_are_found_by_name_and_usable():
    known = "damage", "families", "headline", "quick", "variants", "walking"
    assert tuple(list_suites()) == known
    for name, path in list_suites().items():
        assert find_suite(name) == find_suite(str(path)) == path
        check_suite(read_suite(path))
    with pytest.raises(ConfigError, match="no such file; did you mean quick"):
        find_suite("quik")


def test_run_folder_of_other_settings_is_refused(tmp_path):
    from metarl.config.schema import to_yaml

    suite = read_suite(write(tmp_path, "runs: [{env: navigation-2d}]"), tmp_path / "runs")
    run = suite.runs[0]
    run.folder.mkdir(parents=True)
    text = to_yaml(run.config)
    (run.folder / "config.yaml").write_text(text.replace("video: true", "video: false"))
    check_suite(suite)  # the output of a run is free
    (run.folder / "config.yaml").write_text(text.replace("num_tasks: 20", "num_tasks: 21"))
    with pytest.raises(ConfigError, match="has sampler.num_tasks 21, now 20; move it away"):
        check_suite(suite)
    (run.folder / "config.yaml").write_text(text)
    (run.folder / "run.json").write_text('{"env": {"version": 0}}')
    with pytest.raises(ConfigError, match="version 0 of navigation-2d.*move it away"):
        check_suite(suite)


def test_run_folder_with_more_iterations_is_refused(tmp_path):
    from metarl.config.schema import to_yaml

    text = "runs: [{env: navigation-2d, iterations: 5}]"
    suite = read_suite(write(tmp_path, text), tmp_path / "runs")
    run = suite.runs[0]
    (run.folder / "checkpoints" / "it_00000006").mkdir(parents=True)
    (run.folder / "config.yaml").write_text(to_yaml(run.config))
    with pytest.raises(ConfigError, match="has 6 iterations, now 5"):
        check_suite(suite)
