"""Published policies: small folders that give the numbers of their run and never change."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import REPOSITORY, damage, is_one_line, read_files

import metarl
from metarl.cli import commands
from metarl.core.errors import CheckpointError, ResourceError, RunExists
from metarl.evaluation import results
from metarl.runs import published
from metarl.runs.logger import read_records
from metarl.sharing import publishing

LEARNERS = {
    "maml-trpo": {"hidden_sizes": (8,)},
    "rl2": {"minibatches": 2},
    "sb3-ppo": {"minibatches": 2},
}
TRAINER = {"evaluate_tasks": 20, "video": False, "logger": "none"}
SIZES = {"num_tasks": 2, "num_episodes": 2, "threads": 1}


@pytest.fixture(scope="module", params=LEARNERS)
def pair(request, tmp_path_factory):
    """A run of two iterations, and the folder in which it is published."""
    folder = tmp_path_factory.mktemp("published")
    algo, path = request.param, folder / "run"
    settings = {"learner": LEARNERS[algo], "trainer": TRAINER, "sampler": SIZES}
    policy = metarl.train("navigation-2d", algo, iterations=2, run_dir=path, **settings)
    policy.close()
    metarl.evaluate(path, num_tasks=3, deterministic=True)
    return path, metarl.publish(path, folder / "small")


@pytest.fixture
def copy(pair, tmp_path, monkeypatch):
    """A copy of the published folder, in a current folder of its own."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(pair[1], "small"))


def test_published_policy_gives_the_numbers_of_its_run(pair, copy, capsys):
    for flags in ([], ["--num-tasks", "3", "--deterministic"]):
        assert commands.main(["evaluate", str(pair[0]), *flags, "--json", "run.json"]) == 0
        capsys.readouterr()
        assert commands.main(["evaluate", str(copy), *flags, "--json", "small.json"]) == 0
        out = capsys.readouterr().out
        assert Path("run.json").read_bytes() == Path("small.json").read_bytes()
        assert ("largest difference 0\n" in out) is (flags == [])
    assert (copy / "evaluation.json").read_bytes() == (pair[0] / "evaluation.json").read_bytes()


def test_published_folder_is_small_and_has_one_checkpoint(pair):
    run, small = pair
    files = read_files(small)
    assert sum(map(len, files.values())) < 1_000_000
    (one,) = (small / "checkpoints").iterdir()
    assert one.name == "it_00000002"
    assert not list(small.parent.glob(".small*"))
    record = published.read(small)
    assert (record.source, record.iteration) == ("run", 2)
    tensors = (one / "tensors.safetensors").read_bytes()
    assert b"adam/" not in tensors and b"policy/" in tensors
    assert (small / "evaluations" / "tasks-3_adaptations-3_deterministic.json").exists()
    assert str(run.parent) not in (small / "run.json").read_text()


@pytest.mark.parametrize("is_same", [True, False])
def test_publish_adds_what_older_versions_did_not_record(tmp_path, is_same):
    """The names of the numbers, where the environment has the recorded version."""
    run = REPOSITORY / "pretrained" / "quadruped-command"
    old = tmp_path / "old"
    shutil.copytree(run, old)
    facts = vars(published.read(old)) | {"source": "earlier"}
    (old / "published.json").unlink()
    record = json.loads((old / "run.json").read_text())
    env = record["env"]
    env["observed"], env["action_range"] = [], None
    env["version"] += 0 if is_same else 1
    (old / "run.json").write_text(json.dumps(record))
    facts.pop("files")
    published.write(old, **facts)
    metarl.publish(old, tmp_path / "new")
    after = json.loads((tmp_path / "new" / "run.json").read_text())["env"]
    assert len(after["observed"]) == (36 if is_same else 0)
    assert (after["action_range"] is not None) is is_same
    metarl.publish(run, tmp_path / "again")
    sources = [
        json.loads((p / "published.json").read_text())["source"] for p in (run, tmp_path / "again")
    ]
    assert sources[0] == sources[1] != "again"


def test_output_of_a_published_policy_goes_elsewhere(copy, capsys):
    before = read_files(copy)
    assert commands.main(["evaluate", str(copy), "--num-tasks", "2"]) == 0
    out = capsys.readouterr().out
    assert "kept in runs/pretrained/small/evaluation.json\n" in out
    assert (
        commands.main(["video", str(copy), "--format", "gif", "--num-tasks", "1", "--size", "64"])
        == 0
    )
    assert capsys.readouterr().out == "runs/pretrained/small/videos/adaptation.gif\n"
    assert commands.main(["report", str(copy)]) == 0
    assert capsys.readouterr().out == "runs/pretrained/small/report.html\n"
    assert read_files(copy) == before


def test_policies_of_one_name_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("a", "b", "c/copy-of-a"):
        (tmp_path / place / "small").mkdir(parents=True)
        facts = {"source": place[-1], "iteration": 1, "env_steps": 1, "omitted": []}
        published.write(tmp_path / place / "small", **facts)
    one, other, copy = (tmp_path / place / "small" for place in ("a", "b", "c/copy-of-a"))
    assert published.output_path(other) == Path("runs/pretrained/small")
    folder = published.output_folder(one)
    (folder / "videos").mkdir()
    (folder / "videos" / "adaptation.mp4").write_bytes(b"of a")
    assert folder == Path("runs/pretrained/small") == published.output_path(copy)
    assert publishing._find_film(copy) == folder / "videos" / "adaptation.mp4"
    assert publishing._find_film(other) is None
    own = published.output_folder(other)
    assert own.parent == folder.parent and own.name.startswith("small-") and own.is_dir()
    (folder / published.MARK).unlink()  # as an older version left it: of which is not known
    assert published.output_path(one).name not in ("small", own.name)


def test_film_of_an_older_checkpoint_is_not_pushed(tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "videos").mkdir()
    film = tmp_path / "videos" / "adaptation.gif"
    film.touch()
    assert publishing._find_film(tmp_path) == film
    os.utime(film, (1, 1))
    assert publishing._find_film(tmp_path) is None
    hint = f"left out; make it again with: metarl video {tmp_path}"
    assert f"{film} is older than the newest checkpoint and is {hint}" in capsys.readouterr().err


def test_damage_of_every_file_is_found(copy, capsys):
    names = [name for name in read_files(copy) if name.name != published.FILE]
    assert len(names) == 8
    for name in names:
        raw = (copy / name).read_bytes()
        damage(copy / name)
        assert commands.main(["evaluate", str(copy)]) == 5
        err = capsys.readouterr().err
        assert is_one_line(err) and name.name in err and "restore the folder" in err
        (copy / name).write_bytes(raw)
    (copy / "config.yaml").unlink()
    assert commands.main(["video", str(copy)]) == 5
    assert "config.yaml: No such file" in capsys.readouterr().err


def test_unreadable_record_is_one_line(copy, capsys):
    for text in ("{", "{}", '{"omitted": 3}', "[]"):
        (copy / published.FILE).write_text(text)
        assert commands.main(["evaluate", str(copy)]) == 5
        assert is_one_line(capsys.readouterr().err)


def test_published_policy_is_not_resumed(copy, capsys):
    before = read_files(copy)
    assert commands.main(["train", "--resume", str(copy), "--iterations", "3"]) == 5
    err = capsys.readouterr().err
    assert is_one_line(err) and f"with --init-from {copy}" in err
    assert read_files(copy) == before


def test_published_policy_starts_a_new_training(pair, copy):
    settings = metarl.load(copy).config
    policy = metarl.train(
        "navigation-2d",
        settings.algo,
        iterations=1,
        init_from=str(copy),
        run_dir="new",
        evaluate=False,
        learner=LEARNERS[settings.algo],
        sampler=SIZES,
        trainer=TRAINER,
    )
    assert policy.progress.iteration == 1
    policy.close()


def test_publish_refuses_what_it_cannot_use(pair, tmp_path, capsys):
    run = Path(shutil.copytree(pair[0], tmp_path / "run"))
    with pytest.raises(RunExists, match="exists and is never overwritten"):
        metarl.publish(run, pair[1])
    with pytest.raises(ResourceError, match="File name too long"):
        metarl.publish(run, tmp_path / ("x" * 300))
    result = json.loads((run / "evaluation.json").read_text())
    result["checkpoint"]["iteration"] = 1
    (run / "evaluation.json").write_text(json.dumps(result))
    with pytest.raises(CheckpointError, match="is of iteration 1, not 2; make it with"):
        metarl.publish(run, tmp_path / "x")
    assert commands.main(["publish", str(tmp_path), str(tmp_path / "x")]) == 5
    assert is_one_line(capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_are_joined_in_blocks_that_end_at_the_last():
    records = [
        {
            "iteration": i,
            "env_steps": 10 * i,
            "seconds": 0.5 * i,
            "time/update": 0.25,
            "rollout/faults": 1,
            "return_post": float(i),
            "kl": None if i == 500 else 0.5,
        }
        for i in range(1, 502)
    ]
    joined = published.thin(records)
    # 501 records in blocks of 3: 167, all full
    assert len(joined) == 167
    assert joined[0] == {
        "iteration": 3,
        "env_steps": 30,
        "seconds": 1.5,
        "time/update": 0.75,
        "rollout/faults": 3,
        "return_post": 2.0,
        "kl": 0.5,
    }
    assert (joined[-1]["iteration"], joined[-1]["return_post"]) == (501, 500.0)
    assert joined[-1]["kl"] == 0.5  # of the records that have it
    assert sum(record["time/update"] for record in joined) == 501 * 0.25
    assert published.thin(records[:200]) == records[:200]


def test_joined_metrics_are_read_again(tmp_path):
    records = [{"iteration": i, "seconds": 1.0 * i} for i in range(1, 302)]
    (tmp_path / "metrics.jsonl").write_text(published.to_lines(published.thin(records)))
    read = [record["iteration"] for _, record in read_records(tmp_path / "metrics.jsonl")]
    assert read == [1, *range(3, 302, 2)]


def test_published_policy_replays_its_committed_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = REPOSITORY / "pretrained" / "navigation-2d"
    result, recorded = metarl.evaluate(run), results.read(run)
    for name in ("num_tasks", "episodes_per_task", "tasks", "checkpoint", "held_out"):
        assert result[name] == recorded[name]
    pairs = [(result, recorded), (result["without_noise"], recorded["without_noise"])]
    for now, before in pairs:
        now, before = (np.array(each["returns"]["per_task"]) for each in (now, before))
        # bit for bit on one kind of processor; another rounds the network's sums otherwise
        np.testing.assert_allclose(now[0], before[0], rtol=1e-6)
        # each gradient step multiplies that, and an episode can reach the goal a step later
        np.testing.assert_allclose(now[1:].mean(axis=1), before[1:].mean(axis=1), atol=0.05)


def test_evaluation_has_the_size_of_the_recorded_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = {}
    for tasks in (0, 3):
        options = {"evaluate_tasks": tasks, "video": False, "logger": "none"}
        settings = {"learner": LEARNERS["maml-trpo"], "trainer": options, "sampler": SIZES}
        metarl.train("navigation-2d", iterations=1, run_dir=f"run-{tasks}", **settings).close()
        sizes[tasks] = measure(f"run-{tasks}")
    assert sizes == {0: (20, 3), 3: (3, 3)}
    measure("run-0", num_tasks=5, num_adaptations=1)
    shutil.copy(Path("run-0") / "evaluations" / "tasks-5_adaptations-1.json", "five.json")
    shutil.move("five.json", Path("run-0") / "evaluation.json")
    metarl.publish("run-0", "small")
    assert measure("small") == (5, 1) and measure("small", num_tasks=2) == (2, 1)


def measure(run, **options):
    """Returns the numbers of tasks and adaptations of an evaluation."""
    result = metarl.evaluate(run, **options)
    return result["num_tasks"], len(result["returns"]["mean"]) - 1
