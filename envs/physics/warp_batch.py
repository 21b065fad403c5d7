"""Physics by MuJoCo Warp, with the interface of `mujoco.batch.Batch` that environments use."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import mujoco
import numpy as np

from metarl.core.env import UnsupportedHere
from metarl.core.errors import ResourceError
from metarl.envs.physics.fields import OPTION, locate, read

_STATE = ("time", "qpos", "qvel", "act", "qacc_warmstart", "ctrl", "qfrc_applied", "xfrc_applied")
"""Fields that the next step depends on. Warp steps all simulations, so the state of those that rest
is kept here, and written before every call."""

_DERIVED = (
    *("body_subtreemass", "body_invweight0", "dof_invweight0", "actuator_acc0", "geom_size"),
    *("geom_aabb", "geom_rbound", "cam_pos0", "cam_poscom0", "cam_mat0"),
    *("light_pos0", "light_poscom0", "light_dir0", "tendon_length0", "tendon_invweight0"),
)
"""Model fields that `set_const` computes."""

_UNKNOWN_FLAGS = int(mujoco.mjtDisableBit.mjDSBL_AUTORESET | mujoco.mjtDisableBit.mjDSBL_MIDPHASE)
"""Flags that Warp refuses. It never resets a simulation that has diverged, and has no midphase."""

_SHAPE = "geom_dataid"
"""Field of meshes and heightfields. Robots hung above heightfields that were chosen by it."""


class WarpBatch:
    """M simulations of a model on a GPU, or slowly on a CPU if there is none.

    Numbers are computed in float32, so results differ from MuJoCo's, see docs/scaling.md. They
    repeat on the same machine.

    Args:
        model: The model.
        nsim: M.
        nthread: Not used; it is there because MuJoCo's batch has it.

    Raises:
        ResourceError: mujoco-warp is not installed.
        UnsupportedHere: Warp cannot simulate the model; the message gives its reason.

    Attributes:
        model: The model.
        nsim: M.
        warning: Counts of events that make a simulation wrong (M, 1, 2), as MuJoCo has them: a
            simulation had more contacts or constraints than there is memory for.
    """

    def __init__(self, model: mujoco.MjModel, nsim: int, nthread: int = 0):
        del nthread
        self._warp, self._engine = load_engine()
        self.model, self.nsim = model, nsim
        self._source, self._nominal = copy.copy(model), mujoco.MjData(model)
        self._source.opt.disableflags &= ~_UNKNOWN_FLAGS
        self._fields: dict[str, np.ndarray] = {}
        self._sent: dict[str, np.ndarray] = {}
        self._bound: dict[str, np.ndarray] = {}
        self._state = {name: self._allocate(name) for name in _STATE}
        self._device_model: Any = None
        self._has_own_constants = False
        kinds = self._engine.OverflowType  # a solver that stops at its limit is none of MuJoCo's
        self._faults = int(kinds.ALL & ~(kinds.ITERATIONS | kinds.LS_ITERATIONS))
        self.warning = np.zeros((nsim, 1, 2), dtype=np.int64)
        self._put_model()  # a model that is not supported is refused here
        self._data = self._engine.make_data(self._source, nworld=nsim)
        self.reset()

    def bind(self, name: str) -> np.ndarray:
        """Returns a field of MjData of all simulations (M, ...).

        Fields of the state can be written; others are overwritten by each call.

        Raises:
            UnsupportedHere: Warp does not compute it.
        """
        if name in self._state:
            return self._state[name]
        if name not in self._bound:
            if name not in vars(self._data):
                raise UnsupportedHere(f"Warp does not compute {name}")
            self._bound[name] = self._allocate(name)
        return self._bound[name]

    def expand(self, name: str) -> np.ndarray:
        """Gives a model field values of each simulation; returns them (M, ...).

        The names of options begin with "opt.".

        Raises:
            UnsupportedHere: All simulations of Warp share it.
        """
        if name == _SHAPE:
            raise UnsupportedHere("Warp gives no simulation a ground of its own shape (terrain)")
        if name not in self._fields:
            value = read(self.model, name)
            self._fields[name] = np.tile(value, (self.nsim, *[1] * np.ndim(value)))
            self._device_model = None
        return self._fields[name]

    def set_const(self, ids: np.ndarray | None = None) -> None:
        """Computes the constants that follow from masses and inertias, in all simulations."""
        del ids
        if not self._has_own_constants:
            self._has_own_constants, self._device_model = True, None
        self._send()
        self._engine.set_const(self._device_model, self._data)

    def reset(self, ids: np.ndarray | None = None, stage: int = 0) -> None:
        """Starts the simulations ids, or all, in the model's initial state.

        Raises:
            ValueError: The stage is not mjSTAGE_NONE.
        """
        if int(stage):
            raise ValueError(f"stage {stage!r}: call `forward` after a reset")
        rows = slice(None) if ids is None else ids
        for name, values in self._state.items():
            values[rows] = self.model.qpos0 if name == "qpos" else 0.0

    def forward(self, ids: np.ndarray | None = None) -> None:
        """Computes everything that follows from the state of the simulations ids, or of all."""
        self._send()
        self._engine.forward(self._device_model, self._data)
        self._receive(ids, ("qacc_warmstart",))

    def step(self, ids: np.ndarray | None = None, nstep: int = 1, stage: int = 0) -> None:
        """Steps the simulations ids, or all, and computes the stages up to `stage` after that."""
        self._send()
        for _ in range(nstep):
            self._engine.step(self._device_model, self._data)
        self._compute(stage)
        self._receive(ids, _STATE)

    def _compute(self, stage: int) -> None:
        """Computes what follows from positions, or from speeds too, or everything."""
        engine, both = self._engine, (self._device_model, self._data)
        if int(stage) >= int(mujoco.mjtStage.mjSTAGE_ACC):
            engine.forward(*both)
            return
        if int(stage) >= int(mujoco.mjtStage.mjSTAGE_POS):
            engine.fwd_position(*both)
            engine.sensor_pos(*both)
        if int(stage) >= int(mujoco.mjtStage.mjSTAGE_VEL):
            engine.fwd_velocity(*both)
            engine.sensor_vel(*both)

    def _allocate(self, name: str) -> np.ndarray:
        return np.zeros((self.nsim, *np.shape(getattr(self._nominal, name))))

    def _put_model(self) -> None:
        """Copies the model to the device, with the fields of which each simulation has its own."""
        if self.model.nhistory:
            raise UnsupportedHere("delays of its actuators or sensors are not kept for each row")
        names = {name for name in self._fields if not name.startswith(OPTION)}
        if self._has_own_constants:
            names |= {name for name in _DERIVED if len(getattr(self.model, name))}
        try:
            own = dict.fromkeys(sorted(names), self.nsim)
            model = self._engine.put_model(self._source, batch_sizes=own)
        except (NotImplementedError, ValueError) as error:
            raise UnsupportedHere(f"Warp cannot simulate it: {error}") from error
        for name, values in self._fields.items():
            if name.startswith(OPTION):
                array = self._warp.array(values, dtype=read(model, name).dtype)
                setattr(*locate(model, name), array)
        model.opt.deterministic = int(self._engine.DeterminismType.ALL)
        model.opt.warn_overflow = 0
        self._device_model, self._sent = model, {}

    def _send(self) -> None:
        """Copies the state, and what has changed in the model, to the device."""
        if self._device_model is None:
            self._put_model()
        model = self._device_model
        for name, values in self._fields.items():
            if name in self._sent and np.array_equal(self._sent[name], values):
                continue
            target = read(model, name)
            target.assign(values.astype(target.numpy().dtype))
            self._sent[name] = values.copy()
        for name, values in self._state.items():
            if values.size:
                getattr(self._data, name).assign(values.astype(np.float32))
        self._data.overflow.zero_()

    def _receive(self, ids: np.ndarray | None, state: tuple[str, ...]) -> None:
        """Copies fields of the state and all bound fields of the rows ids from the device."""
        rows = slice(None) if ids is None else ids
        for name, values in (*((n, self._state[n]) for n in state), *self._bound.items()):
            if values.size:
                found = getattr(self._data, name).numpy().reshape(values.shape)
                values[rows] = found[rows]
        self.warning[rows, 0, 1] += self._data.overflow.numpy()[rows] & self._faults != 0


def load_engine() -> tuple[Any, Any]:
    """Returns the modules warp and mujoco_warp.

    Raises:
        ResourceError: They are not installed.
    """
    try:
        warp = importlib.import_module("warp")
        warp.config.log_level = warp.LOG_ERROR  # it reports every kernel that it compiles
        return warp, importlib.import_module("mujoco_warp")
    except ModuleNotFoundError as error:
        hint = "pip install 'metarl-robots[warp]'"
        text = f"--sampler.physics warp: {error.name} is not installed; {hint}"
        raise ResourceError(text) from error


def describe_engine() -> str:
    """Returns versions and device of Warp."""
    warp, engine = load_engine()
    version = f"mujoco-warp {engine.__version__}, warp {warp.__version__}"
    return f"{version}, on {warp.get_preferred_device().name}"
