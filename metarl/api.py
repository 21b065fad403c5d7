"""Public face of metarl: train, load, evaluate, film and report from Python.

The commands of `metarl` call these functions, so that both do the same.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metarl import builders, experiment
from metarl.certification.certify import certify as certify
from metarl.config.schema import build_config
from metarl.config.trust import trust
from metarl.core.env import BatchEnv, NoPictures, missing_members
from metarl.core.errors import CheckpointError, ConfigError, MetarlError, Preempted
from metarl.core.machine.files import load_json, require_writable
from metarl.core.messages import show, warn
from metarl.core.ranges import MOST_ADAPTATIONS, MOST_TASKS, require_count
from metarl.environments import Robot as Robot
from metarl.environments import check_env as check_env
from metarl.environments import make_env as make_env
from metarl.environments import register_robot as register_robot
from metarl.environments import robot_from_mjcf as robot_from_mjcf
from metarl.evaluation import results, table
from metarl.explanation import explain as explain
from metarl.filming import film as film
from metarl.filming import film_together as film_together
from metarl.filming import is_film_stale
from metarl.learners.modes import label
from metarl.policies import (
    Given,
    check_seeds,
    find_folder,
    list_policies,
    name_policy,
    open_policy,
)
from metarl.runs.folder import is_older_than_checkpoints
from metarl.runs.progress import heartbeat
from metarl.runs.published import output_folder, read_evaluation_settings
from metarl.runs.sinks import log_evaluation, make_sink
from metarl.sampling.sampler import Key
from metarl.sharing.exporting import export as export
from metarl.sharing.exporting import run_policy as run_policy
from metarl.sharing.histories import export_minari as export_minari
from metarl.sharing.publishing import publish as publish
from metarl.sharing.publishing import push as push
from metarl.trained_policy import TrainedPolicy
from metarl.training.launch import read_launch

NUM_TASKS, NUM_ADAPTATIONS = 20, 3
"""Held-out tasks and adaptation steps of an evaluation, where the run has no others."""


def train(
    env: Any = None, algo: str | None = None, *, evaluate: bool = True, **settings: Any
) -> TrainedPolicy:
    """Trains a policy that adapts, and evaluates and films it as the command line does.

    Args:
        env: A name as for --env, a class or function that makes a Gymnasium environment, or a
            `BatchEnv`. It can be left out with `resume=RUN` or `config=FILE`.
        algo: Name of the learner, as for --algo; by default maml-trpo.
        evaluate: Evaluate and film at the end, as the trainer settings say.
        **settings: Fields of `metarl.config.schema.TrainConfig`, for example `iterations=20`,
            `seed=1`, `learner={"inner_lr": 0.2}`, `sampler={"num_tasks": 10}`,
            `run_dir="runs/mine"`, `config="my.yaml"`.

    Returns:
        The trained policy; its `path` is the run folder.

    Raises:
        ConfigError: A setting is unknown or out of range.
        MetarlError: Training failed; the message says why and how to resume.
    """
    name = None if env is None else builders.name_of(env)
    config = build_config(name, algo, settings)
    policy = experiment.train(config, env)
    if evaluate:
        with ExitStack() as on_failure:
            on_failure.callback(policy.close)
            finish(policy, again=policy.num_trained > 0)
            on_failure.pop_all()
    return policy


def finish(policy: TrainedPolicy, *, again: bool) -> None:
    """Evaluates and films a policy as its trainer settings say, and prints the results.

    Of several processes that have trained together only the first one does.

    Args:
        policy: The trained policy.
        again: Make existing files again; otherwise only missing and outdated ones.

    Raises:
        Preempted: Ctrl-C or SIGTERM; the training is saved.
        MetarlError: The evaluation or the film failed; the message says that the training is saved.
    """
    trainer = policy.config.trainer
    if not read_launch().is_first:
        return
    try:
        settings = results.EvaluationSettings(trainer.evaluate_tasks, NUM_ADAPTATIONS)
        if trainer.evaluate_tasks and (
            again or _is_stale_evaluation(policy, _choose_path(policy, settings))
        ):
            is_fixed = builders.is_baseline(policy.config, "scratch")
            result = evaluate(policy, num_tasks=None if is_fixed else trainer.evaluate_tasks)
            show(table.table(result))
            log_evaluation(make_sink(trainer), policy.path, result)
        if trainer.video and (again or is_film_stale(policy)):
            _film_if_possible(policy)
    except KeyboardInterrupt as error:
        command = experiment.resume_hint(policy)
        raise Preempted(f"stopped after training; what is missing is made by: {command}") from error
    except MetarlError as error:
        raise type(error)(f"{error}; the training is saved in {policy.path}") from error


def _film_if_possible(policy: TrainedPolicy) -> None:
    num_adaptations = max(1, policy.config.sampler.num_adaptations)
    try:
        for path in film(policy, num_adaptations=num_adaptations):
            show(f"video: {path}")
    except NoPictures as error:
        show(f"no video: {error}")


def _is_stale_evaluation(policy: TrainedPolicy, path: Path) -> bool:
    """Returns whether an evaluation is missing, unreadable or not of the newest checkpoint."""
    try:
        iteration = load_json(path).get("checkpoint", {}).get("iteration")
    except (OSError, ValueError, AttributeError):
        return True
    if iteration is None:  # of an older version
        return is_older_than_checkpoints(policy.path, path)
    return iteration != policy.progress.iteration


def load(
    run: str | Path,
    *,
    threads: int = 0,
    env: Any = None,
    is_teacher: bool = False,
    trust_env: bool = False,
) -> TrainedPolicy:
    """Loads the newest good checkpoint of a run folder.

    Args:
        run: The run folder, or hf://ORG/NAME[@REVISION] for one on the Hugging Face hub.
        threads: Physics and adaptation threads; 0 uses all cores.
        env: The environment of training as an object, where its name does not lead to it.
        is_teacher: Load the teacher of a run of teacher-student, an oracle that observes the task.
        trust_env: Load the plug-in environment and learner that the folder names, which runs their
            code. Names that this process was given already need no trust.

    Raises:
        CheckpointError: The folder is not a run, or none of its checkpoints can be verified.
        ConfigError: The run has no teacher, the address cannot be used, or the learner is code that
            is not trusted.
        ResourceError: The hub cannot be reached.
    """
    return experiment.load(run, threads, env, is_teacher=is_teacher, trust_env=trust_env)


# --- evaluation -----------------------------------------------------------------------------------


def evaluate(
    policy: Given | Sequence[Given],
    env: Any = None,
    *,
    num_tasks: int | None = None,
    num_adaptations: int | None = None,
    tasks: Sequence[Sequence[float]] | np.ndarray | None = None,
    deterministic: bool = False,
    oracle: dict[str, Any] | None = None,
    trust_env: bool = False,
) -> dict[str, Any]:
    """Measures returns after 0..K adaptation steps on held-out tasks, and writes them to a file.

    The file is evaluation.json of the run folder, unless that is of the same checkpoint and other
    settings. Such evaluations, those of chosen tasks, of another environment and without
    exploration noise are kept in evaluations/, under a name made from their settings.

    Args:
        policy: The trained policy, its run folder, or its address on the hub; or a list of them,
            of one environment and learner, which are seeds of one experiment.
        env: Another environment with the same sizes (a name or a `BatchEnv`); by default that of
            training.
        num_tasks: N, held-out tasks; by default as in the evaluation of a published policy, or else
            `trainer.evaluate_tasks`, or 20.
        num_adaptations: K; by default as in the evaluation of a published policy, or else 3.
        tasks: Tasks (N, D) to use instead of held-out ones.
        deterministic: Act without exploration noise in the rollouts that are measured. Otherwise
            both are measured, and `result["without_noise"]` has the returns without noise.
        oracle: Result of a policy that observes the task, to be kept in the result.
        trust_env: Load the plug-ins that a run folder names, as for `load`.

    Returns:
        The contents of the file: `result["returns"]["mean"][k]` is the mean return after k
        adaptation steps. Of a list, a result like it over all seeds; each has its own file.

    Raises:
        ConfigError: The environment or the tasks do not fit the policy, or the policies of a list
            are not seeds of one experiment.
        NumericalError: A gradient of the adaptation is not finite.
        ResourceError: The folder of a policy cannot be written to.
    """
    chosen = {"--num-tasks": num_tasks, "--num-adaptations": num_adaptations, "--env": env}
    chosen |= {"--task": tasks, "--deterministic": deterministic or None}
    size = {"num_tasks": num_tasks, "num_adaptations": num_adaptations}
    size = {name: value for name, value in size.items() if value is not None}
    require_count("num_tasks", size.get("num_tasks", 1), 1, MOST_TASKS)
    require_count("num_adaptations", size.get("num_adaptations", 0), 0, MOST_ADAPTATIONS)
    trust(env)
    policies = list_policies(policy, "policy")
    check_seeds(policies, trusts=trust_env)
    evaluations = []
    for each in policies:
        with open_policy(each, trust_env=trust_env) as loaded:
            _require_choice(loaded, [flag for flag, v in chosen.items() if v is not None])
            settings = replace(_usual_settings(loaded), **size, deterministic=deterministic)
            evaluations.append(_evaluate(loaded, env, settings, tasks, oracle))
    return combine(policies, evaluations, oracle)


def _usual_settings(policy: TrainedPolicy) -> results.EvaluationSettings:
    """Returns the size of an evaluation whose numbers compare with those of the run."""
    num_tasks = policy.config.trainer.evaluate_tasks or NUM_TASKS
    return read_evaluation_settings(policy.path) or results.EvaluationSettings(num_tasks)


def _require_choice(policy: TrainedPolicy, flags: Sequence[str]) -> None:
    """Requires that flags have an effect: policies from scratch have one evaluation.

    Raises:
        ConfigError: They have none; names them.
    """
    if flags and builders.is_baseline(policy.config, "scratch"):
        text = f"{policy.path}: {', '.join(flags)}: has no effect on policies from scratch"
        raise ConfigError(f"{text}, which have own tasks and play each once; leave it out")


def combine(
    policies: Sequence[Given],
    evaluations: Sequence[dict[str, Any]],
    oracle: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Returns the evaluation of one policy as it is, and joins those of several seeds."""
    if len(evaluations) == 1:
        return evaluations[0]
    result = results.aggregate(evaluations) | {"runs": [name_policy(each) for each in policies]}
    return result | ({"oracle": oracle} if oracle else {})


def _evaluate(
    policy: TrainedPolicy,
    env: Any,
    settings: results.EvaluationSettings,
    tasks: Sequence[Sequence[float]] | np.ndarray | None,
    oracle: dict[str, Any] | None,
) -> dict[str, Any]:
    config, progress = policy.config, policy.progress
    settings = replace(settings, is_teacher=policy.is_teacher)
    require_writable(policy.output, "the evaluation")
    with _open_env(policy, env) as used:
        if env is not None and used.spec.name != policy.spec.name:
            settings = replace(settings, env=used.spec.name)
        if tasks is not None:
            from metarl.evaluation.evaluate import check_chosen_tasks, describe_outside

            chosen = check_chosen_tasks(tasks, used.spec)
            for line in describe_outside(chosen, used.spec):
                warn(line)
            settings = replace(settings, tasks=tuple(map(tuple, chosen.tolist())))
        if builders.is_baseline(config, "scratch"):
            with heartbeat("evaluating the learning curves"):
                result = policy.learner.learning_curve(used)
        else:
            count = len(settings.tasks) or settings.num_tasks
            with heartbeat(f"evaluating on {count} tasks"):
                result = _run_trial(policy, used, settings)
    result |= {"trained_on": policy.spec.name, "chosen_tasks": tasks is not None}
    result["checkpoint"] = {"iteration": progress.iteration, "env_steps": progress.env_steps}
    if oracle:
        result["oracle"] = oracle
    path = _choose_path(policy, settings)
    results.write(path, result)
    if path != policy.path / results.FILE:
        show(f"kept in {path}")
    return result


def _run_trial(policy: TrainedPolicy, env: Any, settings: Any) -> dict[str, Any]:
    """Runs the trial of an evaluation and returns its summary.

    An evaluation with policy noise also measures the policy without it, in a second trial with the
    same tasks and initial states.
    """
    from metarl.evaluation.evaluate import evaluate, held_out_tasks, summary

    config = policy.config
    if settings.tasks:
        tasks = np.array(settings.tasks)
    else:
        tasks = held_out_tasks(env.spec, config.seed, settings.num_tasks)
    size = {
        "num_episodes": config.sampler.num_episodes,
        "num_adaptations": settings.num_adaptations,
    }
    key = Key(config.seed, "evaluate", 0)
    modes = [False] if settings.deterministic else [True, False]
    measured = [evaluate(env, policy.learner, tasks, **size, key=key, explore=e) for e in modes]
    name = label(config.algo, config.learner)
    return summary(measured[0], env.spec, name, config.seed, *measured[1:])


def _choose_path(policy: TrainedPolicy, settings: results.EvaluationSettings) -> Path:
    """Returns the file of an evaluation: evaluation.json, or one in evaluations/ named by settings.

    Policies from scratch have one evaluation, which depends on no settings.
    """
    main = policy.output / results.FILE
    if builders.is_baseline(policy.config, "scratch"):
        return main
    is_plain = not (settings.deterministic or settings.env or settings.tasks or settings.is_teacher)
    if is_plain and _read_settings(policy) in (None, settings):
        return main
    return results.evaluation_path(policy.output, settings)


def _read_settings(policy: TrainedPolicy) -> results.EvaluationSettings | None:
    """Returns the settings of evaluation.json, None if it cannot be read or is of other weights."""
    try:
        recorded = results.read(policy.output)
    except CheckpointError:
        return None
    if recorded.get("checkpoint", {}).get("iteration") != policy.progress.iteration:
        return None
    return results.settings_of(recorded)


@contextmanager
def _open_env(policy: TrainedPolicy, env: Any) -> Generator[Any]:
    """Yields the environment of an evaluation, and closes it if it is built here.

    Raises:
        ConfigError: Its sizes are not those of the policy; names both.
    """
    if env is None:
        yield policy.env
        return
    config = policy.config
    is_given = not isinstance(env, type) and not missing_members(env, BatchEnv)
    built = builders.build_env(replace(config, env=builders.name_of(env)), env)
    try:
        before, now = policy.spec, built.spec
        for name in ("obs_size", "action_size", "discrete"):
            old, new = vars(before)[name], vars(now)[name]
            if old != new:
                hint = f"the policy was trained on {config.env}, which has {old}"
                raise ConfigError(f"--env {now.name}: {name} is {new}; {hint}")
        yield built
    finally:
        if not is_given:
            built.close()


# --- videos, reports, checks ----------------------------------------------------------------------


def report(runs: Given | Sequence[Given], output: str | Path | None = None) -> Path:
    """Writes one HTML page with the plots and numbers of runs; returns its path.

    Args:
        runs: Trained policies, run folders, or addresses on the hub; one or a list.
        output: The page; for one run, by default, report.html in its folder.

    Raises:
        ConfigError: `output` is missing for several runs, or its folder does not exist.
        CheckpointError: A folder is no run, or its contents cannot be read.
    """
    from metarl.reporting.report import write_report

    paths = [find_folder(run, "runs") for run in list_policies(runs, "runs")]
    if output is None and len(paths) > 1:
        raise ConfigError("--output is missing: give the page of several runs a name")
    page = Path(output) if output else output_folder(paths[0]) / "report.html"
    write_report(paths, page, [])
    return page
