"""Plays an exported policy with onnxruntime and NumPy alone.

    metarl export pretrained/half-cheetah-dir -o policy.onnx
    python examples/onnx/play_policy.py policy.onnx [ENV]

ENV is a Gymnasium environment with the policy's sizes, such as HalfCheetah-v5; without it, the
observations are made up.
"""

import json
import sys

import numpy as np
import onnxruntime


class Policy:
    """A policy on one robot, with its memory.

    Args:
        path: A file of `metarl export`.
    """

    def __init__(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.facts = json.loads(metadata["metarl"])
        self.states = {
            each["input"]: np.full((1, *each["shape"]), each["initial"], np.float32)
            for each in self.facts["states"]
        }

    def act(self, obs, reward=0.0, done=False):
        """Returns the controls (A,) in the robot's units.

        Args:
            obs: (S,).
            reward: Of the previous control; 0 at the very first step.
            done: This is the first step of an episode that is not the first one.
        """
        feeds = {"obs": np.asarray(obs, np.float32)[None]}
        if self.states:
            feeds["reward"] = np.array([[reward]], np.float32)
            feeds["done"] = np.array([[done]], np.float32)
        outputs = ["controls", *(each["output"] for each in self.facts["states"])]
        controls, *after = self.session.run(outputs, feeds | self.states)
        self.states = dict(zip(self.states, after, strict=True))
        return controls[0]


def play_made_up(policy, steps):
    """Prints the controls for made-up observations."""
    rng, reward = np.random.default_rng(0), 0.0
    for t in range(steps):
        controls = policy.act(
            rng.standard_normal(policy.facts["obs_size"]), reward, t == steps // 2
        )
        reward = float(rng.standard_normal())
        if t % 50 == 0:
            print(f"step {t:4}: {np.round(controls, 3)}")


def play_gymnasium(policy, name, episodes=2):
    """Plays episodes of a Gymnasium environment and prints their returns."""
    import gymnasium

    env, reward = gymnasium.make(name), 0.0
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode)
        total, ended, is_first = 0.0, False, episode > 0
        for _ in range(policy.facts["horizon"]):
            controls = policy.act(obs, reward, is_first)
            obs, reward, terminated, truncated, _ = env.step(controls)
            total, is_first, ended = total + reward, False, terminated or truncated
            if ended:
                break
        print(f"episode {episode}: return {total:.1f}")
    env.close()


def main(path, env=None):
    """Plays the policy."""
    policy = Policy(path)
    facts = policy.facts
    print(f"{facts['learner']} on {facts['env']}, {1 / facts['dt']:.0f} steps a second")
    if env:
        play_gymnasium(policy, env)
    else:
        play_made_up(policy, 200)


if __name__ == "__main__":
    main(*sys.argv[1:])
