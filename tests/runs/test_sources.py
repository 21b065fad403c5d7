"""The source of plug-ins is hashed, with the modules beside it that it uses."""

import importlib
import sys

from metarl.runs.provenance import describe_edits
from metarl.runs.sources import hash_sources

MAIN = "import beside_a\nfrom beside_b import helper\n\nclass Env:\n    pass\n"


def test_edit_of_a_module_and_of_those_it_uses_is_found(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    texts = {"main_env": MAIN, "beside_a": "X = 1\n", "unused": "Y = 1\n"}
    texts["beside_b"] = "def helper():\n    return 1\n"
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert hash_sources("main_env:Env") == {}  # nothing is imported in order to be hashed
    importlib.import_module("main_env"), importlib.import_module("unused")
    try:
        first = hash_sources("main_env:Env", "ant-dir", "my.yaml:dir")
        assert list(first) == ["main_env"]
        found = {}
        for name in texts:
            path = tmp_path / f"{name}.py"
            path.write_text(texts[name] + "# edited\n")
            found[name] = hash_sources("main_env:Env") != first
            path.write_text(texts[name])
        assert found == {"main_env": True, "beside_a": True, "beside_b": True, "unused": False}
        assert hash_sources("main_env:Env") == first
    finally:
        for name in texts:
            sys.modules.pop(name, None)


def test_edit_is_described_and_older_runs_say_nothing(tmp_path):
    (tmp_path / "run.json").write_text('{"sources": {"mine": "1"}}')
    assert describe_edits(tmp_path, {"mine": "1", "other": "2"}) == []
    [line] = describe_edits(tmp_path, {"mine": "2"})
    assert "the source of mine has been edited since the start" in line
    (tmp_path / "run.json").write_text("{}")
    assert describe_edits(tmp_path, {"mine": "2"}) == []
    (tmp_path / "run.json").write_text("[")
    assert describe_edits(tmp_path, {"mine": "2"}) == []
