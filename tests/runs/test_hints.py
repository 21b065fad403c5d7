"""Commands that messages propose can be copied, whatever the path of the run is."""

import shlex

import pytest

from metarl.core.errors import MetarlError
from metarl.evaluation import results
from metarl.runs import folder, published, reader


def test_hints_quote_the_path_of_a_run(tmp_path):
    run = tmp_path / "my run's"
    (run / "checkpoints" / "it_00000001").mkdir(parents=True)
    (run / "published.json").write_text("{}")
    (run / "explain.json").write_text("{}")
    calls = {
        "continue it with": lambda: (_ for _ in ()).throw(folder.exists_already(run)),
        "start a new run from it with": lambda: published.refuse_resume(run),
        "make it with": lambda: results.read(run),
        "make it again with": lambda: reader._read_explanation(run / "explain.json", run),
    }
    for start, call in calls.items():
        with pytest.raises(MetarlError) as caught:
            call()
        command = str(caught.value).rpartition(start)[2].lstrip(": ")
        assert shlex.split(command)[-1] == str(run), start
