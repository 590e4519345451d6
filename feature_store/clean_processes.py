"""Work in processes that import nothing from the current folder and never run the caller's script again.

The standard library's process pools start children that import the caller's `__main__`, so a script without a
`__main__` guard runs itself once more in each of them, and that look for modules in the current folder first, so a
`json.py` or `train.py` there is run. A process started here does neither; PYTHONPATH counts as ever.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Connection, Pipe
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 4  # chunks a process, given out before the first result is taken


class ProcessDied(RuntimeError):
    """A process ended in the middle of its work; the message says how."""

    exit_code = 1


def clean_command(module: str, *arguments: str) -> list[str]:
    """The command that runs an installed module as a program, without the current folder on its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def map_in_processes(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    chunk: int = 1,
    died: Callable[[Item, str], Result] | None = None,
) -> Iterator[Result]:
    """Apply a function of an importable module to items, `chunk` at once in each of `workers` processes.

    Results come in order. Of an item whose process ends twice, `died` gives the result, from the item and how the
    process ended; without it, ProcessDied is raised. What the function raises is raised here.
    """
    waiting = iter(items)
    idle: queue.SimpleQueue[_Child[Item, Result]] = queue.SimpleQueue()
    for _ in range(workers):
        idle.put(_Child(function, died))
    results: deque[Future[list[Result]]] = deque()

    def do(items_now: list[Item]) -> list[Result]:
        child = idle.get()
        try:
            return child.do(items_now)
        finally:
            idle.put(child)

    with ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                while len(results) < workers * AHEAD and (items_now := list(islice(waiting, chunk))):
                    results.append(pool.submit(do, items_now))
                if not results:
                    return
                yield from results.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            for _ in range(workers):
                idle.get().close()


class _Child(Generic[Item, Result]):
    """A process that applies a function; started when it is first needed, and again when it has died."""

    def __init__(self, function: Callable[[Item], Result], died: Callable[[Item, str], Result] | None) -> None:
        self._function, self._died = pickle.dumps(function), died
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def do(self, items: Sequence[Item]) -> list[Result]:
        try:
            return self._ask(items)
        except ProcessDied:
            return [self._do_again(item) for item in items]  # one by one: which of them ended it is not known

    def _do_again(self, item: Item) -> Result:
        try:
            return self._ask([item])[0]
        except ProcessDied as error:
            if self._died is None:
                raise
            return self._died(item, str(error))

    def _ask(self, items: Sequence[Item]) -> list[Result]:
        """Raises ProcessDied, or what the function raised."""
        connection = self._connection or self._start()
        try:
            connection.send(items)
            results, error = connection.recv()
        except (EOFError, OSError):
            raise ProcessDied(f"its process ended with {self._end()}") from None
        if error is not None:
            raise error
        done: list[Result] = results
        return done

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                clean_command(__name__, str(theirs.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=2,  # what libraries print must not mix with what the command prints
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C is for the process that started it
            )
        self._connection = ours
        with suppress(OSError):  # it ended already, as the next message shows
            ours.send_bytes(self._function)
        return ours

    def _end(self) -> str:
        """Forget a process that has ended; how it did."""
        assert self._process is not None and self._connection is not None
        self._connection.close()
        code = self._process.wait()
        self._process = self._connection = None
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._end()


def _serve(connection: Connection) -> None:
    """In the process: apply the function to what comes, until nobody is there to want more."""
    function: Callable[[Any], Any] = pickle.loads(connection.recv_bytes())  # made by the process that started this one
    while True:
        try:
            items = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[list[Any] | None, BaseException | None] = ([function(item) for item in items], None)
        except Exception as error:
            answer = (None, error)
        connection.send(answer)


def main() -> None:
    with suppress(EOFError, BrokenPipeError):
        _serve(Connection(int(sys.argv[1])))
    sys.stdout.flush()
    os._exit(0)  # threads that libraries left behind hold nothing back


if __name__ == "__main__":
    main()
