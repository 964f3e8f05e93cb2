# SPDX-License-Identifier: Apache-2.0
"""Plans of an arena: what is needed together lies apart, unless a kernel may write over its input."""

from hypothesis import given, settings
from hypothesis import strategies as st

from converter.c.core.lowering import Layer, LoweredGraph
from converter.c.core.memory_plan import MemoryPlan, plan_memory
from converter.c.core.program import Call, Operand, Operator

_OPERATOR = Operator(0, "PROBE", (), ())


def _graph(calls: list[Call], sizes: dict[Operand, int], outputs: tuple[Operand, ...]) -> LoweredGraph:
    return LoweredGraph(tuple(Layer(call, _OPERATOR) for call in calls), (), sizes, {}, (0,), outputs)


@st.composite
def _graphs(draw: st.DrawFn) -> LoweredGraph:
    """Draw layers that each read one or two of the values made before."""
    sizes: dict[Operand, int] = {0: draw(st.integers(1, 300))}
    calls = []
    for number in range(1, draw(st.integers(2, 7))):
        inputs = tuple(draw(st.lists(st.sampled_from(sorted(sizes, key=str)), min_size=1, max_size=2)))
        in_place = tuple(place for place in range(len(inputs)) if draw(st.booleans()))
        sizes[number] = draw(st.integers(1, 300))
        scratch = draw(st.sampled_from([0, 0, 40]))
        calls.append(Call("probe", inputs, (number,), b"", scratch_bytes=scratch, in_place=in_place))
    return _graph(calls, sizes, (len(calls),))


@given(_graphs())
@settings(max_examples=150, deadline=None)
def test_no_layer_destroys_what_is_still_to_be_read(graph: LoweredGraph) -> None:
    """Run the plan with a memory in which each byte knows whose it is."""
    plan = plan_memory(graph)
    memory: list[object] = [None] * plan.arena_bytes
    _put(memory, plan, graph, 0)
    for place, layer in enumerate(graph.layers):
        call = layer.call
        for operand in call.inputs:
            assert _lies_whole(memory, plan, graph, operand)
        _put_scratch(memory, plan.scratch[place], call)
        for position, operand in enumerate(call.inputs):
            if not _may_go(call, position, operand):
                assert _apart(plan, graph, operand, call)
        _put(memory, plan, graph, call.outputs[0])
    for operand in graph.outputs:
        assert _lies_whole(memory, plan, graph, operand)


def _may_go(call: Call, position: int, operand: Operand) -> bool:
    return all(n in call.in_place for n, other in enumerate(call.inputs) if other == operand) and bool(call.in_place)


def _apart(plan: MemoryPlan, graph: LoweredGraph, operand: Operand, call: Call) -> bool:
    mine, theirs = plan.places[operand], plan.places[call.outputs[0]]
    return mine + graph.sizes[operand] <= theirs or theirs + graph.sizes[call.outputs[0]] <= mine


def _put(memory: list[object], plan: MemoryPlan, graph: LoweredGraph, operand: Operand) -> None:
    at = plan.places[operand]
    assert at % 16 == 0
    assert at + graph.sizes[operand] <= plan.arena_bytes
    memory[at : at + graph.sizes[operand]] = [operand] * graph.sizes[operand]


def _put_scratch(memory: list[object], at: int, call: Call) -> None:
    assert at + call.scratch_bytes <= len(memory)
    for byte in range(at, at + call.scratch_bytes):
        assert memory[byte] not in call.inputs
        memory[byte] = "scratch"


def _lies_whole(memory: list[object], plan: MemoryPlan, graph: LoweredGraph, operand: Operand) -> bool:
    at = plan.places[operand]
    return all(owner == operand for owner in memory[at : at + graph.sizes[operand]])


def _chain(sizes: list[int], in_place: tuple[int, ...]) -> MemoryPlan:
    calls = [Call("probe", (n,), (n + 1,), b"", in_place=in_place) for n in range(len(sizes) - 1)]
    return plan_memory(_graph(calls, dict(enumerate(sizes)), (len(sizes) - 1,)))


def test_a_chain_in_place_takes_its_largest_tensor_alone() -> None:
    assert _chain([320, 320, 160], ()).arena_bytes == 640
    assert _chain([320, 320, 160], (0,)).arena_bytes == 320


def test_an_output_larger_than_its_input_gets_its_own_place() -> None:
    plan = _chain([160, 320], (0,))
    assert (plan.arena_bytes, plan.places[0] == plan.places[1]) == (480, False)


def test_a_small_output_does_not_take_the_rest_of_its_inputs_memory_for_a_large_one() -> None:
    # 320 -> 16 -> 320, each over its input if it could: the last one is larger than what it reads
    assert _chain([320, 16, 320], (0,)).arena_bytes == 336


def test_what_is_read_later_is_not_written_over() -> None:
    calls = [Call("probe", (0,), (1,), b"", in_place=(0,)), Call("probe", (0, 1), (2,), b"")]
    plan = plan_memory(_graph(calls, {0: 32, 1: 32, 2: 32}, (2,)))
    assert plan.places[0] != plan.places[1]


def test_state_lies_behind_everything_else() -> None:
    calls = [Layer(Call("probe", ("state:x",), (1,), b""), _OPERATOR)]
    graph = LoweredGraph(tuple(calls), (), {0: 16, 1: 48, "state:x": 40}, {"state:x": 40}, (0,), (1,))
    plan = plan_memory(graph)
    assert (plan.state_at, plan.state_bytes, plan.arena_bytes) == (48, 48, 96)
    assert plan.places["state:x"] == 48
