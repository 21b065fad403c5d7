"""Workers as actors of Ray, on this machine or on a cluster."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from metarl.sampling.cluster.connection import connect, keep_signals, one_line
from metarl.sampling.cluster.requests import Result, Shard, StoreTooSmall, WorkerLost
from metarl.sampling.cluster.worker import Build, Worker


class RayWorkers:
    """Workers as actors, one processor each; see `metarl.sampling.cluster.requests.Workers`.

    Args:
        address: See `connect`.
        build: Makes what a worker works with.

    Raises:
        ResourceError: Ray is not installed, or nothing answers at the address.

    Attributes:
        actors: Those that were started and not stopped.
    """

    def __init__(self, address: str, build: Build):
        self._ray, self._build = connect(address), build
        self.actors: list[Any] = []
        self._greeted: dict[Any, Any] = {}
        self._processes: dict[Any, int] = {}
        # an actor that is started again by Ray would not have been compared
        self._actor = self._ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Worker)

    def capacity(self) -> int:
        """Returns the number of processors of the cluster."""
        return int(self._ray.cluster_resources().get("CPU", 0))

    def memory(self) -> int:
        """Returns the size of the smallest object store of the cluster [bytes]."""
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        sizes = (node["Resources"].get("object_store_memory", 0) for node in alive)
        return int(min(sizes, default=0))

    def list_processes(self) -> list[int]:
        """Returns the process ids of the actors that have answered, on whatever machines."""
        return [self._processes[actor] for actor in list(self.actors) if actor in self._processes]

    def start(self) -> Any:
        """Begins to start an actor."""
        self.actors.append(self._actor.remote(self._build))
        return self.actors[-1]

    def greet(self, worker: Any) -> Any:
        """Asks an actor for its facts."""
        call = worker.facts.remote()
        self._greeted[call] = worker
        return call

    def put(self, state: Mapping[str, np.ndarray]) -> Any:
        """Puts the state of the learner into the object store."""
        return self._ray.put(dict(state))

    def send(self, worker: Any, state: Any, shard: Shard) -> Any:
        """Gives a shard to an actor."""
        return worker.run.remote(state, shard)

    def wait(self, calls: list[Any], seconds: float) -> list[Any]:
        """Waits until a call has ended, or for a time [s]; returns those that have."""
        if not calls:
            threading.Event().wait(seconds)
            return []
        ready, rest = self._ray.wait(calls, num_returns=1, timeout=seconds)
        if ready and rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        return ready

    def result(self, call: Any) -> Result | Any:
        """Returns the answer of a call that has ended.

        Raises:
            WorkerLost: The actor, its machine or the answer is gone.
            StoreTooSmall: The answer does not fit into the object store.
        """
        errors, greeted = self._ray.exceptions, self._greeted.pop(call, None)
        try:
            answer = self._ray.get(call)
            if greeted is not None:
                self._processes[greeted] = answer.process
            return answer
        except (errors.ObjectStoreFullError, errors.OutOfDiskError) as error:
            hint = "start Ray with a larger --object-store-memory"
            raise StoreTooSmall(hint) from error
        except errors.RayError as error:
            if any(name in str(error) for name in ("ObjectStoreFullError", "OutOfDiskError")):
                raise StoreTooSmall("start Ray with a larger --object-store-memory") from error
            raise WorkerLost(one_line(error)) from error

    def stop(self, worker: Any) -> None:
        """Ends an actor."""
        self.actors.remove(worker)
        self._ray.kill(worker)

    def close(self) -> None:
        """Ends all actors and leaves the cluster; ends it if it was started here."""
        with keep_signals():
            self._ray.shutdown()
