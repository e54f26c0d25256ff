"""Real inputs for proof and calibration: an ``.npz`` with rows for each input, or lines of text.

Row n of one input belongs to row n of every other. Along a dynamic dimension rows are cut, or
filled up: with what a mask leaves out where the model takes one, with themselves again where not.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from repo_builder.causes import root_cause
from repo_builder.judging.reference import Array, Tensors
from repo_builder.signature import BATCH, Shape
from repo_builder.sources.base import Checkpoint, InputField
from tritonfleet.errors import SourceUnavailable, did_you_mean
from tritonfleet.server.tensors import DYNAMIC_SIZE, NUMPY_TYPES

_TOKENIZER = "tokenizer.json"
_TYPE_IDS = "token_type_ids"
_UNBOUNDED_TEXT = 512
_MOST_TEXTS = 10_000


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows of real data for some or all inputs of a model."""

    rows: Mapping[str, Sequence[Array] | Array]
    """Without the batch dimension; rows of one input may differ along its dynamic dimensions."""
    fill: Mapping[str, int] = field(default_factory=dict)
    """What stands where the mask says that there is nothing; 0 where not given."""

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))


def load_examples(
    model: str, path: Path, checkpoint: Checkpoint, tokenizer_folder: Path | None
) -> Examples:
    """The rows of a file; SourceUnavailable says what is wrong with it, and for which input."""
    if path.suffix == ".npz":
        return _from_arrays(model, path, checkpoint)
    if path.suffix == ".txt":
        return _from_texts(model, path, checkpoint, tokenizer_folder)
    cause = f"its examples {path.name} are neither .npz nor .txt"
    hint = "Save rows for each input with numpy.savez, or one text a line."
    raise SourceUnavailable(model, cause, hint)


def with_examples(checkpoint: Checkpoint, examples: Examples) -> Checkpoint:
    """The checkpoint, from now on asked with real rows."""
    return replace(checkpoint, sample_with=partial(_drawn, checkpoint, examples))


def calibration_requests(
    examples: Examples | None, checkpoint: Checkpoint, samples: int, batch_size: int
) -> tuple[Tensors, ...]:
    """Requests with that many real rows, or as many as there are; none where nothing is real."""
    size = max(batch_size, 1) if checkpoint.batched else 1
    if examples is None:
        return tuple(_own(checkpoint, samples, size))
    return tuple(
        _request(checkpoint, examples, _natural_sizes(checkpoint, examples, chosen), chosen, seed)
        for seed, chosen in enumerate(_chunks(_spread(len(examples), samples), size))
    )


def _own(checkpoint: Checkpoint, samples: int, size: int) -> Iterator[Tensors]:
    """Requests of the rows that came with the checkpoint, if each input has some."""
    if any(field.examples is None for field in checkpoint.inputs.values()):
        return
    sizes = _usual_sizes(checkpoint)
    for seed, chosen in enumerate(_chunks(range(samples), size)):
        yield checkpoint.sample({**sizes, BATCH: len(chosen)}, np.random.default_rng(seed))


def _spread(rows: int, samples: int) -> Sequence[int]:
    """Places over the whole file: it may be sorted by what it shows."""
    if samples >= rows:
        return range(rows)
    return [index * rows // samples for index in range(samples)]


def _chunks(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (places[start : start + size] for start in range(0, len(places), size))


def _drawn(
    checkpoint: Checkpoint, examples: Examples, sizes: Mapping[str, int],
    random: np.random.Generator,
) -> Tensors:  # fmt: skip
    """A request of the given sizes, made of rows drawn at random."""
    rows = max((size for name, size in sizes.items() if _counts_rows(name)), default=1)
    chosen = random.integers(len(examples), size=rows)
    return _request(checkpoint, examples, sizes, chosen.tolist(), int(random.integers(1 << 31)))


def _request(
    checkpoint: Checkpoint, examples: Examples, sizes: Mapping[str, int], chosen: Sequence[int],
    seed: int,
) -> Tensors:  # fmt: skip
    """The chosen rows as one request; inputs that the examples lack are made up."""
    request = checkpoint.sample(sizes, np.random.default_rng(seed))
    masked = _masked_dimensions(checkpoint, examples)
    for name, rows in examples.rows.items():
        shape = checkpoint.inputs[name].shape
        wanted = _of_a_row(shape, request[name].shape)
        padded = [size in masked for size in _of_a_row(shape, shape)]
        fill = examples.fill.get(name, 0)
        axis = _row_axis(shape)
        count = 1 if axis is None else request[name].shape[axis]
        fitted = [_fit(rows[place], wanted, padded, fill) for place in islice(cycle(chosen), count)]
        request[name] = fitted[0] if axis is None else np.stack(fitted, axis)
    return request


def _counts_rows(size: int | str) -> bool:
    """Whether a dimension is the batch, or one of several, such as texts and images have each."""
    return isinstance(size, str) and (size == BATCH or size.endswith(f"_{BATCH}"))


def _row_axis(shape: Shape) -> int | None:
    return next((axis for axis, size in enumerate(shape) if _counts_rows(size)), None)


def _of_a_row(shape: Shape, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values that belong to one row's own dimensions."""
    return tuple(v for size, v in zip(shape, values, strict=True) if not _counts_rows(size))


def _masked_dimensions(checkpoint: Checkpoint, examples: Examples) -> set[int | str]:
    """The dynamic dimensions along which an example's mask says where its values end."""
    masks = (name for name in examples.rows if _is_mask(name, checkpoint.inputs[name]))
    sizes = (size for name in masks for size in checkpoint.inputs[name].shape)
    return {size for size in sizes if isinstance(size, str)}


def _is_mask(name: str, field: InputField) -> bool:
    return field.values == "mask" or name.endswith("mask")


def _fit(row: Array, shape: Sequence[int], padded: Sequence[bool], fill: int) -> Array:
    """The row, cut or filled up along each axis."""
    for axis, (size, pad) in enumerate(zip(shape, padded, strict=True)):
        row = row[(slice(None),) * axis + (slice(size),)]
        missing = size - row.shape[axis]
        widths = [(0, missing if each == axis else 0) for each in range(row.ndim)]
        if missing and (pad or not row.shape[axis]):
            row = np.pad(row, widths, constant_values=fill)
        elif missing:
            row = np.pad(row, widths, mode="wrap")
    return row


def _usual_sizes(checkpoint: Checkpoint) -> dict[str, int]:
    return {
        name: max(checkpoint.sizes.get(name, (DYNAMIC_SIZE,))) for name in checkpoint.dimensions
    }


def _natural_sizes(
    checkpoint: Checkpoint, examples: Examples, chosen: Sequence[int]
) -> dict[str, int]:
    """The sizes at which no chosen row is cut, but for what the model cannot take."""
    usual = _usual_sizes(checkpoint)
    found = {name: len(chosen) for name in (BATCH, *usual) if _counts_rows(name)}
    for name, rows in examples.rows.items():
        shape = checkpoint.inputs[name].shape
        for axis, size in enumerate(_of_a_row(shape, shape)):
            if isinstance(size, str):
                largest = max(rows[place].shape[axis] for place in chosen)
                found[size] = min(max(largest, found.get(size, 0)), checkpoint.longest or largest)
    return {**usual, **found}


def _from_arrays(model: str, path: Path, checkpoint: Checkpoint) -> Examples:
    arrays = read_arrays(model, path)
    _check_names(model, path, arrays, checkpoint)
    rows = {
        name: _checked(model, name, arrays[name], field)
        for name, field in checkpoint.inputs.items()
    }
    counts = {name: len(values) for name, values in rows.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"'{name}' {count}" for name, count in counts.items())
        cause = f"its examples have different numbers of rows: {listed}"
        raise SourceUnavailable(model, cause, "Row n of each input must belong together.")
    return Examples(rows)


def read_arrays(model: str, path: Path) -> Tensors:
    """The arrays of an ``.npz`` by name; SourceUnavailable when it is none, or holds pickles."""
    try:
        # Never pickles: a file of examples must not be able to run code.
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        cause = f"its examples {path} cannot be read: {root_cause(error)}"
        hint = "Save plain arrays with numpy.savez(path, input_name=rows, ...)."
        raise SourceUnavailable(model, cause, hint) from error


def _check_names(model: str, path: Path, arrays: Tensors, checkpoint: Checkpoint) -> None:
    for name in checkpoint.inputs:
        if name not in arrays:
            cause = f"its examples {path.name} have no rows for input '{name}'"
            guess = did_you_mean(name, arrays)
            hint = f"Is it the array '{guess}'?" if guess else f"It has {', '.join(arrays)}."
            raise SourceUnavailable(model, cause, hint)
    for name in arrays:
        if name not in checkpoint.inputs:
            cause = f"its examples {path.name} have rows for '{name}', which is no input"
            hint = f"Its inputs are {', '.join(checkpoint.inputs)}."
            raise SourceUnavailable(model, cause, hint)


def _checked(model: str, name: str, array: Array, field: InputField) -> Array:
    """The rows in the input's own type; SourceUnavailable when they are not what it takes."""
    _check_shape(model, name, array, field)
    expected = np.dtype(NUMPY_TYPES[field.dtype]) if field.dtype in NUMPY_TYPES else None
    if expected is None or not np.can_cast(array.dtype, expected, "safe"):
        cause = f"the examples of input '{name}' are {array.dtype}; it takes {field.dtype}"
        hint = f"Convert them with .astype('{expected}')." if expected else "Leave examples out."
        raise SourceUnavailable(model, cause, hint)
    rows = array.astype(expected)
    _check_values(model, name, rows, field)
    return rows


def _check_shape(model: str, name: str, array: Array, field: InputField) -> None:
    wanted = _of_a_row(field.shape, field.shape)
    fits = array.ndim == len(wanted) + 1 and all(
        isinstance(size, str) or size == got
        for size, got in zip(wanted, array.shape[1:], strict=True)
    )
    if not fits or not array.size:
        cause = f"the examples of input '{name}' have shape {list(array.shape)}"
        listed = ", ".join(["rows", *map(str, wanted)])
        raise SourceUnavailable(model, cause, f"Expected is [{listed}], with at least one row.")


def _check_values(model: str, name: str, rows: Array, field: InputField) -> None:
    if field.values == "tokens":
        _check_tokens(model, name, int(rows.min()), int(rows.max()), field.high)
    if _is_mask(name, field):
        empty = np.flatnonzero(rows.reshape(len(rows), -1)[:, 0] == 0)
        if len(empty):
            cause = f"row {empty[0]} of the examples of '{name}' starts with 0"
            raise SourceUnavailable(model, cause, "Pad examples on the right: rows may be cut.")


def _check_tokens(model: str, name: str, lowest: int, highest: int, vocabulary: int) -> None:
    if lowest < 0 or highest >= vocabulary:
        cause = f"the examples of input '{name}' reach from {lowest} to {highest}"
        hint = f"Its vocabulary has {vocabulary} tokens: are they of another tokenizer?"
        raise SourceUnavailable(model, cause, hint)


def _from_texts(
    model: str, path: Path, checkpoint: Checkpoint, tokenizer_folder: Path | None
) -> Examples:
    tokenizer = _tokenizer(model, path, tokenizer_folder)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=checkpoint.longest or _UNBOUNDED_TEXT)
    encoded = [one for one in tokenizer.encode_batch(_read_texts(model, path)) if one.ids]
    if not encoded:
        hint = "Write one text a line."
        raise SourceUnavailable(model, f"its examples {path} hold no text", hint)
    rows = {
        name: [np.asarray(values, np.dtype(NUMPY_TYPES[field.dtype])) for values in columns]
        for name, field in checkpoint.inputs.items()
        if (columns := _columns(name, field, checkpoint, encoded)) is not None
    }
    if not rows:
        cause = f"its examples {path.name} are texts and it takes no tokens"
        raise SourceUnavailable(model, cause, "Give an .npz with rows for each input.")
    _check_vocabulary(model, checkpoint, rows)
    fill = {name: _padding_token(tokenizer) for name in rows if _is_tokens(checkpoint, name)}
    return Examples(rows, fill)


def _columns(
    name: str, field: InputField, checkpoint: Checkpoint, encoded: Sequence[Any]
) -> list[list[int]] | None:
    """What a tokenizer gives for an input; None for those it knows nothing of."""
    if field.values == "tokens":
        return [one.ids for one in encoded]
    # Where inputs depend on each other, such as a mask over a cache, the checkpoint makes them.
    if checkpoint.sample_with is not None:
        return None
    if _is_mask(name, field):
        return [one.attention_mask for one in encoded]
    return [one.type_ids for one in encoded] if name == _TYPE_IDS else None


def _is_tokens(checkpoint: Checkpoint, name: str) -> bool:
    return checkpoint.inputs[name].values == "tokens"


def _check_vocabulary(
    model: str, checkpoint: Checkpoint, rows: Mapping[str, Sequence[Array] | Array]
) -> None:
    for name, values in rows.items():
        if _is_tokens(checkpoint, name):
            highest = max(int(row.max()) for row in values)
            _check_tokens(model, name, 0, highest, checkpoint.inputs[name].high)


def _padding_token(tokenizer: Any) -> int:
    ids = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>", "<|endoftext|>"))
    return next((int(found) for found in ids if found is not None), 0)


def _read_texts(model: str, path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8") as file:
            texts = (line.strip() for line in file)
            return list(islice((text for text in texts if text), _MOST_TEXTS))
    except (OSError, UnicodeDecodeError) as error:
        cause = f"its examples {path} cannot be read: {root_cause(error)}"
        raise SourceUnavailable(model, cause, "Write one text a line, in UTF-8.") from error


def _tokenizer(model: str, path: Path, folder: Path | None) -> Any:
    from tokenizers import Tokenizer

    file = folder / _TOKENIZER if folder else None
    if file is None or not file.is_file():
        cause = f"its examples {path.name} are texts and its source has no {_TOKENIZER}"
        raise SourceUnavailable(model, cause, "Give an .npz with rows for each input.")
    try:
        return Tokenizer.from_file(str(file))
    # The library raises plain Exception for whatever is wrong with a file.
    except Exception as error:
        cause = f"its tokenizer {file} cannot be read: {root_cause(error)}"
        raise SourceUnavailable(model, cause, "Save it again.") from error
