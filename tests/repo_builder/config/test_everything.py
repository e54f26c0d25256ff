"""Every part of Triton's model configuration that is typed reaches config.pbtxt."""

from __future__ import annotations

import os
import typing
from pathlib import Path

import pytest

from repo_builder.config.render import render_config
from tests.repo_builder.builders import product, serving
from tests.repo_builder.config.everything import configurations
from tritonfleet.server.pbtxt import ModelConfig, parse_config
from tritonfleet.spec.base import Spec
from tritonfleet.spec.serving import BUILT_IN_PROFILES, ConfigOptions, ServingSpec

GOLDEN = Path(__file__).with_name("golden")
WRITE_GOLDEN = os.environ.get("TRITONFLEET_GOLDEN") == "write"

UNTYPED = {
    # Only one word each, the one that protobuf leaves unwritten.
    "batch_output.kind",
    "instance_group.secondary_devices.kind",
    # Later than any server this was tried on, and for ensembles alone: 'extra' takes them.
    "ensemble_scheduling.max_inflight_requests",
    "ensemble_scheduling.step.model_namespace",
}


def declared(descriptor, path=""):
    """The paths of all fields there are."""
    for field in descriptor.fields:
        at = f"{path}.{field.name}".lstrip(".")
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
        yield at
        if inner is not None:
            yield from declared(inner, at)


def used(message, path=""):
    """The paths of the fields that are set."""
    for field, value in message.ListFields():
        at = f"{path}.{field.name}".lstrip(".")
        yield at
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            items = value.values()
        else:
            items = value if hasattr(value, "extend") else [value]
        for item in items:
            if hasattr(item, "ListFields"):
                yield from used(item, at)


def test_options_that_leave_nothing_out_set_every_field_of_the_configuration():
    found = {path for config in configurations().values() for path in used(config.message)}
    assert set(declared(ModelConfig.DESCRIPTOR)) - found == UNTYPED


@pytest.mark.parametrize("name", ["everything", "sequences", "direct", "pipeline"])
def test_what_is_written_parses_back_to_what_was_meant(name):
    config = configurations()[name]
    assert parse_config(name, config.text) == config.message


def compare(name, text):
    file = GOLDEN / f"{name}.pbtxt"
    if WRITE_GOLDEN:
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", ["everything", "sequences", "direct", "pipeline"])
def test_full_configurations_are_written_as_ever(name):
    compare(name, configurations()[name].text)


@pytest.mark.parametrize("profile", sorted(BUILT_IN_PROFILES))
def test_each_profile_is_written_as_ever(profile):
    made = product("ids INT64 batch sequence, mask INT64 batch sequence", "y FP32 batch 384")
    compare(
        profile, render_config(profile, made, serving(**BUILT_IN_PROFILES[profile]["serving"])).text
    )


@pytest.mark.parametrize("profile", sorted(BUILT_IN_PROFILES))
def test_no_profile_binds_a_model_to_a_device_or_narrows_its_inputs(profile):
    made = product("ids INT64 batch sequence", "y FP32 batch 384")
    message = render_config("m", made, serving(**BUILT_IN_PROFILES[profile]["serving"])).message
    assert not {"instance_group.kind", "instance_group.gpus"} & set(used(message))
    assert list(message.input[0].dims) == [-1]
    assert not message.HasField("optimization")


def options(spec):
    """The names of a spec's options, and of those inside them."""
    for name, field in spec.model_fields.items():
        yield field.alias or name
        for inner in specs_in(field.annotation):
            yield from options(inner)


def specs_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        # A configuration among others has the options that are told already.
        return [] if annotation is ConfigOptions else [annotation]
    return [spec for inner in typing.get_args(annotation) for spec in specs_in(inner)]


def test_every_option_is_told_in_the_documentation():
    text = (Path(__file__).parents[3] / "docs/config.md").read_text(encoding="utf-8")
    assert [name for name in sorted(set(options(ServingSpec))) if name not in text] == []
