import ast
import subprocess
import sys
from pathlib import Path

import pytest

import envs

REPOSITORY = Path(__file__).resolve().parent.parent

# A module imports only what stands above it. Names of modules that are yet to come are welcome.
FLOORS = """
envs.tasks envs.protocol envs.robots envs.goals envs.world envs.recipe envs.variations envs.terrain envs.relief envs.shot envs.rays envs.render envs.plane envs.scene envs.profiler
envs.base envs.observe envs.navigation
envs.task_rows envs.contract envs.worker envs.worker_pool envs.foreign envs.plugins envs.registry envs.check
envs.listing envs.episodes envs.adapters envs.sb3

metarl metarl.errors metarl.types metarl.rng metarl.threads
metarl.learners metarl.learners.configs metarl.baselines metarl.baselines.configs metarl.fields metarl.config metarl.options
metarl.returns metarl.gaussian metarl.categorical metarl.trust_region metarl.clipped metarl.baseline metarl.normalize
metarl.scores metarl.policies metarl.encoders metarl.buffers
metarl.learners.inner metarl.learners.curvature metarl.learners.maml_trpo metarl.learners.rl2 metarl.learners.table
metarl.statistics metarl.results metarl.collect metarl.evaluate
metarl.baselines.members metarl.baselines.acting metarl.baselines.curve metarl.baselines.sb3
metarl.run_folder metarl.log metarl.checkpoint metarl.video metarl.replay metarl.film
metarl.runs metarl.figures metarl.report
metarl.trainer metarl.distributed metarl.compose metarl.outcomes metarl.cli metarl.__main__

train
""".split()

# compose puts an environment and a learner together; cli asks envs for what only people read and for `check-env`.
COMPOSITION_ROOTS = {"metarl.compose", "metarl.cli", "train"}


def module_name(path):
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    return name.removesuffix(".__init__")


def modules():
    paths = [*REPOSITORY.glob("envs/**/*.py"), *REPOSITORY.glob("metarl/**/*.py")]
    paths += REPOSITORY.glob("train.py")
    return {module_name(path): path for path in sorted(paths)}


def imported(name, path, known):
    """Every module that a file names in an import, at the top or inside a function."""
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
    return {name: imported(name, path, set(found)) for name, path in found.items()}


def own(names):
    return {name for name in names if name.split(".")[0] in ("envs", "metarl", "train")}


def violations(imports, floors):
    """Sentences on every import that does not go down the list."""
    height = {name: number for number, name in enumerate(floors)}
    return [
        f"{name} imports {target}, which does not stand above it"
        for name, targets in imports.items()
        for target in own(targets)
        if height.get(target, -1) >= height.get(name, len(floors))
    ]


def test_every_module_has_its_floor():
    # envs/__init__.py names no floor: it holds a docstring and may import what it publishes.
    assert set(modules()) - set(FLOORS) <= {"envs"}
    assert len(FLOORS) == len(set(FLOORS))


def test_imports_go_only_down_the_list_so_that_there_is_no_cycle():
    assert violations(all_imports(), ["envs", *FLOORS]) == []


def test_an_import_that_goes_up_is_found():
    imports = {"metarl.rng": {"numpy", "metarl.trainer"}, "metarl.trainer": {"metarl.rng"}}
    assert violations(imports, FLOORS) == [
        "metarl.rng imports metarl.trainer, which does not stand above it"
    ]


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
def test_every_form_of_import_is_understood(tmp_path, source, targets):
    path = tmp_path / "x.py"
    path.write_text(source)
    known = {"metarl", "metarl.rng", "metarl.learners", "metarl.learners.inner"}
    assert imported("metarl.learners.x", path, known) == targets


def test_envs_knows_no_torch_and_no_metarl():
    for name, targets in all_imports().items():
        if name.split(".")[0] == "envs":
            roots = {target.split(".")[0] for target in targets}
            assert not roots & {"torch", "metarl", "train"}, name


def test_metarl_meets_envs_only_where_the_two_are_put_together():
    for name, targets in all_imports().items():
        if name.split(".")[0] == "metarl" and name not in COMPOSITION_ROOTS:
            assert not any(target.split(".")[0] == "envs" for target in targets), name


def test_what_help_needs_imports_no_torch():
    code = (
        "import sys, metarl.cli, metarl.run_folder, metarl.log\n"
        "sys.exit('torch' in sys.modules or 'envs' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_envs_is_the_folder_of_this_repository_and_not_a_published_package():
    assert Path(envs.__file__).resolve() == REPOSITORY / "envs" / "__init__.py"
