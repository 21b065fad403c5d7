"""Plug-ins in scripts as users write them: with and without a guard, and without a file."""

import shutil
import sys
from pathlib import Path

import plugin_envs
import pytest
from commands import REPOSITORY, call

HEAD = """
import sys
from metarl.builders import make_env
from metarl.core.errors import MetarlError

print("begin")
"""
CLASS = """
from plugin_envs import Spot

class Mine(Spot):
    horizon = 5
"""
CALLS = """
make_env("navigation-2d").close()
try:
    env = make_env({})
    print(env.spec.name, env.spec.horizon)
    env.close()
except MetarlError as error:
    print(error)
    sys.exit(error.exit_code)
"""
GUARD = 'if __name__ == "__main__":'
HINT = f"put the calls of the script under {GUARD}, or move Mine to a module"


def under_guard(code):
    return GUARD + code.replace("\n", "\n    ")


@pytest.fixture
def run(tmp_path):
    """Returns a function that runs code as a script or with -c: exit code, lines, errors."""
    shutil.copy(Path(plugin_envs.__file__), tmp_path)

    def run(code, *, is_file=True):
        (tmp_path / "script.py").write_text(code)
        arguments = ["script.py"] if is_file else ["-c", code]
        done = call(sys.executable, *arguments, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
        return done.code, done.out.splitlines(), done.err

    return run


@pytest.mark.parametrize("is_file", [True, False], ids=["script", "-c"])
@pytest.mark.parametrize("env", ['"plugin_envs:Spot"', "__import__('plugin_envs').Spot"])
def test_plugin_in_a_module_needs_no_guard(run, env, is_file):
    out = ["begin", "plugin_envs:Spot 8"]
    assert run(HEAD + CALLS.format(env), is_file=is_file) == (0, out, "")


def test_class_of_a_script_with_a_guard_works(run):
    code, out, err = run(HEAD + CLASS + under_guard(CALLS.format("Mine")))
    assert (code, out[-1], err) == (0, "__main__:Mine 5", "")


def test_class_of_a_script_without_a_guard_is_one_line(run):
    reason = "every worker imports the script, which would start workers again"
    code, out, err = run(HEAD + CLASS + CALLS.format("Mine"))
    assert (code, out[-1], err) == (3, f"--env __main__:Mine: {reason}; {HINT}", "")
    assert set(out[:-1]) == {"begin"}  # the worker may print it too


def test_class_under_the_guard_gets_the_hint(run):
    code, out, err = run(HEAD + under_guard(CLASS + CALLS.format("Mine")))
    assert code == 3 and err == "" and "Can't get attribute 'Mine'" in out[-1]
    assert out[-1].startswith("--env __main__:Mine: ") and out[-1].endswith(f"; {HINT}")


def test_class_without_a_file_is_one_line(run):
    reason = "a worker cannot import it from a notebook"
    hint = "move it to a module, a file such as my_env.py"
    out = ["begin", f"--env __main__:Mine: {reason}; {hint}"]
    assert run(HEAD + CLASS + CALLS.format("Mine"), is_file=False) == (3, out, "")
