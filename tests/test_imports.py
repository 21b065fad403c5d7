import ast
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY

import metarl.envs

# A package imports only itself and the packages above it.
LADDER = """
metarl
metarl.core
metarl.envs
metarl.functional
metarl.networks
metarl.sampling
metarl.evaluation
metarl.learners
metarl.fewshot
metarl.config
metarl.runs
metarl.training
metarl.reporting
metarl.deployment
metarl.builders
metarl.collecting
metarl.environments
metarl.trained_policy
metarl.restoring
metarl.experiment
metarl.policies
metarl.certification
metarl.filming
metarl.explanation
metarl.sharing
metarl.api
metarl.suites
metarl.sweeps
metarl.cli
metarl.__main__
train
""".split()

# `envs` needs no torch, so it may import only these modules of the product.
SHARED_WITH_ENVS = {
    f"metarl.core.{name}"
    for name in (
        "env tasks joined_tasks task_code rng errors messages trees "
        "machine machine.files machine.yaml_files"
    ).split()
}

# `metarl` itself imports the functions of its public face when they are first used.
FACADE = "metarl"

# Only these put an environment and a learner together.
COMPOSITION_ROOTS = {
    f"metarl.{name}" for name in ("builders", "collecting", "environments", "api", "cli")
}


def module_name(path):
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    return f"metarl.{name}" if name.split(".")[0] == "envs" else name


def modules():
    paths = [*REPOSITORY.glob("envs/**/*.py"), *REPOSITORY.glob("metarl/**/*.py")]
    paths = [p for p in paths if p.relative_to(REPOSITORY).parts[:2] != ("metarl", "envs")]
    return {module_name(path): path for path in sorted([*paths, REPOSITORY / "train.py"])}


def imported(name, path, known):
    """Returns every module that a file imports, at the top or inside a function."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base]).strip(".")
            # "from package import module" imports the module, "from module import name" does not.
            submodules = {f"{base}.{alias.name}" for alias in node.names} & known
            package_itself = len(submodules) < len(node.names)
            found |= submodules | ({base} if package_itself else set())
    return found


def all_imports():
    found = modules()
    graph = {name: imported(name, path, set(found)) for name, path in found.items()}
    del graph[FACADE]
    return graph


def package_of(name):
    return ".".join(name.split(".")[:2])


def violations(imports, ladder):
    """Returns a sentence for every import of a package that is not above the importing one."""
    height = {name: number for number, name in enumerate(ladder)}
    return [
        f"{name} imports {target}, whose package is not above {package_of(name)}"
        for name, targets in imports.items()
        for target in sorted(targets)
        if target.split(".")[0] in ("metarl", "train")
        and package_of(name) != package_of(target)
        and height.get(package_of(target), len(ladder)) >= height.get(package_of(name), -1)
    ]


def find_cycle(imports):
    """Returns the modules of one import cycle, or an empty list."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        cycles = (visit(target) for target in sorted(imports.get(name, ())))
        cycle = next((c for c in cycles if c), [])
        path.pop()
        done.add(name)
        return cycle

    return next((c for c in map(visit, sorted(imports)) if c), [])


def test_every_package_is_on_the_ladder():
    assert {package_of(name) for name in modules()} <= set(LADDER)


def test_imports_go_only_up_the_ladder():
    assert violations(all_imports(), LADDER) == []


def test_imports_have_no_cycle():
    assert find_cycle(all_imports()) == []


def test_wrong_import_is_reported():
    imports = {"metarl.core.rng": {"numpy", "metarl.training.trainer"}}
    assert violations(imports, LADDER) == [
        "metarl.core.rng imports metarl.training.trainer, whose package is not above metarl.core"
    ]


def test_cycle_is_reported():
    imports = {"a": {"b", "numpy"}, "b": {"c"}, "c": {"b"}}
    assert find_cycle(imports) == ["b", "c"]


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        ("from metarl import rng", {"metarl.rng"}),
        ("from metarl import __version__, rng", {"metarl", "metarl.rng"}),
        ("from metarl.rng import stream", {"metarl.rng"}),
        ("from . import inner", {"metarl.learners.inner"}),
        ("from .. import rng", {"metarl.rng"}),
        ("from ..rng import stream", {"metarl.rng"}),
        ("def f():\n    import metarl.rng as r, torch", {"metarl.rng", "torch"}),
    ],
)
def test_every_form_of_import_is_parsed(tmp_path, source, targets):
    path = tmp_path / "x.py"
    path.write_text(source)
    known = {"metarl", "metarl.rng", "metarl.learners", "metarl.learners.inner"}
    assert imported("metarl.learners.x", path, known) == targets


def test_envs_imports_no_torch_and_little_of_metarl():
    for name, targets in all_imports().items():
        if package_of(name) == "metarl.envs":
            outside = {t for t in targets if package_of(t) != "metarl.envs"}
            own = {t for t in outside if t.split(".")[0] == "metarl"}
            assert own <= SHARED_WITH_ENVS, name
            assert "torch" not in {t.split(".")[0] for t in outside}, name


def test_only_composition_roots_import_envs():
    for name, targets in all_imports().items():
        if package_of(name) not in {"metarl.envs", *COMPOSITION_ROOTS}:
            assert not any(package_of(t) == "metarl.envs" for t in targets), name


def test_help_imports_no_torch():
    code = (
        "import sys, metarl.cli.train, metarl.cli.suite, metarl.cli.fewshot, metarl.runs.logger\n"
        "sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_metarl_envs_is_the_folder_envs():
    assert Path(metarl.envs.__file__).resolve() == REPOSITORY / "envs" / "__init__.py"
