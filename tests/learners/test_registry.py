"""The table of algorithms, and plug-in learners: how they are found and what is refused."""

import math
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from commands import REPOSITORY

from metarl.config.schema import parse, to_yaml
from metarl.core.errors import ConfigError
from metarl.core.tasks import Uniform, Variable
from metarl.envs.registry import make
from metarl.learners.maml.maml import Maml
from metarl.learners.registry import (
    ALGORITHMS,
    build_learner,
    find_algorithm,
    list_algorithms,
)

LEARNER = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Config:
    step: float = 0.1

class Whole:
    Config = Config
    summary = "does nothing"
    pools_episodes = True

    def __init__(self, config, obs_size, action_size, *, seed, device, num_threads, discrete):
        self.built = (config, obs_size, action_size, seed, device, num_threads, discrete)

    def begin(self, num_tasks, num_episodes, rngs): ...
    def act(self, context, obs, noise, feedback=None, *, explore): ...
    def adapt(self, context, rollout, rngs): ...
    def update(self, context, rollouts, tasks): ...
    def state_dict(self): ...
    def load_state_dict(self, state): ...

class Failing(Whole):
    def __init__(self, *arguments, **options):
        raise RuntimeError("no\\nlicence")

class NoVerbs:
    Config = Config
    summary = "lacks the verbs"
    pools_episodes = True

class NoConfig(Whole):
    Config = None

class PlainConfig(Whole):
    class Config: ...

class MutableConfig(Whole):
    @dataclass
    class Config: ...

class DemandingConfig(Whole):
    @dataclass(frozen=True)
    class Config:
        step: float

class SlotsConfig(Whole):
    @dataclass(frozen=True, slots=True)
    class Config:
        step: float = 0.1

class Group:
    class Inner(Whole): ...

def function(): ...
"""

LAZY_PACKAGE = """
def __getattr__(name):
    if name != "Whole":
        raise AttributeError(name)
    from some_learners import Whole
    return Whole
"""


@pytest.fixture
def plug_ins(tmp_path, monkeypatch):
    """A folder with plug-ins that is the current directory."""
    (tmp_path / "some_learners.py").write_text(LEARNER)
    (tmp_path / "lazy_package.py").write_text(LAZY_PACKAGE)
    (tmp_path / "broken_import.py").write_text("import not_there_at_all")
    (tmp_path / "broken_code.py").write_text("x = 1\n1 / 0")
    (tmp_path / "broken_syntax.py").write_text("def f(:")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("some_learners", "lazy_package", "broken_import", "broken_code", "broken_syntax"):
        sys.modules.pop(name, None)


def count_lines(folder):
    files = (p for p in folder.rglob("*.py") if p.name not in ("config.py", "__init__.py"))
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)


def test_long_learners_say_why_they_are_long():
    """CONTRIBUTING.md has a row for each learner of more than 350 lines, up to a tenth of them."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| \d+ \| \S.* \|$",
        (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    folders = (p for p in (REPOSITORY / "metarl/learners").iterdir() if (p / "config.py").exists())
    lines = {folder.name: count_lines(folder) for folder in folders}
    stated = {name: int(number) for name, number in rows}
    assert stated.keys() == {name for name, number in lines.items() if number > 350}
    for name, number in stated.items():
        assert number == pytest.approx(lines[name], rel=0.1), name


def test_every_algorithm_is_found_by_its_name():
    relatives = "fomaml reptile maml-ppo promp e-maml meta-sgd anil cavia leo meta-lstm"
    others = "rl2 bmaml gp grbal metric pearl teacher-student varibad sb3-ppo sb3-trpo sb3-rl2"
    assert list(ALGORITHMS) == f"maml-trpo {relatives} {others}".split()
    for name, algorithm in ALGORITHMS.items():
        assert find_algorithm(name) is algorithm and algorithm.name == name
        assert list_algorithms()[name] == algorithm.summary and "\n" not in algorithm.summary


def test_learner_is_built_for_the_sizes_of_an_environment():
    spec = make("navigation-2d").spec
    algorithm = find_algorithm("maml-trpo")
    learner = build_learner(algorithm, algorithm.config(), spec, seed=0)
    assert type(learner) is Maml


def test_plug_in_is_found_in_the_current_directory(plug_ins):
    algorithm = find_algorithm("some_learners:Whole")
    assert (algorithm.name, algorithm.summary) == ("some_learners:Whole", "does nothing")
    config, spec = algorithm.config(), make("navigation-2d").spec
    learner = build_learner(algorithm, config, spec, seed=3, device="cpu", num_threads=2)
    assert learner.built == (config, 2, 2, 3, "cpu", 2, False)


@pytest.mark.parametrize("name", ["lazy_package:Whole", "some_learners:Group.Inner"])
def test_lazy_and_nested_plug_ins_are_found_and_built(plug_ins, name):
    algorithm, spec = find_algorithm(name), make("navigation-2d").spec
    learner = build_learner(algorithm, algorithm.config(), spec, seed=3)
    assert type(learner).__name__ == name.rpartition(":")[2].rpartition(".")[2]


def test_settings_of_a_plug_in_may_have_slots(plug_ins):
    flags = ["--env", "navigation-2d", "--algo", "some_learners:SlotsConfig"]
    config = parse([*flags, "--learner.step", "0.5"])
    assert config.learner.step == 0.5
    assert "step: 0.5" in to_yaml(config)
    with pytest.raises(ConfigError, match="learner.step = 'x': must be a number"):
        parse([*flags, "--learner.step", "x"])


def test_installed_plug_in_is_imported_only_when_named(plug_ins, monkeypatch):
    package = plug_ins / "some_learners-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Name: some-package\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "[metarl.learners]\nmine = some_learners:Whole\nbad = broken_code:X\nrl2 = broken_code:X\n"
    )
    monkeypatch.syspath_prepend(str(plug_ins))
    listed = list_algorithms()
    assert listed["mine"] == listed["bad"] == "plug-in of some-package"
    assert listed["rl2"] == ALGORITHMS["rl2"].summary  # names of metarl come first
    assert find_algorithm("rl2") is ALGORITHMS["rl2"]
    assert not {"some_learners", "broken_code"} & set(sys.modules)
    algorithm = find_algorithm("mine")
    assert algorithm.name == "mine" and algorithm.build == "some_learners:Whole"
    with pytest.raises(ConfigError, match="bad: ZeroDivisionError"):
        find_algorithm("bad")
    with pytest.raises(ConfigError, match="mime: no such learner; did you mean mine?"):
        find_algorithm("mime")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("maml-trp", r"^maml-trp: no such learner; did you mean maml-trpo\?$"),
        ("dreamer", "^dreamer: no such learner; --list-algos shows all$"),
        ("", "^: no such learner; --list-algos shows all$"),
        ("some_learners:", "write module:Class, for example my_learner:MyLearner"),
        (":Whole", "write module:Class"),
        ("./some_learners.py:Whole", "write module:Class"),
        ("not_there:X", "^not_there:X: no module 'not_there' can be imported$"),
        ("broken_import:X", "no module 'not_there_at_all' can be imported"),
        ("broken_code:X", r"ZeroDivisionError: division by zero \(.*broken_code.py, line 2\)$"),
        ("broken_syntax:X", "SyntaxError: "),
        ("some_learners:Hole", r"has no class 'Hole'; did you mean Whole\?"),
        ("lazy_package:Hole", "lazy_package has no class 'Hole'$"),
        ("some_learners:function", "some_learners has no class 'function'"),
        ("some_learners:NoVerbs", "NoVerbs lacks act, adapt, begin, load_state_dict, state_dict"),
        ("some_learners:NoConfig", "NoConfig lacks Config; metarl/learners/registry.py"),
        ("some_learners:PlainConfig", "PlainConfig.Config is no dataclass of settings"),
        ("some_learners:MutableConfig", "MutableConfig.Config is not frozen"),
        ("some_learners:DemandingConfig", "DemandingConfig.Config has no default for step"),
    ],
)
def test_bad_algorithm_is_one_line_with_exit_code_2(plug_ins, name, text):
    with pytest.raises(ConfigError, match=text) as caught:
        find_algorithm(name)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_failing_constructor_of_a_plug_in_is_one_line(plug_ins):
    algorithm, spec = find_algorithm("some_learners:Failing"), SimpleNamespace()
    spec.obs_size, spec.action_size, spec.discrete = 2, 2, False
    with pytest.raises(ConfigError, match=r"Failing: RuntimeError: no licence \(.*line 25\)"):
        build_learner(algorithm, algorithm.config(), spec, seed=0)


def test_table_imports_neither_torch_nor_numpy():
    code = (
        "import sys\nfrom metarl.learners.registry import list_algorithms\nlist_algorithms()\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_task_without_a_range_is_one_line_for_a_teacher():
    tasks = Uniform((Variable("speed", "m/s", 0.0, math.inf),))
    spec = replace(make("navigation-2d").spec, tasks=tasks)
    algorithm = find_algorithm("teacher-student")
    with pytest.raises(ConfigError, match="teacher-student on navigation-2d: the task numbers"):
        build_learner(algorithm, algorithm.config(), spec, seed=0)
