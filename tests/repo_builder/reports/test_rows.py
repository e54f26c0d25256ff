from __future__ import annotations

import pytest

from repo_builder.reports import rows
from tests.repo_builder.reports.entries import entry, full, measured, parity, variant
from tritonfleet.server.layout import EarlierVersion


def test_the_original_comes_first_and_every_variant_follows():
    assert [row.name for row in rows.variant_rows(full())] == ["original", "onnx", "int8", "fp16"]


def test_latencies_say_how_many_times_as_fast_as_the_original():
    original, onnx, int8, fp16 = rows.variant_rows(full())
    assert original.latencies == ("16 ms", "50 ms")
    assert onnx.latencies == ("8 ms (2.00×)", "40 ms (1.25×)")
    assert int8.latencies == ("4 ms (4.00×)", "16 ms (3.12×)")
    assert fp16.latencies == ("", "")


def test_without_an_original_latencies_stand_alone():
    (row,) = rows.variant_rows(entry(variants=(variant("onnx", measured=measured(8)),)))
    assert row.latencies == ("8 ms",)


def test_a_batch_that_only_some_were_measured_at_leaves_the_others_empty():
    both = (variant("a", measured=measured(8)), variant("b", measured=measured(8, 40)))
    first, second = rows.variant_rows(entry(variants=both))
    assert (first.latencies, second.latencies) == (("8 ms", ""), ("8 ms", "40 ms"))


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (None, ""),
        (parity(), "2.0e-06 of 1e-04"),
        (parity(4e-2, None, cosine_similarity=0.991), "cosine 0.991"),
        (parity(argmax_agreement=1.0, top_k_agreement=0.98),
         "2.0e-06 of 1e-04, argmax 1, top-k 0.98"),
        (parity(token_agreement=1.0), "2.0e-06 of 1e-04, tokens 1"),
    ],
)  # fmt: skip
def test_parity_says_what_it_was_judged_by(record, text):
    assert rows.parity_text(record) == text


def test_proof_and_memory_are_said_in_a_sentence():
    model = full()
    assert rows.proof_text(model.proof) == (
        "answered batches of 1, 8 in tritonserver 2.51.0, 1.0e-06 from the original at most; "
        "loading took 0.20 s"
    )
    assert rows.footprint_text(model.footprint) == (
        "60 MiB loaded, 93 MiB after a batch of 8 (2 instances, sharing weights, server)"
    )


def test_what_is_not_known_is_not_passed_over():
    assert "no server has loaded it" in rows.proof_text(None)
    assert rows.footprint_text(None) == "not measured"


def test_random_weights_are_said_with_the_source():
    model = entry(source={"kind": "huggingface", "model": "org/bert"}, random_weights=True)
    assert rows.source_text(model) == "huggingface, org/bert, random weights: predicts nothing"


def test_versions_are_listed_from_the_newest_with_what_a_rollback_did():
    model = full().model_copy(update={"restored": 1})
    newest, older = rows.version_rows(model)
    assert newest[0] == "2"
    assert newest[-1] == "newest, version 1 again, by a rollback"
    assert older[:3] == ("1", "2026-01-01 10:00 UTC", "onnx")


def test_a_version_that_is_no_longer_on_disk_is_not_listed():
    gone = {**full().earlier, 9: EarlierVersion(entry=entry(version=9).model_dump(), files={})}
    model = full().model_copy(update={"earlier": gone})
    assert [row[0] for row in rows.version_rows(model)] == ["2", "1"]
