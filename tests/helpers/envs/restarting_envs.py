"""Plug-ins for restarts of single rows; workers import them by name."""

import os
import signal

import plugin_envs


class CutAtEight(plugin_envs.Spot):
    """Is truncated in its eighth step, the horizon."""

    def step(self, action):
        obs, reward, _, _, info = super().step(action)
        return obs, reward, False, self.t == 8, info


class CountsResets(plugin_envs.Spot):
    """Counts its resets."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        self.before_reset()
        return super().reset(seed=seed)

    def before_reset(self):
        """Does nothing."""


class AbortsInSecondReset(CountsResets):
    """Kills the first process in which a row resets a second time."""

    def before_reset(self):
        if self.resets == 2 and not os.path.exists(os.environ["ABORTED"]):
            open(os.environ["ABORTED"], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


class FailsInThirdReset(CountsResets):
    def before_reset(self):
        if self.resets == 3:
            raise OSError("no robot")


class FallsAndAborts(plugin_envs.Spot):
    """Ends in its fourth step if the spot is on the left; else kills the first process in step 5.

    The file that ABORTED names tells other processes that this has happened.
    """

    def step(self, action):
        if self.t == 5 and not os.path.exists(os.environ["ABORTED"]):
            open(os.environ["ABORTED"], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        obs, reward, _, _, info = super().step(action)
        return obs, reward, self.spot < 0 and self.t == 4, False, info


class RefusesFarTasks(plugin_envs.Spot):
    def set_task(self, task):
        if abs(task["spot"]) > 1.0:
            raise ValueError("too far")
        super().set_task(task)


class FailsInSixthStep(plugin_envs.Spot):
    def step(self, action):
        if self.t == 5:
            raise OSError("no robot")
        return super().step(action)
