"""VariBAD: a policy that reads a belief about the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.core.learner import TaskRngs
from metarl.core.machine.parallel import ALONE, Group, map_in_group
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Rollout, require_steps
from metarl.core.tasks import TaskDistribution
from metarl.functional.advantages import explained_variance, gae_over_trial, standardise
from metarl.functional.running_moments import Moments, normalize
from metarl.learners.credit import close_episodes, place_episodes
from metarl.learners.ppo_passes import Steps, draw_orders, make_passes, ppo_gradient, take_step
from metarl.learners.reward_unit import RewardUnit
from metarl.learners.split_gradient import split_gradient
from metarl.learners.training_state import Optimiser, TrainingState
from metarl.learners.trial_memory import TrialContext, check_sampling
from metarl.learners.varibad.config import VaribadConfig
from metarl.learners.varibad.elbo import draw_batch, elbo_gradient
from metarl.learners.varibad.networks import VaribadNetwork, policy_inputs
from metarl.learners.varibad.trial_buffer import TrialBuffer
from metarl.networks.distributions import build_distribution, choose, clamp_, own_metrics
from metarl.sampling.sequences import Sequences

_NAMES = "reward_error", "transition_error", "belief_kl", "elbo_gradient_norm"


class Varibad:
    """Trains an encoder that infers a belief about the task, and a policy that acts on it.

    A memory reads the trial so far; two numbers for each of Z latent ones, mean and log-variance,
    are the belief. Decoders predict from it the rewards of all steps of the trial, past and future;
    their error and the divergence of each belief from the previous one train encoder and decoders,
    on a buffer of the newest trials. PPO trains actor and critic, which read observation and
    belief, and no gradient of it reaches the encoder.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters and of all that updates draw.
        discrete: Actions are one-hot rows of A alternatives.
        device: Where updates run; acting always runs on the CPU.
        num_threads: Threads of an update on the CPU; results do not depend on it.

    Source: Zintgraf et al. 2020 (arXiv:1910.08348). Other than there, rewards and observations are
    scaled by running moments for the decoders, and the latent numbers are not.
    """

    pools_episodes = False
    """The E episodes of a task are independent trials."""

    def __init__(
        self,
        config: VaribadConfig,
        obs_size: int,
        action_size: int,
        *,
        seed: int,
        discrete: bool = False,
        device: torch.device | str = "cpu",
        num_threads: int = 1,
    ):
        self.config, self._seed, self._action_size = config, seed, action_size
        self.device = torch.device(device)
        self._num_threads = num_threads if self.device.type == "cpu" else 1
        log_std = config.initial_log_std, config.min_log_std
        self._distribution = build_distribution(discrete, *log_std)
        with torch.random.fork_rng(devices=[]):  # torch draws first values, which are replaced
            network = VaribadNetwork(config, self._distribution, obs_size, action_size)
        network.initialise(stream(seed, "init"))
        encoder = network.encoder_parameters()
        self._state = TrainingState(
            network,
            self.device,
            self._distribution,
            network.distribution_params(),
            adams={
                "policy": Optimiser(network.policy_parameters(), config.lr, step_size="adam/lr"),
                "encoder": Optimiser(encoder, config.encoder_lr, step_size=None),
            },
            moments={
                "obs": Moments.initial(obs_size),
                "value": Moments.initial(1),
                "reward": Moments.initial(1),
            },
            prefix="policy/",
        )
        self.network, self._obs_size, self._group = self._state.network, obs_size, ALONE
        self._buffer = TrialBuffer.empty(config.buffer_trials, obs_size, action_size)

    def join_group(self, group: Group) -> None:
        """Makes this process compute its slice of every minibatch; see `SplitsUpdate`."""
        self._group = group

    def begin(self, num_tasks: int, num_episodes: int, rngs: TaskRngs) -> TrialContext:
        """Returns the context before any experience: an empty memory for every row."""
        del rngs
        size = num_tasks, num_episodes
        return TrialContext.initial(self._state.acting.memory, size, self._action_size)

    def act(
        self,
        context: TrialContext,
        obs: Tensor,
        noise: Tensor,
        feedback: Feedback | None = None,
        *,
        explore: bool,
    ) -> tuple[Action, TrialContext]:
        """Samples actions (N, E, A) for obs (N, E, S), or takes the mode.

        The memory takes a step where the episode is alive.
        """
        state, network, size = self._state, self._state.acting, obs.shape[:2]
        context, obs = context.observe(feedback), normalize(obs, state.scales["obs"])
        inputs = context.inputs(obs, state.reward_unit.factor)
        features, memory = network.memory.step(inputs, context.state)
        belief = network.belief(features)
        output = network.output(policy_inputs(obs.flatten(0, 1), belief)).unflatten(0, size)
        params = network.distribution_params()
        action = choose(self._distribution, params, output, noise if explore else None)
        return action, context.acted(network.memory, memory, action, feedback)

    def adapt(self, context: TrialContext, rollout: Rollout, rngs: TaskRngs) -> TrialContext:
        """Keeps the memory, and makes the rollout's last step the memory's next input."""
        del rngs
        return context.end_episode(rollout)

    def update(
        self, context: TrialContext, rollouts: Sequence[Rollout], tasks: np.ndarray
    ) -> Metrics:
        """Trains actor and critic by PPO, then encoder and decoders by the ELBO.

        Raises:
            FloatingPointError: A gradient or a result is not finite, or the recomputed policy is
                not the one that sampled. Like any exception, it leaves the learner unchanged.
            ValueError: No step is valid.
        """
        del context, tasks
        require_steps(rollouts)
        known = self._buffer
        try:
            with self._state.update():
                metrics = self._train_policy(rollouts)
                trials = TrialBuffer.of(self._state.reward_unit.scale(rollouts))
                self._buffer = known.append(trials)
                return metrics | self._train_encoder()
        except BaseException:  # also Ctrl-C
            self._buffer = known
            raise

    @torch.no_grad()
    def read_memory(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """Returns the beliefs (L, M, 2 Z) and the memory's inputs (L, M, I); see `HasMemory`."""
        scaled = self._state.reward_unit.scale(rollouts)
        inputs = self._inputs(Sequences.of(scaled, self.device))
        return self.network.belief(self.network.memory.unroll(inputs)).cpu(), inputs.cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns parameters, Adam's states, the moments, the buffer and the number of updates."""
        buffer = {name: value.clone() for name, value in self._buffer.state().items()}
        return self._state.state_dict() | buffer

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict().

        Raises:
            ValueError: A tensor is missing or has another shape; names it. The learner is
                unchanged.
        """
        self._buffer.check(state)
        self._state.load_state_dict(state)
        self._buffer = TrialBuffer.of_state(state)

    def start_from(self, state: Mapping[str, Tensor], tasks: TaskDistribution) -> str:
        """Starts from a state_dict() of other tasks; see `StartsFromOtherTasks`.

        The buffer starts empty, because its trials are of the other tasks. The step size is that
        of the settings, and updates are counted anew.
        """
        del tasks
        fresh = self.state_dict()
        taken = {n: v for n, v in fresh.items() if self.is_optimiser(n)} | dict(state)
        kept = {"adam/lr", "updates", *(n for n in fresh if n.startswith("buffer/"))}
        taken = RewardUnit.complete(taken)
        self.load_state_dict(taken | {name: fresh[name] for name in kept})
        return "policy, encoder and decoders go on; the buffer of trials starts empty"

    def is_optimiser(self, name: str) -> bool:
        """Returns whether an entry of state_dict() is state of Adam, or the buffer."""
        return name.startswith(("adam/", "buffer/"))

    # --- pieces of the update --------------------------------------------------------------------

    def _inputs(self, steps: Sequences) -> Tensor:
        """Returns the memory's inputs (L, M, S + A + 2)."""
        obs = normalize(steps.obs, self._state.moments["obs"].scale(self.device))
        return torch.cat([obs, steps.previous()], dim=-1)

    def _read(self, inputs: Tensor) -> Tensor:
        """Maps the memory's inputs to those of actor and critic (L, M, S + 2 Z), no gradients."""
        network = self.network
        size = network.memory.rows_per_shard if self.device.type == "cpu" else 0

        @torch.no_grad()  # the setting is local to a thread
        def read(own: Tensor) -> Tensor:
            belief = network.belief(network.memory.unroll(own))
            return policy_inputs(own[..., : self._obs_size], belief)

        parts = inputs.split(size or inputs.shape[1], dim=1)
        return torch.cat(map_in_group(read, parts, self._num_threads, self._group), dim=1)

    def _train_policy(self, rollouts: Sequence[Rollout]) -> Metrics:
        state, before = self._state, self._state.reward_unit
        unit, moments = before.measure(rollouts), state.moments
        on_cpu = Sequences.of(before.scale(rollouts))
        steps, seen = on_cpu.to(self.device), on_cpu.obs[on_cpu.acted]
        inputs = self._inputs(steps)
        known = self._read(inputs)
        checked = self._check_sampling(inputs, known, steps)
        state.reward_unit, rollouts = unit, unit.scale(rollouts)
        is_first = not moments["obs"].count
        if is_first:  # an untrained actor hardly reads its inputs, so it may learn at another scale
            moments["obs"] = moments["obs"].merge(seen)
        if is_first or unit.factor != before.factor:
            on_cpu = Sequences.of(rollouts)
            steps = on_cpu.to(self.device)
            known = self._read(self._inputs(steps))
        batch, explained = self._estimate(rollouts, steps, known)
        metrics = make_passes(
            draw_orders(self._seed, state.updates, len(batch.target), self.config.epochs),
            lambda rows: self._step(batch, rows.to(self.device, non_blocking=True)),
            state.adams["policy"],
            self.config,
        )
        if not is_first:
            moments["obs"] = moments["obs"].merge(seen)
        rewards = on_cpu.reward[on_cpu.valid].unsqueeze(-1)
        moments["reward"] = moments["reward"].merge(rewards)
        return {**metrics, **checked, "baseline/explained": explained}

    @torch.no_grad()
    def _check_sampling(self, inputs: Tensor, known: Tensor, steps: Sequences) -> Metrics:
        """Returns the error of the recomputed log-probabilities, and the policy's own numbers.

        See `check_sampling` and `own_metrics`.
        """
        network, params = self.network, self.network.distribution_params()
        error = check_sampling(
            (self._distribution, params),
            steps,
            inputs,
            network.output(known),
            lambda other: network.output(self._read(other)),
        )
        return {"update/ratio_error": error, **own_metrics(self._distribution, params)}

    @torch.no_grad()
    def _estimate(
        self, rollouts: Sequence[Rollout], steps: Sequences, known: Tensor
    ) -> tuple[Steps, float]:
        """Returns the valid steps, and the fraction of their returns that the value explains.

        The critic does not see the time left, so after the horizon comes the value of the last
        observation: of every episode with credit `episode`, else of the last one.
        """
        config, network, moments = self.config, self.network, self._state.moments
        mean, factor = moments["value"].scale(self.device)
        value = network.value(known) / factor + mean
        scale = moments["obs"].scale(self.device)
        columns = torch.arange(value.shape[1], device=self.device)

        def value_after(rollout: Rollout, last: Tensor) -> Tensor:
            belief = known[last + rollout.truncated.flatten(), columns, self._obs_size :]
            obs = normalize(rollout.last_obs.flatten(0, 1), scale)
            return network.value(policy_inputs(obs, belief)) / factor + mean

        ends = steps.terminal if config.falls == "end" else torch.zeros_like(steps.valid)
        closed = place_episodes(rollouts, self.device)
        closed = closed if config.credit == "episode" else closed[-1:]
        reward, ends = close_episodes(steps.reward, ends, closed, config.discount, value_after)
        settings = config.discount, config.gae_lambda
        advantage = gae_over_trial(reward, value, steps.valid, steps.acted, *settings, ends=ends)
        target = (advantage + value)[steps.valid]
        explained = explained_variance(target, value[steps.valid])
        moments["value"] = moments["value"].merge(target.cpu().unsqueeze(-1))
        mean, factor = moments["value"].scale(self.device)
        shaped = standardise(advantage[None], steps.valid[None])[0]
        own = (each[steps.valid] for each in (known, steps.action, steps.log_prob, shaped))
        return Steps(*own, (target - mean) * factor), explained

    def _step(self, batch: Steps, rows: Tensor) -> Tensor:
        """Takes a step of PPO on the rows (B,); returns its statistics, see `make_passes`."""
        network, optimiser = self.network, self._state.adams["policy"]
        parameters, params = optimiser.param_groups[0]["params"], network.distribution_params()
        shared = self._distribution, params, self.config, self._num_threads
        gradient, found = split_gradient(
            lambda own: ppo_gradient(batch.rows(own), network.heads, parameters, *shared),
            len,
            rows,
            self._group,
        )
        norm = take_step(optimiser, gradient, self.config.max_gradient)
        clamp_(self._distribution, params)
        return torch.cat([found, norm.double().unsqueeze(0)])

    def _train_encoder(self) -> Metrics:
        """Takes steps on the ELBO of trials from the buffer."""
        config, buffer, state = self.config, self._buffer, self._state
        moments, totals = state.moments, np.zeros(len(_NAMES))
        for index in range(config.encoder_updates):
            rng = stream(self._seed, "elbo", state.updates, index)
            chosen = rng.permutation(buffer.count)[: config.elbo_trials]
            trials = buffer.rows(torch.from_numpy(chosen))
            parts = trials, moments["obs"], moments["reward"], config, rng
            batch = draw_batch(*parts, self.device)
            shared = self._num_threads, self._group
            gradient, means = elbo_gradient(self.network, batch, config, *shared)
            norm = take_step(state.adams["encoder"], gradient, config.encoder_max_gradient)
            totals += [*means.tolist(), float(norm)]
        found = (totals / config.encoder_updates).tolist()
        return {f"update/{name}": mean for name, mean in zip(_NAMES, found, strict=True)}
