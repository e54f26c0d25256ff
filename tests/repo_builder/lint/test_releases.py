from __future__ import annotations

import pytest

from repo_builder.lint.releases import onnx_runtime_of


@pytest.mark.parametrize(
    ("release", "runtime"),
    [("23.11", "1.16"), ("24.02", "1.16"), ("24.10", "1.18"), ("26.08", "1.26"), ("27.01", "1.26")],
)
def test_a_release_brings_the_runtime_of_the_last_change_before_it(release, runtime):
    assert onnx_runtime_of(release).onnxruntime == runtime


@pytest.mark.parametrize("release", ["", "24", "24.13", "2.51.0", "a.b", "23.10"])
def test_what_is_no_known_release_is_refused(release):
    with pytest.raises(ValueError, match=r"release|oldest"):
        onnx_runtime_of(release)
