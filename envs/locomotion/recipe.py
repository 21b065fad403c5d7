"""Recipe of a MuJoCo environment, and the spec that follows from it without a simulation."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import mujoco
import numpy as np

from metarl.core.env import EnvSpec, Quantity
from metarl.core.joined_tasks import join_tasks
from metarl.envs.locomotion.goals import command
from metarl.envs.locomotion.goals.command import Command
from metarl.envs.locomotion.goals.hidden import Goal, RewardTerms
from metarl.envs.locomotion.goals.reach import Reach
from metarl.envs.locomotion.world import Variation
from metarl.envs.robots import quantities
from metarl.envs.robots.observation import (
    COMMAND,
    HEIGHT_SCAN,
    ExternalPart,
    FootContacts,
    ObservationField,
    Term,
)
from metarl.envs.robots.robot import Robot, bare_model, couplings_of


@dataclass(frozen=True)
class Recipe:
    """Robot x goal x variations.

    Attributes:
        robot: The robot.
        goal: The goal.
        terms: Bonus and costs.
        variations: The changes of the world; their task numbers follow the goal's, in this order.
        horizon: T.
        action_scale: Factor from policy output to action, see Robot.action_scale too.
        observe_contacts: Append the contact forces, clipped to [-1, 1], to the observation.
        note: See EnvSpec.
        task_split: See EnvSpec; None takes that of the variations.
        revisions: Changes of the reward's numbers since version 1, besides those of the parts.
    """

    robot: Robot
    goal: Goal | Command | Reach
    terms: RewardTerms
    variations: tuple[Variation, ...] = ()
    horizon: int = 200
    action_scale: float = 1.0
    observe_contacts: bool = False
    note: str = ""
    task_split: tuple[int, int] | None = None
    revisions: int = 0

    @property
    def refusal(self) -> str:
        """The reason why the robot cannot have one of the variations, or ""."""
        unfit = [each for each in self.variations if self.robot.fixed and each.unfit]
        return f"{unfit[0].name} is not for {self.robot.name}: {unfit[0].unfit}" if unfit else ""

    @property
    def version(self) -> int:
        """Version of the definition: one more than the changes that its parts have had."""
        # the bonus was once paid in the step of a fall, too
        changes = self.revisions
        changes += int(self.terms.bonus != 0.0 and self.robot.healthy is not None)
        changes += sum(variation.num_revisions(self.robot) for variation in self.variations)
        changes += command.count_revisions(self.robot) if isinstance(self.goal, Command) else 0
        changes += self.goal.revisions if isinstance(self.goal, Reach) else 0
        # the torso of a planar robot was once the first of several bodies of its base
        first = int(bare_model(self.robot).jnt_bodyid[0])
        changes += int(self.robot.torso() != first)
        changes += bool(couplings_of(self.robot))  # their followers once had noise of their own
        changes += self.robot.has_clipped_starts  # the noise once left the ranges of joints
        return 1 + changes + self.robot.definition

    def observation(self) -> list[Term]:
        """Returns the terms of the observation in their order.

        Those of goal and terrain are where the robot lists them, else last.
        """
        given, found = self._external(), []
        for term in list_observation(self.robot, contacts=self.observe_contacts):
            if not isinstance(term.part, ExternalPart):
                found.append(term)
            elif part := given.pop(term.part.name, None):
                found.append(replace(term, part=part))
        return found + [Term(part) for part in given.values()]

    def _external(self) -> dict[str, ExternalPart]:
        """Returns what goal and terrain have for the observation, by the name of its term."""
        points = self.scan().round(3).tolist()
        heights = [Quantity(f"ground over rest at x {x:g}, y {y:g} m", "m") for x, y in points]
        commands = command.QUANTITIES if isinstance(self.goal, Command) else ()
        parts = ExternalPart(COMMAND, commands), ExternalPart(HEIGHT_SCAN, tuple(heights))
        return {part.name: part for part in parts if part.size}

    def scan(self) -> np.ndarray:
        """Returns the points (P, 2) [m] around the robot whose height it observes."""
        points = (variation.scan(self.robot) for variation in self.variations)
        return np.concatenate([np.empty((0, 2)), *points])

    def spec(self, name: str) -> EnvSpec:
        """Returns the spec of the environment under a name."""
        model = bare_model(self.robot)
        worlds = (variation.tasks(self.robot) for variation in self.variations)
        owners = ["", *(variation.name for variation in self.variations)]
        tasks = join_tasks(self.goal.tasks, *worlds, owners=owners)
        splits = [each.task_split for each in self.variations if each.task_split]
        split_note = "" if tasks.held_out else "test tasks are the training tasks"
        notes = (self.note, self._control_note(), split_note)
        return EnvSpec(
            name=name,
            version=self.version,
            obs_size=sum(term.size for term in self.observation()),
            action_size=model.nu,
            horizon=self.horizon,
            dt=self.robot.frame_skip * model.opt.timestep,
            action_scale=self._scale(),
            action_centre=self.robot.action_centre or 0.0,
            action_range=self._action_range(),
            tasks=tasks,
            reward=self.terms.formula(self.goal),
            floors=self.terms.floors(self.goal, self.horizon),
            note="; ".join(note for note in notes if note),
            task_split=self.task_split or (splits[0] if splits else None),
            observed=tuple(self._observed()),
            actuators=tuple(quantities.controls(model)),
        )

    def _control_note(self) -> str:
        """Returns how the robot delays and filters its controls, in words."""
        robot, parts = self.robot, []
        if robot.delay:
            parts.append(f"come late by {robot.delay} control steps")
        if robot.lowpass:
            parts.append(f"pass a filter of the first order with {robot.lowpass:g} s")
        return f"controls {' and '.join(parts)}" if parts else ""

    def _action_range(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Returns the range of the controls; None is -1 and 1 around the centre 0."""
        low, high = bare_model(self.robot).actuator_ctrlrange.T.tolist()
        if not self.robot.action_centre and {*low} == {-1.0} and {*high} == {1.0}:
            return None
        return tuple(low), tuple(high)

    def _observed(self) -> list[Quantity]:
        """Returns what the numbers of an observation are, in the order of the environment."""
        model = bare_model(self.robot)
        return [each for term in self.observation() for each in term.quantities(model)]

    def _scale(self) -> float | tuple[float, ...]:
        own = self.robot.action_scale
        if isinstance(own, tuple):
            return tuple(self.action_scale * scale for scale in own)
        return self.action_scale * own

    def compile_model(self) -> mujoco.MjModel:
        """Compiles the robot's model with the edits of the variations."""
        robot, variations = self.robot, self.variations
        edits = [edit for variation in variations for edit in variation.edits(robot)]
        edits += [edit for part in self.hidden_contacts() for edit in part.edits()]
        needs_forces = "cfrc_ext" in dict(robot.derived) or self.terms.contact_cost > 0
        contact_forces = self.observe_contacts or needs_forces
        if not edits and not contact_forces:
            return copy.copy(bare_model(robot))
        model = robot.model(contact_forces=contact_forces, edits=edits)
        for variation in variations:
            variation.finish(robot, model)
        if self.hidden_contacts():
            model.opt.disableflags &= ~int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
        return model

    @property
    def stage(self) -> int:
        """The mjtStage up to which observation and reward need a forward pass after a step."""
        return max([self.robot.stage, *(part.stage for part in self.hidden_contacts())])

    def hidden_contacts(self) -> list[FootContacts]:
        """Returns the contacts that the reward needs and the robot does not observe."""
        contacts = FootContacts(self.robot.feet)
        is_observed = any(term.part == contacts for term in self.observation())
        is_rewarded = isinstance(self.goal, Command) and self.goal.air_time > 0.0
        return [contacts] if is_rewarded and not is_observed else []


def list_observation(robot: Robot, *, contacts: bool) -> list[Term]:
    """Returns the terms of a robot's observation, in order.

    Args:
        robot: The robot.
        contacts: Append the contact forces, clipped to [-1, 1].

    Returns:
        The robot's own parts, or qpos without the world position, qvel and derived fields; then
        the contact forces.
    """
    data = mujoco.MjData(bare_model(robot))
    fields: list[tuple[str, int, float]] = []
    if not robot.observation:
        fields = [("qpos", robot.skip_qpos, np.inf), ("qvel", 0, robot.max_observed_speed)]
        fields += [(name, first, np.inf) for name, first in robot.derived]
    fields += [("cfrc_ext", 0, 1.0)] if contacts else []
    parts = [
        ObservationField(name, first, getattr(data, name)[first:].shape, limit)
        for name, first, limit in fields
    ]
    every = [*robot.observation, *parts]
    return [part if isinstance(part, Term) else Term(part) for part in every]
