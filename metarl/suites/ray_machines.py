"""Processes of runs on the machines of a cluster of Ray, which share a file system."""

from __future__ import annotations

import importlib
import os
import platform
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metarl.core.errors import Preempted, ResourceError
from metarl.runs import provenance
from metarl.sampling.cluster.connection import connect, keep_signals, one_line
from metarl.suites.processes import ENDS_WITH_STDIN, Child, Process

FLAG = "--ray"
"""What has the address of the cluster as its value."""

PASSED = ("PYTHONPATH",)
"""Variables of the environment that the processes get from this one."""


class Host:
    """An actor that runs one process, on a processor of any machine of the cluster.

    Args:
        versions: Of Python and the packages, which must be those of this machine.
    """

    def __init__(self, versions: Mapping[str, str | None]):
        self._versions = versions
        self._lock, self._is_stopped = threading.Lock(), False
        self._child: Child | None = None

    def begin(self) -> str:
        """Returns the id of its node, as soon as the actor has a processor."""
        ray = importlib.import_module("ray")
        return ray.get_runtime_context().get_node_id()

    def run(
        self, command: Sequence[str], log: Path, folder: str, environment: Mapping[str, str]
    ) -> tuple[int, str]:
        """Runs `metarl` with some arguments in a folder.

        Returns:
            Exit code, and why this machine cannot run it, "" if it can.
        """
        if problem := self._find_problem(log, Path(folder)):
            return ResourceError.exit_code, f"machine {platform.node()} {problem}"
        with self._lock:
            if self._is_stopped:
                return Preempted.exit_code, ""
            # another machine goes on with the run if this actor dies, so the process must not
            self._child = Child(command, log, folder, {**environment, ENDS_WITH_STDIN: "kill"})
        return self._child.wait(), ""

    def send_signal(self, number: int) -> None:
        """Sends a signal to the process; before it has started, it never does."""
        with self._lock:
            self._is_stopped = True
            if self._child is not None:
                self._child.send_signal(number)

    def _find_problem(self, log: Path, folder: Path) -> str:
        own = provenance.list_versions()
        for name, version in self._versions.items():
            if own.get(name) != version:
                hint = "install the same versions on all"
                return f"has {name} {own.get(name)}, and this one {version}; {hint}"
        if not log.exists():
            return f"has no {log}; give a --run-dir on a file system that all share"
        if not folder.is_dir():
            return f"has no {folder}; start in a folder that all share"
        return ""


class RayProcess:
    """A process of a run, seen from here; see `Process`.

    Args:
        ray: The package, connected.
        host: The actor.
        words: Arguments of `Host.run`.
    """

    def __init__(self, ray: Any, host: Any, *words: Any):
        self._ray, self.host = ray, host
        self._begun, self._call = host.begin.remote(), host.run.remote(*words)
        self._code: int | None = None
        self.loss = self.refusal = ""

    def poll(self) -> int | None:
        """See `Process`."""
        if self._code is None and self._is_answered(self._call):
            self._code = self._find_code()
            if not self.refusal:
                self._ray.kill(self.host)  # its processor is for the next one
        return self._code

    def find_node(self) -> str:
        """Returns the id of the node of a process that is not waiting."""
        return self._ray.get(self._begun)

    def is_waiting(self) -> bool:
        """See `Process`."""
        return not self._is_answered(self._begun)

    def send_signal(self, number: int) -> None:
        """See `Process`; an actor that has no processor yet is ended."""
        if self.poll() is not None:
            return
        if self.is_waiting():
            self._ray.kill(self.host)
            self._code = Preempted.exit_code
        else:
            self.host.send_signal.remote(int(number))

    def wait(self) -> object:
        """See `Process`."""
        if self._code is None:
            self._ray.wait([self._call])
        return self.poll()

    def _is_answered(self, call: Any) -> bool:
        return bool(self._ray.wait([call], timeout=0)[0])

    def _find_code(self) -> int:
        try:
            code, self.refusal = self._ray.get(self._call)
        except self._ray.exceptions.RayTaskError as error:
            self.refusal = f"a machine cannot start it: {one_line(error)}"
            return ResourceError.exit_code
        except self._ray.exceptions.RayError as error:
            self.loss = one_line(error)
            return -signal.SIGKILL
        return code


class RayMachines:
    """The machines of a cluster; see `metarl.suites.processes.Machines`.

    Args:
        address: See `metarl.sampling.cluster.connection.connect`.

    Raises:
        ResourceError: Ray is not installed, or nothing answers at the address.
    """

    def __init__(self, address: str):
        self._ray = connect(address, FLAG, FLAG)
        options = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
        self._host = self._ray.remote(**options)(Host)
        self._versions = provenance.list_versions()
        self._processes: list[RayProcess] = []
        self._environment = {name: os.environ[name] for name in PASSED if name in os.environ}

    def capacity(self) -> int:
        """Returns the number of processors of the cluster.

        Raises:
            ResourceError: It has none.
        """
        found = int(self._ray.cluster_resources().get("CPU", 0))
        if not found:
            hint = "start machines with `ray start --address`"
            raise ResourceError(f"{FLAG}: the cluster has no processor; {hint}")
        return found

    def spawn(self, command: Sequence[str], log: Path) -> Process:
        """See `Machines`.

        Raises:
            ResourceError: No machine of the cluster can run it.
        """
        refused = {each.find_node(): each.refusal for each in self._processes if each.refusal}
        if refused and self._list_nodes() <= refused.keys():
            raise ResourceError(f"{FLAG}: no machine can run metarl: {[*refused.values()][-1]}")
        host = self._host.remote(self._versions)
        words = list(command), log.absolute(), os.getcwd(), self._environment
        process = RayProcess(self._ray, host, *words)
        # an actor that has refused keeps its processor, so that nothing else is started there
        self._processes = [each for each in self._processes if each.poll() is None or each.refusal]
        self._processes.append(process)
        return process

    def _list_nodes(self) -> set[str]:
        """Returns the ids of the living nodes that have a processor."""
        nodes = (node for node in self._ray.nodes() if node["Alive"])
        return {node["NodeID"] for node in nodes if node["Resources"].get("CPU", 0)}

    def close(self) -> None:
        """Leaves the cluster; ends it if it was started here."""
        with keep_signals():
            self._ray.shutdown()
