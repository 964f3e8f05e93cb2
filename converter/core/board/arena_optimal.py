# SPDX-License-Identifier: Apache-2.0
"""The smallest arena: exact for small graphs, with a bound that says how far off it can be for large ones.

Placing buffers with lifetimes is dynamic storage allocation, which is NP-hard (Garey and Johnson, problem SR2). Three
steps, each only while the bound is not reached: first-fit in several orders (largest size × lifetime first comes from
Pisarchyk and Lee, arXiv:2001.03288); a local search that moves what lies on top to the front; branch and bound over
packings whose offsets rise, as MiniMalloc does (Moffitt, ASPLOS 2023). No clock and no chance: the same buffers give
the same plan.
"""

from collections.abc import Callable, Iterator, Sequence

from converter.core.board.arena import Buffer, Plan, as_plan, first_fit, greedy, size_order

_LOCAL_ROUNDS = 60
#: Larger graphs get fewer rounds, as each takes the square of their size.
_LOCAL_PLACEMENTS = 3_000
#: The search goes as deep as there are buffers; beyond this many it would never end anyway.
_SEARCHABLE = 300
_NOBODY = -1
#: How many nodes of the search (a buffer at a place) are looked at before a plan stays unproved: some seconds at most.
NODE_LIMIT = 200_000


def optimal(buffers: Sequence[Buffer], *, node_limit: int = NODE_LIMIT) -> Plan:
    """Return the smallest plan found: never larger than the interpreter's own.

    ``proved`` is set where it reaches the bound, or where the search has seen that none is smaller.
    """
    best = greedy(buffers)
    for candidate in _candidates(buffers):
        if best.proved:
            return best
        best = min(best, candidate, key=_size)
    if best.proved:
        return best
    search = _Search(buffers, best, node_limit if len(buffers) <= _SEARCHABLE else 0)
    search.run()
    return as_plan(buffers, search.offsets, proved=search.finished)


def _size(plan: Plan) -> int:
    return plan.size_bytes


def _candidates(buffers: Sequence[Buffer]) -> Iterator[Plan]:
    orders = [sorted(range(len(buffers)), key=key) for key in _keys(buffers)]
    plans = [as_plan(buffers, first_fit(buffers, order)) for order in orders]
    yield from plans
    for order in [size_order(buffers), *orders]:
        yield from _improved(buffers, order)


def _keys(buffers: Sequence[Buffer]) -> tuple[Callable[[int], tuple[int, ...]], ...]:
    def life(place: int) -> int:
        return buffers[place].last - buffers[place].first + 1

    return (
        lambda place: (-buffers[place].size_bytes * life(place), place),
        lambda place: (-life(place), -buffers[place].size_bytes, place),
        lambda place: (buffers[place].first, -buffers[place].size_bytes, place),
        lambda place: (-buffers[place].last, -buffers[place].size_bytes, place),
    )


def _improved(buffers: Sequence[Buffer], order: list[int]) -> Iterator[Plan]:
    """Move the buffer that ends highest to the front, again and again, until an order comes back."""
    seen: set[tuple[int, ...]] = set()
    order = list(order)
    for _ in range(min(_LOCAL_ROUNDS, _LOCAL_PLACEMENTS // len(order))):
        plan = as_plan(buffers, first_fit(buffers, order))
        yield plan
        top = max(order, key=lambda place: (plan.offsets[place] + buffers[place].size_bytes, -place))
        order.remove(top)
        order.insert(0, top)
        if tuple(order) in seen:
            return
        seen.add(tuple(order))


class _Search:
    """Branch and bound for a packing below the best one known, which it keeps in ``offsets``.

    Any packing can be pushed down until each buffer rests on the ground or on one that it lives with, and then be
    built in the order of its offsets: so it is enough to place buffers with offsets that never fall, each on top of
    those placed before that it lives with. A branch ends where some time cannot hold what still has to come.
    """

    def __init__(self, buffers: Sequence[Buffer], best: Plan, node_limit: int) -> None:
        self.offsets = best.offsets
        self.finished = False
        self._buffers = buffers
        self._ceiling = best.size_bytes
        self._bound = best.bound_bytes
        self._nodes_left = node_limit
        # Times at which no buffer begins hold no more than the one before: they need no look.
        times = sorted({b.first for b in buffers})
        self._spans = [[i for i, t in enumerate(times) if b.first <= t <= b.last] for b in buffers]
        self._heights = [0] * len(times)
        self._waiting = [sum(b.size_bytes for b in buffers if b.first <= t <= b.last) for t in times]
        self._placed: dict[int, int] = {}

    def run(self) -> None:
        """Search until the bound is reached, all is seen, or the limit is used up."""
        self.finished = self._branch(sorted(range(len(self._buffers)), key=self._by_weight), 0, _NOBODY)

    def _by_weight(self, place: int) -> tuple[int, int]:
        return (-self._buffers[place].size_bytes * len(self._spans[place]), place)

    def _branch(self, rest: list[int], floor: int, before: int) -> bool:
        """Place one more buffer at ``floor`` or above; tell whether everything below here was seen."""
        if not rest:
            self.offsets = tuple(self._placed[place] for place in range(len(self._buffers)))
            self._ceiling = max(offset + self._buffers[p].size_bytes for p, offset in self._placed.items())
            return True
        self._nodes_left -= len(rest)
        if self._nodes_left < 0:
            return False
        seen_all = True
        for place, offset in self._choices(rest, floor, before):
            if self._ceiling <= self._bound:
                return True
            if offset + self._buffers[place].size_bytes >= self._ceiling:
                continue
            saved = self._put(place, offset)
            remaining = [other for other in rest if other != place]
            if self._hopeful(offset):
                seen_all &= self._branch(remaining, offset, place)
            self._take_back(place, saved)
            if self._nodes_left < 0:
                return False
        return seen_all

    def _choices(self, rest: list[int], floor: int, before: int) -> list[tuple[int, int]]:
        """Return which buffer may come next and where it rests, the lowest first.

        Buffers at one offset are placed in the order of their numbers, and of equal ones only the first is tried.
        """
        tried: set[tuple[int, int, int]] = set()
        choices = []
        for place in rest:
            buffer = self._buffers[place]
            kind = (buffer.size_bytes, buffer.first, buffer.last)
            offset = max(self._heights[i] for i in self._spans[place])
            if offset < floor or (offset == floor and place < before) or kind in tried:
                continue
            tried.add(kind)
            choices.append((place, offset))
        return sorted(choices, key=lambda choice: choice[1])

    def _hopeful(self, floor: int) -> bool:
        """Tell whether every time could still hold what waits: nothing can come below ``floor`` any more."""
        return all(
            not waiting or max(height, floor) + waiting < self._ceiling
            for height, waiting in zip(self._heights, self._waiting, strict=True)
        )

    def _put(self, place: int, offset: int) -> list[int]:
        size_bytes = self._buffers[place].size_bytes
        saved = [self._heights[i] for i in self._spans[place]]
        for i in self._spans[place]:
            self._heights[i] = offset + size_bytes
            self._waiting[i] -= size_bytes
        self._placed[place] = offset
        return saved

    def _take_back(self, place: int, saved: list[int]) -> None:
        for i, height in zip(self._spans[place], saved, strict=True):
            self._heights[i] = height
            self._waiting[i] += self._buffers[place].size_bytes
        del self._placed[place]
