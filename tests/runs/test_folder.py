import re

import pytest

from metarl.core.errors import ResourceError, RunExists
from metarl.runs.folder import choose_run_dir, clear, create, is_untrained


def test_default_name_has_env_learner_and_seed_and_is_new(tmp_path):
    first = choose_run_dir("half-cheetah-dir/rllib", "maml-trpo", 3, root=tmp_path)
    assert re.fullmatch(r"half-cheetah-dir-rllib_maml-trpo_s3_\d{8}-\d{6}", first.name)
    names = set()
    for _ in range(5):
        path = create(choose_run_dir("a", "maml-trpo", 0, root=tmp_path))
        names.add(path.name)
    assert len(names) == 5


@pytest.mark.parametrize("env", ["my.module:make", "../../etc", "/", "a b\n", "..", ""])
def test_no_environment_name_leaves_the_folder_of_runs(tmp_path, env):
    path = choose_run_dir(env, "maml-trpo", 0, root=tmp_path)
    assert path.parent == tmp_path and re.fullmatch(r"\w[\w.+-]*", path.name)


def test_existing_run_folder_is_refused_and_unchanged(tmp_path):
    run = create(tmp_path / "runs" / "x")
    (run / "metrics.jsonl").write_text("mine")
    with pytest.raises(RunExists, match=f"{run} exists.*choose another --run-dir$") as caught:
        create(run)
    assert caught.value.exit_code == 2 and (run / "metrics.jsonl").read_text() == "mine"
    (run / "checkpoints" / "it_00000001").mkdir(parents=True)
    with pytest.raises(RunExists, match=f"{run} exists.*--resume {run}$"):
        create(run)


STARTED = ["config.yaml", "metrics.jsonl", ".run.json.12-0123abcd"]
RECORD = '{"contract": "", "env": {}, "versions": {}}'


def test_folder_without_training_is_taken_and_emptied(tmp_path, capsys):
    run = create(tmp_path / "run")
    create(run)
    clear(run)
    assert capsys.readouterr().err == ""  # an empty folder is no news
    for name in STARTED:
        (run / name).touch()
    (run / "run.json").write_text(RECORD)
    (run / "robot").mkdir()
    (run / "robot" / "definition.json").write_text('{"definition": 7}\n')
    (run / "checkpoints" / ".saving-it_00000000").mkdir(parents=True)
    create(run)
    clear(run)
    assert list(run.iterdir()) == []
    assert "stopped before anything was trained; starting anew" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/it_00000000", "checkpoints/mine"])
def test_folder_with_more_than_a_start_is_not_emptied(name, tmp_path):
    run = create(tmp_path / "run")
    (run / "run.json").write_text(RECORD)
    assert is_untrained(run)
    (run / name).mkdir(parents=True)
    for verb in (create, clear):
        with pytest.raises(RunExists):
            verb(run)
    assert (run / name).exists() and (run / "run.json").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("robot/my.xml", "<mujoco/>"),
        ("robot/definition.json", '{"definition": 7, "mine": 1}'),
        ("robot/definition.json", "[]"),
        ("robot", "a file"),
        ("run.json", '{"mine": 1}'),
        ("run.json", "[1]"),
        ("run.json", "mine"),
        ("run.json", ""),
    ],
)
def test_files_of_the_user_are_not_taken_for_a_start(name, content, tmp_path):
    run = create(tmp_path / "run")
    (run / "config.yaml").write_text("env: mine\n")
    path = run / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    for verb in (create, clear):
        with pytest.raises(RunExists, match="is never overwritten"):
            verb(run, "env: mine\n")
    assert path.read_text() == content


def test_link_to_a_robot_is_the_users(tmp_path):
    run, outside = create(tmp_path / "run"), tmp_path / "outside"
    outside.mkdir()
    (outside / "definition.json").write_text('{"definition": 7}\n')
    (run / "robot").symlink_to(outside)
    assert not is_untrained(run)


def test_config_of_the_user_is_not_overwritten(tmp_path):
    run = create(tmp_path / "run")
    (run / "config.yaml").write_text("env: mine\n")
    with pytest.raises(RunExists):
        create(run, "env: other\n")
    create(run, "env: mine\n")  # written by the same command


def test_folder_that_cannot_be_created_names_the_cause(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="x cannot be created: Not a directory"):
        create(tmp_path / "file" / "x")
