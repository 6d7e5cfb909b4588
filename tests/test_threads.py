import threading

import pytest

from sar.threads import map_ahead


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_results_come_in_order(num_threads):
    assert list(map_ahead(lambda x: x * x, range(50), num_threads)) == [x * x for x in range(50)]
    assert list(map_ahead(str, [], num_threads)) == []


def test_calls_run_while_the_caller_does_not_ask():
    done = [threading.Event() for _ in range(10)]
    results = map_ahead(lambda i: done[i].set(), range(10), 2)
    next(results)
    # The first was taken; two a thread are ahead.
    assert all(event.wait(10) for event in done[:5])


def test_it_never_takes_more_than_two_a_thread_beyond_what_was_given():
    taken = []

    def items():
        for i in range(100):
            taken.append(i)
            yield i

    results = map_ahead(lambda i: i, items(), 3)
    for i in results:
        assert len(taken) <= i + 1 + 6
    assert taken == list(range(100))


def test_an_error_is_raised_at_its_turn_and_ends_it():
    results = map_ahead(lambda x: 1 // x, [2, 1, 0, 3], 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_was_begun_is_done_when_the_items_end_in_an_error():
    written = []

    def items():
        yield from range(3)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(map_ahead(written.append, items(), 2))
    assert sorted(written) == [0, 1, 2]
