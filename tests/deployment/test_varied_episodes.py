"""Sessions of learners that play the episodes of a rollout with different policies."""

import numpy as np
import pytest
import torch

from metarl.core.rollout import Rollout
from metarl.deployment.session import Session
from metarl.envs.registry import make
from metarl.learners.bmaml.bmaml import Bmaml
from metarl.learners.bmaml.config import BmamlConfig
from metarl.learners.gp.config import GpConfig
from metarl.learners.gp.gp import Gp
from metarl.learners.pearl.config import PearlConfig
from metarl.learners.pearl.pearl import Pearl
from metarl.sampling.trials import Key

SPEC = make("navigation-2d", 1).spec


def build_bmaml():
    config = BmamlConfig(hidden_sizes=(5,), num_particles=3, initial_log_std=-1.0)
    return Bmaml(config, 2, 2, seed=1)


def build_gp(candidates=6):
    learner = Gp(GpConfig(num_candidates=candidates), 2, 2, tasks=SPEC.tasks, seed=0)
    latents = torch.linspace(-1.0, 1.0, 2 * candidates).view(candidates, 2)
    learner.load_state_dict(learner.state_dict() | {"candidates": latents})
    return learner


def play(session, episodes):
    rng = np.random.default_rng(0)
    for _ in range(episodes):
        for t in range(3):
            session.act(rng.standard_normal((session._num_rows, 2)), float(-t) if t else None)
        session.end_episode(-3.0)


def adapted_from(session, monkeypatch):
    """Adapts; returns the context and the rollout that the learner was given."""
    learner, given = session._learner, []
    adapt = learner.adapt

    def watched(context, rollout, rngs):
        given.append((context, rollout))
        return adapt(context, rollout, rngs)

    monkeypatch.setattr(learner, "adapt", watched)
    session.adapt()
    monkeypatch.setattr(learner, "adapt", adapt)
    return given[0]


@pytest.mark.parametrize("robots", [1, 2])
@pytest.mark.parametrize("kept", [2, 5, 100])
def test_bmaml_session_learns_from_who_played(robots, kept, monkeypatch):
    monkeypatch.setattr("metarl.deployment.session.MAX_PENDING", kept)
    learner = build_bmaml()
    session = Session(learner, SPEC, 2, robots, deterministic=False)
    for _ in range(2):
        play(session, 5)
        context, rollout = adapted_from(session, monkeypatch)
        batch, _ = learner._batch(rollout, context.first)
        point = {n: v.flatten(0, 1) for n, v in context.params.items()}
        learner._check(point, batch)  # raises for a particle that did not play its episodes
        is_used = batch.valid.flatten(1).any(dim=1)
        assert int(is_used.sum()) == 2 * min(3, robots * min(kept, 5))


def test_gp_session_learns_from_the_latents_played():
    learner = build_gp()
    session = Session(learner, SPEC, 2, 2, deterministic=False)
    candidates = learner.state_dict()["candidates"]
    played = []
    for _ in range(2):
        for _ in range(4):
            played.append(session._context.latent)
            play(session, 1)
        session.adapt()
    index = torch.tensor([0, 3, 1, 4, 2, 5, 3, 0])  # the robots begin half of them apart
    first = torch.cat(played[:4], dim=1)
    assert torch.equal(first, candidates[index].expand(2, -1, -1))
    trials = session._context.trials
    assert torch.equal(trials.latent, torch.cat(played, dim=1).double())
    assert trials.result.shape == (2, 16)
    assert session.act(np.zeros((4, 2))).shape == (4, 2)


def test_gp_session_forgets_the_oldest_latents(monkeypatch):
    monkeypatch.setattr("metarl.deployment.session.MAX_PENDING", 2)
    learner = build_gp()
    session = Session(learner, SPEC, deterministic=False)
    play(session, 5)
    session.adapt()
    latents = learner.state_dict()["candidates"][[3, 4]].double()
    assert torch.equal(session._context.trials.latent[0], latents)


def test_session_without_noise_plays_the_first_policy():
    learner = build_gp()
    session = Session(learner, SPEC, deterministic=True)
    play(session, 3)
    assert torch.equal(session._context.latent[0], learner.state_dict()["candidates"][:1])


def test_pearl_session_guesses_anew_for_every_episode():
    """As the episodes of a rollout of the sampler do; robots are neighbours in it."""
    config = PearlConfig(hidden_sizes=(5,), encoder_sizes=(5,), action_limit=0.1)
    learner, key = Pearl(config, 2, 2, seed=0), Key(3, "evaluate", 0)
    session = Session(learner, SPEC, 2, 2, deterministic=False, key=key)
    expected = learner.begin(2, 8, key.tasks("begin", 0, 2))
    for _ in range(2):
        played = []
        for _ in range(4):
            played.append(session._context.read(explore=True))
            play(session, 1)
        assert torch.equal(torch.cat(played, dim=1), expected.read(explore=True))
        assert len(expected.read(explore=True).flatten(0, 1).unique(dim=0)) == 16
        parts = zip(*(vars(rollout).values() for rollout in session._pending), strict=True)
        rollout = Rollout(*(torch.cat(each, dim=1) for each in parts))
        streams = key.tasks("adapt", session.num_adaptations + 1, 2)
        expected = learner.adapt(expected, rollout, streams)
        session.adapt()
        assert torch.equal(session._context.posterior.mean, expected.posterior.mean)
