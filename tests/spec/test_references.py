"""A reference leads to its secret, or to an error that holds nothing of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.errors import InvalidAccess
from tritonfleet.spec.references import read_header, read_secret

WHOSE = "the admin secret of server 'gpu0'"
NAMES = st.text("ABC_", min_size=1, max_size=5)
PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1)


@given(NAMES, PRINTABLE)
def test_a_variable_holds_the_secret(tmp_path_factory, name, secret):
    folder = tmp_path_factory.getbasetemp()
    assert read_header(WHOSE, f"env:{name}", folder, {name: f" {secret}\n"}) == secret


def test_a_file_is_looked_for_beside_the_fleet_file(tmp_path):
    (tmp_path / "secret").write_text("sesame\n")
    assert read_secret(WHOSE, "file:secret", tmp_path) == "sesame"
    assert read_secret(WHOSE, f"file:{tmp_path}/secret", tmp_path / "elsewhere") == "sesame"


def test_the_environment_is_ours_unless_another_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("THE_KEY", "sesame")
    assert read_secret(WHOSE, "env:THE_KEY", tmp_path) == "sesame"


@pytest.mark.parametrize(
    ("reference", "cause"),
    [
        ("env:NO_SUCH", "there is no such variable. Export NO_SUCH"),
        ("file:no-such", "No such file or directory. It is looked for at /"),
        ("file:binary", "it is not text"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told_with_its_place(tmp_path, reference, cause):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidAccess) as caught:
        read_secret(WHOSE, reference, tmp_path, {})
    assert str(caught.value).startswith(f"{WHOSE}, {reference}: {cause}")


@pytest.mark.parametrize(
    ("secret", "cause"), [(" \n", "it is empty"), ("open sesame", "blanks"), ("schlüssel", "ASCII")]
)
def test_what_no_header_can_hold_is_refused_and_not_shown(tmp_path, secret, cause):
    with pytest.raises(InvalidAccess, match=cause) as caught:
        read_header(WHOSE, "env:KEY", tmp_path, {"KEY": secret})
    assert not secret.strip() or secret not in str(caught.value)
