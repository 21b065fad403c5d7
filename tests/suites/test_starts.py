from pathlib import Path

import pytest

import metarl
from metarl.config.schema import from_yaml, to_yaml
from metarl.core.errors import CheckpointError, ConfigError
from metarl.suites.stages import prepare
from metarl.suites.starts import check_starts
from metarl.suites.suite import check_suite, read_suite

TINY = {"trainer": {"video": False, "evaluate_tasks": 0, "logger": "none"}}
TINY |= {"sampler": {"num_tasks": 2, "num_episodes": 2}, "iterations": 1, "check": False}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Returns the folder of a trained run, <folder>/walking/seed-2."""
    run = tmp_path_factory.mktemp("sources") / "walking" / "seed-2"
    metarl.train("navigation-2d", run_dir=run, learner={"hidden_sizes": [8]}, **TINY)
    return run


def read(source, entry, **options):
    path = source.parent / "mine.yaml"
    path.write_text(f"runs: [{{env: navigation-2d, learner: {{hidden_sizes: [8]}}, {entry}}}]")
    return read_suite(path, source.parent / "runs", **options)


def test_start_is_relative_to_the_file(source, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    path = Path("mine.yaml")
    path.write_text("runs: [{env: navigation-2d, init_from: ../walking/seed-2, seeds: [0, 1]}]")
    suite = read_suite(path, tmp_path)
    monkeypatch.chdir(tmp_path)  # as on another machine
    for run in suite.runs:
        prepare(run)
        assert from_yaml(run.settings).init_from == source.resolve()


def test_start_is_part_of_the_label(source):
    runs = read(source, "init_from: seed-2").runs
    assert runs[0].label == "maml-trpo from walking/seed-2"
    assert runs[0].folder.parent.name == "navigation-2d_maml-trpo-from-walking-seed-2"
    assert read(source, "init_from: seed-2, label: tuned").runs[0].label == "tuned"
    assert read(source, "init_from: ../good").runs[0].label == "maml-trpo from good"


def test_start_that_fits_passes_and_prints_nothing(source, capsys):
    check_starts(read(source, "init_from: seed-2, seeds: [0, 1]"))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ("init_from: nowhere", CheckpointError, "nowhere is missing; train it first"),
        ("init_from: seed-2, algo: promp", ConfigError, "a run of maml-trpo; give a run of promp"),
        (
            "init_from: seed-2, observe_task: true",
            CheckpointError,
            "checkpoint .* does not fit",
        ),
        (
            "init_from: runs/navigation-2d_x/seed-1, label: x, seeds: [0, 1]",
            ConfigError,
            "a run of this suite; declare the runs to start from in a suite of their own",
        ),
    ],
)
def test_wrong_start_names_file_and_entry(source, entry, error, message):
    suite = read(source, entry)
    check_suite(suite)
    name = suite.runs[0].folder.parent.name
    with pytest.raises(error, match=f"^{suite.path}: {name}: .*{message}"):
        check_starts(suite)


def test_run_with_another_start_is_not_the_declared_one(source, tmp_path, monkeypatch):
    suite = read(source, "init_from: seed-2, label: tuned")
    run = suite.runs[0]
    (run.folder / "checkpoints" / "it_00000001").mkdir(parents=True)
    monkeypatch.chdir(source.parent)
    recorded = to_yaml(run.config).replace(str(source.resolve()), "seed-2")  # by an older version
    (run.folder / "config.yaml").write_text(recorded)
    check_suite(suite)
    for entry in ("init_from: ../good", "iterations: 500"):
        with pytest.raises(ConfigError, match="seed-0 has init_from .*seed-2, now "):
            check_suite(read(source, f"{entry}, label: tuned"))


def test_trained_run_no_longer_needs_its_start(source):
    suite = read(source, "init_from: nowhere, label: trained")
    (suite.runs[0].folder / "checkpoints" / "it_00000001").mkdir(parents=True)
    check_starts(suite)
