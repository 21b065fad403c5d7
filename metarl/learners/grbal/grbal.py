"""GrBAL: model-predictive control on a dynamics model that adapts at every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.core.env import UnsupportedHere
from metarl.core.errors import EnvironmentContractError
from metarl.core.learner import TaskRngs
from metarl.core.machine.parallel import map_chunks
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Params, Rollout
from metarl.functional import gaussian
from metarl.functional.params import check_state, check_updated, to_cpu, total
from metarl.functional.running_moments import Moments, normalize
from metarl.learners import adam
from metarl.learners.grbal.config import GrbalConfig
from metarl.learners.grbal.context import GrbalContext
from metarl.learners.grbal.model import RATE, DynamicsModel, Scales, Transitions
from metarl.learners.grbal.planner import Planner
from metarl.learners.grbal.store import entry_shapes, segments, transitions
from metarl.networks.mlp import TanhMLP
from metarl.sampling.replay_buffer import NUMBER, ReplayBuffer

CHUNK = 16
"""Rows of a meta-gradient that are computed together; the sums do not depend on the threads."""

SIZE = "replay/size"
"""Name in state_dict() of the number of transitions since the start of the run."""


class Grbal:
    """Learns a dynamics model that one gradient step adapts, and plans with it.

    The model predicts the change of observation and reward. It is trained on the newest
    `replay_steps` transitions of the run, so that one gradient step on M of them makes it right for
    the next K. At every control step the model of every row takes that step on the last M
    transitions of its own trial, and a planner chooses the action on the adapted model.

    The replay buffer holds the newest `replay_steps` + M transitions: those that are drawn, and the
    past of the oldest. In memory it has room for less than twice these and a trial's
    (`ReplayBuffer`). A checkpoint has these and at most the rest of one segment; the folder has
    besides what was appended between the checkpoints that are kept.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters, the candidates and the order of the replay.
        discrete: Actions are one-hot rows, which is refused.
        device: Where updates run; acting always runs on the CPU.
        num_threads: Threads of updates on a CPU.

    Raises:
        UnsupportedHere: The actions are discrete.

    Source: Nagabandi et al. 2019 (arXiv:1803.11347).
    """

    pools_episodes = False
    """Every episode has a model of its own."""

    def __init__(
        self,
        config: GrbalConfig,
        obs_size: int,
        action_size: int,
        *,
        seed: int,
        discrete: bool = False,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
    ):
        if discrete:
            raise UnsupportedHere("it plans with continuous actions; take another --algo")
        self.config, self._seed, self._sizes = config, seed, (obs_size, action_size)
        self.device = torch.device(device)
        self._num_threads = num_threads if self.device.type == "cpu" else 1
        network = TanhMLP(obs_size + 1 + action_size, obs_size + 1, config.hidden_sizes)
        self.model = DynamicsModel(network, config.reward_weight, config.learn_rates)
        self._params = self._initial_params()
        self._acting = to_cpu({n: v.detach().clone() for n, v in self._params.items()})
        self._adam = torch.optim.Adam(list(self._params.values()), lr=config.lr)
        adam.begin(self._adam)
        self._planner = Planner(config, action_size, stream(seed, "candidates"))
        self._moments = {name: Moments.initial(obs_size + 1) for name in ("state", "change")}
        self._replay = ReplayBuffer(config.replay_steps + config.past_steps, NUMBER)
        self._size = self._updates = 0

    def _initial_params(self) -> Params:
        network = self.model.network
        params = network.initial(stream(self._seed, "init"), output_gain=0.1)
        log_rate = float(np.log(self.config.inner_lr))
        params |= {RATE + n: torch.tensor(log_rate) for n in list(params)}
        return {n: v.to(self.device).requires_grad_() for n, v in params.items()}

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> GrbalContext:
        """Returns the context before any experience."""
        del rngs
        past, horizon = self.config.past_steps, self.config.plan_steps
        return GrbalContext.initial((num_tasks, num_episodes), self._sizes, past, horizon)

    def act(
        self,
        context: GrbalContext,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, GrbalContext]:
        """Adapts the models to the last transitions, and plans actions (N, E, A)."""
        bound, scales = self.config.action_bound, self._scales()
        alive = torch.ones(obs.shape[:2], dtype=torch.bool) if feedback is None else feedback.alive
        mean = scales.state[0][-1].expand(alive.shape)
        reward = mean if feedback is None else feedback.reward
        state = torch.cat([obs, reward.unsqueeze(-1)], dim=-1)
        context = context.observe(state, feedback, scales)
        plan = self._plan(context, state, alive, scales) if self._updates else context.plan
        value, log_prob = bound * plan[:, :, 0], torch.zeros(obs.shape[:2])
        if explore:
            std = self.config.exploration_std if self._updates else 1.0
            log_std = torch.full(noise.shape[-1:], float(np.log(std * bound)))
            value = (value + std * bound * noise).clamp(-bound, bound)
            log_prob = gaussian.log_prob_of_noise(noise, log_std)
        return Action(value, log_prob), context.acted(
            state, value, plan, alive, is_first=feedback is None
        )

    def _plan(self, context: GrbalContext, state: Tensor, alive: Tensor, scales: Scales) -> Tensor:
        """Returns the next actions (N, E, H, A) [action bounds]; those of other rows stay."""
        rows = alive.flatten().nonzero().squeeze(1)
        params = self.model.adapt(self._acting, context.past(rows))
        scaled = normalize(state, scales.state).flatten(0, 1)[rows]
        plan = context.plan.flatten(0, 1).clone()
        start, step = plan[rows], context.step.flatten()[rows]
        network = self.model.network
        plan[rows] = self._planner.plan(network, params, scales, scaled, start, step)
        return plan.view_as(context.plan)

    def adapt(self, context: GrbalContext, rollout: Rollout, rngs: TaskRngs) -> GrbalContext:
        """Keeps the last transitions of the trial."""
        del rollout, rngs
        return context.end_episode()

    def update(
        self, context: GrbalContext, rollouts: Sequence[Rollout], tasks: np.ndarray
    ) -> Metrics:
        """Appends the trial to the replay buffer, and takes gradient steps.

        Raises:
            FloatingPointError: A gradient or a result is not finite. Like any exception, it leaves
                the learner unchanged.
        """
        del context, tasks
        before, replay = self.state_dict(), self._held()
        try:
            entries = transitions(rollouts)
            self._merge(entries)
            self._replay = replay.append(entries)
            self._size = self._replay.stop
            metrics = self._train()
            check_updated(self._device_state())
            check_updated(self._moments_state())
            self._updates += 1
            self._refresh()
        except BaseException:  # also Ctrl-C
            self._replay = replay
            self._restore(before)
            raise
        return metrics

    def state_dict(self) -> dict[str, Tensor]:
        """Returns all but the replay buffer, whose size it has, on the CPU."""
        state = self._device_state() | self._moments_state()
        state["adam/steps"] = adam.num_steps(self._adam)
        counts = {"updates": self._updates, SIZE: self._size}
        state |= {name: torch.tensor(count) for name, count in counts.items()}
        return {name: value.detach().clone() for name, value in to_cpu(state).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict(); transitions appended since then are left out of the buffer.

        Those that were forgotten since then are missing until `load_replay`.

        Raises:
            ValueError: A tensor is missing or has another shape; names it. The learner is
                unchanged.
        """
        check_state(state, self.state_dict())
        self._restore(state)

    def is_optimiser(self, name: str) -> bool:
        """Returns whether an entry of state_dict() is state of Adam."""
        return name.startswith("adam/")

    # --- the replay buffer ------------------------------------------------------------------------

    def replay_size(self) -> int:
        """Returns the number of transitions since the start of the run."""
        return self._size

    def replay_start(self) -> int:
        """Returns the number of the oldest transition in the buffer."""
        return self._held().start

    def read_replay(self, start: int, stop: int) -> dict[str, Tensor]:
        """Returns the transitions start..stop."""
        entries = self._held().read(start, stop)
        del entries[NUMBER]
        return entries

    def load_replay(self, entries: Mapping[str, Tensor]) -> None:
        """Replaces the buffer; the last entry is the last one that the loaded state counts.

        Raises:
            ValueError: The entries are of another learner; nothing has changed.
        """
        count = max((len(value) for value in entries.values()), default=0)
        start = max(0, self._size - count)
        numbered = {**entries, NUMBER: torch.arange(start, start + count)}
        self._replay = self._replay.load(numbered, entry_shapes(*self._sizes))
        self._size = self._replay.stop

    def _held(self) -> ReplayBuffer:
        """Returns the buffer at the size of the state, which may have been loaded after it."""
        return self._replay.set_back(self._size)

    # --- parts of the update ----------------------------------------------------------------------

    def _merge(self, entries: Mapping[str, Tensor]) -> None:
        state = entries["state"]
        new = {"state": state, "change": entries["next_state"] - state}
        self._moments = {name: old.merge(new[name]) for name, old in self._moments.items()}

    def _train(self) -> Metrics:
        config, rng = self.config, stream(self._seed, "replay", self._updates)
        scales = self._scales(self.device)
        if not len(self._replay):
            raise EnvironmentContractError("no episode has two steps, which a model needs")
        oldest = max(self._replay.start, self._size - config.replay_steps)
        totals = torch.zeros(3, dtype=torch.float64)
        for _ in range(config.gradient_steps):
            index = rng.integers(oldest, self._size, config.batch_size)
            totals += self._step(index, scales)
        before, after, norm = (totals / config.gradient_steps).tolist()
        logs = [v.detach() for n, v in self._params.items() if n.startswith(RATE)]
        rates = torch.stack([v.exp() for v in logs]).tolist()
        return {
            "model/error_before": before,
            "model/error_after": after,
            "model/inner_lr": sum(rates) / len(rates),
            "update/gradient_norm": norm,
            "update/replay_size": float(self._size),
        }

    def _step(self, index: np.ndarray, scales: Scales) -> Tensor:
        """Takes a step of Adam; returns both mean losses and the gradient's norm (3,)."""
        params = {n: v.detach() for n, v in self._params.items()}

        def differentiate(part: np.ndarray) -> tuple[Params, Tensor]:
            gradient, losses = self.model.meta_gradient(params, *self._read(part, scales))
            share = len(part) / len(index)
            return {n: share * v for n, v in gradient.items()}, losses

        found = map_chunks(
            differentiate, np.split(index, range(CHUNK, len(index), CHUNK)), self._num_threads
        )
        gradient = total(each for each, _ in found)
        for name, value in self._params.items():
            value.grad = gradient[name]
        norm = torch.nn.utils.clip_grad_norm_(self._params.values(), self.config.max_gradient)
        if not norm.isfinite():
            raise FloatingPointError(f"a gradient's norm is not finite: {float(norm):.3g}")
        self._adam.step()
        losses = torch.cat([each for _, each in found]).double().mean(dim=0).cpu()
        return torch.cat([losses, norm.detach().double().cpu().reshape(1)])

    def _read(self, index: np.ndarray, scales: Scales) -> tuple[Transitions, Transitions]:
        """Reads past and future of entries, on the device."""
        past = self.config.past_steps
        found, mask = segments(self._replay, index, past, self.config.future_steps)
        found = {n: v.to(self.device, non_blocking=True) for n, v in found.items()}
        inputs = scales.inputs(found["state"], found["action"])
        targets = scales.targets(found["state"], found["next_state"])
        parts = inputs, targets, mask.to(self.device, inputs.dtype, non_blocking=True)
        return (
            Transitions(*(part[:, :past] for part in parts)),
            Transitions(*(part[:, past:] for part in parts)),
        )

    def _scales(self, device: torch.device | str = "cpu") -> Scales:
        return Scales.of(self._moments, self.config.action_bound, device)

    def _refresh(self) -> None:
        """Gives the parameters to the copy that acts."""
        self._acting = {n: v.detach().clone() for n, v in to_cpu(self._params).items()}

    def _device_state(self) -> Params:
        names = {value: name for name, value in self._params.items()}
        state = {f"model/{name}": value for value, name in names.items()}
        return state | adam.moments(self._adam, names)

    def _moments_state(self) -> Params:
        return {n: v for name, m in self._moments.items() for n, v in m.state(name).items()}

    def _restore(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state that fits, in place."""
        for name, value in self._device_state().items():
            value.data.copy_(state[name])
        adam.restore_steps(self._adam, state["adam/steps"])
        self._moments = {name: Moments.of(state, name) for name in self._moments}
        self._updates = int(state["updates"])
        self._size = int(state[SIZE])
        self._refresh()
