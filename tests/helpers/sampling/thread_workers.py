"""Workers in threads, which can be lost and slow at chosen moments, in place of a cluster."""

import pickle
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from metarl.sampling.cluster.requests import WorkerLost
from metarl.sampling.cluster.worker import Worker


@dataclass(eq=False)
class Seat:
    """A worker in a thread; `disturb` is called with (seat, number of the call) before a call."""

    build: Any
    disturb: Any
    number: int
    calls: int = 0
    is_lost: bool = False
    thread: Any = field(default_factory=lambda: ThreadPoolExecutor(1))
    worker: Any = None

    def act(self, name, *arguments):
        self.worker = self.worker or Worker(self.build)
        if name == "run":
            self.calls += 1
            self.disturb(self, self.calls)
        # as between processes, nothing is shared
        sent = pickle.loads(pickle.dumps(arguments))
        found = getattr(self.worker, name)(*sent)
        if self.is_lost:
            raise WorkerLost("killed")
        return pickle.loads(pickle.dumps(found))


class ThreadWorkers:
    """Workers as threads; see `metarl.sampling.cluster.requests.Workers`."""

    def __init__(self, build, capacity=2, disturb=lambda seat, call: None, memory=10**9):
        self.build, self.size, self.disturb, self.bytes = build, capacity, disturb, memory
        self.seats, self.stopped = [], []
        self.lock = threading.Lock()

    def capacity(self):
        return self.size

    def memory(self):
        return self.bytes

    def start(self):
        self.seats.append(Seat(self.build, self.disturb, len(self.seats)))
        return self.seats[-1]

    def greet(self, worker):
        return worker.thread.submit(worker.act, "facts")

    def put(self, state):
        return state

    def send(self, worker, state, shard):
        return worker.thread.submit(worker.act, "run", state, shard)

    def wait(self, calls, seconds):
        if not calls:
            time.sleep(min(seconds, 0.01))
            return []
        return list(wait(calls, timeout=seconds, return_when=FIRST_COMPLETED).done)

    def result(self, call):
        return call.result()

    def stop(self, worker):
        self.stopped.append(worker)

    def close(self):
        for seat in self.seats:
            seat.thread.shutdown(wait=True)
