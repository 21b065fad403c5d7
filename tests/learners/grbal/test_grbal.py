"""GrBAL on a system whose actions change their sign in mid-episode."""

import pytest
import torch

from metarl.core.env import UnsupportedHere
from metarl.core.rollout import Feedback, Rollout
from metarl.learners.grbal.config import GrbalConfig
from metarl.learners.grbal.context import GrbalContext
from metarl.learners.grbal.grbal import Grbal

CONFIG = GrbalConfig(
    hidden_sizes=(16,),
    past_steps=6,
    future_steps=6,
    inner_lr=0.2,
    lr=1e-2,
    gradient_steps=120,
    batch_size=32,
    plan_steps=3,
    candidates=16,
)
HORIZON = 24


def step(position, action, sign):
    """x' = x + 0.5 sign a; the reward is x'."""
    following = position + 0.5 * sign * action
    return following, following.squeeze(-1)


def signs(rows, flip):
    """Returns the signs (rows, 1, HORIZON), the two in turns, which flip at a step."""
    start = torch.tensor([1.0, -1.0]).repeat(rows // 2).view(rows, 1, 1)
    return start * torch.where(torch.arange(HORIZON) < flip, 1.0, -1.0)


def random_rollout(seed, rows=16):
    """Random actions on systems that flip at some step, or never."""
    rng = torch.Generator().manual_seed(seed)
    flip = int(torch.randint(4, HORIZON + 8, (), generator=rng))
    sign, position = signs(rows, flip), torch.zeros(rows, 1, 1)
    action = torch.randn(rows, 1, HORIZON, 1, generator=rng).clamp(-1.0, 1.0)
    obs, reward = torch.zeros(rows, 1, HORIZON, 1), torch.zeros(rows, 1, HORIZON)
    for t in range(HORIZON):
        obs[:, :, t] = position
        position, reward[:, :, t] = step(position, action[:, :, t], sign[:, :, t, None])
    no = torch.zeros(rows, 1, dtype=torch.bool)
    valid = torch.ones(rows, 1, HORIZON, dtype=torch.bool)
    return Rollout(obs, action, torch.zeros_like(reward), reward, valid, no, no, position)


@pytest.fixture(scope="module")
def learner():
    trained = Grbal(CONFIG, 1, 1, seed=0)
    for iteration in range(8):
        trained.update(trained.begin(16, 1, ()), [random_rollout(iteration)], None)
    return trained


def play(learner, flip, rows=4, explore=True):
    """Plays an episode; returns errors of adapted and initial models by step, and the contexts."""
    rng, sign = torch.Generator().manual_seed(9), signs(rows, flip)
    context, position, feedback = learner.begin(rows, 1, ()), torch.zeros(rows, 1, 1), None
    errors, contexts = [], []
    for t in range(HORIZON):
        noise = torch.randn(rows, 1, 1, generator=rng)
        with torch.inference_mode():
            action, context = learner.act(context, position, noise, feedback, explore=explore)
            # a second action, which tells more of the system than the planned one
            probe = torch.randn(rows, 1, 1, generator=rng).clamp(-1.0, 1.0)
            following, reward = step(position, probe, sign[:, :, t, None])
            errors.append(predict(learner, context, probe, following))
            position, reward = step(position, action.value, sign[:, :, t, None])
        feedback = Feedback(reward, torch.ones(rows, 1, dtype=torch.bool))
        contexts.append(context)
    return torch.tensor(errors), contexts


def predict(learner, context, action, following):
    """Returns the squared errors of the change that the adapted and the initial model predict."""
    scales = learner._scales()
    state = context.state  # of this step, as `act` has stored it
    inputs = scales.inputs(state, action)
    target = scales.targets(state, torch.cat([following, torch.zeros_like(following)], dim=-1))
    adapted = learner.model.adapt(learner._acting, context.past(torch.arange(len(state))))
    initial = {n: learner._acting[n].expand_as(v) for n, v in adapted.items()}
    network = learner.model.network
    outputs = (network.outputs(params, inputs) for params in (adapted, initial))
    return [float((o - target)[..., 0].square().mean()) for o in outputs]


def test_model_recovers_from_a_sign_that_flips_in_mid_episode(learner):
    flip, window = 12, CONFIG.past_steps
    errors, _ = play(learner, flip)
    adapted, initial = errors[:, 0], errors[:, 1]
    before = adapted[window:flip].mean()
    recovered = adapted[flip + window :].mean()
    assert before < 0.4 * initial.mean()  # no model without a trial's own steps knows the sign
    assert adapted[flip : flip + 2].mean() > 4.0 * before  # its window has the old sign
    assert recovered < 0.4 * initial.mean()


def test_actions_are_the_rewarded_ones_with_both_signs(learner):
    rng = torch.Generator().manual_seed(3)
    context, feedback = learner.begin(4, 1, ()), None
    position, sign = torch.zeros(4, 1, 1), signs(4, HORIZON)
    for t in range(HORIZON):
        noise = torch.randn(4, 1, 1, generator=rng)
        with torch.inference_mode():
            action, context = learner.act(context, position, noise, feedback, explore=True)
        position, reward = step(position, action.value, sign[:, :, t, None])
        feedback = Feedback(reward, torch.ones(4, 1, dtype=torch.bool))
    assert float(position.min()) > 0.25 * HORIZON  # of at most 0.5


def test_rows_do_not_depend_on_each_other(learner):
    _, contexts = play(learner, 12)
    for t in (3, HORIZON - 1):
        whole, noise = contexts[t], torch.zeros(4, 1, 1)
        obs = torch.linspace(-1.0, 1.0, 4).view(4, 1, 1)
        feedback = Feedback(torch.ones(4, 1), torch.ones(4, 1, dtype=torch.bool))
        expected, after = learner.act(whole, obs, noise, feedback, explore=False)
        parts = []
        for row in range(4):
            own = slice(row, row + 1)
            alone = Feedback(feedback.reward[own], feedback.alive[own])
            part = whole.slice_tasks(row, row + 1)
            found, part = learner.act(part, obs[own], noise[own], alone, explore=False)
            assert torch.equal(found.value, expected.value[own])
            parts.append(part)
        joined = GrbalContext.join(parts)
        assert all(torch.equal(vars(joined)[n], v) for n, v in vars(after).items())


def test_finished_episode_keeps_its_context(learner):
    _, contexts = play(learner, 12)
    before, obs, noise = contexts[9], torch.ones(4, 1, 1), torch.zeros(4, 1, 1)
    alive = torch.tensor([[True], [False], [True], [False]])
    _, after = learner.act(before, obs, noise, Feedback(torch.ones(4, 1), alive), explore=False)
    for name, value in vars(after).items():
        assert torch.equal(value[1::2], vars(before)[name][1::2]), name
    assert not torch.equal(after.inputs[::2], before.inputs[::2])


def test_window_has_the_last_transitions_of_the_trial(learner):
    """Five steps, an end of an episode and five steps, against the transitions themselves."""
    context, scales = learner.begin(1, 1, ()), learner._scales()
    noise, alive = torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool)
    known, previous, action = [], torch.zeros(1, 1, 2), noise
    for t, obs in enumerate([0.0, 0.3, 0.1, 0.6, 0.2, -0.5, -0.1, 0.4, 0.7, 0.2]):
        current, is_first = torch.full((1, 1, 1), obs), t in (0, 5)
        reward = torch.full((1, 1), 0.1 * t)
        if t == 5:
            context = learner.adapt(context, random_rollout(0), ())
        if not is_first:
            following = torch.cat([current, reward.unsqueeze(-1)], dim=-1)
            if t not in (1, 6):  # no reward comes before the first step
                inputs = scales.inputs(previous, action)
                known.append((inputs, scales.targets(previous, following)))
        feedback = None if is_first else Feedback(reward, alive)
        chosen, context = learner.act(context, current, noise, feedback, explore=False)
        previous, action = torch.cat([current, reward.unsqueeze(-1)], dim=-1), chosen.value
    assert len(known) == 6 and torch.equal(context.weight, torch.ones(1, 1, 6))
    inputs, targets = (torch.stack(each, dim=2) for each in zip(*known, strict=True))
    assert torch.equal(context.inputs, inputs) and torch.equal(context.targets, targets)


def test_actions_of_the_first_iteration_are_noise():
    fresh, noise = Grbal(CONFIG, 1, 1, seed=0), torch.tensor([[[0.5]], [[-3.0]]])
    obs = torch.zeros(2, 1, 1)
    action, _ = fresh.act(fresh.begin(2, 1, ()), obs, noise, explore=True)
    assert torch.equal(action.value, noise.clamp(-1.0, 1.0))


def test_adaptation_lowers_the_error_in_the_metrics(learner):
    """Signs that flip in the window, or after it, are in these errors too."""
    metrics = learner.update(learner.begin(16, 1, ()), [random_rollout(99)], None)
    assert metrics["model/error_after"] < 0.7 * metrics["model/error_before"]


def test_discrete_actions_are_refused():
    with pytest.raises(UnsupportedHere, match="it plans with continuous actions"):
        Grbal(CONFIG, 1, 3, seed=0, discrete=True)
