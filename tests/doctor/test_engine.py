"""What a container engine tells of itself, or why it does not."""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path

import pytest

from tests.doctor.builders import container, needs, statuses
from tests.engine import CPU_IMAGE
from tritonfleet.doctor.checks import CHECKS
from tritonfleet.doctor.engine import ask_engine
from tritonfleet.doctor.machine import Machine
from tritonfleet.launchers.engine.facts import address_of


@pytest.fixture
def deaf(tmp_path):
    """The address of a socket whose owner hangs up on everybody."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "engine.sock"))
        sock.listen()
        thread = threading.Thread(target=hang_up, args=(sock,), daemon=True)
        thread.start()
        yield f"unix://{tmp_path}/engine.sock"
        sock.shutdown(socket.SHUT_RDWR)
        thread.join()


def hang_up(sock):
    while True:
        try:
            connection, _ = sock.accept()
        except OSError:
            return
        connection.close()


def test_a_setting_comes_before_the_environment_and_that_before_dockers_usual_place(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://elsewhere:2376")
    assert address_of("unix:///mine.sock") == "unix:///mine.sock"
    assert address_of(None) == "tcp://elsewhere:2376"
    monkeypatch.delenv("DOCKER_HOST")
    assert address_of(None) == "unix:///var/run/docker.sock"


def test_a_missing_socket_is_told_before_anything_is_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    engine = ask_engine(f"unix://{tmp_path}/none.sock")
    assert engine.problem == "no socket"
    assert str(tmp_path / "none.sock") in engine.detail


def test_a_socket_of_others_is_told_with_its_owner(deaf, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    engine = ask_engine(deaf)
    assert engine.problem == "no permission"
    assert "belongs to" in engine.detail


def test_a_folder_that_we_may_not_enter_is_told(tmp_path, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    engine = ask_engine(f"unix://{tmp_path}/engine.sock")
    assert engine.problem == "no permission"
    assert "may not enter" in engine.detail


def test_a_missing_sdk_is_told(deaf, monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    assert ask_engine(deaf).problem == "no sdk"


def test_an_engine_that_hangs_up_does_not_answer(deaf):
    engine = ask_engine(deaf)
    assert engine.problem == "no answer"
    assert engine.detail


def test_an_address_of_another_kind_does_not_answer():
    assert ask_engine("nonsense://here").problem == "no answer"


@pytest.mark.docker
def test_a_real_engine_tells_what_it_is_and_which_images_it_has(engine, cpu_image):
    told = ask_engine(address_of(engine.address), (cpu_image, "tritonfleet/no-such-image"))
    assert told.problem is None
    assert told.version == engine.client.version()["Version"]
    assert told.storage_driver
    assert list(told.images) == [cpu_image]
    assert told.images[cpu_image].config["Labels"]["io.tritonfleet.image"] == "tritonserver-cpu"


@pytest.mark.docker
def test_a_fleet_of_our_own_image_passes_all_checks_of_containers(engine, cpu_image, tmp_path):
    fleet = needs(container(image=CPU_IMAGE), state_dir=tmp_path, repository=tmp_path)
    for name in ("engine", "toolkit", "images", "disk", "shared-memory"):
        assert "failed" not in statuses(CHECKS[name](fleet, Machine())), name
