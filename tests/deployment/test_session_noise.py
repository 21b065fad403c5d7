"""Which episodes of a session have action noise, for every learner that pools episodes."""

import numpy as np
import pytest
from learner_cases import CASES

from metarl.deployment.session import Session
from metarl.envs.registry import make
from metarl.learners.registry import ALGORITHMS, build_learner
from metarl.sampling.sampler import Key


def play(session, steps=4):
    """Sends the same observations; returns the actions, the last without its outcome."""
    sent = [session.act(np.array([0.1, 0.2]), -1.0 if t else None) for t in range(steps)]
    session.end_episode(-1.0, obs=np.array([0.1, 0.2]))
    return np.array(sent)


@pytest.mark.parametrize("algo", ["maml-trpo", "bmaml", "gp", "metric", "pearl"])
def test_session_draws_actions_until_it_has_adapted(algo):
    spec = make("navigation-2d", 1).spec
    learner = build_learner(ALGORITHMS[algo], CASES[algo].config, spec, seed=0)
    session = Session(learner, spec, raw=True, key=Key(0, "session", 0))
    assert len(np.unique(play(session), axis=0)) == 4  # noise
    session.adapt()
    assert len(np.unique(play(session), axis=0)) == 1  # the mode, of the same observation
