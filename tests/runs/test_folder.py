import re

import pytest

from metarl.core.errors import ResourceError, RunExists
from metarl.runs.folder import choose_run_dir, create


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
    with pytest.raises(RunExists, match=f"{run} exists.*--resume {run}") as caught:
        create(run)
    assert caught.value.exit_code == 2 and (run / "metrics.jsonl").read_text() == "mine"


def test_folder_that_cannot_be_created_names_the_cause(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="x cannot be created: Not a directory"):
        create(tmp_path / "file" / "x")
