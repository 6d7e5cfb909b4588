"""Work done in threads while the caller does something else."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Calls a thread that are begun, or done, before their results are asked for.
_CALLS_AHEAD = 2


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Iterator[Result]:
    """`map`, in order, whose next calls run in threads: at most two a thread beyond what was taken.

    `items` is iterated in the caller's thread. So this reads ahead, writes behind, or both:

        images = map_ahead(read, paths, 4)
        for _ in map_ahead(write, map(model, images), 4):
            ...

    Args:
        num_threads: 0 for a plain `map`.

    Raises:
        whatever `function` raises, at its item's turn.
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
