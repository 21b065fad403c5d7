from dataclasses import replace

import numpy as np
import pytest
from commands import REPOSITORY
from suite_rows import ROW

from metarl.core.errors import ConfigError
from metarl.evaluation.seeds import over_seeds
from metarl.suites import tables
from metarl.suites.records import _number_tasks, read_rows, write_rows
from metarl.suites.suite import FOLDER, read_suite
from metarl.suites.tables import combine, group_rows, make_table, rewrite

PLAIN = replace(ROW, label="rl2", held_out=True, per_task=[], task_numbers=[], mean=100.0)


def rows_of(seeds=(0, 1), rollouts=(0, 1), **changes):
    return [
        replace(PLAIN, seed=seed, rollout=k, mean=100.0 * k + seed, **changes)
        for seed in seeds
        for k in rollouts
    ]


def test_one_seed_keeps_the_interval_of_its_evaluation():
    assert combine([replace(PLAIN, ci95_low=90.0, ci95_high=111.0)]) == (100.0, 90.0, 111.0)
    assert combine([replace(PLAIN, ci95_low=None, ci95_high=None)]) == (100.0, None, None)


def test_interval_of_two_seeds_is_students():
    per_task = [[1.0, 2.0, 4.0, 9.0], [3.0, 5.0, 7.0, 5.0]]
    rows = [replace(PLAIN, seed=i, per_task=values) for i, values in enumerate(per_task)]
    half = 12.7062 * 0.5  # t with 1 degree of freedom, standard error of the means 4 and 5
    assert combine(rows) == pytest.approx((4.5, 4.5 - half, 4.5 + half), rel=1e-5)


@pytest.mark.parametrize("count", [2, 6])
def test_interval_over_seeds_is_that_of_their_evaluations(count):
    rng = np.random.default_rng(0)
    tasks, per_task = rng.normal(size=(count, 8, 1)), rng.normal(size=(count, 1, 8))
    rows = [
        replace(PLAIN, seed=i, per_task=row[0].tolist(), task_numbers=_number_tasks(own))
        for i, (own, row) in enumerate(zip(tasks, per_task, strict=True))
    ]
    returns = over_seeds(list(zip(tasks, per_task, strict=True)), 0).returns
    assert combine(rows) == (returns["mean"][0], *returns["ci95"][0])


def test_seeds_without_tasks_use_their_means():
    mean, low, high = combine([replace(PLAIN, mean=x) for x in (100.0, 110.0, 120.0)])
    assert mean == pytest.approx(110.0) and low < 110.0 < high


def test_names_stay_in_their_cells():
    experiments = group_rows([rows_of(label="a | b\nc", references={"walk | run": 1.0})])
    lines = make_table(experiments).splitlines()
    assert len(lines) == 3 and r"| a \| b c |" in lines[2] and r"1.0, walk \| run |" in lines[2]
    assert lines[2].replace(r"\|", "").count("|") == lines[0].count("|")


def test_first_file_counts_for_a_label():
    old = [*rows_of(suite="old"), *rows_of(suite="old", label="maml-trpo")]
    groups = group_rows([rows_of((5,), suite="new"), old])
    assert [(g.first.suite, g.first.label, g.seeds) for g in groups] == [
        ("new", "rl2", [5]),
        ("old", "maml-trpo", [0, 1]),
    ]


def test_older_version_of_an_environment_is_left_out():
    rows = [*rows_of(), *rows_of(label="maml-trpo", env_version=3)]
    assert [group.first.label for group in group_rows([rows])] == ["maml-trpo"]


def test_rollout_that_a_seed_lacks_is_left_blank():
    (group,) = group_rows([rows_of((0,), (0, 1)) + rows_of((1,), (0,))])
    assert len(group.at(0)) == 2 and group.at(1) == []


def test_table_has_the_baselines_beside_a_learner():
    rows = rows_of((0,), (0, 1), ci95_low=1.0, ci95_high=2.0, mean_without_noise=321.0)
    rows += rows_of((0,), (0,), label="p", role="multi-task", ci95_low=None, ci95_high=None)
    rows += rows_of((3,), (0,), label="o", role="oracle", ci95_low=None, ci95_high=None)
    header, _, line = make_table(group_rows([rows])).splitlines()
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert cells == {
        "| task": "| ant-dir",
        "learner": "rl2",
        "training": "1 seed, 10.0 M steps, 20 min",
        "without adaptation": "0.0, multi-task policy",
        "first episode": "0.0 [1.0, 2.0]",
        "second": "100 [1.0, 2.0]",
        "fourth": "",
        "without noise": "321, 321",
        "oracle |": "3.0 |",
    }


def test_table_has_the_chosen_rows_in_their_order():
    rows = [*rows_of(), *rows_of(label="maml-trpo"), *rows_of(env="hopper-vel", held_out=False)]
    names = ["hopper-vel rl2", "ant-dir maml-trpo"]
    lines = make_table(group_rows([rows]), names).splitlines()[2:]
    assert [line.split(" | ")[:2] for line in lines] == [
        ["| hopper-vel (test = train)", "rl2"],
        ["| ant-dir", "maml-trpo"],
    ]
    assert "200, stand still" in lines[0]


def test_row_that_was_not_run_is_blank():
    names = ["ant-dir/varibad rl2, x", "ant-dir rl2"]
    lines = make_table(group_rows([rows_of()]), names, names[:1]).splitlines()[2:]
    assert lines[0] == "| ant-dir/varibad | rl2, x |  |  |  |  |  |  |  |"
    assert lines[1].startswith("| ant-dir | rl2 | 2 seeds")


@pytest.mark.parametrize(
    ("names", "not_run", "message"),
    [
        (["ant-dir rl3"], [], "rows: ant-dir rl3 has no results; did you mean ant-dir rl2?"),
        (["walker"], [], "rows: walker has no results; list it in not_run if it is to stay blank"),
        (["ant-dir rl2"], ["ant-dir rl2"], "not_run: ant-dir rl2 has results; take it out"),
        (["ant-dir rl2"], ["ant-dir x"], "not_run: ant-dir x is not in rows"),
    ],
)
def test_row_without_results_is_refused(names, not_run, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        make_table(group_rows([rows_of()]), names, not_run)


def test_document_gets_its_table(tmp_path):
    write_rows(tmp_path / "r.csv", rows_of())
    text = "a\n<!-- results: {files: [r.csv]} -->\nold\n<!-- end of results -->\nb\n"
    new = rewrite(text, tmp_path)
    table = make_table(group_rows([rows_of()]))
    assert new == text.replace("old\n", table) and rewrite(new, tmp_path) == new


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("", "d: has no table"),
        ("<!-- results: {file: [r.csv]} -->\n<!-- end of results -->", "did you mean files"),
        ("<!-- results: {a: {} -->\n<!-- end of results -->", "d: "),
        ("<!-- results: {files: [none.csv]} -->\n<!-- end of results -->", "none.csv"),
    ],
)
def test_wrong_mark_is_refused(tmp_path, mark, message):
    with pytest.raises(ConfigError, match=message):
        rewrite(mark, tmp_path, "d: ")


@pytest.mark.parametrize("name", ["README.md", "docs/results.md"])
def test_committed_tables_are_made_from_the_committed_results(name):
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    assert rewrite(text, REPOSITORY) == text, "make results-table writes them again"


def test_command_rewrites_documents(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "r.csv", rows_of())
    path = tmp_path / "d.md"
    path.write_text("<!-- results: {files: [r.csv]} -->\n<!-- end of results -->\n")
    assert tables.main(["d.md"]) == 0 and "| ant-dir | rl2 |" in path.read_text()
    assert tables.main([]) == 2 and "name a document" in capsys.readouterr().err


def test_committed_results_can_be_read():
    for path in (REPOSITORY / "results").glob("*.csv"):
        read_rows(path)


def test_committed_rows_are_those_of_a_declared_run():
    declared = {}
    names = "damage", "families", "headline", "walking"
    for suite in map(read_suite, (FOLDER / f"{name}.yaml" for name in names)):
        declared[suite.name] = {_identify(run): run.config for run in suite.runs}
    variants = {_identify(run): run.config for run in read_suite(FOLDER / "variants.yaml").runs}
    for name, configs in declared.items():
        for row in read_rows(REPOSITORY / "results" / f"{name}.csv"):
            if row.env == "go2-command":  # its robot is that of another package
                continue
            config = (variants | configs)[row.env, row.algo, row.label, row.seed]
            assert row.iterations == pytest.approx(config.iterations, rel=0.02)
            assert row.episodes_per_task == config.sampler.num_episodes
            trial = config.sampler.num_tasks * config.sampler.num_episodes
            trial *= config.sampler.num_adaptations + 1
            assert row.steps <= row.iterations * trial * 200, "at most 200 steps an episode"


def _identify(run):
    return run.config.env, run.config.algo, run.label, run.config.seed
