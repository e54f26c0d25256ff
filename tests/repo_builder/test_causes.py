from __future__ import annotations

from repo_builder.causes import first_line, last_lines, root_cause


def chained() -> BaseException:
    try:
        try:
            raise ValueError(
                "\x1b[31mFailed to export the model.\x1b[0m\n\n# heading\nthe real reason"
            )
        except ValueError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as outer:
        return outer


def test_the_root_cause_is_one_line_without_colours_and_headings():
    assert root_cause(chained()) == "ValueError: the real reason"


def test_an_error_without_a_text_is_told_by_its_type():
    assert root_cause(MemoryError()) == "MemoryError"


def test_a_circle_of_causes_ends():
    error = RuntimeError("round")
    other = RuntimeError("and round")
    error.__cause__, other.__cause__ = other, error
    assert root_cause(error) == "RuntimeError: and round"


def test_a_line_that_announces_something_is_followed_by_it():
    assert first_line("found conflicts:\n\n  axis 0\nmore") == "found conflicts: axis 0"
    assert first_line("nothing follows:") == "nothing follows"


def test_a_long_line_is_cut():
    assert len(first_line("x" * 1000)) == 300


def test_only_headings_are_better_than_nothing():
    assert first_line("# one\n# two") == "# one"
    assert first_line("") == ""


def test_the_end_of_a_log_has_no_empty_lines():
    assert last_lines("a\n\nb\n\n\x1b[1mc\x1b[0m\n", count=2) == "b\nc"
