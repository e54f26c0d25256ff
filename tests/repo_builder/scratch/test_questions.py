"""Which requests a model is asked, from its configuration and what was recorded."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.judging.reference import Case, Recorded, Reference
from repo_builder.scratch.order import ProofOrder
from repo_builder.scratch.questions import batch_sizes, made_up, questions, uncompared
from tests.repo_builder.scratch.models import FP32
from tritonfleet.errors import ProofFailed
from tritonfleet.server.inference import Array
from tritonfleet.server.pbtxt import parse_config
from tritonfleet.server.tensors import NUMPY_TYPES

IO = """
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""


def asked(text, **fields):
    return ProofOrder("m", Path("m"), 1, parse_config("m", f'name: "m" {text}'), **fields)


def recorded(folder, shapes):
    """An original that doubles, asked with these shapes."""
    found = []
    for index, shape in enumerate(shapes):
        x = numpy.random.default_rng(index).random(shape, numpy.float32)
        found.append(Recorded(Case({"batch": shape[0]}), {"x": x}, {"y": 2 * x}))
    return Reference.record(folder, found)


def sent(question) -> dict[str, Array]:
    """The inputs of a request."""
    return {
        tensor.name: numpy.frombuffer(raw, NUMPY_TYPES[tensor.datatype]).reshape(
            tuple(tensor.shape)
        )
        for tensor, raw in zip(
            question.request.inputs, question.request.raw_input_contents, strict=True
        )
    }


@given(limit=st.integers(1, 64), preferred=st.lists(st.integers(1, 64), max_size=4))
def test_sizes_go_from_one_to_the_largest_through_the_preferred_ones(limit, preferred):
    batching = f"dynamic_batching {{ preferred_batch_size: {preferred} }}"
    sizes = batch_sizes(asked(f"max_batch_size: {limit} {batching}").config)
    assert (sizes[0], sizes[-1]) == (1, limit)
    assert list(sizes) == sorted(set(sizes))
    assert {size for size in preferred if size <= limit} <= set(sizes)


@pytest.mark.parametrize("text", ["", "max_batch_size: 8 sequence_batching {}"])
def test_models_without_a_batch_of_requests_are_asked_for_one(text):
    assert batch_sizes(asked(text).config) == (1,)


@given(rows=st.integers(1, 6), limit=st.integers(1, 20))
def test_each_row_keeps_its_known_answer(tmp_path_factory, rows, limit):
    reference = recorded(tmp_path_factory.mktemp("r"), [(rows, 5)])
    for question in questions(
        asked(f"max_batch_size: {limit} {IO}", reference=reference, gate=FP32)
    ):
        x = sent(question)["x"]
        assert x.shape == (question.batch_size, 5)
        numpy.testing.assert_array_equal(question.expected["y"], 2 * x)


def test_the_smallest_case_comes_first_and_the_widest_rows_fill_the_largest_batch(tmp_path):
    reference = recorded(tmp_path, [(1, 3), (9, 2), (1, 7), (4, 7)])
    order = asked(f"max_batch_size: 8 {IO}", reference=reference)
    assert [list(q.request.inputs[0].shape) for q in questions(order)] == [[1, 2], [8, 7]]


def test_a_batch_of_one_at_most_is_asked_with_both_ends(tmp_path):
    reference = recorded(tmp_path, [(1, 3), (3, 7)])
    order = asked(f"max_batch_size: 1 {IO}", reference=reference)
    assert [list(q.request.inputs[0].shape) for q in questions(order)] == [[1, 3], [1, 7]]


def test_without_a_batch_dimension_whole_cases_are_sent(tmp_path):
    reference = recorded(tmp_path, [(2, 3), (4, 7)])
    order = asked(IO.replace("-1", "-1, -1"), reference=reference, gate=FP32)
    shapes = [(q.expected["y"].shape, sent(q)["x"].shape) for q in questions(order)]
    assert shapes == [((2, 3), (2, 3)), ((4, 7), (4, 7))]


def test_one_row_recorded_is_asked_once_where_there_is_no_batch(tmp_path):
    order = asked(IO.replace("-1", "-1, -1"), reference=recorded(tmp_path, [(2, 3)]))
    assert len(questions(order)) == 1


def test_the_new_version_is_asked_and_no_other():
    assert {q.request.model_version for q in questions(asked(f"max_batch_size: 2 {IO}"))} == {"1"}


def test_without_anything_real_the_inputs_are_zeros():
    order = asked(f"max_batch_size: 3 {IO}")
    assert made_up(order)
    largest = sent(questions(order)[-1])["x"]
    assert largest.shape[0] == 3 and not largest.any()


def test_examples_are_repeated_to_the_batch():
    order = asked(f"max_batch_size: 3 {IO}", examples={"x": numpy.float32([[1, 2], [3, 4]])})
    assert not made_up(order)
    assert sent(questions(order)[-1])["x"].tolist() == [[1, 2], [3, 4], [1, 2]]


def test_without_a_batch_dimension_the_first_example_is_taken():
    order = asked(IO, examples={"x": numpy.float32([[1, 2], [3, 4]])})
    assert sent(questions(order)[0])["x"].tolist() == [1, 2]


def test_a_list_of_texts_fits_an_input_of_one_text_a_row():
    texts = 'input [ { name: "t" data_type: TYPE_STRING dims: [ 1 ] } ]'
    order = asked(f"max_batch_size: 2 {texts}", examples={"t": numpy.array(["a", "bc"])})
    assert list(questions(order)[-1].request.inputs[0].shape) == [2, 1]


def test_examples_of_the_wrong_type_are_refused():
    with pytest.raises(ProofFailed, match=r"do not fit.*export\.examples"):
        questions(asked(f"max_batch_size: 2 {IO}", examples={"x": numpy.array(["a"])}))


def test_a_sequence_starts_and_ends_with_its_only_request():
    (question,) = questions(asked(f"max_batch_size: 4 sequence_batching {{}} {IO}"))
    parameters = question.request.parameters
    assert parameters["sequence_start"].bool_param and parameters["sequence_end"].bool_param
    assert parameters["sequence_id"].int64_param > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"max_batch_size: 8 {IO}", None),
        (f"max_batch_size: 8 sequence_batching {{}} {IO}", "more than one request"),
        (f"model_transaction_policy {{ decoupled: true }} {IO}", "more than one request"),
        (IO.replace('"x"', '"z"'), "never asked with its input 'z'"),
        (IO.replace('"y"', '"z"'), "none of its outputs"),
    ],
)
def test_what_cannot_be_compared_says_why(tmp_path, text, reason):
    order = asked(text, reference=recorded(tmp_path, [(2, 3)]), gate=FP32)
    found = uncompared(order)
    assert found is None if reason is None else reason in (found or "")
    assert bool(questions(order)[0].expected) is (reason is None)


def test_without_an_original_there_is_nothing_to_explain():
    assert uncompared(asked(IO)) is None
