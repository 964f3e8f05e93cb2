# SPDX-License-Identifier: Apache-2.0
"""Work that threads share: every item once, results in order, and an error ends it."""

import threading
from collections.abc import Callable, Iterator

import pytest

from converter.adapters.running.parallel import share, worker_count


def test_every_item_is_worked_on_once_and_results_keep_their_order() -> None:
    hands: list[list[int]] = [[], [], []]

    def worker(hand: list[int]) -> Callable[[int], int]:
        def work(item: int) -> int:
            hand.append(item)
            return item * item

        return work

    results = share(iter(range(200)), [worker(hand) for hand in hands])
    assert results == [n * n for n in range(200)]
    assert sorted(number for hand in hands for number in hand) == list(range(200))


def test_two_workers_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=20)
    assert share(iter("ab"), [lambda _: both.wait() >= 0] * 2) == [True, True]


def test_items_are_not_drawn_before_somebody_is_free() -> None:
    drawn = 0
    most_ahead = 0
    done = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in range(50):
            drawn += 1
            yield number

    def work(_: int) -> None:
        nonlocal most_ahead, done
        most_ahead = max(most_ahead, drawn - done)
        done += 1

    share(items(), [work])
    assert (drawn, most_ahead) == (50, 1)


def test_the_error_of_a_worker_ends_the_work() -> None:
    drawn = []

    def items() -> Iterator[int]:
        for number in range(1000):
            drawn.append(number)
            yield number

    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        share(items(), [work])
    assert drawn == [0, 1, 2, 3]


def test_the_error_of_an_item_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        share(items(), [lambda n: n, lambda n: n])


def test_a_few_workers_are_enough() -> None:
    assert 1 <= worker_count() <= 4
