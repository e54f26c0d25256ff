from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from fleet_perf.peers import environments
from fleet_perf.peers.environments import (
    PeerMissing,
    interpreter,
    packages,
    with_our_runtime,
)


@pytest.fixture
def installations(monkeypatch):
    """What would be installed; the environments themselves are real, and empty."""
    made = []

    def install(place, peer, python, requirements, say):
        made.append(tuple(requirements))
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)

    monkeypatch.setattr(environments, "_install", install)
    monkeypatch.setattr(environments, "_installed", lambda _: "peer==1\nnumpy==2\n")
    return made


def test_the_runtime_is_pinned_to_ours():
    assert with_our_runtime("peer==1") == (
        "peer==1",
        f"onnxruntime=={version('onnxruntime')}",
        f"numpy=={version('numpy')}",
    )


def test_an_environment_is_made_once(tmp_path, installations):
    said = []
    python = interpreter(tmp_path, "peer", ["peer==1"], said.append)
    assert interpreter(tmp_path, "peer", ["peer==1"], said.append) == python
    assert installations == [("peer==1",)]
    assert packages(python) == ("peer==1", "numpy==2")
    assert "installing peer (peer==1)" in said[0]
    answer = subprocess.run([python, "-c", "import sys; print(sys.prefix)"], capture_output=True)
    assert answer.stdout.decode().strip() == str(python.parent.parent)


def test_other_requirements_get_another_environment(tmp_path, installations):
    one = interpreter(tmp_path, "peer", ["peer==1"], lambda _: None)
    assert interpreter(tmp_path, "peer", ["peer==2"], lambda _: None) != one


def test_an_interrupted_installation_is_made_anew(tmp_path, installations, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(environments, "_installed", interrupted)
        interpreter(tmp_path, "peer", ["peer==1"], lambda _: None)
    interpreter(tmp_path, "peer", ["peer==1"], lambda _: None)
    assert len(installations) == 2


def test_what_pip_says_last_is_the_cause():
    script = "print('Collecting peer'); print('ERROR: no such thing'); raise SystemExit(1)"
    said = []
    with pytest.raises(PeerMissing, match=r"ERROR: no such thing\. Leave it out") as caught:
        environments._run("peer", [sys.executable, "-c", script], said.append)
    assert caught.value.peer == "peer"
    assert said == ["peer: Collecting peer"]
