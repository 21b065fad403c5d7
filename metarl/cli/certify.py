"""The verb `certify`: a policy, also of another library, against a grid of changed worlds."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from metarl.cli.arguments import (
    RUN,
    add_threads_argument,
    add_trust_argument,
    parse_at_least,
    parse_path,
    parse_run,
    split_list,
)
from metarl.core.errors import ConfigError
from metarl.core.messages import show


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Adds the arguments of the verb."""
    text = f"{RUN}; zip of Stable-Baselines3 (with --sb3), or ONNX file"
    command.add_argument("policy", type=parse_run, metavar="POLICY", help=text)
    command.add_argument("--env", metavar="NAME", help="environment; by default that of the run")
    text = "file of a grid, or name of one that metarl brings along (legged)"
    command.add_argument("--grid", default="legged", metavar="FILE", help=text)
    text = "axes of the grid to use, separated by commas; by default all"
    command.add_argument("--axes", type=split_list, default=[], metavar="NAMES", help=text)
    text = "also combine every level of each axis with every level of the others"
    command.add_argument("--product", action="store_true", help=text)
    text = "tasks of a cell; by default those of the grid"
    command.add_argument("--num-tasks", type=parse_at_least(1), metavar="N", help=text)
    text = "episodes of a trial; by default those of the grid"
    command.add_argument("--attempts", type=parse_at_least(1), metavar="N", help=text)
    text = "key of all random numbers; by default 0"
    kind = parse_at_least(0, 2**64 - 1)
    command.add_argument("--seed", type=kind, default=0, metavar="N", help=text)
    text = (
        "run of a policy that observes the task, played in the cells of its environment; may be "
        "repeated"
    )
    command.add_argument(
        "--oracle", type=parse_run, action="append", default=[], metavar="RUN", help=text
    )
    text = "folder of the certificate; by default certificate"
    default = Path("certificate")
    command.add_argument(
        "-o", "--output", type=parse_path, default=default, metavar="DIR", help=text
    )
    add_threads_argument(command)
    add_trust_argument(command)
    text = "class of Stable-Baselines3 that saved the zip, such as PPO"
    command.add_argument("--sb3", default="", metavar="CLASS", help=text)
    text = "file of the VecNormalize that the zip was trained with"
    command.add_argument("--vec-normalize", type=parse_path, metavar="FILE", help=text)
    text = "load files of Stable-Baselines3, which may run code that is in them"
    command.add_argument("--trust-pickle", action="store_true", help=text)


def run(arguments: argparse.Namespace) -> None:
    """Carries out the verb."""
    from metarl.certification.certify import certify
    from metarl.certification.table import table

    output: Path = arguments.output
    if not output.absolute().parent.is_dir():
        raise ConfigError(f"-o {output}: there is no folder {output.parent}")
    sizes = {"num_tasks": arguments.num_tasks, "attempts": arguments.attempts}
    options = {name: value for name, value in sizes.items() if value is not None}
    options |= {"product": True} if arguments.product else {}
    certificate = certify(
        arguments.policy,
        arguments.env or "",
        output=output,
        grid=arguments.grid,
        axes=arguments.axes,
        oracles=arguments.oracle,
        seed=arguments.seed,
        threads=arguments.threads,
        resume_hint=_make_command(arguments),
        trust_env=arguments.trust_env,
        sb3_class=arguments.sb3,
        trusts_pickle=arguments.trust_pickle,
        normalizer=arguments.vec_normalize,
        **options,
    )
    show(table(certificate))
    show(f"certificate: {output / 'certificate.html'}, certificate.json and badge.svg")


def _make_command(arguments: argparse.Namespace) -> str:
    """Returns the command that continues a certificate."""
    words = ["metarl", "certify", str(arguments.policy)]
    flags = {
        "--env": arguments.env,
        "--grid": arguments.grid if arguments.grid != "legged" else None,
        "--axes": ",".join(arguments.axes),
        "--num-tasks": arguments.num_tasks,
        "--attempts": arguments.attempts,
        "--seed": arguments.seed,
        "-o": arguments.output if arguments.output != Path("certificate") else None,
        "--threads": arguments.threads,
        "--sb3": arguments.sb3,
        "--vec-normalize": arguments.vec_normalize,
    }
    for flag, value in flags.items():
        words += [flag, str(value)] if value else []
    for oracle in arguments.oracle:
        words += ["--oracle", str(oracle)]
    words += ["--product"] if arguments.product else []
    words += ["--trust-pickle"] if arguments.trust_pickle else []
    words += ["--trust-env"] if arguments.trust_env else []
    return shlex.join(words)
