from __future__ import annotations

import sys

import pytest

from tests.repo_builder.variants.tensorrt.fake import VERSIONS, FakeTensorRT


@pytest.fixture(params=VERSIONS)
def trt(request, monkeypatch):
    """Both releases in turn, as ``import tensorrt``."""
    fake = FakeTensorRT(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake
