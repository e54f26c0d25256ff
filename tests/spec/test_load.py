"""Fleet files: what they mean, and how every mistake in one is reported at once."""

from __future__ import annotations

import json
import textwrap

import pytest

from tritonfleet.errors import InvalidSpec
from tritonfleet.spec import load_fleet

GOOD = """
name: demo
servers:
  - name: gpu0
    capacity: 8GiB
models:
  bert:
    source: {kind: huggingface, model: bert-base, task: feature-extraction}
"""


def write(tmp_path, text):
    path = tmp_path / "fleet.yaml"
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def problems(tmp_path, text):
    with pytest.raises(InvalidSpec) as caught:
        load_fleet(write(tmp_path, text))
    return caught.value.problems


def test_a_minimal_file_is_enough(tmp_path):
    fleet = load_fleet(write(tmp_path, GOOD))
    assert fleet.servers[0].capacity == 8 * 2**30
    assert fleet.serving("bert").instance_group[0].count == 1


def test_five_mistakes_are_reported_at_once_with_line_path_and_suggestion(tmp_path):
    found = problems(
        tmp_path,
        """\
        name: bad
        servers:
          - name: gpu0
            capacity: 1 GiBB
        models:
          a:
            source: {kind: huggingfase, model: x}
          b:
            source: {kind: huggingface, model: x, task: text-generatoin}
            servin: {max_batch_size: 4}
          c:
            source: {kind: ensemble, steps: [{model: bb}], outputs: [y]}
            profile: interactiv
        """,
    )
    assert [(p.line, p.path) for p in found] == [
        (4, "servers.0.capacity"),
        (7, "models.a.source"),
        (9, "models.b.source.task"),
        (10, "models.b.servin"),
        (12, "models.c.source.steps.0.model"),
        (13, "models.c.profile"),
    ]
    assert "no size" in found[0].message
    suggestions = [problem.suggestion for problem in found[1:]]
    words = ["huggingface", "text-generation", "serving", "b", "interactive"]
    assert suggestions == [f"did you mean '{word}'?" for word in words]


def test_invalid_yaml_names_its_line(tmp_path):
    (problem,) = problems(tmp_path, "servers:\n  - name: [gpu0\nmodels: {}\n")
    assert problem.line == 3
    assert "not valid YAML" in problem.message


def test_a_duplicate_model_is_an_error_with_its_line(tmp_path):
    text = GOOD + "  bert:\n    source: {kind: tokenizer, model: x}\n"
    (problem,) = problems(tmp_path, text)
    assert problem.line == 9
    assert "duplicate key" in problem.message


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(InvalidSpec, match="No such file"):
        load_fleet(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("addition", "path", "message"),
    [
        (
            "    serving: {max_batch_size: 4, dynamic_batching: {preferred_batch_size: [8]}}",
            "models.bert.serving.dynamic_batching.preferred_batch_size",
            "8 is above max_batch_size 4",
        ),
        (
            "    serving: {dynamic_batching: {priority_levels: 2}}",
            "models.bert.serving.dynamic_batching.default_priority_level",
            "must lie in 1..2",
        ),
        (
            "    serving: {version_policy: {all: true, latest: 2}}",
            "models.bert.serving.version_policy",
            "exactly one of latest, specific and all",
        ),
        (
            "    residency: {footprint: 9GiB}",
            "models.bert.residency.footprint",
            "9 GiB is more than the largest server's 7.2 GiB",
        ),
        (
            "  loop:\n    source: {kind: ensemble, steps: [{model: loop}], outputs: [y]}",
            "models.loop.source.steps",
            "the ensemble contains itself: loop -> loop",
        ),
        ("defaults: {profile: fast}", "defaults.profile", "there is no profile 'fast'"),
    ],
)
def test_contradictions_are_found(tmp_path, addition, path, message):
    (problem,) = problems(tmp_path, GOOD + addition + "\n")
    assert problem.path == path
    assert message in problem.message
    assert problem.line is not None


def head_room(tmp_path, size):
    text = GOOD.replace("capacity: 8GiB", f"capacity: 8GiB\n    head_room: {size}")
    return load_fleet(write(tmp_path, text)).servers[0].head_room_bytes


@pytest.mark.parametrize(
    ("size", "in_bytes"), [("256MiB", 2**28), ("1024", 1024), ("25%", 2**31), ("'0.5 %'", 42949672)]
)
def test_head_room_is_a_size_or_a_share_of_the_capacity(tmp_path, size, in_bytes):
    assert head_room(tmp_path, size) == in_bytes


@pytest.mark.parametrize(
    ("size", "message"),
    [("some", "is no size"), ("-1", "is less than nothing"), ("95%", "leaves no memory")],
)
def test_a_head_room_that_cannot_be_is_refused(tmp_path, size, message):
    with pytest.raises(InvalidSpec, match=message) as refused:
        head_room(tmp_path, size)
    (problem,) = refused.value.problems
    assert (problem.path, problem.line) == ("servers.0.head_room", 6)


def test_a_misspelt_deep_key_is_suggested(tmp_path):
    text = GOOD + "    serving: {dynamic_batching: {max_queue_delay_us: 3}}\n"
    (problem,) = problems(tmp_path, text)
    assert problem.suggestion == "did you mean 'max_queue_delay_microseconds'?"


def test_model_beats_profile_beats_defaults(tmp_path):
    fleet = load_fleet(
        write(
            tmp_path,
            GOOD
            + """\
    profile: mine
    serving: {dynamic_batching: {max_queue_delay_microseconds: 7}}
profiles:
  mine: {serving: {max_batch_size: 16, dynamic_batching: {preserve_ordering: true}}}
defaults:
  serving: {max_batch_size: 2, keep_versions: 5}
""",
        )
    )
    serving = fleet.serving("bert")
    assert (serving.max_batch_size, serving.keep_versions) == (16, 5)
    assert serving.dynamic_batching.preserve_ordering is True
    assert serving.dynamic_batching.max_queue_delay_microseconds == 7


def test_null_switches_off_what_the_profile_switches_on(tmp_path):
    text = GOOD + "    profile: interactive\n    serving: {dynamic_batching: null}\n"
    assert load_fleet(write(tmp_path, text)).serving("bert").dynamic_batching is None


def test_ensembles_require_the_members_of_their_members(tmp_path):
    text = (
        GOOD
        + """\
  inner: {source: {kind: ensemble, steps: [{model: bert}], outputs: [y]}}
  outer: {source: {kind: ensemble, steps: [{model: inner}], outputs: [y]}}
"""
    )
    assert load_fleet(write(tmp_path, text)).requires("outer") == ("bert", "inner")


@pytest.mark.parametrize(
    "name", ["../bert", "a/b", "..", ".hidden", "/etc", "a\\b", "", "bert ", "bert\n"]
)
def test_a_model_s_name_cannot_leave_the_repository(tmp_path, name):
    models = {name: {"source": {"kind": "python", "path": "x"}}}
    text = f"servers: [{{name: gpu0, capacity: 8GiB}}]\nmodels: {json.dumps(models)}\n"
    assert any("pattern" in problem.message for problem in problems(tmp_path, text))
