"""Real rows: read, checked, and made into requests."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.judging.examples import (
    Examples,
    calibration_requests,
    load_examples,
    with_examples,
)
from repo_builder.sources.base import Checkpoint, InputField
from tritonfleet.errors import SourceUnavailable

WORDS = ["[PAD]", "[UNK]", "the", "cat", "sat", "on", "mat"]


def checkpoint(inputs, **fields):
    return Checkpoint(None, inputs, ("y",), **fields)


def image(**fields):
    return checkpoint({"x": InputField("FP32", ("batch", 2, 3), **fields)})


def text(vocabulary=7, **fields):
    shape = ("batch", "sequence")
    return checkpoint(
        {
            "input_ids": InputField("INT64", shape, "tokens", vocabulary),
            "attention_mask": InputField("INT64", shape, "mask"),
            "token_type_ids": InputField("INT64", shape),
        },
        **fields,
    )


def numbered(rows):
    """Row n is full of n."""
    return np.arange(rows, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)


@pytest.fixture
def npz(tmp_path):
    def load(model, **arrays):
        np.savez(tmp_path / "examples.npz", **arrays)
        return load_examples("m", tmp_path / "examples.npz", model, None)

    return load


@pytest.fixture
def tokenizer(tmp_path):
    """A folder with a tokenizer of seven words, which would pad and cut on its own."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.enable_padding(length=40)
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture
def texts(tmp_path, tokenizer):
    def load(model, content, folder=tokenizer):
        (tmp_path / "examples.txt").write_text(content)
        return load_examples("m", tmp_path / "examples.txt", model, folder)

    return load


def test_requests_are_made_of_the_file_s_rows(npz):
    model = with_examples(image(), npz(image(), x=numbered(5)))
    request = model.sample({"batch": 64}, np.random.default_rng(0))
    assert request["x"].shape == (64, 2, 3) and request["x"].dtype == np.float32
    assert set(request["x"][:, 0, 0]) == {0, 1, 2, 3, 4}


def test_the_same_seed_gives_the_same_request(npz):
    model = with_examples(image(), npz(image(), x=numbered(5)))
    first, second = (model.sample({"batch": 9}, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first["x"], second["x"])


def test_rows_of_different_inputs_stay_together(npz):
    pair = checkpoint({name: InputField("FP32", ("batch", 2, 3)) for name in ("a", "b")})
    model = with_examples(pair, npz(pair, a=numbered(9), b=-numbered(9)))
    request = model.sample({"batch": 20}, np.random.default_rng(1))
    assert np.array_equal(request["a"], -request["b"]) and request["a"].any()


def test_narrower_types_are_taken_as_the_input_s_own(npz):
    found = npz(image(), x=numbered(2).astype(np.float16))
    assert np.asarray(found.rows["x"]).dtype == np.float32


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((2, 2, 3)), r"are float64; it takes FP32.*astype\('float32'\)"),
        (np.ones((2, 2, 3), np.int64), "are int64; it takes FP32"),
        (np.ones((2, 2, 4), np.float32), r"shape \[2, 2, 4\].*Expected is \[rows, 2, 3\]"),
        (np.ones((2, 3), np.float32), r"shape \[2, 3\]"),
        (np.ones((0, 2, 3), np.float32), "at least one row"),
        (np.array(["a"]), r"shape \[1\]"),
    ],
)
def test_wrong_rows_are_refused_with_input_expected_and_got(npz, array, reason):
    with pytest.raises(SourceUnavailable, match=f"input 'x'.*{reason}|examples of 'x'.*{reason}"):
        npz(image(), x=array)


def test_an_input_without_rows_is_named_with_what_may_have_been_meant(npz):
    photos = checkpoint({"pixel_values": InputField("FP32", ("batch", 2, 3))})
    with pytest.raises(SourceUnavailable, match=r"no rows for input 'pixel_values'.*'pixel_value'"):
        npz(photos, pixel_value=numbered(2))


def test_rows_for_no_input_are_named(npz):
    with pytest.raises(SourceUnavailable, match="rows for 'label', which is no input"):
        npz(image(), x=numbered(2), label=np.ones(2))


def test_different_numbers_of_rows_are_refused(npz):
    pair = checkpoint({name: InputField("FP32", ("batch", 2, 3)) for name in ("a", "b")})
    with pytest.raises(SourceUnavailable, match="different numbers of rows: 'a' 2, 'b' 3"):
        npz(pair, a=numbered(2), b=numbered(3))


def test_pickles_are_never_read(npz):
    with pytest.raises(SourceUnavailable, match=r"cannot be read: .*allow_pickle"):
        npz(image(), x=np.array([{"any": "object"}], dtype=object))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a zip", b"not a zip at all"])
def test_a_damaged_file_is_told(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(SourceUnavailable, match=r"bad.npz cannot be read"):
        load_examples("m", tmp_path / "bad.npz", image(), None)


def test_a_single_array_is_no_npz(tmp_path):
    np.save(tmp_path / "x.npy", numbered(2))
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(SourceUnavailable, match=r"Save plain arrays with numpy.savez"):
        load_examples("m", tmp_path / "x.npz", image(), None)


@pytest.mark.parametrize("name", ["gone.npz", "gone.txt"])
def test_a_missing_file_is_named(tmp_path, tokenizer, name):
    with pytest.raises(SourceUnavailable, match=f"{name} cannot be read"):
        load_examples("m", tmp_path / name, text(), tokenizer)


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(SourceUnavailable, match=r"examples.csv are neither .npz nor .txt"):
        load_examples("m", tmp_path / "examples.csv", image(), None)


def ids(*rows):
    return np.array(rows, np.int64)


def test_tokens_beyond_the_vocabulary_are_refused(npz):
    with pytest.raises(SourceUnavailable, match=r"reach from 1 to 7.*vocabulary has 7 tokens"):
        npz(text(), input_ids=ids([1, 7]), attention_mask=ids([1, 1]), token_type_ids=ids([0, 0]))


def test_rows_padded_on_the_left_are_refused(npz):
    with pytest.raises(SourceUnavailable, match="row 1 of the examples of 'attention_mask'"):
        npz(
            text(), input_ids=ids([1, 2], [0, 2]), attention_mask=ids([1, 1], [0, 1]),
            token_type_ids=ids([0, 0], [0, 0]),
        )  # fmt: skip


def test_texts_are_tokenised_and_padded_where_the_mask_says_so(texts):
    model = with_examples(text(), texts(text(), "the cat sat\n"))
    request = model.sample({"batch": 2, "sequence": 5}, np.random.default_rng(0))
    assert request["input_ids"].tolist() == [[2, 3, 4, 0, 0]] * 2
    assert request["attention_mask"].tolist() == [[1, 1, 1, 0, 0]] * 2
    assert request["token_type_ids"].tolist() == [[0] * 5] * 2


def test_long_texts_are_cut_to_what_is_asked_and_to_what_the_model_takes(texts):
    found = texts(text(longest=3), "the cat sat on the mat\n")
    assert [len(row) for row in found.rows["input_ids"]] == [3]
    request = with_examples(text(longest=3), found).sample(
        {"batch": 1, "sequence": 2}, np.random.default_rng(0)
    )
    assert request["input_ids"].tolist() == [[2, 3]]


def test_without_a_mask_a_text_is_repeated(texts):
    bare = checkpoint({"input_ids": InputField("INT64", ("batch", "sequence"), "tokens", 7)})
    model = with_examples(bare, texts(bare, "the cat\n"))
    request = model.sample({"batch": 1, "sequence": 5}, np.random.default_rng(0))
    assert request["input_ids"].tolist() == [[2, 3, 2, 3, 2]]


def test_where_inputs_depend_on_each_other_only_tokens_are_replaced(texts):
    def sampler(sizes, random):
        batch, length = sizes["batch"], sizes["sequence"]
        return {
            "input_ids": np.zeros((batch, length), np.int64),
            "attention_mask": np.full((batch, length + 2), 9, np.int64),
        }

    cached = checkpoint(
        {
            "input_ids": InputField("INT64", ("batch", "sequence"), "tokens", 7),
            "attention_mask": InputField("INT64", ("batch", "past + sequence"), "mask"),
        },
        sample_with=sampler,
    )
    model = with_examples(cached, texts(cached, "the cat\n"))
    request = model.sample({"batch": 1, "sequence": 3}, np.random.default_rng(0))
    assert request["input_ids"].tolist() == [[2, 3, 2]]
    assert request["attention_mask"].tolist() == [[9] * 5]


def test_several_batches_get_as_many_rows_as_each_asks_for(texts):
    joint = checkpoint(
        {
            "input_ids": InputField("INT64", ("text_batch", "sequence"), "tokens", 7),
            "pixel_values": InputField("FP32", ("image_batch", 3)),
        }
    )
    found = texts(joint, "the cat\nmat\n")
    request = with_examples(joint, found).sample(
        {"text_batch": 2, "image_batch": 5, "sequence": 2}, np.random.default_rng(0)
    )
    assert request["input_ids"].shape == (2, 2) and request["pixel_values"].shape == (5, 3)
    first, second = calibration_requests(found, joint, 2, 8)
    assert first["input_ids"].tolist() == [[2, 3]] and second["input_ids"].tolist() == [[6]]


def test_empty_lines_are_no_texts(texts):
    assert len(texts(text(), "\n the cat \n\n  \nmat\n")) == 2


@pytest.mark.parametrize(
    ("model", "content", "reason"),
    [
        (text(), "\n \n", "hold no text"),
        (text(vocabulary=4), "the mat\n", "vocabulary has 4 tokens"),
        (image(), "the mat\n", "takes no tokens"),
    ],
)
def test_texts_that_do_not_fit_are_refused(texts, model, content, reason):
    with pytest.raises(SourceUnavailable, match=reason):
        texts(model, content)


def test_texts_need_a_tokenizer(texts, tmp_path):
    for folder in (None, tmp_path / "elsewhere"):
        with pytest.raises(SourceUnavailable, match=r"its source has no tokenizer.json"):
            texts(text(), "the cat\n", folder)


def test_a_broken_tokenizer_is_told(texts, tokenizer):
    (tokenizer / "tokenizer.json").write_text(json.dumps({"model": {}}))
    with pytest.raises(SourceUnavailable, match=r"tokenizer.json cannot be read"):
        texts(text(), "the cat\n")


def test_texts_that_are_not_utf8_are_told(tmp_path, tokenizer):
    (tmp_path / "latin.txt").write_bytes("der süße Brei\n".encode("latin-1"))
    with pytest.raises(SourceUnavailable, match="UnicodeDecodeError"):
        load_examples("m", tmp_path / "latin.txt", text(), tokenizer)


def firsts(requests):
    return [request["x"][:, 0, 0].tolist() for request in requests]


def test_calibration_takes_rows_from_all_over_the_file(npz):
    requests = calibration_requests(npz(image(), x=numbered(100)), image(), 5, 2)
    assert firsts(requests) == [[0, 20], [40, 60], [80]]


def test_a_file_with_fewer_rows_gives_each_once(npz):
    assert firsts(calibration_requests(npz(image(), x=numbered(3)), image(), 64, 8)) == [[0, 1, 2]]


def test_calibration_cuts_no_text_and_pads_to_the_longest_of_its_batch(texts):
    found = texts(text(), "the\nthe cat\nmat\nthe cat sat on\n")
    first, second = calibration_requests(found, text(), 4, 2)
    assert first["input_ids"].tolist() == [[2, 0], [2, 3]]
    assert first["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert second["input_ids"].shape == (2, 4)


def test_without_examples_a_checkpoint_s_own_are_taken():
    own = image(examples=numbered(3))
    requests = calibration_requests(None, own, 5, 4)
    assert [len(rows) for rows in firsts(requests)] == [4, 1]
    assert {value for rows in firsts(requests) for value in rows} <= {0, 1, 2}


def test_made_up_numbers_calibrate_nothing():
    assert calibration_requests(None, image(), 64, 8) == ()
    assert calibration_requests(None, text(), 64, 8) == ()


def test_a_model_without_batches_gets_one_row_a_request(npz):
    single = checkpoint({"x": InputField("FP32", (2, 3))})
    requests = calibration_requests(npz(single, x=numbered(3)), single, 2, 8)
    assert [request["x"].tolist() for request in requests] == [[[0.0] * 3] * 2, [[1.0] * 3] * 2]


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@given(lengths, st.integers(1, 6), st.integers(1, 20), st.integers(0, 99))
def test_every_request_has_the_sizes_asked_for_and_holds_prefixes_of_real_rows(
    sizes, batch, sequence, seed
):
    rows = [np.arange(1, size + 1) + 100 * n for n, size in enumerate(sizes)]
    examples = Examples(
        {"input_ids": rows, "attention_mask": [np.ones(size, np.int64) for size in sizes]}
    )
    model = with_examples(text(vocabulary=1000), examples)
    request = model.sample({"batch": batch, "sequence": sequence}, np.random.default_rng(seed))
    assert {values.shape for values in request.values()} == {(batch, sequence)}
    for ids_, mask in zip(request["input_ids"], request["attention_mask"], strict=True):
        kept = int(mask.sum())
        row = rows[int(ids_[0]) // 100]
        assert kept == min(len(row), sequence)
        assert ids_[:kept].tolist() == row[:kept].tolist() and not ids_[kept:].any()
        assert mask.tolist() == [1] * kept + [0] * (sequence - kept)
