"""Sizes as people write them."""

from __future__ import annotations

import pytest

from tritonfleet.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 512 * 2**20), ("1.5 GiB", 3 * 2**29), ("2GB", 2 * 10**9), ("7", 7), (7, 7)],
)
def test_sizes_are_read_with_binary_and_decimal_units(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "a lot", "1 GiBB", "-1", "1 2"])
def test_anything_else_is_refused_with_the_known_units(text):
    with pytest.raises(ValueError, match="KiB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (2**30, "1 GiB"), (2**40, "1.0 TiB")]
)
def test_sizes_are_shown_in_binary_units(size, text):
    assert format_bytes(size) == text
