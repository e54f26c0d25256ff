"""The demo fleet's repository, built once for all tests that serve real models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "triton_configs" / "demo.yaml"


@pytest.fixture(scope="session")
def built(pytestconfig):
    """The demo's repository and the report of its build; kept between runs, like a user's."""
    folder = Path(pytestconfig.cache.mkdir("demo"))
    command = [sys.executable, "-m", "tritonfleet", "build", "--fleet", str(DEMO), "--json"]
    answer = subprocess.run(
        [*command, "--repository", str(folder / "repository")],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        timeout=800,
    )
    assert answer.returncode == 0, answer.stdout
    return folder / "repository", json.loads(answer.stdout)
