"""Policies are pushed to a hub of our own on this machine, and loaded from there."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from commands import METARL, REPOSITORY, call, damage, is_one_line, read_files
from fake_hub import running_hub

import metarl
from metarl.cli import commands
from metarl.core.errors import CheckpointError, ConfigError, ResourceError
from metarl.runs import hub, published

pytest.importorskip("huggingface_hub", reason="pip install 'metarl-robots[hub]'")

# of huggingface_hub 2.4, which uploads bytes in a way that httpx2 is about to drop
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

POLICY = REPOSITORY / "pretrained" / "navigation-2d"
OTHER = REPOSITORY / "pretrained" / "half-cheetah-dir"
TOKEN = "hf_of_nobody"
CODE = ".py .pkl .pt .pth .npy .so".split()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A hub, which huggingface_hub uses in this process; the current folder is a new one."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    with running_hub() as server:
        point_to(server.address, monkeypatch)
        yield server


def point_to(address, monkeypatch):
    """Gives huggingface_hub, which has read HF_ENDPOINT already, another address."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)


def files_of(server, name="me/nav", revision="main"):
    return server.repositories[name].find(revision)[1]


def put(server, folder, name="me/nav"):
    """Puts files into a repository without metarl."""
    from fake_hub import Repository

    server.repositories[name] = Repository()
    server.repositories[name].commit(
        {path.as_posix(): content for path, content in read_files(folder).items()}
    )


def test_command_pushes_and_evaluates_a_policy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with running_hub() as server:
        variables = {
            "HF_ENDPOINT": server.address,
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        done = call(*METARL, "push", POLICY, "me/nav", cwd=tmp_path, **variables)
        assert done.code == 0, done.err
        assert done.out.startswith(f"{server.address}/me/nav/commit/")
        assert 'metarl.load("hf://me/nav")' in done.err
        flags = ["--num-tasks", "3", "--threads", "1", "--json", "hub.json"]
        done = call(*METARL, "evaluate", "hf://me/nav", *flags, cwd=tmp_path, **variables)
        assert done.code == 0, done.err
        assert "kept in runs/pretrained/me--nav/evaluation.json\n" in done.out
        assert json.loads(Path("hub.json").read_text()) == metarl.evaluate(POLICY, num_tasks=3)
        assert server.authorizations <= {None, f"Bearer {TOKEN}"}
    for content in [*files_of(server).values(), *read_files(tmp_path).values()]:
        assert TOKEN.encode() not in content


def test_pushed_files_are_the_published_folder_and_a_card(server):
    assert metarl.push(POLICY, "me/nav").startswith(f"{server.address}/me/nav/commit/")
    files = files_of(server)
    folder = metarl.publish(POLICY, "small")
    expected = {path.as_posix(): content for path, content in read_files(folder).items()}
    assert set(files) == {*expected, "README.md", ".gitattributes"}
    for name, content in expected.items():
        if name != published.FILE:
            assert files[name] == content
    assert not any(name.endswith(suffix) for name in files for suffix in CODE)
    assert not server.repositories["me/nav"].private


def test_private_repository_is_created(server):
    metarl.push(POLICY, "me/nav", private=True)
    assert server.repositories["me/nav"].private
    metarl.push(OTHER, "me/nav", private=True)


def test_second_push_replaces_the_policy_and_keeps_the_license(server):
    metarl.push(POLICY, "me/nav")
    first = files_of(server)
    card = first["README.md"].decode()
    edited = card.replace("# license: choose one", "license: mit #")
    server.repositories["me/nav"].commit({**first, "README.md": edited.encode(), "mine.txt": b"1"})
    kept = server.repositories["me/nav"].tags["main"]
    metarl.push(OTHER, "me/nav")
    files = files_of(server)
    text = files["README.md"].decode()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "mit"
    assert "half-cheetah-dir" in text.split("---\n")[2] and files["mine.txt"] == b"1"
    (one,) = {name.split("/")[1] for name in files if name.startswith("checkpoints/")}
    assert one == next((OTHER / "checkpoints").iterdir()).name
    assert metarl.load("hf://me/nav").config.env == "half-cheetah-dir"
    assert metarl.load(f"hf://me/nav@{kept}").config.env == "navigation-2d"


def test_film_is_pushed_if_it_is_small(server, monkeypatch, capsys):
    run = Path(shutil.copytree(POLICY, "run"))
    (run / "videos").mkdir()
    (run / "videos" / "adaptation.gif").write_bytes(b"GIF")
    metarl.push(run, "me/nav")
    assert files_of(server)["replay.gif"] == b"GIF"
    assert "(replay.gif)" in files_of(server)["README.md"].decode()
    monkeypatch.setattr("metarl.sharing.publishing.MAX_FILM", 2)
    metarl.push(run, "me/nav")
    assert "is larger than 2e-06 MB and is left out" in capsys.readouterr().err
    assert "replay.gif" not in files_of(server)


def test_dry_run_writes_the_folder_and_needs_no_hub(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert commands.main(["push", str(POLICY), "me/nav", "--to", "out"]) == 0
    assert capsys.readouterr().out == "out\n"
    folder = metarl.publish(POLICY, "small")
    assert set(read_files(Path("out"))) == {*read_files(folder), Path("README.md")}
    assert metarl.load("out").progress.iteration == metarl.load(folder).progress.iteration
    assert commands.main(["push", str(POLICY), "me/nav", "--to", "out"]) == 2
    assert is_one_line(capsys.readouterr().err)


def test_damaged_download_of_every_file_is_refused(server, capsys):
    names = [path.as_posix() for path in read_files(POLICY) if path.name != published.FILE]
    assert len(names) == 7
    for number, name in enumerate(names):
        folder = Path(shutil.copytree(POLICY, f"damaged{number}"))
        damage(folder / name)
        put(server, folder, f"me/nav{number}")
        assert commands.main(["evaluate", f"hf://me/nav{number}"]) == 5
        err = capsys.readouterr().err
        assert is_one_line(err) and Path(name).name in err
        assert f"hf download me/nav{number} --force-download" in err
    folder = Path(shutil.copytree(POLICY, "gone"))
    (folder / "metrics.jsonl").unlink()
    put(server, folder, "me/gone")
    with pytest.raises(CheckpointError, match="metrics.jsonl: No such file"):
        metarl.load("hf://me/gone")


def test_download_leaves_code_and_other_files(server):
    folder = Path(shutil.copytree(POLICY, "more"))
    for name in ("run.py", "weights.pkl", "checkpoints/x.pt", "README.md"):
        (folder / name).write_text("1")
    put(server, folder)
    path = hub.find_run("hf://me/nav")
    assert set(read_files(path)) == set(read_files(POLICY))


@pytest.mark.parametrize("key", ["env", "algo"])
def test_policy_that_names_code_is_refused(key, server):
    folder = Path(shutil.copytree(POLICY, "code"))
    text = (folder / "config.yaml").read_text()
    tree = yaml.safe_load(text) | {key: "antigravity:fly"}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (folder / published.FILE).unlink()
    facts = {"source": "x", "iteration": 1, "env_steps": 1, "omitted": []}
    published.write(folder, **facts)
    put(server, folder)
    with pytest.raises(ConfigError, match=f"its {key} is the code 'antigravity:fly'; if you trust"):
        metarl.load("hf://me/nav")
    assert "antigravity" not in sys.modules


def test_cached_policy_is_loaded_without_the_hub(server, monkeypatch):
    put(server, POLICY)
    before = metarl.load("hf://me/nav")
    server.refuse = 503
    assert metarl.load("hf://me/nav").path == before.path


def test_missing_policies_are_one_line(server, capsys):
    put(server, POLICY)
    Path("empty").mkdir()
    Path("empty", "config.json").write_text("{}")
    put(server, Path("empty"), "me/empty")
    cases = {
        "hf://me/gone": (5, "there is none, or it is private; log in with: hf auth login"),
        "hf://me/nav@v9": (5, "there is no such revision"),
        "hf://me/empty": (5, "is no policy of metarl: it has no published.json"),
        "hf://nav": (2, "must be hf://ORG/NAME"),
        "hf://me/nav@": (2, "must be hf://ORG/NAME"),
        "hf://me/-nav": (2, "Repo id must use"),
    }
    for address, (code, text) in cases.items():
        for verb in (["evaluate"], ["video"], ["explain"], ["report"]):
            assert commands.main([*verb, address]) == code
            err = capsys.readouterr().err
            assert is_one_line(err) and address in err and text in err
    assert not Path("runs").exists()


def test_hub_that_refuses_is_one_line(server, capsys):
    for status, hint in ((401, "; log in with: hf auth login"), (400, ""), (403, "; log in")):
        server.refuse = status
        assert commands.main(["push", str(POLICY), "me/nav"]) == 6
        err = capsys.readouterr().err
        assert is_one_line(err) and f"the hub answers with status {status}{hint}" in err
    server.refuse = 500
    assert commands.main(["evaluate", "hf://me/nav"]) == 6
    assert is_one_line(capsys.readouterr().err)


def test_hub_that_cannot_be_reached_is_one_line(server, monkeypatch, capsys):
    point_to("http://127.0.0.1:9", monkeypatch)
    assert commands.main(["evaluate", "hf://me/nav"]) == 6
    err = capsys.readouterr().err
    assert is_one_line(err) and "hf://me/nav: " in err
    with pytest.raises(ResourceError, match="hf://me/nav: "):
        metarl.push(POLICY, "me/nav")


def test_repository_of_something_else_is_not_overwritten(server):
    Path("other").mkdir()
    Path("other", "model.bin").write_text("1")
    put(server, Path("other"))
    with pytest.raises(ConfigError, match="me/nav holds something else"):
        metarl.push(POLICY, "me/nav")
    put(server, POLICY, "me/open")
    with pytest.raises(ConfigError, match="--private: me/open exists and is public"):
        metarl.push(POLICY, "me/open", private=True)
    assert len(server.repositories["me/nav"].commits) == 1
    assert len(server.repositories["me/open"].commits) == 1


@pytest.mark.parametrize("name", ["nav", "me/nav/x", "me nav/x", "hf://me/nav", ""])
def test_name_of_a_repository_is_checked_first(name, capsys):
    assert commands.main(["push", "runs/none", name]) == 2
    assert "must be ORG/NAME" in capsys.readouterr().err


def test_missing_package_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for words in (["push", str(POLICY), "me/nav"], ["evaluate", "hf://me/nav"]):
        assert commands.main(words) == 6
        err = capsys.readouterr().err
        assert is_one_line(err) and "pip install 'metarl-robots[hub]'" in err
