"""A small learner of PEARL, and made-up rollouts for it."""

import torch

from metarl.core.rng import stream
from metarl.core.rollout import Rollout
from metarl.learners.pearl.config import PearlConfig
from metarl.learners.pearl.pearl import Pearl

SMALL = PearlConfig(
    latent_size=3,
    hidden_sizes=(8,),
    encoder_sizes=(8,),
    action_limit=0.1,
    update_ratio=0.005,
    task_memory=5,
    recent_tasks=3,
)


def learner(config=SMALL, seed=0):
    return Pearl(config, 2, 2, seed=seed)


def streams(num_tasks, name="adapt"):
    return [stream(0, name, task) for task in range(num_tasks)]


def make_rollout(seed, num_tasks=3, num_episodes=2, steps=5):
    draw = torch.Generator().manual_seed(seed)
    size = num_tasks, num_episodes
    length = torch.randint(1, steps + 1, size, generator=draw)
    valid = torch.arange(steps) < length.unsqueeze(-1)
    return Rollout(
        obs=torch.randn(*size, steps, 2, generator=draw) * valid.unsqueeze(-1),
        action=0.1 * torch.rand(*size, steps, 2, generator=draw) * valid.unsqueeze(-1),
        log_prob=torch.zeros(*size, steps),
        reward=torch.randn(*size, steps, generator=draw) * valid,
        valid=valid,
        terminated=length < steps,
        truncated=torch.zeros(size, dtype=torch.bool),
        last_obs=torch.randn(*size, 2, generator=draw),
    )
