"""Teacher and student: PPO that sees the task, then a memory that guesses what it needs of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from metarl.core.learner import TaskRngs
from metarl.core.machine.parallel import ALONE, Group
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Rollout, require_steps
from metarl.core.task_code import TaskCode
from metarl.core.tasks import TaskDistribution
from metarl.functional.running_moments import Moments, normalize
from metarl.learners.ppo_passes import draw_orders
from metarl.learners.reward_unit import RewardUnit
from metarl.learners.teacher_student import ppo
from metarl.learners.teacher_student.config import TeacherStudentConfig
from metarl.learners.teacher_student.fine_tuning import FineTuning
from metarl.learners.teacher_student.imitation import Imitation
from metarl.learners.teacher_student.networks import Phase, TeacherStudentNetwork
from metarl.learners.teacher_student.other_tasks import describe_start, match_columns
from metarl.learners.training_state import Optimiser, TrainingState
from metarl.learners.trial_memory import TrialContext
from metarl.networks.distributions import build_distribution, choose
from metarl.sampling.sequences import Sequences

_PHASES: tuple[Phase, ...] = ("teacher", "student", "fine-tuning")
_FIRST = "encoder.0.weight"
"""End of the names of the matrix that reads the task, and of Adam's moments of it."""


@dataclass(frozen=True)
class TeacherContext:
    """Knowledge of the tasks that the teacher has.

    Attributes:
        latent: (N, E, Z), or None for an oracle, whose observations have the task.
    """

    latent: Tensor | None

    def slice_tasks(self, start: int, stop: int) -> TeacherContext:
        """Returns the context of the tasks start..stop, as views."""
        return self if self.latent is None else TeacherContext(self.latent[start:stop])


class TeacherStudent:
    """Trains a policy that sees the task, then a memory that replaces the sight of it.

    The first `teacher_updates` updates are PPO on a policy that reads an encoding of the task. In
    all later ones a student acts: with the teacher's actor, and latent numbers that it guesses from
    what it has experienced in the trial. It learns to guess the teacher's numbers, and to act like
    the teacher, in the states that it visits itself. After `student_updates` of these, if there
    are any, PPO trains memory, guess and actor together.

    An oracle is the teacher alone, which also acts outside training: the last D numbers of its
    observation are the task, scaled as by `TaskCode.scale`.

    Args:
        config: Settings.
        obs_size: S; for an oracle S + D.
        action_size: A.
        tasks: The distribution of the tasks.
        seed: Seed of the initial parameters and of the order of minibatches.
        discrete: Actions are one-hot rows of A alternatives.
        device: Where updates run; acting always runs on the CPU.
        num_threads: Not used: an update has one thread.

    Source: Kumar et al. 2021, RMA (arXiv:2107.04034); Ross et al. 2011, DAgger (arXiv:1011.0686).
    """

    pools_episodes = False
    """The E episodes of a task are independent trials."""

    def __init__(
        self,
        config: TeacherStudentConfig,
        obs_size: int,
        action_size: int,
        *,
        tasks: TaskDistribution,
        seed: int,
        discrete: bool = False,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
    ):
        del num_threads
        self.config, self._seed, self._action_size = config, seed, action_size
        self.device = torch.device(device)
        self._code = TaskCode(tasks)
        log_std = config.initial_log_std, config.min_log_std
        distribution = build_distribution(discrete, *log_std)
        self._is_oracle = config.mode == "oracle"
        self._obs_size = obs_size - len(tasks.variables) if self._is_oracle else obs_size
        sizes = self._obs_size, action_size, self._code.size
        # torch draws first values, which are replaced, and warns where there is no task number
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            network = TeacherStudentNetwork(config, distribution, *sizes)
        network.initialise(stream(seed, "init"))
        self._state = TrainingState(
            network,
            self.device,
            distribution,
            network.distribution_params(),
            adams=_list_optimisers(network, config),
            moments={"obs": Moments.initial(self._obs_size), "value": Moments.initial(1)},
            prefix="policy/",
        )
        self._distribution, self.network = distribution, self._state.network
        self._group = ALONE

    def join_group(self, group: Group) -> None:
        """Makes this process compute its slice of every minibatch; see `SplitsUpdate`."""
        self._group = group

    @property
    def phase(self) -> Phase:
        """Who learns in the next update, and how."""
        config, later = self.config, self._state.updates - self.config.teacher_updates
        if self._is_oracle or later < 0:
            return "teacher"
        is_last = config.student_updates and later >= config.student_updates
        return "fine-tuning" if is_last else "student"

    def begin(
        self, num_tasks: int, num_episodes: int, rngs: TaskRngs
    ) -> TeacherContext | TrialContext:
        """Returns the context before any experience, of the student or of an oracle."""
        del rngs
        if self._is_oracle:
            return TeacherContext(None)
        size = num_tasks, num_episodes
        return TrialContext.initial(self._state.acting.memory, size, self._action_size)

    def begin_training(
        self, tasks: np.ndarray, num_episodes: int, rngs: TaskRngs
    ) -> TeacherContext | TrialContext:
        """Returns the context of the one who acts in the next training trial, on tasks (N, D)."""
        if self._is_oracle or self.phase != "teacher":
            return self.begin(len(tasks), num_episodes, rngs)
        with torch.no_grad():
            latent = self._state.acting.encoder(self._encode(tasks))
        return TeacherContext(latent.unsqueeze(1).expand(-1, num_episodes, -1).contiguous())

    def act(
        self,
        context: TeacherContext | TrialContext,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, TeacherContext | TrialContext]:
        """Samples actions (N, E, A) for obs (N, E, S), or takes the mode."""
        state, network, noise_or_none = self._state, self._state.acting, noise if explore else None
        seen, params = obs[..., : self._obs_size], network.distribution_params()
        obs, rest = normalize(seen, state.scales["obs"]), obs[..., self._obs_size :]
        if isinstance(context, TeacherContext):
            latent = self._read_task(rest) if context.latent is None else context.latent
            output = network.output(obs, latent)
            return choose(self._distribution, params, output, noise_or_none), context
        context = context.observe(feedback)
        inputs = context.inputs(obs, state.reward_unit.factor)
        features, memory = network.memory.step(inputs, context.state)
        latent = network.guess(features).unflatten(0, obs.shape[:2])
        action = choose(self._distribution, params, network.output(obs, latent), noise_or_none)
        return action, context.acted(network.memory, memory, action, feedback)

    def adapt(
        self, context: TeacherContext | TrialContext, rollout: Rollout, rngs: TaskRngs
    ) -> TeacherContext | TrialContext:
        """Keeps what is known of the task."""
        del rngs
        return context if isinstance(context, TeacherContext) else context.end_episode(rollout)

    def update(
        self,
        context: TeacherContext | TrialContext,
        rollouts: Sequence[Rollout],
        tasks: np.ndarray,
    ) -> Metrics:
        """Trains the teacher by PPO, or the student by imitation or PPO, as the phase says.

        Raises:
            FloatingPointError: A gradient or a result is not finite, or the recomputed policy is
                not the one that sampled. Like any exception, it leaves the learner unchanged.
            ValueError: No step is valid.
        """
        del context
        require_steps(rollouts)
        state, phase = self._state, self.phase
        with state.update():
            if phase == "teacher":  # who reads no rewards, so that acting does not change
                state.reward_unit = state.reward_unit.measure(rollouts)
            rollouts = state.reward_unit.scale(rollouts)
            if phase == "teacher":
                metrics = self._update_teacher(rollouts, tasks)
            elif phase == "student":
                metrics = self._update_student(Sequences.of(rollouts, self.device), tasks)
            else:
                metrics = self._fine_tune(rollouts)
            return {"update/phase": float(_PHASES.index(phase) + 1), **metrics}

    @torch.no_grad()
    def read_memory(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """Returns the memory's features (L, M, H) and inputs (L, M, I); see `HasMemory`."""
        scaled = self._state.reward_unit.scale(rollouts)
        inputs = self._inputs(Sequences.of(scaled, self.device))
        return self.network.memory.unroll(inputs).cpu(), inputs.cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns parameters, Adam's states, the moments and the number of updates, on the CPU."""
        return self._state.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict().

        Raises:
            ValueError: A tensor is missing or has another shape; names it. The learner is
                unchanged.
        """
        self._state.load_state_dict(state)

    def start_from(self, state: Mapping[str, Tensor], tasks: TaskDistribution) -> str:
        """Starts the first phase from a state_dict() of other tasks; see `StartsFromOtherTasks`.

        Weights of task numbers that are new start at 0, so that the teacher acts as it did. Adam's
        moments go on where the state has them, the step sizes are those of the settings.
        """
        fresh, code = self.state_dict(), TaskCode(tasks)
        taken = {n: value for n, value in fresh.items() if self.is_optimiser(n)}
        taken |= RewardUnit.complete(state)
        for name in (name for name in fresh if name.endswith(_FIRST) and name in state):
            if state[name].shape[1:] != (code.size,):
                shape = tuple(state[name].shape)
                raise ValueError(f"{name!r} is of shape {shape}, and the task has {code.size}")
            taken[name] = match_columns(state[name], code, self._code)
        kept = (name for name in fresh if name.startswith("adam/lr") or name == "updates")
        self._state.load_state_dict(taken | {name: fresh[name] for name in kept})
        return describe_start(self.phase, code, self._code)

    def is_optimiser(self, name: str) -> bool:
        """Returns whether an entry of state_dict() is state of Adam."""
        return name.startswith("adam/")

    # --- pieces of the update ------------------------------------------------------------------

    def _encode(self, tasks: np.ndarray) -> Tensor:
        """Returns the inputs (N, C) of the encoder, on the CPU."""
        return torch.from_numpy(self._code.encode(np.asarray(tasks, dtype=float))).float()

    def _read_task(self, scaled: Tensor) -> Tensor:
        """Maps the scaled tasks in observations (N, E, D) to latent numbers (N, E, Z)."""
        code = torch.from_numpy(self._code.encode_numbers(scaled.flatten(0, 1).numpy())).float()
        return self._state.acting.encoder(code).unflatten(0, scaled.shape[:2])

    def _inputs(self, steps: Sequences) -> Tensor:
        """Returns the memory's inputs (L, M, S + A + 2)."""
        obs = normalize(steps.obs, self._state.moments["obs"].scale(self.device))
        return torch.cat([obs, steps.previous()], dim=-1)

    def _orders(self, rows: int, epochs: int) -> Iterator[np.ndarray]:
        """Yields the order of the rows in each pass of the next update."""
        return draw_orders(self._seed, self._state.updates, rows, epochs)

    def _update_teacher(self, rollouts: Sequence[Rollout], tasks: np.ndarray) -> Metrics:
        if self._is_oracle:
            rollouts = [_without_task(each, self._obs_size) for each in rollouts]
        valid = [rollout.valid for rollout in rollouts]
        seen = torch.cat([r.obs[mask] for r, mask in zip(rollouts, valid, strict=True)])
        code = self._encode(tasks).to(self.device, non_blocking=True)
        parts = self.network, self._distribution, self._state.adams["teacher"]
        teacher = ppo.ConditionedPpo(*parts, self.config, self._group)
        codes = [code.unsqueeze(1)] * len(rollouts)
        own = [rollout.to(self.device) for rollout in rollouts]
        moments = self._state.moments
        checked = teacher.check(own, codes, moments["obs"])
        is_first = not moments["obs"].count
        if is_first:  # an untrained actor hardly reads its inputs, so it may learn at another scale
            moments["obs"] = moments["obs"].merge(seen)
        batch, inputs, moments["value"], explained = teacher.batch(
            own, codes, moments["obs"], moments["value"]
        )
        metrics = teacher.train(batch, inputs, self._orders(len(inputs), self.config.epochs))
        if not is_first:
            moments["obs"] = moments["obs"].merge(seen)
        return {**metrics, **checked, "baseline/explained": explained}

    def _update_student(self, steps: Sequences, tasks: np.ndarray) -> Metrics:
        network, rows = self.network, steps.obs.shape[1]
        with torch.no_grad():
            known = network.encoder(self._encode(tasks).to(self.device, non_blocking=True))
        imitation = Imitation(
            network, self._distribution, self._state.adams["student"], self.config, self._group
        )
        lessons = imitation.prepare(steps, self._inputs(steps), known)
        return imitation.train(lessons, self._orders(rows, self.config.student_epochs))

    def _fine_tune(self, rollouts: Sequence[Rollout]) -> Metrics:
        steps = Sequences.of(rollouts, self.device)
        inputs, own = self._inputs(steps), [rollout.to(self.device) for rollout in rollouts]
        whole, moments = self._state.adams["fine-tuning"], self._state.moments
        parts = self.network, self._distribution, whole, self.config
        tuning = FineTuning(*parts, self._group)
        latent = tuning.guess(inputs)
        checked = tuning.check(steps, inputs, latent)
        trials, moments["value"], explained = tuning.estimate(
            own, steps, inputs, latent, moments["obs"], moments["value"]
        )
        metrics = tuning.train(trials, self._orders(inputs.shape[1], self.config.epochs))
        moments["obs"] = moments["obs"].merge(steps.obs[steps.valid].cpu())
        return {**metrics, **checked, "baseline/explained": explained}


def _list_optimisers(
    network: TeacherStudentNetwork, config: TeacherStudentConfig
) -> dict[str, Optimiser]:
    """Returns those of the phases, by name; PPO adapts the step sizes of two of them."""
    parts = network.parts()
    optimisers = {
        "teacher": Optimiser(parts["teacher"], config.lr, step_size="adam/lr"),
        "student": Optimiser(parts["student"], config.student_lr, step_size=None),
    }
    if config.student_updates:  # it shares parameters with the other two
        whole = Optimiser(parts["fine-tuning"], config.lr, prefix="fine-tuning/")
        optimisers["fine-tuning"] = whole
    return optimisers


def _without_task(rollout: Rollout, size: int) -> Rollout:
    """Returns a rollout with the first `size` numbers of its observations."""
    return replace(rollout, obs=rollout.obs[..., :size], last_obs=rollout.last_obs[..., :size])
