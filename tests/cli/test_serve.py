"""The command `serve`: a process that answers a robot, and ends cleanly."""

import json
import re
import signal
from contextlib import closing, contextmanager

import numpy as np
import pytest
from certificates import save_linear_onnx
from commands import METARL, REPOSITORY, call, finish, is_one_line, start

import metarl
from metarl.cli import commands
from metarl.deployment.serving.client import Client
from metarl.deployment.serving.messages import Flag

QUADRUPED = REPOSITORY / "pretrained" / "quadruped-command"
NAVIGATION = REPOSITORY / "pretrained" / "navigation-2d"


@contextmanager
def serving(run, *flags, cwd):
    """Starts `metarl serve`; gives the process and its first lines."""
    process = start(*METARL, "serve", run, *flags, cwd=cwd, PYTHONPATH=str(REPOSITORY))
    try:
        lines = []
        while not lines or "metarl: serving" not in lines[-1]:
            assert process.poll() is None, lines
            lines.append(process.stderr.readline())
        yield process, "".join(lines)
    finally:
        process.kill()
        process.wait()
        process.stdout.close(), process.stderr.close()


def play(policy, client, session, num_steps, rng):
    """Plays an episode on both and compares the controls bit for bit."""
    reward = None
    for _ in range(num_steps):
        obs = rng.standard_normal(policy.spec.obs_size).astype(np.float32)
        expected = np.asarray(session.act(obs, reward), dtype=np.float32)
        np.testing.assert_array_equal(client.act(obs, reward).controls, expected)
        reward = float(np.float32(rng.uniform()))
    client.end_episode(reward, done=True)
    session.end_episode(reward, True)


def test_udp_gives_the_controls_of_a_session_bit_for_bit(tmp_path):
    """Also after a fall, which keeps the memory, and after a new beginning; ended by SIGTERM."""
    flags = ["--port", "0", "--watchdog", "30", "--log", "log"]
    with serving(QUADRUPED, *flags, cwd=tmp_path) as (process, line):
        port = int(re.search(r"on udp 127.0.0.1 port (\d+): 36 numbers in, 12", line)[1])
        policy, rng = metarl.load(QUADRUPED, threads=1), np.random.default_rng(0)
        client = Client(("127.0.0.1", port), 36, 12, timeout=10.0)
        with closing(client):
            for _ in range(2):
                session = policy.start()
                client.begin()
                for _ in range(2):
                    play(policy, client, session, 30, rng)
            assert client.num_repeated == 0
            client.act(np.zeros(36))
            process.send_signal(signal.SIGTERM)
            done = finish(process)
    assert (done.code, done.out) == (0, "")
    assert re.fullmatch(r"metarl: served 121 steps in 5 episodes; latency [^\n]*\n", done.err)
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    ends = [each["end"] for each in records if each["event"] == "episode"]
    assert ends == ["fall"] * 4 + ["closed"] and records[-1]["steps"] == 121


def test_unix_socket_adapts_and_is_removed(tmp_path):
    flags = ["--transport", "unix", "--path", "socket", "--watchdog", "30"]
    with serving(NAVIGATION, *flags, cwd=tmp_path) as (process, _):
        policy, rng = metarl.load(NAVIGATION, threads=1), np.random.default_rng(0)
        session = policy.start()
        client = Client(str(tmp_path / "socket"), 2, 2, timeout=1.0)
        with closing(client):
            assert client.adapt().flags & Flag.ERROR
            for _ in range(2):
                play(policy, client, session, 20, rng)
            assert client.adapt().counters.adaptations == 1
            session.adapt()
            play(policy, client, session, 20, rng)
        process.send_signal(signal.SIGINT)
        assert finish(process).code == 0
    assert list(tmp_path.iterdir()) == []


def test_lines_of_json_are_answered(tmp_path, monkeypatch, capfd):
    lines = ['{"verb": "act", "obs": [0, 0]}', "hello", '{"verb": "act", "obs": [0]}']
    (tmp_path / "in").write_text("\n".join(lines))
    with open(tmp_path / "in") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert commands.main(["serve", str(NAVIGATION), "--transport", "stdin"]) == 0
    out, err = capfd.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert len(first["controls"]) == 2 and "error" not in first
    assert re.match(r"obs has the shape \(1,\): must be ", second["error"]) and second["safe"]
    assert "metarl: refused a message: no JSON" in err and "served 1 steps" in err


def adapt_twice(run, *flags, folder, monkeypatch):
    """Plays two episodes with a step and adapts after each; returns the exit code."""
    lines = ['{"verb": "act", "obs": [0, 0]}', '{"verb": "end", "reward": 1}', '{"verb": "adapt"}']
    (folder / "in").write_text("\n".join(2 * lines))
    with open(folder / "in") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        return commands.main(["serve", str(run), "--transport", "stdin", *flags])


@pytest.mark.parametrize("is_file", [False, True])
def test_robot_that_explores_adapts_again(is_file, tmp_path, monkeypatch, capfd):
    run, options = NAVIGATION, {"folder": tmp_path, "monkeypatch": monkeypatch}
    if is_file:
        run = tmp_path / "p.onnx"
        metarl.export(NAVIGATION, run)
    assert adapt_twice(run, **options) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert last["adaptations"] == 1
    message = "adapt: the episodes have no action noise to learn from; metarl serve --explore draws"
    assert last["error"].startswith(message)
    assert adapt_twice(run, "--explore", **options) == 0
    last = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert last["adaptations"] == 2 and "error" not in last


def test_file_without_noise_cannot_explore(tmp_path, capsys):
    metarl.export(NAVIGATION, tmp_path / "p.onnx", adapt=[1.0, 0.0])
    assert commands.main(["serve", str(tmp_path / "p.onnx"), "--explore"]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "--explore: " in err and "has the mode of its policy alone; leave it out" in err


def test_progress_is_not_among_the_replies(tmp_path, monkeypatch, capfd):
    """Loading a policy prints lines if it takes more than some seconds."""
    load = metarl.load

    def load_slowly(*arguments, **options):
        print("loading ... 5 s")
        return load(*arguments, **options)

    monkeypatch.setattr("metarl.api.load", load_slowly)
    (tmp_path / "in").write_text('{"verb": "status"}')
    with open(tmp_path / "in") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert commands.main(["serve", str(NAVIGATION), "--transport", "stdin"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["verb"] == "status" and "loading ... 5 s" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--transport tcp", "argument --transport: invalid choice: 'tcp'"),
        ("--transport unix", "--path is missing: --transport unix needs the file of the socket"),
        ("--path s", "--path: belongs to --transport unix, not udp"),
        ("--transport stdin --port 1", "--port: belongs to --transport udp, not stdin"),
        ("--port 70000", "argument --port: 70000: must be a whole number from 0 to 65535"),
        ("--watchdog 0", "argument --watchdog: 0: must be a number from 0.001 to 3600"),
        ("--rate-limit fast", "argument --rate-limit: fast: must be numbers separated by commas"),
        ("--range 2,-2", "--range 2,-2: LOW is above HIGH; give the smaller one first"),
        ("--range 1,,2", "argument --range: '1,,2': an entry is empty; separate entries by single"),
        ("--rate-limit -1", "--rate-limit -1: must be 1 positive number, or 1 for each of 2"),
        ("--range 1,2", "--range 1,2: must hold the safe control 0 of navigation-2d, 0"),
        ("--log no/log", "--log no/log: there is no folder no"),
        ("--host 192.0.2.1", "--host 192.0.2.1: is no address of this machine"),
    ],
)
def test_unusable_flags_are_refused(flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.main(["serve", str(NAVIGATION), *flags.split()]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and message in err
    assert list(tmp_path.iterdir()) == []


def test_damaged_run_is_refused(tmp_path, capsys):
    assert commands.main(["serve", str(tmp_path)]) == 5
    assert is_one_line(capsys.readouterr().err)


def test_onnx_file_of_others_is_refused(tmp_path, capsys):
    """It does not tell the time of a control step, on which the limits depend."""
    path = save_linear_onnx(tmp_path / "f.onnx", np.zeros((2, 2)))
    assert commands.main(["serve", str(path), "--transport", "stdin"]) == 2
    err = capsys.readouterr().err
    assert is_one_line(err) and "was not written by metarl; serve takes run folders and" in err


def test_address_that_others_reach_gives_a_warning(tmp_path):
    with serving(NAVIGATION, "--host", "0.0.0.0", "--port", "0", cwd=tmp_path) as (process, first):
        process.terminate()
        assert "--host 0.0.0.0: whoever reaches this address can move the robot" in first
        assert finish(process).code == 0


def test_help_of_serve_imports_no_torch():
    code = (
        "import sys, metarl.cli.serve, metarl.deployment.serving.client\n"
        "import metarl.deployment.serving.server\n"
        "sys.exit('torch' in sys.modules or 'mujoco' in sys.modules)"
    )
    assert call(METARL[0], "-c", code, cwd=REPOSITORY).code == 0
