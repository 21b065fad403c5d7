"""What an environment on MuJoCo is made of, and the spec that follows from it without building a world."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import mujoco
import numpy as np

from metarl.core.env import EnvSpec
from metarl.core.tasks import join_tasks
from metarl.envs.locomotion.goals import Goal, RewardTerms
from metarl.envs.locomotion.robots import Robot, Seen, bare_model, seen_of
from metarl.envs.locomotion.world import Variation


@dataclass(frozen=True)
class Recipe:
    """Robot x goal x variations.

    Attributes:
        robot: The robot.
        goal: The goal.
        terms: Bonus and costs.
        variations: What a task changes in the world; its numbers follow the goal's, in this order.
        horizon: T.
        action_scale: See EnvSpec.
        observe_contacts: Append the contact forces, clipped to [-1, 1], to the observation.
        note: What a reader of results must know.
        task_split: See EnvSpec; None is that of the variations.
    """

    robot: Robot
    goal: Goal
    terms: RewardTerms
    variations: tuple[Variation, ...] = ()
    horizon: int = 200
    action_scale: float = 1.0
    observe_contacts: bool = False
    note: str = ""
    task_split: tuple[int, int] | None = None

    def seen(self) -> list[Seen]:
        """Parts of the observation that the robot feels in itself."""
        return seen_of(self.robot, bare_model(self.robot), contacts=self.observe_contacts)

    def scan(self) -> np.ndarray:
        """Where the robot sees the ground's height (P, 2) [m]."""
        places = (variation.scan(self.robot) for variation in self.variations)
        return np.concatenate([np.empty((0, 2)), *places])

    def spec(self, name: str) -> EnvSpec:
        """What the environment is under a name."""
        model = bare_model(self.robot)
        worlds = (variation.tasks(self.robot) for variation in self.variations)
        tasks = join_tasks(self.goal.tasks, *worlds)
        splits = [each.task_split for each in self.variations if each.task_split]
        notes = (self.note, "" if tasks.held_out else "test tasks are the training tasks")
        return EnvSpec(
            name=name,
            version=1,
            obs_size=sum(part.size for part in self.seen()) + len(self.scan()),
            action_size=model.nu,
            horizon=self.horizon,
            dt=self.robot.frame_skip * model.opt.timestep,
            action_scale=self.action_scale,
            tasks=tasks,
            reward=self.terms.formula(self.goal),
            floors=self.terms.floors(self.goal, self.horizon),
            note="; ".join(words for words in notes if words),
            task_split=self.task_split or (splits[0] if splits else None),
        )

    def compiled(self) -> mujoco.MjModel:
        """The model, with the edits that the variations ask for."""
        robot, variations = self.robot, self.variations
        edits = [edit for variation in variations for edit in variation.edits(robot)]
        felt = "cfrc_ext" in dict(robot.derived) or self.terms.contact_cost > 0
        contact_forces = self.observe_contacts or felt
        if not edits and not contact_forces:
            return copy.copy(bare_model(robot))
        model = robot.model(contact_forces=contact_forces, edits=edits)
        for variation in variations:
            variation.finish(robot, model)
        return model
