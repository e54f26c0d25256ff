"""How the images are built is decided from the checkout and the environment, and said in words."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import pytest

from scripts import images

ROOT = Path(__file__).parents[2]
base_image = images.base_image
OPTIONS = argparse.Namespace(network="host", no_cache=False)
DOCKERFILES = sorted((ROOT / "deploy").glob("*/Dockerfile"))


def command(name: str, environment=None, engine="docker") -> list[str]:
    return images.build_command(engine, name, "debian:12", OPTIONS, environment or {})


def program_that(folder, script: str, name: str = "engine") -> str:
    """A program that does what the script says."""
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


# -- what the Dockerfiles say ----------------------------------------------------------------


def test_the_versions_a_dockerfile_assumes_are_those_of_the_checkout():
    text = (ROOT / "deploy/tritonserver-cpu/Dockerfile").read_text()
    assert f"ARG ONNXRUNTIME_VERSION={images.pinned('onnxruntime')}\n" in text
    assert f"nvidia-pytriton=={images.pinned('nvidia-pytriton')} " in text


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.parent.name)
def test_a_dockerfile_assumes_the_version_of_the_project(file):
    assumed = re.findall(r"^ARG VERSION=(.*)$", file.read_text(), re.MULTILINE)
    assert assumed in ([], [images.project_version()])


def test_all_images_of_ours_stand_on_the_same_lines():
    """Equal lines are one layer on the engine's disk."""
    server, fleet = (
        (ROOT / f"deploy/{name}/Dockerfile").read_text().partition(" AS root\n")[2]
        for name in images.DEFAULT
    )
    assert server.partition("\n\n")[0] == fleet.partition("\n\n")[0]


@pytest.mark.parametrize("name", images.IMAGES)
def test_no_argument_that_may_hold_a_secret_is_declared_where_the_image_would_show_it(name):
    text = (ROOT / f"deploy/{name}/Dockerfile").read_text()
    final = text.partition("FROM scratch")[2]
    assert final
    assert set(re.findall(r"^ARG (\w+)", final, re.MULTILINE)) <= {"VERSION", "ONNXRUNTIME_VERSION"}


def test_the_environment_of_the_server_is_that_of_the_embedded_one():
    from tritonfleet.launchers.wheel import server_environment

    text = (ROOT / "deploy/tritonserver-cpu/Dockerfile").read_text()
    wheel = argparse.Namespace(libraries="lib")
    layout = argparse.Namespace(libraries="lib")
    wanted = server_environment(wheel, layout, {}, native=argparse.Namespace())
    for name in wanted.keys() - {"PATH", "LD_LIBRARY_PATH"}:
        assert f"    {name}={wanted[name]}" in text


# -- the command line ------------------------------------------------------------------------


def test_what_may_hold_a_password_stands_on_the_command_line_by_name_only():
    index = "https://user:secret@pypi.example.com/simple"
    given = command("tritonfleet", {"PIP_INDEX_URL": index, "https_proxy": "http://u:secret@proxy"})
    assert {"PIP_INDEX_URL", "https_proxy"} <= set(given)
    assert "secret" not in " ".join(given)


def test_what_is_not_set_is_not_passed_on():
    assert not set(images.PASSED_ON) & set(command("tritonfleet", {"HTTP_PROXY": ""}))


def test_an_image_gets_only_the_arguments_it_declares():
    assert any("ONNXRUNTIME_VERSION" in word for word in command("tritonserver-cpu"))
    assert not any("ONNXRUNTIME_VERSION" in word for word in command("tritonfleet"))


def test_podman_keeps_the_health_check():
    assert "--format=docker" in command("tritonfleet", engine="/usr/bin/podman")
    assert "--format=docker" not in command("tritonfleet")


def test_an_image_has_its_version_and_is_the_latest():
    given = command("tritonfleet")
    tags = [given[place + 1] for place, word in enumerate(given) if word == "--tag"]
    version = images.project_version()
    assert tags == [f"tritonfleet/tritonfleet:{version}", "tritonfleet/tritonfleet:latest"]


def test_an_unknown_image_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        images.main(["tritonserver-gpu"])
    assert "known: tritonserver-cpu, tritonfleet, prometheus" in capsys.readouterr().err


# -- certificates ----------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "CERTIFICATES", tmp_path / "place")
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "build.crt"


def test_certificates_are_lent_for_the_time_of_the_build(place, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_text("PEM")
    with images.certificates(bundle):
        assert place.read_text() == "PEM"
    assert not place.exists()


def test_certificates_are_taken_back_when_a_build_fails(place, tmp_path):
    bundle = tmp_path / "ca.pem"
    bundle.write_text("PEM")
    with pytest.raises(images.ImageFailed), images.certificates(bundle):
        raise images.ImageFailed("no")
    assert not place.exists()


def test_certificates_that_cannot_be_read_are_named(place, tmp_path):
    with (
        pytest.raises(images.ImageFailed, match=r"missing\.pem .*--ca-bundle"),
        images.certificates(tmp_path / "missing.pem"),
    ):
        pytest.fail("the build was started")


def test_pip_is_asked_first_for_the_certificates():
    environment = {"SSL_CERT_FILE": "/b", "PIP_CERT": "/a"}
    assert images.find_bundle(environment) == Path("/a")
    assert images.find_bundle({"SSL_CERT_FILE": ""}) is None


# -- what goes wrong -------------------------------------------------------------------------


def test_without_an_engine_it_says_what_to_install():
    with pytest.raises(images.ImageFailed, match="no-such-engine is not installed"):
        images.find_engine({"CONTAINER_ENGINE": "no-such-engine"})


def test_an_engine_that_does_not_answer_is_told_from_one_that_refuses(tmp_path):
    refused = "Got permission denied while trying to connect to the Docker daemon socket"
    for said, hint in ((refused, "with sudo"), ("Cannot connect to it", "Start it")):
        engine = program_that(tmp_path, f"echo '{said}' >&2; exit 1")
        with pytest.raises(images.ImageFailed, match=hint) as caught:
            images.find_engine({"CONTAINER_ENGINE": engine})
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("write /x: no space left on device", "disk is full"),
        ("SSLError(CERTIFICATE_VERIFY_FAILED)", "--ca-bundle"),
        ("E: Unable to locate package libpython3.11", "Debian 12"),
        ("Temporary failure resolving 'deb.debian.org'", "HTTP_PROXY"),
        ("No matching distribution found for numpy", "PIP_INDEX_URL"),
        ("dial tcp: lookup registry-1.docker.io: no such host", "BASE_IMAGE="),
        ("something else", "last lines"),
    ],
)
def test_a_failed_build_ends_with_its_last_words_and_a_next_step(said, hint):
    with pytest.raises(images.ImageFailed) as caught:
        images.run_build(["sh", "-c", 'echo before; echo "$0" >&2; exit 1', said], "tritonfleet")
    assert f"the build of tritonfleet failed:\nbefore\n{said}\n" in str(caught.value)
    assert hint in str(caught.value).splitlines()[-1]


def test_a_failure_is_a_sentence_and_a_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONTAINER_ENGINE", "no-such-engine")
    assert images.main([]) == 1
    assert capsys.readouterr().err.startswith("image: error: no-such-engine is not installed.")


def test_the_base_is_made_here_only_when_there_is_none_and_none_can_be_fetched(
    tmp_path, monkeypatch
):
    made = []
    monkeypatch.setattr(base_image, "make", lambda engine: made.append(engine) or base_image.NAME)
    nothing = program_that(tmp_path, "exit 1")
    assert images.choose_base(nothing) == base_image.NAME
    assert made == [nothing]
    pulls = program_that(tmp_path, '[ "$1" = pull ]')
    assert images.choose_base(pulls) == images.USUAL_BASE
    has_ours = program_that(tmp_path, f'[ "$5" = {base_image.NAME} ] && echo sha256:1')
    assert images.choose_base(has_ours) == base_image.NAME
    assert made == [nothing]


def test_a_base_image_wants_root_and_debootstrap(monkeypatch):
    monkeypatch.setattr(base_image.os, "geteuid", lambda: 1000)
    with pytest.raises(base_image.BaseImageFailed, match=r"sudo make base-image.*BASE_IMAGE="):
        base_image.check()
    monkeypatch.setattr(base_image.os, "geteuid", lambda: 0)
    monkeypatch.setattr(base_image.shutil, "which", lambda name: None)
    with pytest.raises(base_image.BaseImageFailed, match="apt-get install debootstrap"):
        base_image.check()


def test_debootstrap_that_fails_is_quoted(tmp_path, monkeypatch):
    program_that(tmp_path, "echo 'E: Failed getting release file' >&2; exit 1", "debootstrap")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(base_image.BaseImageFailed, match=r"(?s)release file.*DEBIAN_MIRROR="):
        base_image.install(tmp_path / "root")


def test_a_base_keeps_licences_and_loses_what_tells_of_this_machine(tmp_path):
    for name in ("usr/share/doc/a/copyright", "usr/share/doc/a/README", "etc/resolv.conf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "etc/apt").mkdir()
    base_image.trim(tmp_path)
    assert (tmp_path / "usr/share/doc/a/copyright").exists()
    assert not (tmp_path / "usr/share/doc/a/README").exists()
    assert not (tmp_path / "etc/resolv.conf").exists()
    assert "bookworm-security" in (tmp_path / "etc/apt/sources.list").read_text()


def test_ours_alone_are_removed(tmp_path, capsys):
    """What is listed is what has a label of ours; a name is no proof."""
    log = tmp_path / "log"
    engine = program_that(
        tmp_path,
        f'echo "$@" >> {log}; case "$*" in *label=io.tritonfleet.image) echo sha256:1 ;; esac',
    )
    images.remove(engine)
    calls = log.read_text().splitlines()
    assert [call for call in calls if " rm " in call] == ["image rm --force sha256:1"]
    assert all("label=io.tritonfleet." in call for call in calls if call.startswith("images"))


def test_the_scripts_need_no_package():
    for name in ("images.py", "base_image.py"):
        text = (ROOT / "scripts" / name).read_text()
        imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
        assert imported <= {*sys.stdlib_module_names, "base_image"}
