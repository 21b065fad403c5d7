"""One model of Stable-Baselines3 (SB3), trained one iteration at a time and saved as tensors.

SB3 saves by pickle and draws from global random streams. Here the state of a model is a dict of
tensors, and an iteration is a pure function of that state and of a stream, so a resumed run repeats
an uninterrupted one bit for bit.
"""

from __future__ import annotations

import random
import threading
import time
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sb3_contrib import TRPO, RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor

from metarl.core.errors import require
from metarl.core.rollout import Metrics
from metarl.learners.sb3.config import Sb3PpoConfig, Sb3Rl2Config, Sb3TrpoConfig


@dataclass(frozen=True)
class Played:
    """Experience and update of one model in an iteration.

    Attributes:
        steps: Environment steps taken.
        returns: (M, K + 1) of the first K + 1 episodes of each row. Every row completes as many, so
            short episodes are not favoured.
        lengths: (M, K + 1).
        terminated: (M, K + 1).
        faults: (M, K + 1).
        num_episodes: All episodes that ended.
        metrics: Numbers of the update.
        collect: Time spent on experience [s].
        update: Time spent on the update [s].
    """

    steps: int
    returns: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    faults: np.ndarray
    num_episodes: int
    metrics: Metrics
    collect: float
    update: float


class Member:
    """A model, its optimiser and its running statistics.

    Args:
        config: Settings.
        vec: The environments; tasks and streams of its rows are set from outside.
        num_rollouts: K + 1, the least number of episodes of a row in an iteration.
        horizon: T.
        rng: Stream of the initial parameters.
        device: Of the model.
    """

    def __init__(
        self,
        config: Sb3PpoConfig | Sb3TrpoConfig | Sb3Rl2Config,
        vec: VecEnv,
        num_rollouts: int,
        horizon: int,
        *,
        rng: np.random.Generator,
        device: torch.device | str,
    ):
        self._num_rollouts = num_rollouts
        self._steps = num_rollouts * horizon
        self.normalizer: VecNormalize | None = None
        if isinstance(config, Sb3Rl2Config):
            wanted, observations = config.scale_rewards, False
        else:
            wanted = observations = config.normalize
        if wanted:
            vec = VecNormalize(vec, gamma=config.discount, norm_obs=observations)
            self.normalizer = vec
        with _global_streams(rng), warnings.catch_warnings():
            # about a smaller last minibatch, and a small network that a GPU does not speed up
            warnings.filterwarnings(
                "ignore", "You have specified a mini-batch size|You are trying to run"
            )
            self.model = _MODELS[type(config)](config, vec, self._steps, device)
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        for parameter in self.model.policy.parameters():
            # as Adam makes at its first step, so that a state always has the same tensors
            zeros = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self._adam.state[parameter] = {"step": torch.zeros(()), **zeros}

    @property
    def _adam(self) -> torch.optim.Optimizer:
        return self.model.policy.optimizer

    def iterate(self, rng: np.random.Generator) -> Played:
        """Collects the experience of one iteration, from a reset of all rows, and learns from it.

        Raises:
            FloatingPointError: A parameter is not finite; the model needs an older state.
            ValueError: The environment gave a number that is not finite.
        """
        recorder = _EpisodeRecorder(self._num_rollouts)
        began = time.monotonic()
        with _global_streams(rng):
            steps = self._steps * self.model.n_envs
            try:
                self.model.learn(steps, callback=recorder, log_interval=None)
            except ValueError as error:
                self._check_finite()  # torch's distributions raise this for nan parameters too
                if "of distribution" in str(error):  # finite parameters gave a mean that is not
                    text = "the distribution over actions is not finite in an update of SB3"
                    raise FloatingPointError(text) from error
                raise
        self._check_finite()
        collected, ended = recorder.collected, time.monotonic()
        table = recorder.table(self.model.n_envs)
        table = {name: np.array(values) for name, values in table.items()}
        return Played(
            steps=self.model.num_timesteps,
            returns=table["r"],
            lengths=table["l"],
            terminated=table["terminated"],
            faults=table["fault"],
            num_episodes=recorder.num_episodes,
            metrics=_metrics(self.model.logger.name_to_value),
            collect=collected - began,
            update=ended - collected,
        )

    def _check_finite(self) -> None:
        """Raises if a parameter, a moment of Adam or a running statistic is not finite."""
        for name, value in self.state_dict().items():
            if not value.isfinite().all():
                raise FloatingPointError(f"{name!r} is not finite after an update of SB3")

    def normalize(self, obs: np.ndarray) -> np.ndarray:
        """Returns observations (M, S) as the policy takes them."""
        return obs if self.normalizer is None else np.asarray(self.normalizer.normalize_obs(obs))

    # ---------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Tensor]:
        """Returns parameters, Adam's moments and statistics, copied to the CPU."""
        state = {f"policy/{name}": value for name, value in self.model.policy.state_dict().items()}
        for index, moments in self._adam.state_dict()["state"].items():
            state |= {f"adam/{index:02d}/{name}": value for name, value in moments.items()}
        if self.normalizer is not None:
            for name, each in self._statistics().items():
                for part in _PARTS:
                    value = np.asarray(vars(each)[part], dtype=np.float64)
                    state[f"statistics/{name}_{part}"] = torch.from_numpy(value.copy())
        return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores a state of the names and shapes of state_dict()."""
        copies = {name: value.clone() for name, value in state.items()}
        policy = {name: value for name, value in copies.items() if name.startswith("policy/")}
        self.model.policy.load_state_dict({k.partition("/")[2]: v for k, v in policy.items()})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in copies.items():
            if name.startswith("adam/"):
                _, index, moment = name.split("/")
                moments.setdefault(int(index), {})[moment] = value
        groups = self._adam.state_dict()["param_groups"]
        self._adam.load_state_dict({"state": moments, "param_groups": groups})
        if self.normalizer is not None:
            for name, each in self._statistics().items():
                for part in _PARTS:
                    value = copies[f"statistics/{name}_{part}"].numpy()
                    setattr(each, part, float(value) if part == "count" else value)

    def _statistics(self) -> dict[str, Any]:
        assert self.normalizer is not None
        statistics = {"return": self.normalizer.ret_rms}
        if self.normalizer.norm_obs:
            statistics["obs"] = self.normalizer.obs_rms
        return statistics


_PARTS = ("mean", "var", "count")
"""Attributes of SB3's running statistics."""


class _EpisodeRecorder(BaseCallback):
    """Records the first episodes of every row, and the time when the experience was complete."""

    def __init__(self, per_row: int):
        super().__init__()
        self._per_row, self._episodes = per_row, {}
        self.num_episodes, self.collected = 0, 0.0

    def _on_step(self) -> bool:
        for row, info in enumerate(self.locals["infos"]):
            if "episode" in info:
                self.num_episodes += 1
                if info["episode"]["index"] < self._per_row:
                    self._episodes[row, info["episode"]["index"]] = info["episode"]
        return True

    def _on_rollout_end(self) -> None:
        self.collected = time.monotonic()

    def table(self, num_rows: int) -> dict[str, list[list[Any]]]:
        """Returns each number of the episodes (M, K + 1) by name."""
        return {
            name: [
                [self._episodes[row, index][name] for index in range(self._per_row)]
                for row in range(num_rows)
            ]
            for name in ("r", "l", "terminated", "fault")
        }


_STREAMS = threading.Lock()
"""Held while the global generators are seeded for one model."""


@contextmanager
def _global_streams(rng: np.random.Generator) -> Generator[None]:
    """Seeds the global generators, which SB3 draws from, and restores them afterwards.

    Baselines that train in several threads take turns, because they share these generators.
    """
    with _STREAMS, torch.random.fork_rng():
        python, numpy = random.getstate(), np.random.get_state()
        random.seed(int(rng.integers(2**63)))
        np.random.seed(int(rng.integers(2**32)))
        torch.manual_seed(int(rng.integers(2**63)))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


_NAMES = {
    "train/approx_kl": "kl",
    "train/kl_divergence_loss": "kl",
    "train/policy_gradient_loss": "loss/policy",
    "train/policy_objective": "objective",
    "train/value_loss": "loss/value",
    "train/explained_variance": "explained_variance",
    "train/clip_fraction": "clip_fraction",
    "train/is_line_search_success": "line_search_success",
    "train/std": "policy/std",
}


def _metrics(logged: Mapping[str, Any]) -> Metrics:
    return {ours: float(logged[theirs]) for theirs, ours in _NAMES.items() if theirs in logged}


# ------------------------------------------------------------------------------------------- models


def _batch_size(config: Any, vec: VecEnv, steps: int) -> int:
    """Returns the steps of a minibatch.

    Raises:
        ConfigError: A minibatch, perhaps the last, would be of one step, whose advantage cannot be
            standardised.
    """
    total, most = vec.num_envs * steps, vec.num_envs * steps // 2
    size = -(-total // config.minibatches)
    reason = f"so that no minibatch of the {total} steps of an iteration is of one step"
    within = f"1 to {most}, {reason}" if most else "left alone: an iteration has one step"
    require(size >= 2, "learner.minibatches", config.minibatches, within)
    if total % size == 1:
        fewer = next(n for n in range(config.minibatches, 0, -1) if total % -(-total // n) != 1)
        hint = f"another number, such as {fewer}, {reason}"
        require(False, "learner.minibatches", config.minibatches, hint)
    return size


def _ppo_settings(config: Any, vec: VecEnv, steps: int) -> dict[str, Any]:
    return {
        "learning_rate": config.learning_rate,
        "n_steps": steps,
        "batch_size": _batch_size(config, vec, steps),
        "n_epochs": config.epochs,
        "gamma": config.discount,
        "gae_lambda": config.gae_lambda,
        "clip_range": config.clip,
        "ent_coef": config.entropy_weight,
        "vf_coef": config.value_weight,
        "max_grad_norm": config.max_grad_norm,
        "target_kl": config.target_kl or None,
    }


def _network(config: Any) -> dict[str, Any]:
    sizes = list(config.hidden_sizes)
    return {
        "net_arch": {"pi": sizes, "vf": sizes},
        "log_std_init": config.initial_log_std,
        "features_extractor_class": CopyingExtractor,
    }


def _ppo(config: Sb3PpoConfig, vec: VecEnv, steps: int, device: Any) -> PPO:
    settings = _ppo_settings(config, vec, steps)
    return PPO("MlpPolicy", vec, policy_kwargs=_network(config), device=device, **settings)


def _trpo(config: Sb3TrpoConfig, vec: VecEnv, steps: int, device: Any) -> TRPO:
    return TRPO(
        "MlpPolicy",
        vec,
        learning_rate=config.learning_rate,
        n_steps=steps,
        batch_size=_batch_size(config, vec, steps),
        gamma=config.discount,
        cg_max_steps=config.cg_iterations,
        cg_damping=config.cg_damping,
        line_search_shrinking_factor=config.line_search_decay,
        line_search_max_iter=config.line_search_steps,
        n_critic_updates=config.epochs,
        gae_lambda=config.gae_lambda,
        target_kl=config.max_kl,
        policy_kwargs=_network(config),
        device=device,
    )


class CopyingExtractor(FlattenExtractor):
    """Copies the observations for the network.

    NumPy's arrays begin at any multiple of 16 bytes, and the last bit of a product of two rows
    depends on where they begin, so a resumed run would not repeat an uninterrupted one. torch's own
    arrays begin at multiples of 64 bytes.
    """

    def forward(self, observations: Tensor) -> Tensor:
        """Returns a copy of observations (M, S)."""
        return super().forward(observations).clone()


class TrialLstmPolicy(RecurrentActorCriticPolicy):
    """SB3's recurrent policy, with one call of the LSTM where only first steps start an episode.

    Every minibatch of SB3 is of that kind, since it is cut where an episode starts, yet SB3 calls
    the LSTM step by step: an update over 16 trials of 200 steps took 92 s instead of 4.4 s.
    """

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor, lstm: Any
    ) -> tuple[Tensor, Any]:
        rows = lstm_states[0].shape[1]
        starts = episode_starts.reshape(rows, -1)
        if not starts[:, 1:].any():
            kept = (1.0 - starts[:, 0]).view(1, rows, 1)
            lstm_states = (kept * lstm_states[0], kept * lstm_states[1])
            episode_starts = torch.zeros_like(episode_starts)
        return RecurrentActorCriticPolicy._process_sequence(
            features, lstm_states, episode_starts, lstm
        )


def _rl2(config: Sb3Rl2Config, vec: VecEnv, steps: int, device: Any) -> RecurrentPPO:
    network = {**_network(config), "lstm_hidden_size": config.lstm_size}
    settings = _ppo_settings(config, vec, steps)
    return RecurrentPPO(TrialLstmPolicy, vec, policy_kwargs=network, device=device, **settings)


_MODELS: dict[type, Any] = {Sb3PpoConfig: _ppo, Sb3TrpoConfig: _trpo, Sb3Rl2Config: _rl2}
