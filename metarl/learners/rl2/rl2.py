"""RL^2: a policy with a memory over the whole trial, trained by recurrent PPO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from metarl.core.learner import TaskRngs
from metarl.core.machine.parallel import ALONE, Group
from metarl.core.rng import stream
from metarl.core.rollout import Action, Feedback, Metrics, Rollout, require_steps
from metarl.functional.advantages import explained_variance, gae_over_trial, standardise
from metarl.functional.ppo import adapt_lr
from metarl.functional.running_moments import Moments, normalize
from metarl.learners.credit import close_episodes, place_episodes
from metarl.learners.ppo_passes import split
from metarl.learners.rl2.config import Rl2Config
from metarl.learners.rl2.evaluation import evaluate_trials
from metarl.learners.rl2.gradient import STATISTICS, Batch, MinibatchGradient
from metarl.learners.rl2.recorded import RecordedGradient
from metarl.learners.split_gradient import split_gradient
from metarl.learners.training_state import Optimiser, TrainingState
from metarl.learners.trial_memory import TrialContext, check_sampling
from metarl.networks.actor_critic import Architecture, MemoryActorCritic
from metarl.networks.distributions import build_distribution, choose, clamp_, own_metrics
from metarl.sampling.sequences import Sequences


class Rl2:
    """Meta-learns a policy with a memory, which adapts by acting, without gradients on a new task.

    Args:
        config: Settings.
        obs_size: S.
        action_size: A.
        seed: Seed of the initial parameters and of the order of minibatches.
        discrete: Actions are one-hot rows of A alternatives.
        device: Where updates run; acting always runs on the CPU.
        num_threads: Threads over trials on the CPU; results do not depend on it.

    Source: Duan et al. 2016 (arXiv:1611.02779); Wang et al. 2016 (arXiv:1611.05763).
    """

    pools_episodes = False
    """The E episodes of a task are independent trials."""

    def __init__(
        self,
        config: Rl2Config,
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
        distribution = build_distribution(discrete, *log_std)
        architecture = Architecture(
            memory=config.memory,
            memory_size=config.memory_size,
            hidden_size=config.hidden_size,
            attention_window=config.attention_window,
            own_value_memory=config.value_memory == "own",
            hypernetwork=config.actor == "hypernetwork",
        )
        with torch.random.fork_rng(devices=[]):  # torch draws first values, which are replaced
            policy = MemoryActorCritic(architecture, distribution, obs_size, action_size)
        policy.initialise(stream(seed, "init"))
        optimiser = Optimiser(
            [*policy.parameters()],
            config.lr,
            steps="adam/steps",
            step_size="adam/lr",
            fused=self.device.type == "cuda",
        )
        self._state = TrainingState(
            policy,
            self.device,
            distribution,
            policy.distribution_params(),
            adams={"policy": optimiser},
            moments={"obs": Moments.initial(obs_size), "value": Moments.initial(1)},
            prefix="policy/",
        )
        self.policy, self._adam = self._state.network, self._state.adams["policy"]
        gradient = MinibatchGradient(self.policy, config, self._num_threads)
        on_cpu = self.device.type == "cpu"
        self._gradient = gradient if on_cpu else RecordedGradient(gradient, self.device)
        self._group = ALONE

    def join_group(self, group: Group) -> None:
        """Makes this process compute its slice of the trials; see `SplitsUpdate`."""
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
        state, policy, size = self._state, self._state.acting, obs.shape[:2]
        context, obs = context.observe(feedback), normalize(obs, state.scales["obs"])
        inputs = context.inputs(obs, state.reward_unit.factor)
        features, memory = policy.memory.step(inputs, context.state)
        output = policy.output(features, obs.flatten(0, 1)).unflatten(0, size)
        params = policy.distribution_params()
        action = choose(policy.distribution, params, output, noise if explore else None)
        return action, context.acted(policy.memory, memory, action, feedback)

    def adapt(self, context: TrialContext, rollout: Rollout, rngs: TaskRngs) -> TrialContext:
        """Keeps the memory, and makes the rollout's last step the memory's next input."""
        del rngs
        return context.end_episode(rollout)

    def update(
        self, context: TrialContext, rollouts: Sequence[Rollout], tasks: np.ndarray
    ) -> Metrics:
        """Makes several epochs of PPO over whole trials, back-propagated through time.

        Raises:
            FloatingPointError: A gradient or a result is not finite, or the recomputed policy is
                not the one that sampled. Like any exception, it leaves the learner unchanged.
            ValueError: No step is valid.
        """
        del context, tasks
        require_steps(rollouts)
        with self._state.update():
            return self._optimise(rollouts)

    @torch.no_grad()
    def read_memory(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor]:
        """Returns the memory's features (L, M, H) and inputs (L, M, I); see `HasMemory`."""
        scaled = self._state.reward_unit.scale(rollouts)
        inputs = self._inputs(Sequences.of(scaled, self.device))
        return self.policy.memory.unroll(inputs).cpu(), inputs.cpu()

    def state_dict(self) -> dict[str, Tensor]:
        """Returns parameters, Adam's state, the moments and the number of updates, on the CPU."""
        return self._state.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state_dict().

        Raises:
            ValueError: A tensor is missing or has another shape; names it. The learner is
                unchanged.
        """
        # older versions left out a step size that they did not adapt
        first = {"adam/lr": torch.tensor(self.config.lr, dtype=torch.float64)}
        self._state.load_state_dict(first | dict(state))
        if not self.config.target_kl:  # the state may be of a run that adapted it
            self._adam.param_groups[0]["lr"] = self.config.lr

    def reset_schedule(self) -> None:
        """Sets step size and number of updates to the first ones; see `HasSchedule`."""
        self._state.reset_schedule()

    def is_optimiser(self, name: str) -> bool:
        """Returns whether an entry of state_dict() is state of Adam."""
        return name.startswith("adam/")

    # --- pieces of the update, in the order of use -----------------------------------------------

    def _make_batch(self, on_cpu: Sequences) -> Batch:
        steps = on_cpu.to(self.device)
        return Batch.of(steps, self._inputs(steps), on_cpu)

    def _optimise(self, rollouts: Sequence[Rollout]) -> Metrics:
        state, known = self._state, self._state.reward_unit
        unit = known.measure(rollouts)
        on_cpu = Sequences.of(known.scale(rollouts))
        batch = self._make_batch(on_cpu)
        output, scaled_value = self._evaluate(batch.inputs, batch.lengths)
        checked = self._check_sampling(output, batch)
        state.reward_unit, rollouts = unit, unit.scale(rollouts)
        is_first = not state.moments["obs"].count
        if is_first:  # an untrained actor hardly reads its inputs, so it may learn at another scale
            self._merge_obs(on_cpu)
        if is_first or unit.factor != known.factor:
            on_cpu = Sequences.of(rollouts)
            batch = self._make_batch(on_cpu)
            output, scaled_value = self._evaluate(batch.inputs, batch.lengths)
        steps = batch.steps
        value = self._unscale(scaled_value)
        settings = self.config.discount, self.config.gae_lambda
        reward, ends = self._assign_credit(rollouts, batch)
        advantage = gae_over_trial(reward, value, steps.valid, steps.acted, *settings, ends=ends)
        target = advantage + value
        # moments are computed on the CPU, where a mask costs no wait
        targets, values = (v[on_cpu.valid] for v in torch.stack([target, value]).cpu())
        explained = explained_variance(targets, values)
        state.moments["value"] = state.moments["value"].merge(targets.unsqueeze(-1))
        value_mean, value_factor = state.moments["value"].scale(self.device)
        batch = replace(
            batch,
            advantage=standardise(advantage.unsqueeze(0), steps.valid.unsqueeze(0)).squeeze(0),
            target=(target - value_mean) * value_factor,
        )
        metrics = self._epochs(batch)
        if not is_first:
            self._merge_obs(on_cpu)
        return {
            **metrics,
            **checked,
            "baseline/explained": explained,
        }

    def _unscale(self, value: Tensor) -> Tensor:
        """Maps outputs of the value's network to values [discounted rewards]."""
        mean, factor = self._state.moments["value"].scale(self.device)
        return value / factor + mean

    def _assign_credit(
        self, rollouts: Sequence[Rollout], batch: Batch
    ) -> tuple[Tensor, Tensor | None]:
        """Returns rewards and ends (L, M) for `gae_over_trial`, as of `credit` and `falls`."""
        config, steps = self.config, batch.steps
        ends = steps.terminal if config.falls == "end" else None
        if config.credit == "trial":
            return steps.reward, ends
        columns = torch.arange(batch.inputs.shape[1], device=self.device)
        scale = self._state.moments["obs"].scale(self.device)
        zero = torch.zeros_like(batch.inputs[:1])

        def value_after(rollout: Rollout, last: Tensor) -> Tensor:
            obs = normalize(rollout.last_obs.flatten(0, 1), scale)
            done = zero[0, :, :2].clone()  # reward and done
            done[:, 0] = steps.reward[last, columns]
            inputs = torch.cat([batch.inputs, zero])
            inputs[last + 1, columns] = torch.cat([obs, steps.action[last, columns], done], dim=-1)
            _, value = self._evaluate(inputs, last.cpu() + 2)
            return self._unscale(value[last + 1, columns])

        closed = place_episodes(rollouts, self.device)
        none = torch.zeros_like(steps.valid)
        return close_episodes(steps.reward, none, closed, config.discount, value_after)

    def _merge_obs(self, on_cpu: Sequences) -> None:
        moments = self._state.moments
        moments["obs"] = moments["obs"].merge(on_cpu.obs[on_cpu.acted])

    def _inputs(self, steps: Sequences) -> Tensor:
        """Returns the memory's inputs (L, M, S + A + 2)."""
        obs = normalize(steps.obs, self._state.moments["obs"].scale(self.device))
        return torch.cat([obs, steps.previous()], dim=-1)

    def _evaluate(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns outputs and scaled values for the memory's inputs; see `evaluate_trials`."""
        own = self.policy, self.config, self._gradient.shards
        return evaluate_trials(*own, inputs, lengths, self._num_threads, self._group)

    @torch.no_grad()
    def _check_sampling(self, output: Tensor, batch: Batch) -> Metrics:
        """Returns the error of the recomputed log-probabilities, and the policy's own numbers.

        See `check_sampling` and `own_metrics`. The policy is the one that acted.
        """
        distribution, params = self.policy.distribution, self.policy.distribution_params()

        def evaluate(inputs: Tensor) -> Tensor:
            return self._evaluate(inputs, batch.lengths)[0]

        error = check_sampling((distribution, params), batch.steps, batch.inputs, output, evaluate)
        entropy = batch.select(distribution.entropy(params, output)).contiguous().mean()
        return {
            "update/ratio_error": error,
            "policy/entropy": float(entropy),
            **own_metrics(distribution, params),
        }

    def _epochs(self, batch: Batch) -> Metrics:
        """Runs PPO on minibatches of whole trials; ends early if KL exceeds max_kl."""
        config, num_rows = self.config, batch.inputs.shape[1]
        rounds, kl, epoch, totals = 0, 0.0, 0, np.zeros(len(_STATISTICS))
        group, update = self._adam.param_groups[0], self._state.updates
        for epoch in range(1, config.epochs + 1):
            order = stream(self._seed, "minibatches", update, epoch).permutation(num_rows)
            parts = split(order, config.minibatches, lambda rows: int(batch.counts[rows].sum()))
            statistics = torch.stack([self._step(batch, rows) for rows in parts])
            pass_totals = statistics.sum(dim=0).cpu().numpy()  # the one wait for a GPU in a pass
            if not np.isfinite(pass_totals[-1]):
                norms = ", ".join(f"{norm:.3g}" for norm in statistics[:, -1].tolist())
                raise FloatingPointError(f"a gradient's norm is not finite: {norms}")
            totals, rounds = totals + pass_totals, rounds + len(parts)
            kl = float(pass_totals[0]) / len(parts)
            group["lr"] = adapt_lr(group["lr"], config.lr, kl, config.target_kl)
            if config.max_kl and kl > config.max_kl:
                break
        means = (totals / rounds).tolist()
        return {
            "kl": kl,
            "update/epochs": float(epoch),
            "update/lr": group["lr"],
            **dict(zip(_STATISTICS[1:], means[1:], strict=True)),
        }

    def _step(self, batch: Batch, rows: Tensor) -> Tensor:
        """Takes one step of Adam on the rows of a minibatch; returns the _STATISTICS."""
        gradient, statistics = split_gradient(
            lambda own: self._gradient(batch, own),
            lambda own: int(batch.counts[own].sum()),
            rows,
            self._group,
        )
        parameters = self._gradient.parameters
        for parameter, value in zip(parameters, gradient, strict=True):
            parameter.grad = value
        norm = torch.nn.utils.get_total_norm(gradient)
        torch.nn.utils.clip_grads_with_norm_(parameters, self.config.max_gradient, norm)
        self._adam.step()
        clamp_(self.policy.distribution, self.policy.distribution_params())
        return torch.cat([statistics, norm.double().unsqueeze(0)])


_STATISTICS = (*STATISTICS, "update/gradient_norm")
"""Means over the minibatches of an update."""
