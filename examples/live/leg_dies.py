"""A simulated robot asks a server in another process for its controls, and one of its legs dies.

    metarl serve RUN &
    python examples/live/leg_dies.py --env half-cheetah-cripple

The simulation is an environment of metarl with a limb that fails. In the first episode of a trial
the limb dies in the middle; the robot is then set up again, twice, with the dead limb. Each trial
is played three times with the same starts: with the memory kept, with the memory cleared before
each episode, and cleared before each step, which is a policy without memory. The robot knows of the
policy only what the server sends.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing

import numpy as np

from metarl import make_env
from metarl.core.env import BatchEnv, EnvSpec
from metarl.core.rng import stream
from metarl.deployment.serving.client import Client
from metarl.deployment.serving.messages import Flag

EPISODES = 3
CLEARED = ("never", "episode", "step")
"""What the memory is cleared before, in the three ways to play a trial."""
STAGES = ("whole", "leg dies", "2nd: 1st half", "2nd half", "3rd: 1st half", "2nd half")
"""Halves of the three episodes."""


def to_output(spec: EnvSpec, controls: np.ndarray) -> np.ndarray:
    """Returns the policy output (1, A) for which the environment sends these controls (A,)."""
    return ((controls - np.asarray(spec.action_centre)) / np.asarray(spec.action_scale))[None]


def choose_task(spec: EnvSpec, trial: int, limb: int) -> np.ndarray:
    """Returns a task (1, D) in which a limb dies in the middle of the first episode."""
    names = [variable.name for variable in spec.tasks.variables]
    task = spec.tasks.sample(stream(0, "task", trial), 1)
    task[0, names.index("limb")] = limb
    task[0, names.index("onset")] = spec.horizon // 2
    return task


class Robot:
    """One simulated robot.

    Args:
        env: The environment.
        client: Connection to the server.
        is_real_time: Wait after each step until its time is over.
    """

    def __init__(self, env: BatchEnv, client: Client, is_real_time: bool):
        self.env, self.client, self.is_real_time = env, client, is_real_time

    def play(self, task: np.ndarray, rng: np.random.Generator, cleared: str) -> list[float]:
        """Plays an episode; returns the returns of its two halves."""
        spec, halves = self.env.spec, [0.0, 0.0]
        self.env.set_tasks(task, 1)
        obs, reward, fell = self.env.reset([rng])[0], None, False
        for t in range(spec.horizon):
            begun = time.monotonic()
            if cleared == "step":
                self.client.begin()
                reward = None
            reply = self.client.act(obs, reward)
            if reply.flags & Flag.ERROR:
                raise SystemExit("the server could not act; it says why")
            step = self.env.step(to_output(spec, reply.controls), np.ones(1, dtype=bool))
            obs, reward, fell = step.obs[0], float(step.reward[0]), bool(step.terminated[0])
            halves[2 * t >= spec.horizon] += reward
            if fell:
                break
            if self.is_real_time:
                time.sleep(max(0.0, spec.dt - (time.monotonic() - begun)))
        self.client.end_episode(reward, done=fell)
        return halves

    def trial(self, task: np.ndarray, number: int, cleared: str) -> list[float]:
        """Plays the episodes of a trial; returns the returns of all halves."""
        onset = [v.name for v in self.env.spec.tasks.variables].index("onset")
        returns: list[float] = []
        for episode in range(EPISODES):
            if episode == 0 or cleared == "episode":
                self.client.begin()
            now = task.copy()
            now[0, onset] *= episode == 0  # later the leg is dead from the start
            returns += self.play(now, stream(0, "start", number, episode), cleared)
        return returns


def main() -> None:
    """Plays the trials and prints their returns."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="half-cheetah-cripple", help="with a limb that fails")
    parser.add_argument("--port", type=int, default=7020)
    parser.add_argument("--trials", type=int, default=4, help="for each limb")
    parser.add_argument("--limb", help="only this one")
    parser.add_argument("--real-time", action="store_true", help="as fast as a real robot")
    options = parser.parse_args()
    with closing(make_env(options.env, threads=1)) as env:
        spec = env.spec
        (limb,) = [each for each in spec.tasks.variables if each.name == "limb"]
        address = "127.0.0.1", options.port
        with closing(Client(address, spec.obs_size, spec.action_size)) as client:
            robot = Robot(env, client, options.real_time)
            results: dict[str, list[list[float]]] = {cleared: [] for cleared in CLEARED}
            for index, name in enumerate(limb.labels):
                if options.limb not in (None, name):
                    continue
                for trial in range(options.trials):
                    number = index * options.trials + trial
                    task = choose_task(spec, number, index)
                    for cleared, rows in results.items():
                        rows.append(robot.trial(task, number, cleared))
                print(f"{name}: {options.trials} trials", flush=True)
            client.stop()
    print_table(results)


def print_table(results: dict[str, list[list[float]]]) -> None:
    """Prints mean returns of each half, and paired differences with their standard errors."""
    print(f"{'memory cleared before':24}" + "".join(f"{stage:>15}" for stage in STAGES))
    for cleared, rows in results.items():
        print(f"{cleared:24}" + "".join(f"{mean:15.1f}" for mean in np.mean(rows, axis=0)))
    kept = np.array(results["never"])
    for cleared in CLEARED[1:]:
        later = (kept - np.array(results[cleared]))[:, 2:].sum(axis=1) / (EPISODES - 1)
        error = later.std(ddof=1) / np.sqrt(len(later)) if len(later) > 1 else float("nan")
        mean = f"{later.mean():.1f} +- {error:.1f}"
        print(f"kept, an episode with the dead leg returns {mean} more than cleared: {cleared}")


if __name__ == "__main__":
    main()
