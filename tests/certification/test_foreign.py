"""Policies of other libraries, and what their files say about their actions."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from certificates import save_linear_onnx
from gymnasium.spaces import Box

from metarl.certification.foreign import ForeignLearner, Sb3Controller
from metarl.core.errors import CheckpointError, ConfigError
from metarl.core.rollout import Feedback
from metarl.deployment.onnx_learner import OnnxLearner
from metarl.deployment.onnx_policy import OnnxPolicy
from metarl.envs.registry import parse_name

QUADRUPED = parse_name("quadruped-command").spec("quadruped-command")


def test_learner_passes_the_state_and_marks_starts():
    calls = []

    class Counter:
        def act(self, obs, state, is_start):
            calls.append((obs.shape, state, is_start))
            return np.full((len(obs), 1), len(calls)), (state or 0) + 1

    learner, obs = ForeignLearner(Counter()), torch.zeros(2, 3, 4)
    context = learner.begin(2, 3, [])
    action, context = learner.act(context, obs, obs, explore=False)
    feedback = Feedback(torch.zeros(2, 3), torch.ones(2, 3, dtype=bool))
    _, context = learner.act(context, obs, obs, feedback, explore=False)
    context = learner.adapt(context, None, [])
    learner.act(context, obs, obs, explore=False)
    assert calls == [((6, 4), None, True), ((6, 4), 1, False), ((6, 4), 2, True)]
    assert action.value.shape == (2, 3, 1) and action.log_prob.shape == (2, 3)


def test_sb3_actions_are_mapped_to_the_ends_of_the_environment():
    low, high = (np.array(ends) for ends in QUADRUPED.action_range)
    seen = []

    class Model:
        action_space = Box(-2.0, 2.0, (12,))

        def predict(self, obs, state, starts, deterministic):
            seen.append((starts.tolist(), deterministic))
            return np.stack([np.full(12, 2.0), np.full(12, -2.0), np.zeros(12)]), state

    output, _ = Sb3Controller(Model(), QUADRUPED).act(np.zeros((3, 36)), None, True)
    controls = np.array(QUADRUPED.action_centre) + QUADRUPED.action_scale * output
    assert controls == pytest.approx(np.stack([high, low, 0.5 * (low + high)]))
    assert seen == [([True] * 3, True)]


def test_normalizer_scales_the_observations():
    spec = parse_name("hopper-vel").spec("hopper-vel")

    class Model:
        action_space = Box(-1.0, 1.0, (3,))

        def predict(self, obs, state, starts, deterministic):
            return obs[:, :3], state

    normalizer = SimpleNamespace(normalize_obs=lambda obs: 0.5 * obs)
    output, _ = Sb3Controller(Model(), spec, normalizer).act(np.ones((2, 11)), None, True)
    assert output == pytest.approx(np.full((2, 3), 0.5))


def answer(path, obs, spec=QUADRUPED):
    learner = OnnxLearner(OnnxPolicy(path), spec)
    rows = torch.from_numpy(obs).unsqueeze(1)
    context = learner.begin(len(obs), 1, ())
    chosen, _ = learner.act(context, rows, torch.zeros(len(obs), 1, 12), explore=False)
    return chosen.value.squeeze(1).numpy()


def test_file_for_one_robot_serves_many(tmp_path):
    weights = np.random.default_rng(0).normal(size=(36, 12)).astype(np.float32)
    obs = np.random.default_rng(1).normal(size=(4, 36)).astype(np.float32)
    one, many = (
        answer(save_linear_onnx(tmp_path / "p.onnx", weights, rows=rows), obs) for rows in (1, "n")
    )
    assert one == pytest.approx(np.tanh(obs @ weights), abs=1e-6)
    assert many == pytest.approx(one, abs=1e-6)


def test_metadata_give_order_scale_and_home(tmp_path):
    names = [each.name for each in QUADRUPED.actuators]
    order = np.random.default_rng(2).permutation(12)
    home, scale = np.linspace(-1.0, 1.0, 12), np.linspace(0.1, 0.5, 12)
    metadata = {
        "joint_names": ",".join(names[i] for i in order),
        "default_joint_pos": ",".join(f"{home[i]:.6f}" for i in order),
        "action_scale": ",".join(f"{scale[i]:.6f}" for i in order),
    }
    weights = np.random.default_rng(0).normal(size=(36, 12))
    obs = np.random.default_rng(1).normal(size=(3, 36)).astype(np.float32)
    path = save_linear_onnx(tmp_path / "p.onnx", weights[:, order], metadata=metadata)
    controls = np.array(QUADRUPED.action_centre) + QUADRUPED.action_scale * answer(path, obs)
    expected = home + scale * np.tanh(obs @ weights)  # joint positions, in our order
    assert controls == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("home", "message"),
    [
        ("0,1", "default_joint_pos has 2 numbers for 12 actions"),
        ("a", "default_joint_pos is 'a': must be numbers"),
    ],
)
def test_unusable_metadata_are_refused(tmp_path, home, message):
    metadata = {"default_joint_pos": home, "action_scale": "1"}
    path = save_linear_onnx(tmp_path / "p.onnx", np.zeros((36, 12)), metadata=metadata)
    with pytest.raises(CheckpointError, match=message):
        OnnxPolicy(path)


def test_sizes_are_compared(tmp_path):
    path = save_linear_onnx(Path(tmp_path / "p.onnx"), np.zeros((36, 11)))
    message = "action_size is 11; the environment quadruped-command has 12"
    with pytest.raises(ConfigError, match=message):
        OnnxLearner(OnnxPolicy(path), QUADRUPED)
