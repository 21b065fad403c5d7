"""Small grids, policies of other libraries, and plain loops to compare certificates with."""

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from stable_baselines3 import PPO

from metarl.envs.registry import make
from metarl.envs.wrappers.gymnasium import GymEnv
from metarl.envs.wrappers.sb3 import vec_env
from metarl.sampling.sampler import Key

HOPPER_GRID = """
num_tasks: 3
attempts: 2
axes:
  friction: {variation: friction, vary: friction, levels: [0.2, 2]}
  delay: {variation: actuator, vary: delay, levels: [3], set: {"gear *": 1}}
"""

NAVIGATION_GRID = """
num_tasks: 3
attempts: 2
axes:
  goal: {vary: goal_x, levels: [-0.5, 0, 0.5, [0.1, 0.4]]}
"""


def write_grid(folder, text):
    path = folder / "grid.yaml"
    path.write_text(text)
    return path


def read_certificate(folder):
    return json.loads((folder / "certificate.json").read_text())


def without_times(tree):
    return {name: value for name, value in tree.items() if name != "measured"}


def save_ppo(path, env="hopper-vel"):
    """Trains PPO of Stable-Baselines3 for a few steps, and saves it."""
    batch = make(env, 1)
    settings = {"n_steps": 16, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}
    model = PPO("MlpPolicy", vec_env(batch, 2), policy_kwargs={"net_arch": [8]}, **settings)
    model.learn(32)
    model.save(path)
    batch.close()
    return model


def save_linear_onnx(path, weights, *, rows="rows", metadata=()):
    """Writes actions = tanh(obs @ weights) as an ONNX file, without metarl."""
    obs_size, action_size = weights.shape
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["obs", "weights"], ["product"]),
            helper.make_node("Tanh", ["product"], ["actions"]),
        ],
        "policy",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, [rows, obs_size])],
        [helper.make_tensor_value_info("actions", TensorProto.FLOAT, [rows, action_size])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for key, value in dict(metadata).items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def play_episode(env, task, policy, attempt, index, seed=0):
    """Plays an episode in a plain loop over a Gymnasium environment.

    Returns its return, its number of steps, and whether it ended before the time limit.
    """
    gym = GymEnv(env, task)
    (gym.np_random,) = [Key(seed, "certify", 0).episodes(attempt, index + 1, 1)[index]]
    obs, _ = gym.reset(options={"task": task})
    total, steps, terminated, truncated = 0.0, 0, False, False
    while not (terminated or truncated):
        obs, reward, terminated, truncated, _ = gym.step(policy(obs))
        total, steps = total + np.float32(reward), steps + 1
    return total, steps, terminated
