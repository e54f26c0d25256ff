"""In processes of their own: what is imported here stays imported for all other tests."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PREAMBLE = """
import json, sys
from tritonfleet.launchers.backends.onnxruntime import lean_imports
lean_imports.defer()
"""


def tell(program: str):
    output = subprocess.run(
        [sys.executable, "-c", PREAMBLE + program], capture_output=True, text=True, check=True
    ).stdout
    return json.loads(output)


def test_numpy_comes_without_what_serving_never_uses():
    loaded = tell("import numpy, onnxruntime; print(json.dumps(list(sys.modules)))")
    assert "numpy.linalg.linalg" in loaded
    for inside in ("numpy.random.mtrand", "numpy.ma.core", "numpy.polynomial.polynomial"):
        assert inside not in loaded
    assert "asyncio.events" not in loaded


@pytest.mark.parametrize(
    "use",
    [
        "numpy.random.default_rng(0).random() < 1",
        "numpy.fft.fft([1, 1])[0].real == 2",
        "numpy.ma.array([1, 2], mask=[0, 1]).sum() == 1",
        "numpy.polynomial.Polynomial([1, 2])(1) == 3",
        "hasattr(numpy.ctypeslib, 'as_array')",
    ],
)
def test_a_part_of_numpy_that_is_used_after_all_works(use):
    assert tell(f"import numpy; print(json.dumps(bool({use})))")


def test_the_one_question_is_answered_without_importing_asyncio():
    program = """
import asyncio
async def coroutine(): pass
asked = coroutine()
answers = [asyncio.iscoroutine(asked), asyncio.iscoroutine([])]
asked.close()
print(json.dumps([answers, "asyncio.events" in sys.modules]))
"""
    assert tell(program) == [[True, False], False]


@pytest.mark.parametrize(
    "use",
    [
        "import asyncio; asyncio.run(asyncio.sleep(0))",
        "from asyncio import run, sleep; run(sleep(0))",
        "import asyncio.events; asyncio.events.new_event_loop().close()",
        "import asyncio; asyncio.Queue; asyncio.run(asyncio.sleep(0))",
    ],
)
def test_asyncio_works_for_whoever_uses_it_after_all(use):
    assert tell(
        f"{use}\nprint(json.dumps(asyncio_is_real()))".replace(
            "asyncio_is_real()", "hasattr(sys.modules['asyncio'], 'Task')"
        )
    )


def test_deferring_twice_changes_nothing():
    program = """
lean_imports.defer()
import numpy
finders = [type(finder).__name__ for finder in sys.meta_path]
lean_imports.defer()
print(json.dumps(finders == [type(finder).__name__ for finder in sys.meta_path]))
"""
    assert tell(program)
