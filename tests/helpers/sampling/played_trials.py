"""Trials of a learner's own policy on random observations, in torch's default type."""

import torch

from metarl.core.rollout import Feedback, Rollout

OBS, ACTIONS = 3, 2


def play(learner, *, ragged=True, steps=4, size=(3, 2), num_adaptations=1, seed=0):
    """Plays K + 1 rollouts of (N, E) episodes with `act` and `adapt`; returns them.

    If ragged, episodes have 1 to T steps, and the simulation of the last one fails after two.
    """
    draw = torch.Generator().manual_seed(seed)
    context, rollouts = learner.begin(*size, ()), []
    for k in range(num_adaptations + 1):
        if k:
            context = learner.adapt(context, rollouts[-1], ())
        rollout, context = _play_once(learner, context, ragged, (*size, steps), draw)
        rollouts.append(rollout)
    return rollouts


def adapt(learner, rollouts, size=(3, 2)):
    """Returns the context of another learner after the same rollouts."""
    context = learner.begin(*size, ())
    for rollout in rollouts[:-1]:
        context = learner.adapt(context, rollout, ())
    return context


def _play_once(learner, context, ragged, shape, draw):
    steps = shape[2]
    length, failed = torch.full(shape[:2], steps), torch.zeros(shape[:2], dtype=torch.bool)
    if ragged:
        length = torch.randint(1, steps + 1, shape[:2], generator=draw)
        length[-1, -1], failed[-1, -1] = 2, True
    obs = torch.randn(*shape, OBS, generator=draw)
    noise = torch.randn(*shape, ACTIONS, generator=draw)
    actions, log_probs, rewards, feedback = [], [], [], None
    for t in range(steps):
        with torch.no_grad():
            chosen, context = learner.act(
                context, obs[:, :, t], noise[:, :, t], feedback, explore=True
            )
        valid = t < length
        actions.append(torch.where(valid.unsqueeze(-1), chosen.value, 0.0))
        log_probs.append(torch.where(valid, chosen.log_prob, 0.0))
        reward = chosen.value[..., 0] * obs[:, :, t, 0].sign() + 0.1 * obs[:, :, t, 1]
        rewards.append(torch.where(valid, reward, 0.0))
        feedback = Feedback(rewards[-1], t + 1 < length + failed)
    valid = torch.arange(steps) < length.unsqueeze(-1)
    terminated = (length < steps) & ~failed
    last = obs.gather(2, (length - 1).view(*shape[:2], 1, 1).expand(-1, -1, 1, OBS)).squeeze(2)
    arrays = (torch.stack(parts, dim=2) for parts in (actions, log_probs, rewards))
    return Rollout(obs, *arrays, valid, terminated, failed, last), context
