"""Serving options that contradict themselves or each other, told with line and way out."""

from __future__ import annotations

import textwrap

import pytest

from tritonfleet.errors import InvalidSpec
from tritonfleet.spec import load_fleet

HEAD = """\
servers: [{name: gpu0, capacity: 8GiB}]
models:
"""
MODEL = "  m:\n    source: {kind: huggingface, model: x, task: feature-extraction}\n"
FIRST_LINE = HEAD.count("\n") + MODEL.count("\n") + 2


def write(tmp_path, text):
    path = tmp_path / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def serving(text):
    return MODEL + "    serving:\n" + textwrap.indent(textwrap.dedent(text), "      ")


def problems(tmp_path, *models):
    with pytest.raises(InvalidSpec) as caught:
        load_fleet(write(tmp_path, HEAD + "".join(models)))
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "path", "message", "hint"),
    [
        ("{dynamic_batching: {}, sequence_batching: {}}", "sequence_batching",
         "a model has one batcher", "add dynamic_batching: null"),
        ("sequence_batching: {direct: {}, oldest: {max_candidate_sequences: 1}}",
         "sequence_batching", "one of direct and oldest", None),
        ("{max_batch_size: 2, sequence_batching: {oldest: {max_candidate_sequences: 1, "
         "preferred_batch_size: [4]}}}", "sequence_batching.oldest.preferred_batch_size",
         "4 is above max_batch_size 2", None),
        ("sequence_batching: {control_input: [{name: a, control: [{kind: start}]}, "
         "{name: b, control: [{kind: start}]}]}", "sequence_batching.control_input",
         "two inputs are for the signal 'start'", "drop one"),
        ("sequence_batching: {control_input: [{name: a, control: [{kind: start}]}], "
         "state: [{input_name: a, output_name: b}]}", "sequence_batching",
         "input 'a' is filled in twice", "drop one"),
        ("sequence_batching: {control_input: [{name: a, control: [{kind: start, "
         "data_type: INT64}]}]}", "sequence_batching.control_input.0.control.0.data_type",
         "only 'corrid' has a data_type", "give a ..._false_true"),
        ("sequence_batching: {control_input: [{name: a, control: [{kind: corrid, "
         "int32_false_true: [0, 1]}]}]}",
         "sequence_batching.control_input.0.control.0.int32_false_true",
         "a correlation id is a number or text", "drop it"),
        ("sequence_batching: {control_input: [{name: a, control: [{kind: end, "
         "int32_false_true: [0, 1], fp32_false_true: [0, 1]}]}]}",
         "sequence_batching.control_input.0.control.0", "give one of", None),
        ("{response_cache: {enable: true}, model_transaction_policy: {decoupled: true}}",
         "response_cache", "a decoupled model has no one answer", "drop one of the two"),
        ("{response_cache: {enable: true}, sequence_batching: {}}", "response_cache",
         "answers within a sequence depend", "drop one of the two"),
        ("instance_group: []", "instance_group", "at least one group", "leave it out"),
        ("instance_group: [{kind: cpu, gpus: [0]}]", "instance_group.0.gpus",
         "instances of kind 'cpu' have no gpus", "drop one"),
        ("instance_group: [{gpus: [0, 0]}]", "instance_group.0.gpus",
         "give each GPU's number once", "raise count"),
        ("instance_group: [{name: a}, {name: a}]", "instance_group.0.name",
         "two groups are named 'a'", "rename one"),
        ("instance_group: [{passive: true}]", "instance_group", "every group is passive",
         "drop one 'passive'"),
        ("instance_group: [{rate_limiter: {resources: [{name: r, count: 1}, "
         "{name: r, count: 2}]}}]", "instance_group.0.rate_limiter.resources",
         "resource 'r' is asked for more than once", "add the counts up"),
        ("warmup: [{name: a}, {name: a}]", "warmup.1.name", "two warm-ups are named 'a'", None),
        ("warmup: [{dimensions: {sequence: 0}}]", "warmup.0.dimensions.sequence",
         "0 is no size", "give 1 or more"),
        ("{max_batch_size: 2, warmup: [{batch_size: 3}]}", "warmup.0.batch_size",
         "3 is above max_batch_size 2", None),
        ("input: {ids: {dims: [0]}}", "input.ids.dims", "a size is at least 1, or -1", None),
        ("output: {y: {reshape: [4]}}", "output.y.reshape", "a reshape needs dims", "artifact's"),
        ("input: {ids: {allow_ragged_batch: true}}", "input.ids.allow_ragged_batch",
         "no effect without a batcher", "add dynamic_batching: {}"),
        ("{max_batch_size: 0, sequence_batching: {}, input: {ids: {allow_ragged_batch: true}}}",
         "input.ids.allow_ragged_batch", "a ragged batch needs a batch", "raise max_batch_size"),
        ("batch_output: [{target_name: [y], source_input: [ids]}]",
         "batch_output.0.source_input", "source_input 'ids' is not ragged",
         "input: {ids: {allow_ragged_batch: true}}"),
        ("optimization: {tensorrt: {}, execution_accelerators: {gpu_execution_accelerator: "
         "[{name: tensorrt}]}}", "optimization.tensorrt", "'tensorrt' is given twice", "drop one"),
        ("extra: {backend: python}", "extra.backend", "'backend' follows from the model",
         "leave it out"),
        ("dynamic_batching: {preferred_batch_size: [0]}", "dynamic_batching.preferred_batch_size",
         "0 is no size", "give 1 or more"),
        ("configs: {big: {max_batch_size: 4, dynamic_batching: {preferred_batch_size: [8]}}}",
         "configs.big.dynamic_batching.preferred_batch_size", "8 is above max_batch_size 4", None),
    ],
)  # fmt: skip
def test_a_contradiction_is_told_with_its_line_and_a_way_out(tmp_path, text, path, message, hint):
    found = problems(tmp_path, serving(text + "\n"))
    told = next(each for each in found if each.path == f"models.m.serving.{path}")
    assert message in told.message
    assert hint is None or hint in (told.suggestion or "")
    assert told.line == FIRST_LINE


def test_a_mistake_that_another_configuration_inherits_is_told_once(tmp_path):
    text = "{max_batch_size: 2, warmup: [{batch_size: 3}], configs: {big: {}}}\n"
    (found,) = problems(tmp_path, serving(text))
    assert found.path == "models.m.serving.warmup.0.batch_size"


ENSEMBLE = """\
  e:
    source: {kind: ensemble, steps: [{model: m}], outputs: [y]}
"""


@pytest.mark.parametrize("option", ["instance_group: [{count: 2}]", "warmup: [{}]"])
def test_what_an_ensemble_says_in_vain_is_told(tmp_path, option):
    (found,) = problems(tmp_path, MODEL, ENSEMBLE, f"    serving: {{{option}}}\n")
    assert found.message == f"an ensemble has no {option.split(':')[0]}"
    assert found.suggestion == "say it in its members"


def test_what_an_ensemble_has_from_its_profile_is_no_mistake(tmp_path):
    text = HEAD + MODEL + ENSEMBLE + "    profile: large\n"
    assert load_fleet(write(tmp_path, text)).serving("e").instance_group[0].rate_limiter


def test_a_resource_is_global_everywhere_or_nowhere(tmp_path):
    group = "    serving: {{instance_group: [{{rate_limiter: {{resources: [{}]}}}}]}}\n"
    one = MODEL + group.format("{name: heavy, count: 1}")
    other = MODEL.replace("m:", "n:", 1) + group.format("{name: heavy, count: 1, global: true}")
    (found,) = problems(tmp_path, one, other)
    assert found.path == "models.n.serving.instance_group.0.rate_limiter.resources"
    assert "global in one model and not in all" in found.message


@pytest.mark.parametrize(
    "option",
    [
        "default_model_filename: ../../model.onnx", "runtime: /tmp/lib.so",
        "cc_model_filenames: {9.0: a/b}", "cc_model_filenames: {hopper: a.plan}",
        "configs: {../x: {}}", "optimization: {tensorrt: {cache: relative}}",
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(tmp_path, option):
    assert problems(tmp_path, serving(f"{option}\n"))


def test_compute_capabilities_may_be_written_as_numbers(tmp_path):
    text = HEAD + serving("cc_model_filenames: {9.0: model_90.plan}\n")
    found = load_fleet(write(tmp_path, text)).serving("m").cc_model_filenames
    assert found == {"9.0": "model_90.plan"}


def test_a_misspelt_word_gets_a_guess(tmp_path):
    found = problems(tmp_path, serving("optimization: {eager_batchin: true}\n"))
    assert "eager_batching" in (found[0].suggestion or "")


def test_numbers_and_booleans_become_texts_where_triton_wants_texts(tmp_path):
    text = serving("parameters: {threads: 2, fast: true, ratio: 0.5, name: x}\n")
    parameters = load_fleet(write(tmp_path, HEAD + text)).serving("m").parameters
    assert parameters == {"threads": "2", "fast": "true", "ratio": "0.5", "name": "x"}


def test_other_configurations_are_laid_over_the_model_s_own(tmp_path):
    text = serving("{max_batch_size: 2, parameters: {a: 1}, configs: {big: {max_batch_size: 9}}}\n")
    fleet = load_fleet(write(tmp_path, HEAD + text + "    profile: interactive\n"))
    ((name, options),) = fleet.serving("m").alternatives()
    assert (name, options.max_batch_size, options.parameters) == ("big", 9, {"a": "1"})
    assert options.dynamic_batching is not None
    assert options.dynamic_batching.max_queue_delay_microseconds == 500
    assert options.configs == {}
