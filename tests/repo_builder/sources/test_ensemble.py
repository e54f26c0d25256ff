from __future__ import annotations

import pytest

from repo_builder.config.render import render_config
from repo_builder.fingerprint import sha256_of
from repo_builder.product import Step
from repo_builder.publishing.publish import commit, stage
from repo_builder.publishing.staging import open_staging
from repo_builder.signature import Tensor
from repo_builder.sources.base import SourceContext
from repo_builder.sources.ensemble import End, EnsembleSource, Member, join
from tests.repo_builder.builders import product, serving
from tests.repo_builder.publishing.test_publish import entry
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.pbtxt import format_config, parse_config, read_config
from tritonfleet.spec.sources import EnsembleSource as EnsembleSpec


def member(name: str, inputs: str, outputs: str, max_batch_size: int = 8) -> Member:
    """'ids INT64 -1 -1': name, type, dims with the batch."""

    def ends(text):
        found = {}
        for part in text.split(","):
            tensor, dtype, *dims = part.split()
            found[tensor] = End(name, tensor, dtype, tuple(int(size) for size in dims))
        return found

    return Member(name, max_batch_size, ends(inputs), ends(outputs))


TOKENIZER = member("tokenizer", "text BYTES -1 1", "ids INT64 -1 -1, mask INT64 -1 -1", 32)
ENCODER = member("encoder", "ids INT64 -1 -1, mask INT64 -1 -1", "embedding FP32 -1 4", 16)
HEAD = member("head", "embedding FP32 -1 4", "scores FP32 -1 2, extra FP32 -1 1", 64)


def joined(*members: Member, outputs=("scores",), maps=None, name="whole"):
    maps = maps or {}
    steps = [{"model": m.name, **maps.get(m.name, {})} for m in members]
    spec = EnsembleSpec(kind="ensemble", steps=steps, outputs=outputs)
    return join(name, spec, {m.name: m for m in members})


def test_members_join_by_tensor_name_and_give_the_ensemble_its_face():
    made = joined(TOKENIZER, ENCODER, HEAD)
    assert made.signature.inputs == (Tensor("text", "BYTES", ("batch", 1)),)
    assert made.signature.outputs == (Tensor("scores", "FP32", ("batch", 2)),)
    assert made.signature.batchable
    assert made.batch_limit == 16


def test_an_output_that_nobody_takes_is_not_carried():
    assert joined(TOKENIZER, ENCODER, HEAD).steps[-1] == Step(
        "head", {"embedding": "embedding"}, {"scores": "scores"}
    )


def test_an_inner_tensor_may_leave_as_well():
    made = joined(TOKENIZER, ENCODER, HEAD, outputs=("scores", "embedding"))
    assert [tensor.name for tensor in made.signature.outputs] == ["scores", "embedding"]


def test_maps_join_what_is_named_differently():
    other = member("other", "vector FP32 -1 4", "result FP32 -1 2")
    maps = {"other": {"input_map": {"vector": "embedding"}, "output_map": {"result": "scores"}}}
    made = joined(TOKENIZER, ENCODER, other, maps=maps)
    assert made.steps[-1] == Step("other", {"vector": "embedding"}, {"result": "scores"})


def test_an_input_may_be_renamed_and_shared():
    maps = {"a": {"input_map": {"x": "image"}, "output_map": {"y": "first"}},
            "b": {"input_map": {"x": "image"}}}  # fmt: skip
    a, b = member("a", "x FP32 -1 -1", "y FP32 -1 1"), member("b", "x FP32 -1 3", "y FP32 -1 1")
    made = joined(a, b, outputs=("first", "y"), maps=maps)
    assert made.signature.inputs == (Tensor("image", "FP32", ("batch", 3)),)


def test_one_member_without_a_batch_leaves_the_ensemble_without():
    single = member("head", "embedding FP32 -1 4", "scores FP32 -1 2", max_batch_size=0)
    made = joined(TOKENIZER, ENCODER, single)
    assert made.batch_limit == 0
    assert not made.signature.batchable
    assert made.signature.outputs == (Tensor("scores", "FP32", ("?", 2)),)


def test_labels_of_a_member_s_output_are_the_ensemble_s():
    labelled = Member("head", 8, HEAD.inputs, {
        "scores": End("head", "scores", "FP32", (-1, 2), ("no", "yes"))
    })  # fmt: skip
    assert joined(TOKENIZER, ENCODER, labelled).labels == {"scores": ("no", "yes")}


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ("embedding FP16 -1 4", r"encoder\.embedding \(FP32 \[-1, 4\]\) meets head\.embedding"),
        ("embedding FP32 -1 5", "does not fit"),
        ("embedding FP32 -1 4 1", "does not fit"),
    ],
)
def test_a_joint_of_other_types_or_shapes_is_refused_with_both_sides(head, text):
    with pytest.raises(InvalidModelConfig, match=text):
        joined(TOKENIZER, ENCODER, member("head", head, "scores FP32 -1 2"))


def test_two_takers_of_one_input_must_agree():
    a, b = member("a", "x FP32 -1 4", "y FP32 -1 1"), member("b", "x INT64 -1 4", "z FP32 -1 1")
    with pytest.raises(InvalidModelConfig, match="tensor 'x' does not fit"):
        joined(a, b, outputs=("y", "z"))


def test_a_dynamic_size_meets_any():
    assert joined(TOKENIZER, member("encoder", "ids INT64 -1 128, mask INT64 -1 128",
                                    "scores FP32 -1 2"))  # fmt: skip


def test_what_no_member_needs_may_be_left_out():
    a, b = (
        Member(name, 8, {"hint": End(name, "hint", "FP32", (-1, 4), optional=needless),
                         "x": End(name, "x", "FP32", (-1, 4))},
               {f"from_{name}": End(name, f"from_{name}", "FP32", (-1, 1))})
        for name, needless in (("a", True), ("b", False))
    )  # fmt: skip
    assert joined(a, outputs=("from_a",)).optional_inputs == ("hint",)
    assert joined(a, b, outputs=("from_a", "from_b")).optional_inputs == ()


def test_an_output_that_no_step_gives_is_refused_with_a_guess():
    with pytest.raises(InvalidModelConfig, match="Did you mean 'scores'"):
        joined(TOKENIZER, ENCODER, HEAD, outputs=("score",))


def test_a_map_of_what_the_member_has_not_is_refused():
    maps = {"head": {"input_map": {"embeding": "embedding"}}}
    with pytest.raises(InvalidModelConfig, match="Did you mean 'embedding'"):
        joined(TOKENIZER, ENCODER, HEAD, maps=maps)


def test_a_misspelt_joint_does_not_become_an_input_of_the_ensemble():
    maps = {"encoder": {"input_map": {"mask": "masks"}}}
    with pytest.raises(InvalidModelConfig, match=r"no step gives 'masks'.*Did you mean 'mask'"):
        joined(TOKENIZER, ENCODER, HEAD, maps=maps)


def test_a_tensor_from_two_members_is_refused():
    with pytest.raises(InvalidModelConfig, match="comes from both"):
        joined(HEAD, member("again", "embedding FP32 -1 4", "scores FP32 -1 2"))


def test_steps_that_wait_for_each_other_are_refused():
    a, b = member("a", "x FP32 -1 1", "y FP32 -1 1"), member("b", "y FP32 -1 1", "x FP32 -1 1")
    with pytest.raises(InvalidModelConfig, match="steps a, b wait for each other"):
        joined(a, b, outputs=("x",))


def test_steps_may_stand_in_any_order():
    assert joined(HEAD, ENCODER, TOKENIZER).signature.inputs[0].name == "text"


@pytest.fixture
def published(tmp_path):
    """A repository that holds one model, ``part``."""
    repository = tmp_path / "repository"
    with open_staging(repository) as staging:
        contents = staging / "v"
        contents.mkdir()
        made = product("x FP32 batch 4", "y FP32 batch 2", labels={"y": ("no", "yes")})
        config = render_config("part", made, serving(max_batch_size=4))
        staged = stage("part", contents, config, serving(), repository, staging)
        commit(staged, entry(1), repository, sha256_of)
    return SourceContext("whole", tmp_path, repository)


def assemble(context, *steps, outputs=("y",)):
    spec = EnsembleSpec(kind="ensemble", steps=[{"model": s} for s in steps], outputs=outputs)
    folder = context.base / "version"
    folder.mkdir()
    return EnsembleSource().assemble(spec, context, folder)


def test_members_are_read_from_what_is_published(published):
    made = assemble(published, "part")
    assert made.signature == product("x FP32 batch 4", "y FP32 batch 2").signature
    assert (made.batch_limit, made.labels) == (4, {"y": ("no", "yes")})


def test_a_member_that_is_not_published_is_named(published):
    with pytest.raises(InvalidModelConfig, match=r"'prat' is not published\. Did you mean 'part'"):
        assemble(published, "prat")


def test_a_member_s_optional_input_is_the_ensemble_s_in_its_configuration(published):
    file = published.repository / "part" / "config.pbtxt"
    config = read_config(published.repository, "part")
    config.input[0].optional = True
    file.write_text(format_config(config))
    made = assemble(published, "part")
    rendered = render_config("whole", made, serving())
    assert parse_config("whole", rendered.text).input[0].optional
