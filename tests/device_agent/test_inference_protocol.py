# SPDX-License-Identifier: Apache-2.0
"""Frames: round trips, and bytes that no one meant to send."""

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.inference_protocol import (
    DTYPES,
    FRAME_LIMIT_BYTES,
    STATUSES,
    AnswerFrame,
    FeedbackRequest,
    InferRequest,
    InfoRequest,
    Tensor,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    frame,
    frame_length,
    unanswerable,
)
from edgefleet.contracts.errors import MessageError

SIZES = {"float32": 4, "float16": 2, "int8": 1, "uint8": 1, "int16": 2, "int32": 4, "int64": 8, "bool": 1}


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))
    size = SIZES[dtype] * math.prod(shape)
    return Tensor(dtype, shape, draw(st.binary(min_size=size, max_size=size)))


requests = st.one_of(
    st.builds(InferRequest, st.lists(tensors(), max_size=4).map(tuple), st.integers(0, 2**64 - 1)),
    st.builds(FeedbackRequest, st.integers(0, 2**64 - 1), st.text(max_size=50), st.just(""), st.just(-1)),
    st.builds(
        FeedbackRequest,
        st.integers(0, 2**64 - 1),
        st.text(max_size=50),
        st.text(min_size=1, max_size=50),
        st.integers(-(2**31), 2**31 - 1),
    ),
    st.just(InfoRequest()),
)
answers = st.builds(
    AnswerFrame,
    st.sampled_from(STATUSES),
    st.integers(0, 2**64 - 1),
    st.integers(-1, 2**31 - 1),
    st.floats(width=32, allow_nan=False),
    st.text(max_size=20),
    st.text(max_size=20),
    st.text(max_size=20),
    st.lists(tensors(), max_size=3).map(tuple),
)


@given(requests)
def test_a_request_comes_back_as_it_was_sent(request):
    assert decode_request(encode_request(request)) == request


def test_a_label_without_an_answers_release_is_the_frame_that_it_was():
    assert encode_request(FeedbackRequest(7, "cat", predicted=3)) == b"\2\1\3\0\7\0\0\0\0\0\0\0cat"
    late = b"\2\1\3\0\7\0\0\0\0\0\0\0cat\3\0\0\0\5\0a 1.0"
    assert encode_request(FeedbackRequest(7, "cat", "a 1.0", 3)) == late


@given(answers)
def test_an_answer_comes_back_as_it_was_sent(answer):
    assert decode_answer(encode_answer(answer)) == answer


@given(st.binary(max_size=200))
def test_random_bytes_are_a_request_or_a_message_error(data):
    with contextlib.suppress(MessageError):
        decode_request(data)


@given(answers, st.data())
def test_a_cut_or_changed_answer_is_an_answer_or_a_message_error(answer, data):
    body = bytearray(encode_answer(answer))
    cut = data.draw(st.integers(0, len(body)))
    if cut:
        body[data.draw(st.integers(0, cut - 1))] ^= data.draw(st.integers(0, 255))
    with contextlib.suppress(MessageError):
        decode_answer(body[:cut])


def test_a_label_that_no_answer_can_hold_is_cut():
    answer = decode_answer(encode_answer(AnswerFrame("ok", 1, label="\U0001f600" * 70_000)))
    assert answer.label == "\U0001f600" * 16_000


def test_a_frame_over_the_limit_is_refused_before_it_is_read():
    assert frame_length(frame(b"abc")[:4]) == 3
    with pytest.raises(MessageError) as raised:
        frame_length(b"\xff\xff\xff\xff")
    assert raised.value.message == (
        f"an inference frame announces {2**32 - 1} bytes, over the limit of {FRAME_LIMIT_BYTES}"
    )


def test_the_bytes_of_a_request_are_those_of_the_documentation():
    request = InferRequest((Tensor("uint8", (2, 1), b"\x07\x08"),), 258)
    assert frame(encode_request(request)).hex() == (
        "1a000000" + "01" + "01" + "0100" + "0201000000000000" + "03" + "02" + "0000" + "02000000" + "01000000" + "0708"
    )


@pytest.mark.parametrize(
    ("shapes", "why"),
    [
        ([(1, 10)] * 64, ""),
        ([(1, 10)] * 65, "65 tensors, and an answer has at most 64"),
        ([(1,) * 8], ""),
        ([(1,) * 9], "a tensor of 9 dimensions, and an answer's have at most 8"),
        ([(16_711_678,)], ""),
        ([(16_711_679,)], "66846724 bytes of tensors, and an answer has room for 66846720"),
        ([], ""),
    ],
)
def test_what_no_answer_can_carry_is_told(shapes, why):
    assert unanswerable(shapes) == why
    if not why:
        tensors = tuple(Tensor("float32", shape, bytes(4 * math.prod(shape))) for shape in shapes)
        text = "\N{PERSONAL COMPUTER}" * 20_000
        body = encode_answer(AnswerFrame("ok", label=text, detail=text, release="r" * 65_535, tensors=tensors))
        assert frame_length(frame(body)[:4]) == len(body)
