import json
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest
from run_files import evaluation, make_record, open_log, read_metrics, write_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.config.schema import TrainerConfig
from metarl.core.errors import CheckpointError, ResourceError
from metarl.runs import sinks
from metarl.runs.sinks import TensorBoardSink, log_evaluation, make_sink


def refuse(*_):
    raise OSError(28, "No space left on device")


# --- the choice ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, TensorBoardSink),
        ({"tensorboard": False}, type(None)),
        ({"logger": "none"}, type(None)),
    ],
)
def test_sink_is_chosen_by_the_settings(settings, kind):
    assert type(make_sink(TrainerConfig(**settings))) is kind


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_missing_package_is_named_with_the_command_to_install_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    hint = rf"--trainer.logger {name}: .*{name}.*pip install 'metarl-robots\[{name}\]'"
    with pytest.raises(ResourceError, match=hint):
        make_sink(TrainerConfig(logger=name))


# --- TensorBoard ---------------------------------------------------------------------------------


def read_events(folder):
    return EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()


def points(events, tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


def text_of(events, tag):
    return events.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()


def test_tensorboard_has_environment_steps_as_x_axis(tmp_path):
    with open_log(tmp_path, sink=TensorBoardSink()) as log:
        for iteration in range(1, 5):
            log.write(make_record(iteration, kl=1.0, update={"loss": 0.5}))
        log.sync()
    time.sleep(1.1)  # files are read in the order of their names, which have whole seconds
    # the resumed run repeats the last two iterations
    sink = TensorBoardSink()
    with open_log(tmp_path, sink=sink, resume=True, start_iteration=2) as log:
        log.write(make_record(3, kl=2.0, name="a text"))
    events = read_events(tmp_path)
    assert points(events, "train/kl") == [(80_000, 1), (160_000, 1), (240_000, 2)]
    assert points(events, "train/iteration") == [(80_000, 1), (160_000, 2), (240_000, 3)]
    assert "update/loss" in events.Tags()["scalars"]
    assert "train/env_steps" not in events.Tags()["scalars"]


def test_tensorboard_rewrites_events_that_counted_iterations(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    old = [{**make_record(i + 1), "iteration": i} for i in range(3)]
    with open(tmp_path / "metrics.jsonl", "w") as file:
        file.writelines(json.dumps(record) + "\n" for record in old)
    with SummaryWriter(str(tmp_path)) as writer:
        for i in range(3):
            writer.add_scalar("train/kl", 9.0, i)
    sink = TensorBoardSink()
    with open_log(tmp_path, sink=sink, resume=True, start_iteration=2) as log:
        log.write(make_record(3, kl=2.0))
    kl = pytest.approx(0.00987)
    assert points(read_events(tmp_path), "train/kl") == [(80_000, kl), (160_000, kl), (240_000, 2)]
    assert [record["iteration"] for record in read_metrics(tmp_path)] == [1, 2, 3]


def train_to(folder, last, sink=None):
    """Trains up to an iteration, as a run does that is resumed where it stopped."""
    first = len(read_metrics(folder)) if (folder / "metrics.jsonl").exists() else 0
    with open_log(folder, sink=sink, resume=first > 0, start_iteration=first) as log:
        for iteration in range(first + 1, last + 1):
            log.write(make_record(iteration, kl=float(iteration)))
        log.sync()
    time.sleep(1.1)  # see above


def test_tensorboard_gets_the_records_of_a_resume_without_it(tmp_path):
    train_to(tmp_path, 2, TensorBoardSink())
    train_to(tmp_path, 4)
    train_to(tmp_path, 5, TensorBoardSink())
    assert points(read_events(tmp_path), "train/kl") == [(80_000 * i, i) for i in range(1, 6)]


def test_tensorboard_gets_the_records_before_an_evaluation(tmp_path):
    train_to(tmp_path, 1)
    log_evaluation(TensorBoardSink(), tmp_path, tracked_result())
    train_to(tmp_path, 2, TensorBoardSink())
    assert points(read_events(tmp_path), "train/kl") == [(80_000 * i, i) for i in range(1, 3)]


@pytest.mark.parametrize("text", [None, "{", '{"tensorboard": {"id": "", "last_step": "1"}}'])
def test_tensorboard_needs_no_tracking_file(text, tmp_path):
    train_to(tmp_path, 2, TensorBoardSink())
    if text is None:  # as older versions left it
        (tmp_path / sinks.STATE_FILE).unlink()
    else:
        (tmp_path / sinks.STATE_FILE).write_text(text)
    train_to(tmp_path, 3, TensorBoardSink())
    assert points(read_events(tmp_path), "train/kl") == [(80_000 * i, i) for i in range(1, 4)]


def test_tensorboard_has_settings_and_hyper_parameters(tmp_path):
    (tmp_path / "config.yaml").write_text("env: ant-dir\nlearner: {lr: 0.5, sizes: [8, 8]}\n")
    with open_log(tmp_path, sink=TensorBoardSink()) as log:
        log.write(make_record(1))
    events = read_events(tmp_path)
    assert text_of(events, "settings").split("\n")[1].strip() == "learner.lr: 0.5"
    plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"learner.lr" in plugin and b"ant-dir" in plugin and b"[8, 8]" in plugin
    experiment = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert b"evaluation/return_after_1" in experiment


def test_tensorboard_shows_the_evaluation(tmp_path):
    with open_log(tmp_path, sink=TensorBoardSink()) as log:
        log.write(make_record(1))
    result = evaluation() | {"checkpoint": {"iteration": 1, "env_steps": 80_000}}
    log_evaluation(TensorBoardSink(), tmp_path, result)
    log_evaluation(None, tmp_path, result)
    events = read_events(tmp_path)
    for k, mean in enumerate(result["returns"]["mean"]):
        assert points(events, f"evaluation/return_after_{k}") == [(80_000, pytest.approx(mean))]
    assert "held-out tasks x 4 episodes" in text_of(events, "evaluation")
    assert len(points(events, "train/kl")) == 1


def test_tensorboard_on_a_full_disk_prints_no_traceback(tmp_path, monkeypatch, capfd):
    from tensorboard.summary.writer.record_writer import RecordWriter

    hook = threading.excepthook
    log = open_log(tmp_path, sink=TensorBoardSink())
    log.write(make_record(1))
    log.sync()
    monkeypatch.setattr(RecordWriter, "write", refuse)
    with pytest.raises(ResourceError, match=r"events\.out.*: No space left on device"):
        for iteration in range(2, 200):
            log.write(make_record(iteration))
            log.sync()
    log.sync()  # no checkpoint depends on events
    with pytest.raises(ResourceError, match=r"events\.out.*: No space left on device"):
        log.close()
    assert capfd.readouterr().err == "" and threading.excepthook is hook


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_overlapping_sinks_restore_the_hook_of_threads(order, tmp_path):
    hook, sinks = threading.excepthook, [TensorBoardSink(), TensorBoardSink()]
    for i, sink in enumerate(sinks):
        (tmp_path / str(i)).mkdir()
        sink.open({}, tmp_path / str(i), 0)
        assert threading.excepthook is not hook
    sinks[order[0]].close()
    assert threading.excepthook is not hook  # the other one is still open
    sinks[order[1]].close()
    sinks[order[1]].close()  # a second call changes nothing
    assert threading.excepthook is hook


def test_hook_set_while_a_sink_is_open_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    sink = TensorBoardSink()
    sink.open({}, tmp_path, 0)
    threading.excepthook = others = lambda args: None
    sink.close()
    assert threading.excepthook is others


def test_sink_that_cannot_open_restores_the_hook(tmp_path):
    hook, sink = threading.excepthook, TensorBoardSink()
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file/run/tracking.json: Not a directory"):
        sink.open({}, tmp_path / "file" / "run", 0)
    assert threading.excepthook is hook


# --- trackers ------------------------------------------------------------------------------------


class FakeTracker(ModuleType):
    """A module like wandb or trackio that keeps what it is given."""

    def __init__(self, name, error=None):
        super().__init__(name)
        self.inits, self.logged, self.finished, self.error = [], [], 0, error
        self.summary = {}

    Settings = SimpleNamespace

    def init(self, **settings):
        if self.error:
            raise self.error
        self.inits.append(settings)
        return self

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def finish(self):
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def tracker(request, monkeypatch):
    for variable in ("WANDB_PROJECT", "TRACKIO_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    fake = FakeTracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


def make_tracker_sink(tracker):
    return make_sink(TrainerConfig(logger=tracker.__name__))


def test_tracker_gets_settings_and_metrics(tmp_path, tracker):
    run = tmp_path / "a-run"
    write_run(run, records=0, evaluated=False)
    with open_log(run, sink=make_tracker_sink(tracker), resume=True) as log:
        log.write(make_record(1))
    (init,) = tracker.inits
    assert init["project"] == "metarl" and init["resume"] == "allow"
    assert "navigation-2d" in str(init["config"]) and "a-run" in init["name"]
    ((step, metrics),) = tracker.logged
    assert step == 80_000 and metrics["train/iteration"] == 1 and tracker.finished == 1


def test_resumed_run_continues_the_same_tracked_run(tmp_path, tracker):
    with open_log(tmp_path, sink=make_tracker_sink(tracker)) as log:
        for iteration in range(1, 5):
            log.write(make_record(iteration))
    sink = make_tracker_sink(tracker)
    with open_log(tmp_path, sink=sink, resume=True, start_iteration=2) as log:
        for iteration in range(3, 6):
            log.write(make_record(iteration))
    first, second = tracker.inits
    key = "id" if tracker.__name__ == "wandb" else "name"
    assert first[key] == second[key] and first[key].startswith(tmp_path.name)
    # repeated steps are not sent again
    assert [step for step, _ in tracker.logged] == [80_000 * i for i in range(1, 6)]


def test_tracker_that_is_chosen_on_resume_gets_the_history(tmp_path, tracker):
    with open_log(tmp_path) as log:
        for iteration in range(1, 4):
            log.write(make_record(iteration))
    sink = make_tracker_sink(tracker)
    with open_log(tmp_path, sink=sink, resume=True, start_iteration=2) as log:
        log.write(make_record(3))
    assert [step for step, _ in tracker.logged] == [80_000, 160_000, 240_000]


def test_tracker_gets_the_records_of_a_resume_without_it(tmp_path, tracker):
    train_to(tmp_path, 1, make_tracker_sink(tracker))
    train_to(tmp_path, 2)
    train_to(tmp_path, 3, make_tracker_sink(tracker))
    assert [step for step, _ in tracker.logged] == [80_000, 160_000, 240_000]


def test_two_trackers_have_ids_of_their_own(tmp_path, monkeypatch):
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, FakeTracker(name))
        log_evaluation(make_sink(TrainerConfig(logger=name)), tmp_path, tracked_result())
    state = json.loads((tmp_path / sinks.STATE_FILE).read_text())
    assert state["wandb"]["id"] != state["trackio"]["id"]


def tracked_result():
    return evaluation() | {"checkpoint": {"iteration": 1, "env_steps": 80_000}}


def test_tracker_gets_the_evaluation(tmp_path, tracker):
    log_evaluation(make_tracker_sink(tracker), tmp_path, tracked_result())
    expected = tracked_result()["returns"]["mean"]
    given = tracker.summary or tracker.logged[0][1]
    assert [given[f"evaluation/return_after_{k}"] for k in range(3)] == expected
    assert tracker.finished == 1


def test_tracker_that_fails_to_start_is_named_in_one_line(tmp_path, tracker):
    tracker.error = RuntimeError("No API key\nconfigured")
    with pytest.raises(ResourceError, match=r"--trainer.logger \w+: No API key configured; "):
        with open_log(tmp_path, sink=make_tracker_sink(tracker)) as log:
            log.write(make_record(1))


@pytest.mark.parametrize("text", ["{", "[]", '{"wandb": 1, "trackio": 1}'])
def test_damaged_tracking_file_is_named(tmp_path, tracker, text):
    (tmp_path / sinks.STATE_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=f"{sinks.STATE_FILE} cannot be read"):
        log_evaluation(make_tracker_sink(tracker), tmp_path, tracked_result())


def test_wandb_writes_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with open_log(tmp_path, sink=make_sink(TrainerConfig(logger="wandb"))) as log:
        log.write(make_record(1))
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"train/return_post" in path.read_bytes()


def test_trackio_writes_locally(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "store"))
    pytest.importorskip("trackio")
    with open_log(tmp_path, sink=make_sink(TrainerConfig(logger="trackio"))) as log:
        log.write(make_record(1))
    content = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*.db*"))
    assert b"train/return_post" in content
