"""Trials of several episodes of one task, as rows that restart by themselves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from metarl.core.tasks import TaskDistribution
from metarl.envs.wrappers.autoreset import Episodes, Streams, Transition


class Trials:
    """Trials of one task each, in place of episodes, as in RL^2.

    The observation is followed by the last action (A), the last reward (unscaled), and 1 at the
    first step of a later episode of the trial (else 0); at the start of a trial these are zero. A
    trial ends with its last episode. It is then *terminated*, however that episode ended, because
    no value can follow; only a fault in the last episode truncates it.

    Args:
        episodes: The rows; their `episodes_per_task` is the number of episodes in a trial.

    Source: Duan et al. 2016 (arXiv:1611.02779).
    """

    def __init__(self, episodes: Episodes):
        self.episodes, self.spec, self.num_rows = episodes, episodes.spec, episodes.num_rows
        self.obs_size = episodes.obs_size + episodes.spec.action_size + 2

    def restart(self, streams: Streams, tasks: np.ndarray | TaskDistribution | None = None) -> None:
        """Sets the streams, and the tasks if given, from the next reset on."""
        self.episodes.restart(streams, tasks)

    def reset(self) -> np.ndarray:
        """Starts a trial in every row; returns obs (M, S + A + 2)."""
        memory = np.zeros((self.num_rows, self.spec.action_size + 2), dtype=np.float32)
        return np.concatenate([self.episodes.reset(), memory], axis=1)

    def step(self, action: np.ndarray) -> Transition:
        """Steps every row with action (M, A) [policy output]."""
        step = self.episodes.step(action)
        ended = step.terminated | step.truncated
        over = ended & (self.episodes.index % self.episodes.episodes_per_task == 0)
        columns = [np.asarray(action), step.reward[:, None]]
        memory = np.concatenate([*columns, (ended & ~over)[:, None]], axis=1, dtype=np.float32)
        final = np.concatenate([step.final_obs, memory], axis=1)
        memory[over] = 0.0
        return replace(
            step,
            obs=np.concatenate([step.obs, memory], axis=1),
            terminated=over & ~step.fault,
            truncated=over & step.fault,
            final_obs=final,
        )
