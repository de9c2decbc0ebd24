"""Which stage is next: the order of the graph, the longest way to its end first."""

from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter


@dataclass(frozen=True)
class Task:
    """A stage that is to be run.

    Attributes:
        name: of the stage, as DVC addresses it.
        needs: names of the stages that it depends on.
        threads: cores that it keeps busy.
        seconds: that it is expected to take.
        module: whether its command is a Python module.
    """

    name: str
    needs: frozenset[str]
    threads: int
    seconds: float
    module: bool = False


class Schedule:
    """Hands out stages whose dependencies are done, as many as the cores hold.

    Args:
        tasks: all that are to be run. What they need and is not among them is up to date.
        cores: of the machine.

    Attributes:
        running: names of the stages that were handed out and are not done.
    """

    def __init__(self, tasks: Iterable[Task], cores: int) -> None:
        self._tasks = {task.name: task for task in tasks}
        self._cores = cores
        needs = {task.name: task.needs & set(self._tasks) for task in self._tasks.values()}
        self._seconds_to_end = self._longest_ways(needs)
        self._sorter = TopologicalSorter(needs)
        self._sorter.prepare()
        self._waiting: list[Task] = []
        self._finished: set[str] = set()
        self.running: list[str] = []

    def __len__(self) -> int:
        """Return the number of tasks."""
        return len(self._tasks)

    @property
    def finished(self) -> int:
        """Number of tasks that are done."""
        return len(self._finished)

    @property
    def active(self) -> bool:
        """Whether something is running or still to be run."""
        return self._sorter.is_active()

    def start(self) -> list[Task]:
        """Return the stages to start now.

        A stage that wants more cores than are free is waited for: those behind it in the order
        would keep it waiting for ever. One that wants more than there are runs alone.
        """
        self._waiting += (self._tasks[name] for name in self._sorter.get_ready())
        self._waiting.sort(key=lambda task: (-self._seconds_to_end[task.name], task.name))
        free = self._cores - sum(self._tasks[name].threads for name in self.running)
        started = []
        while self._waiting and (self._waiting[0].threads <= free or not self.running):
            task = self._waiting.pop(0)
            self.running.append(task.name)
            started.append(task)
            free -= task.threads
        return started

    def done(self, name: str) -> None:
        """Take a stage back that has run."""
        self.running.remove(name)
        self._finished.add(name)
        self._sorter.done(name)

    def seconds_left(self) -> float:
        """Return the seconds that the rest is expected to take.

        That is the work left, shared among the cores, or the longest way to the end if that is
        longer.
        """
        left = [task for name, task in self._tasks.items() if name not in self._finished]
        work = sum(task.seconds * min(task.threads, self._cores) for task in left) / self._cores
        return max([work, *(self._seconds_to_end[task.name] for task in left)])

    def _longest_ways(self, needs: dict[str, frozenset[str]]) -> dict[str, float]:
        """Return for each task the seconds from its start to the end of the graph."""
        ways: dict[str, float] = {}
        for name in reversed(list(TopologicalSorter(needs).static_order())):
            ways[name] = ways.get(name, 0.0) + self._tasks[name].seconds
            for needed in needs[name]:
                ways[needed] = max(ways.get(needed, 0.0), ways[name])
        return ways
