"""Run calls in threads while the caller does something else."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Calls per thread that may start before their results are requested.
_CALLS_AHEAD = 2


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[Result]:
    """Return results like `map`, in order, while threads already run the next calls.

    At most two calls per thread run ahead. `items` is iterated in the caller's thread. So this can
    read ahead, write behind, or both:

        images = map_ahead(read, paths, 4)
        for _ in map_ahead(write, map(model, images), 4):
            ...

    Args:
        num_threads: number of threads; 0 is a plain `map`.

    Raises:
        Exception: an error of `function`, when the result of its item is due.
    """
    if num_threads == 0:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        calls = deque()
        for item in items:
            calls.append(pool.submit(function, item))
            if len(calls) > _CALLS_AHEAD * num_threads:
                yield calls.popleft().result()
        while calls:
            yield calls.popleft().result()
