"""The verb `serve`: a trained policy answers the messages of one live robot."""

from __future__ import annotations

import argparse
import gc
import math
import sys
from contextlib import ExitStack, closing, redirect_stdout
from typing import Any

from metarl.cli.arguments import RUN, add_trust_argument, parse_path, split_list
from metarl.core.errors import ConfigError, handle_signals
from metarl.core.machine.files import check_output
from metarl.runs.hub import find_run

PORT = 7020
"""UDP port, unless --port names another."""

WATCHDOG = 0.1
"""Silence in an episode after which the robot is sent the safe control, by default [s]."""


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of `serve`."""
    text = f"{RUN}, or a file of metarl export"
    command.add_argument("run", type=str, metavar="RUN", help=text)
    add_trust_argument(command)
    text = "how the robot is reached; udp by default. stdin takes lines of JSON, to try by hand"
    kinds = ("udp", "unix", "stdin")
    command.add_argument("--transport", choices=kinds, default="udp", help=text)
    text = "address of this machine for udp; 127.0.0.1 by default, which only this machine reaches"
    command.add_argument("--host", metavar="HOST", help=text)
    text = f"port for udp; {PORT} by default, 0: a free one"
    command.add_argument("--port", type=_port, metavar="N", help=text)
    command.add_argument(
        "--path", type=parse_path, metavar="SOCKET", help="file of the unix socket"
    )
    text = "silence in an episode after which the robot is sent the safe control [s]; by default "
    text += f"{WATCHDOG}, for stdin none"
    command.add_argument("--watchdog", type=_seconds, metavar="S", help=text)
    text = "smallest and largest control, or those of each control in turn [robot's units]"
    command.add_argument("--range", type=_numbers, dest="ends", metavar="LOW,HIGH", help=text)
    text = "largest change of the controls, one number for all or one for each [units/s]"
    command.add_argument("--rate-limit", type=_numbers, metavar="RATE", help=text)
    text = "draw the actions with noise in all episodes, so that MAML can adapt more than once"
    command.add_argument("--explore", action="store_true", help=text)
    text = "append latencies, episodes and incidents here, as lines of JSON"
    command.add_argument("--log", type=parse_path, metavar="FILE", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Carries out the verb."""
    _check(arguments)
    from metarl.deployment.serving.limits import read_limits
    from metarl.deployment.serving.log import Log
    from metarl.deployment.serving.policies import warm_up
    from metarl.deployment.serving.server import Server, say, wire_format

    with ExitStack() as stack:
        with redirect_stdout(sys.stderr):  # the standard output may hold replies
            policy = _load(arguments, stack)
        spec = policy.spec
        limits = read_limits(spec, arguments.ends, arguments.rate_limit)
        size = wire_format(spec).request_size
        transport = stack.enter_context(closing(_open_transport(arguments, size)))
        log = stack.enter_context(closing(Log(arguments.log)))
        log.write("start", run=str(arguments.run), env=spec.name, on=transport.name)
        stack.callback(gc.unfreeze)
        warm_up(policy)
        watchdog = arguments.watchdog or (math.inf if transport.is_text else WATCHDOG)
        server = Server(policy, transport, limits, watchdog=watchdog, log=log)
        with handle_signals(lambda *_: server.stop()):
            say(f"serving {arguments.run} {server.describe()}")
            server.run()
            say(server.finish())


def _load(arguments: argparse.Namespace, stack: ExitStack) -> Any:
    """Returns the policy of a run folder, or of a file of `metarl export`.

    Raises:
        ConfigError: The file is of others, so that the time of a control step is not known, or it
            cannot explore.
    """
    from metarl.deployment.serving.policies import ExploringPolicy

    run = arguments.run
    if run.lower().endswith(".onnx"):
        from metarl.deployment.onnx_policy import OnnxPolicy

        if arguments.trust_env:
            raise ConfigError(f"--trust-env: {run} is a file, of which no code is loaded")
        policy: Any = OnnxPolicy(run)
        if policy.facts.is_foreign:
            hint = "serve takes run folders and files of metarl export"
            raise ConfigError(f"{run}: was not written by metarl; {hint}")
        if arguments.explore and not policy.can_adapt:
            hint = "leave it out, or serve the run folder"
            raise ConfigError(f"--explore: {run} has the mode of its policy alone; {hint}")
    else:
        from metarl import api

        trusts_env = arguments.trust_env
        policy = stack.enter_context(api.load(find_run(run), threads=1, trust_env=trusts_env))
    return ExploringPolicy(policy) if arguments.explore else policy


def _check(arguments: argparse.Namespace) -> None:
    """Requires the flags that belong to the transport.

    Raises:
        ConfigError: A flag is missing, or belongs to another transport.
    """
    kind = arguments.transport
    owners = {"host": "udp", "port": "udp", "path": "unix"}
    for name, owner in owners.items():
        if vars(arguments)[name] is not None and kind != owner:
            raise ConfigError(f"--{name}: belongs to --transport {owner}, not {kind}")
    if kind == "unix" and arguments.path is None:
        raise ConfigError("--path is missing: --transport unix needs the file of the socket")
    for flag, path in (("--path", arguments.path), ("--log", arguments.log)):
        check_output(flag, path)


def _open_transport(arguments: argparse.Namespace, size: int) -> Any:
    """Opens the transport for requests of a size [bytes]."""
    from metarl.deployment.serving.server import say
    from metarl.deployment.serving.transports import Stdin, Udp, Unix, is_loopback

    if arguments.transport == "stdin":
        return Stdin()
    if arguments.transport == "unix":
        return Unix(arguments.path, size)
    host = arguments.host or "127.0.0.1"
    transport = Udp(host, PORT if arguments.port is None else arguments.port)
    if not is_loopback(host):
        hint = "messages have neither a password nor encryption"
        say(f"warning: --host {host}: whoever reaches this address can move the robot; {hint}")
    return transport


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.001 <= value <= 3600.0:
        raise argparse.ArgumentTypeError(f"{text}: must be a number from 0.001 to 3600")
    return value


def _numbers(text: str) -> list[float]:
    try:
        values = [float(number) for number in split_list(text)]
    except ValueError:
        values = [math.nan]
    if any(math.isnan(value) for value in values):
        hint = "must be numbers separated by commas, such as -1,1"
        raise argparse.ArgumentTypeError(f"{text}: {hint}")
    return values
