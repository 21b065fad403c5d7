import os

import pytest

from metarl.core.errors import ConfigError, NumericalError
from metarl.training.launch import Launch, read_launch, share_cores, speak_once

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize("variables", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "", "RANK": "2"}])
def test_process_without_others_is_alone(variables):
    assert read_launch(variables) == Launch(0, 1, 0, 1, "")


def test_variables_of_torchrun_are_read():
    assert read_launch(TORCHRUN) == Launch(3, 4, 1, 2, "host:29500")
    assert not read_launch(TORCHRUN).is_first


def test_processes_without_local_numbers_are_on_one_machine():
    few = {name: text for name, text in TORCHRUN.items() if not name.startswith("LOCAL")}
    assert read_launch(few) == Launch(3, 4, 3, 4, "host:29500")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("MASTER_ADDR", "", "WORLD_SIZE is 4 and MASTER_ADDR is missing; start with torchrun"),
        ("MASTER_PORT", "", "WORLD_SIZE is set and MASTER_PORT is missing; start with torchrun"),
        ("RANK", "", "WORLD_SIZE is set and RANK is missing"),
        ("RANK", "4", "RANK = '4': must be a number from 0 to 3"),
        ("WORLD_SIZE", "two", "WORLD_SIZE = 'two': must be a number from 1 to"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK = '-1': must be a number from 0 to 1"),
        ("MASTER_PORT", "0", "MASTER_PORT = '0': must be a number from 1 to 65535"),
    ],
)
def test_unusable_variable_is_named(name, text, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        read_launch({**TORCHRUN, name: text})


def test_processes_of_a_machine_divide_its_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(7))
    assert share_cores(Launch()) == 7
    assert share_cores(Launch(3, 4, 1, 2)) == 3
    assert share_cores(Launch(3, 16, 3, 16)) == 1


@pytest.mark.parametrize(
    ("launch", "out", "error"),
    [
        (Launch(), "text\n", NumericalError),
        (Launch(0, 4, 0, 2), "text\n", NumericalError),
        (Launch(1, 4, 1, 2), "", SystemExit),
        (Launch(2, 4, 0, 2), "", NumericalError),
    ],
)
def test_first_process_speaks_and_each_machine_names_its_error(launch, out, error, capsys):
    with pytest.raises(error) as caught, speak_once(launch):
        print("text")
        raise NumericalError("a message")
    assert capsys.readouterr().out == out
    assert caught.value.args == ((4,) if error is SystemExit else ("a message",))
