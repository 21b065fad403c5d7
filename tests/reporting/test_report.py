"""The report is well-formed, self-contained and escaped, and has the numbers of the run folders."""

import html
import itertools
import json
import re
from html.parser import HTMLParser

import pytest
from run_files import evaluation, write_run

from metarl.cli import commands
from metarl.evaluation.results import aggregate
from metarl.reporting.report import write_report
from metarl.runs.reader import load

VOID = {"meta", "br", "img", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest; collects tags, attributes, texts, and the cells of every table row."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.rows, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.open)

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def report(tmp_path, *runs, **options):
    """The text of the report of runs."""
    write_report(runs, tmp_path / "report.html", **options)
    return (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    runs = [write_run(folder / f"s{seed}", seed=seed) for seed in range(3)]
    return [*runs, write_run(folder / "other", max_kl=0.05, seed=0)]


def test_report_is_well_formed_and_loads_nothing(seeds, tmp_path):
    text = report(tmp_path, *seeds)
    page = Page(text)
    assert page.tags.count("svg") == 2 + 2 and page.tags.count("h1") == 1
    assert page.tags.count("figcaption") == 4
    tables = re.findall(r'</table></div>\n?(<p class="muted">)?', text)
    assert len(tables) == 8 and all(tables), "every table has a note"
    assert (
        "http:" not in text
        and "https:" not in text
        and "//" not in re.sub(r"base64,[^\"]*", "", text)
    )
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href"):
            assert value.startswith(("#", "data:image/png;base64,")), value
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 10
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', text)
    assert set(used) <= set(ids)


def test_report_escapes_texts_of_a_run(tmp_path):
    path = write_run(tmp_path / "<script>alert(1)", surrogate="</pre><b>&amp;")
    other = evaluation()
    other |= {"note": "<i>note", "floors": {"<u>floor": -38.25}}
    other["task_variables"] = [{"name": "<x>", "unit": "<m>"}, {"name": "y", "unit": "1"}]
    (path / "evaluation.json").write_text(json.dumps(other))
    (path / "videos").mkdir()
    (path / "videos" / 'a"b <c>.mp4').write_bytes(b"")
    page = Page(report(tmp_path, path))
    assert not {"script", "b", "i", "u", "x", "c"} & set(page.tags)
    words = "".join(page.texts)
    for text in ("<script>alert(1)", "</pre><b>&amp;", "<i>note", "<u>floor", "<x> [<m>]"):
        assert text in words, text
    links = [value for name, value in page.attributes if name == "href" and value[0] != "#"]
    assert links == ["%3Cscript%3Ealert%281%29/videos/a%22b%20%3Cc%3E.mp4"]


def test_report_has_the_numbers_of_the_run(tmp_path):
    path = write_run(tmp_path / "a")
    page = Page(report(tmp_path, path))
    returns = json.loads((path / "evaluation.json").read_text())["returns"]
    rows = [row for row in page.rows if len(row) == 10 and row[0] in ("0", "1", "2")]
    assert len(rows) == 3
    for k, row in enumerate(rows):
        low, high = returns["ci95"][k]
        assert row[:3] == [str(k), str(4 * k), ["0", "400", "700"][k]]
        assert row[3:6] == [
            f"{returns['mean'][k]:.2f}",
            f"{returns['stderr'][k]:.2f}",
            f"[{low:.2f}, {high:.2f}]",
        ]
    glance = next(row for row in page.rows if row[0] == "navigation-2d")
    assert glance[4:8] == [
        *(f"{returns['mean'][k]:.2f}" for k in range(3)),
        f"[{returns['ci95'][2][0]:.2f}, {returns['ci95'][2][1]:.2f}]",
    ]


def test_report_shows_returns_with_and_without_noise(tmp_path):
    path = write_run(tmp_path / "a")
    result = json.loads((path / "evaluation.json").read_text())
    quiet = {**result["returns"], "mean": [-3.0, -2.0, -1.0], "ci95": [[-4.0, 0.0]] * 3}
    quiet["per_task"] = [[mean] * 6 for mean in quiet["mean"]]
    (path / "evaluation.json").write_text(
        json.dumps(result | {"without_noise": {"returns": quiet}})
    )
    page = Page(report(tmp_path, path))
    header = next(row for row in page.rows if row[0] == "adaptations")
    assert header[3] == "return" and header[-2:] == ["without noise", "95 % interval"]
    rows = [row[-2:] for row in page.rows if len(row) == 12 and row[0] in ("0", "1", "2")]
    assert rows == [[f"{mean:.2f}", "[-4.00, 0.00]"] for mean in quiet["mean"]]
    assert next(row for row in page.rows if row[0] == "navigation-2d")[8] == "-1.00"


def test_report_says_what_its_intervals_are_over(seeds, tmp_path):
    words = "".join(Page(report(tmp_path, *seeds)).texts)
    assert "95 % intervals: over 3 seeds and their tasks (Student's t, 2 degrees" in words
    assert "95 % intervals: over tasks; 1 seed: the spread between trainings is not in" in words


@pytest.mark.parametrize(("records", "words"), [(7, "7,000"), (99, "99,000"), (250, "0.2 M")])
def test_report_shows_few_training_steps_exactly(records, words, tmp_path):
    page = Page(report(tmp_path, write_run(tmp_path / "a", records=records)))
    assert next(row for row in page.rows if row[0] == "navigation-2d")[3] == words


def test_report_aggregates_seeds(seeds, tmp_path):
    page = Page(report(tmp_path, *seeds))
    found = aggregate([load(path).evaluation for path in seeds[:3]])["returns"]
    rows = [row for row in page.rows if len(row) == 10 and row[0] == "2"]
    assert rows[0][3] == f"{found['mean'][2]:.2f}"
    assert rows[0][6:8] == [
        f"{found['iqm'][2]:.2f}",
        "[{:.2f}, {:.2f}]".format(*found["iqm_ci95"][2]),
    ]
    means = [f"{mean:.2f}" for mean in found["per_seed"][2]]
    assert ["2", *means, f"{found['stderr_over_seeds'][2]:.2f}"] in page.rows


def test_report_shows_speed_and_parts_of_the_time(tmp_path):
    # 30 records of 2 s and 1,000 steps, of which collecting took 1.2 s and the update 0.6 s
    page = Page(report(tmp_path, write_run(tmp_path / "a")))
    row = next(row for row in page.rows if row[0] == "a")
    assert row == ["a", "30", "30,000", "0:01:00", "500", "60 %", "30 %", "", "30"]
    assert ("style", "width: 60.0%") in page.attributes


@pytest.mark.parametrize("seconds", [None, 0.0])
def test_speed_of_a_run_without_times_is_not_known(seconds, tmp_path):
    path = write_run(tmp_path / "a", records=2)
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    lines = [json.dumps(row | {"seconds": seconds}) + "\n" for row in rows]
    (path / "metrics.jsonl").write_text("".join(lines))
    row = next(row for row in Page(report(tmp_path, path)).rows if row[0] == "a" and row[1] == "2")
    time = "-" if seconds is None else "0:00:00"
    assert row[2:] == ["2,000", time, "-", "-", "-", "", "2"]


def test_report_compares_settings_that_differ(seeds, tmp_path):
    page = Page(report(tmp_path, *seeds))
    assert ["differs", "s0", "s1", "s2", "other"] in page.rows
    assert ["learner.max_kl", "0.01", "0.01", "0.01", "0.05"] in page.rows
    assert not any(row[0] == "iterations" for row in page.rows if len(row) == 5)
    assert ["torch", *["2.13.0"] * 4] in page.rows and ["git", *["ab" * 6] * 4] in page.rows


def test_report_shows_the_training_before_the_evaluation(tmp_path):
    path = write_run(tmp_path / "a")
    assert "training steps" not in "".join(Page(report(tmp_path, path)).texts)  # an older file
    result = json.loads((path / "evaluation.json").read_text())
    result["checkpoint"] = {"iteration": 30, "env_steps": 30_000}
    (path / "evaluation.json").write_text(json.dumps(result))
    words = "".join(Page(report(tmp_path, path)).texts)
    assert "6 held-out tasks x 4 episodes, after 30 iterations and 30,000 training steps. " in words


def test_run_without_evaluation_gets_a_hint(tmp_path):
    path = write_run(tmp_path / "a", evaluated=False)
    page = Page(report(tmp_path, path))
    assert f"python -m metarl evaluate {path}" in "".join(page.texts)
    assert page.tags.count("svg") == 1 and "Numbers" not in page.texts


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ({"run": "/x/walk<er>", "iteration": 3, "env_steps": 7000}, "walk&lt;er&gt; (7,000 steps)"),
        ({"run": "walker"}, "walker"),
        ("walker", None),
        (None, None),
    ],
)
def test_run_that_starts_from_another_says_so(source, text, tmp_path):
    path = write_run(tmp_path / "a", records=3)
    record = json.loads((path / "run.json").read_text()) | {"init_from": source}
    (path / "run.json").write_text(json.dumps(record))
    page = report(tmp_path, path)
    assert ("starts from" in page) == (text is not None)
    assert text is None or f"<p>a starts from {text}, whose training is not counted.</p>" in page


@pytest.mark.parametrize(("steps", "is_old"), [(1000, True), (3000, False), (None, False)])
def test_evaluation_before_the_last_iteration_is_marked(steps, is_old, tmp_path):
    path = write_run(tmp_path / "a", records=3)
    if steps is not None:
        found = evaluation() | {"checkpoint": {"iteration": steps // 1000, "env_steps": steps}}
        (path / "evaluation.json").write_text(json.dumps(found))
    page = report(tmp_path, path)
    assert ("a was evaluated after 1,000 of 3,000 steps of training" in page) == is_old
    assert (f"metarl evaluate {path}" in page) == is_old


def test_run_without_iterations_has_a_report(tmp_path):
    path = write_run(tmp_path / "a", records=0, evaluated=False)
    assert "No iteration is finished." in Page(report(tmp_path, path)).texts


def test_report_links_the_other_evaluations_of_a_run(tmp_path):
    path = write_run(tmp_path / "a")
    assert "Other evaluations" not in Page(report(tmp_path, path)).texts
    (path / "evaluations").mkdir()
    (path / "evaluations" / "task-1.57_deterministic.json").write_text("{}")
    page = Page(report(tmp_path, path))
    assert "Other evaluations" in page.texts
    assert "a: task-1.57_deterministic.json" in page.texts
    assert ("href", "a/evaluations/task-1.57_deterministic.json") in page.attributes


def test_overview_without_adaptation_has_no_return_after_it(tmp_path):
    path = write_run(tmp_path / "a", records=2)
    found = evaluation()
    found["env_steps_per_rollout"] = found["env_steps_per_rollout"][:1]
    found["share_of_tasks_made_worse"] = found["share_of_tasks_made_worse"][:1]
    found["returns"] = {name: rows[:1] for name, rows in found["returns"].items()}
    (path / "evaluation.json").write_text(json.dumps(found))
    rows = Page(report(tmp_path, path)).rows
    titles, cells = next((one, two) for one, two in itertools.pairwise(rows) if "before" in one)
    shown = dict(zip(titles, cells, strict=True))
    mean = f"{found['returns']['mean'][0]:.2f}"
    assert (shown["before"], shown["after 0"]) == (mean, mean)
    assert (shown["after 1"], shown["made worse"]) == ("-", "-")


def test_oracle_is_in_table_and_plot(tmp_path):
    path = write_run(tmp_path / "a")
    informed = write_run(tmp_path / "informed", seed=9, mode="oracle")
    page = Page(report(tmp_path, path, oracles=[informed]))
    final = json.loads((informed / "evaluation.json").read_text())["returns"]["mean"][-1]
    assert next(row for row in page.rows if row[0] == "navigation-2d")[-1] == f"{final:.2f}"
    assert "oracle (task observed)" in "".join(page.texts)


def test_oracle_run_is_compared_with_the_others(tmp_path):
    path = write_run(tmp_path / "a", mode="multi-task")
    informed = write_run(tmp_path / "informed", seed=9, mode="oracle")
    page = Page(report(tmp_path, path, informed))
    final = json.loads((informed / "evaluation.json").read_text())["returns"]["mean"][-1]
    rows = [row for row in page.rows if row[0] == "navigation-2d" and len(row) == 12]
    assert [row[-1] for row in rows] == [f"{final:.2f}"] * 2


def test_long_foreign_name_leaves_the_plots_their_room(tmp_path):
    name = "\u6b69\u304f<b>$x_1$" + "-long" * 40
    path = write_run(tmp_path / "a", env=name)
    page = report(tmp_path, path)  # a collapsed panel and a missing glyph would warn
    titles = re.findall(r">([^<>]*?\.\.\.[^<>]*?)</text>", page)
    assert {len(html.unescape(title)) for title in titles} == {43}
    assert html.escape(name) in page


# ----------------------------------------------------------------------------------------- the verb


def test_report_verb_writes_the_page_and_json(seeds, tmp_path, capsys):
    path = write_run(tmp_path / "a")
    assert commands.main(["report", str(path), "--json", str(tmp_path / "out.json")]) == 0
    assert capsys.readouterr().out == f"{path / 'report.html'}\n"
    Page((path / "report.html").read_text())
    (group,) = json.loads((tmp_path / "out.json").read_text())["groups"]
    returns = json.loads((path / "evaluation.json").read_text())["returns"]
    assert group["evaluation"]["returns"]["mean"] == returns["mean"]
    both = [str(path), str(write_run(tmp_path / "b", max_kl=0.05)), "-o", str(tmp_path / "x.html")]
    assert commands.main(["report", *both, "--json", str(tmp_path / "out.json")]) == 0
    (pair,) = json.loads((tmp_path / "out.json").read_text())["comparisons"]
    assert pair["better"] == {"first episode": "", "final": "", "final, without noise": None}
    assert not (path / "videos" / "report.html").exists() and not list(path.glob(".*"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("{a} {b}", 2, "--output is missing"),
        ("{a} -o no/folder/x.html", 2, "there is no folder no/folder"),
        ("{a} --json no/folder/x.json", 2, "there is no folder no/folder"),
        ("{a} -o {empty}", 2, "empty: is a folder; name a file"),
        ("{a} --json {empty}", 2, "empty: is a folder; name a file"),
        ("{a} --oracle {ant}", 2, "it is of ant-dir, of which no run is given"),
        ("{a} --oracle {empty}", 5, "make it with: python -m metarl evaluate"),
        ("{empty}", 5, "empty is not a run folder"),
        ("{empty}/none", 5, "none is not a run folder"),
    ],
)
def test_report_verb_fails_with_one_line(words, code, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    folders = {name: write_run(tmp_path / name, seed=i) for i, name in enumerate("ab")}
    folders |= {"ant": write_run(tmp_path / "ant", env="ant-dir"), "empty": tmp_path / "empty"}
    assert commands.main(["report", *words.format(**folders).split()]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert not list(tmp_path.rglob("*.html"))
