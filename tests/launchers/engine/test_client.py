"""How an engine's answers are read; the SDK's client is a pretended one."""

from __future__ import annotations

import logging

import docker
import pytest
import requests
from docker.errors import APIError, ImageNotFound, NotFound

from tritonfleet.errors import ContainerFailed, EngineUnavailable, ImageMissing
from tritonfleet.launchers.engine import client, facts
from tritonfleet.launchers.engine.client import Engine
from tritonfleet.launchers.engine.facts import EngineFacts, Gone

ADDRESS = "unix:///some.sock"
STATE = {"Status": "running", "Pid": 7, "ExitCode": 0, "OOMKilled": False, "Error": ""}
CONTAINER = {"Id": "id1", "Name": "/gpu0", "State": STATE, "Config": {"Labels": {"a": "b"}}}


def refusal(kind: type[APIError], status: int, words: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    return kind("said", response=response, explanation=words)


class PretendedClient:
    """Answers each call by name; an exception is raised."""

    timeout = 0

    def __init__(self, **answers) -> None:
        self.answers = answers

    def __getattr__(self, name):
        def call(*arguments, **options):
            answer = self.answers[name]
            if isinstance(answer, list) and name != "pull":
                answer = answer.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def engine(**answers) -> Engine:
    return Engine(ADDRESS, PretendedClient(**answers), EngineFacts())


MISSING = refusal(ImageNotFound, 404, "No such image: x")
GONE = refusal(NotFound, 404, "No such container: id1")
FOUND = {"Id": "sha256:1", "Config": {"Labels": {"a": "b"}}}


# -- connecting ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "info", "facts"),
    [
        (
            {"Version": "20.10.24", "Components": [{"Name": "Engine"}]},
            {"SecurityOptions": ["name=seccomp,profile=default"]},
            EngineFacts(version="20.10.24"),
        ),
        (
            {"Version": "4.3.1", "Components": [{"Name": "Podman Engine"}]},
            {"SecurityOptions": ["name=seccomp,profile=default", "name=rootless"]},
            EngineFacts(podman=True, rootless=True, version="4.3.1"),
        ),
        ({}, {"SecurityOptions": ["name=userns"]}, EngineFacts(remapped=True)),
        ({}, {"SecurityOptions": None}, EngineFacts()),
    ],
)
def test_an_engine_tells_what_it_is(monkeypatch, version, info, facts):
    pretended = PretendedClient(version=version, info=info)
    monkeypatch.setattr(docker, "APIClient", lambda **options: pretended)
    found = Engine.connect(ADDRESS)
    assert (found.address, found.facts) == (ADDRESS, facts)


def test_the_users_own_engine_is_taken_where_none_is_named(monkeypatch):
    asked = []

    def connect(**options):
        asked.append(options.get("base_url"))
        return PretendedClient(version={}, info={})

    monkeypatch.setattr(docker, "APIClient", connect)
    monkeypatch.setenv("DOCKER_HOST", "unix:///mine.sock")
    assert Engine.connect().address == "unix:///mine.sock"
    monkeypatch.delenv("DOCKER_HOST")
    assert Engine.connect().address == facts.DEFAULT_ADDRESS
    assert Engine.connect(ADDRESS).address == ADDRESS
    assert asked == ["unix:///mine.sock", None, ADDRESS]


# -- images ----------------------------------------------------------------------------------


def test_an_image_that_is_there_is_not_fetched():
    image = engine(inspect_image=FOUND).image("x:1")
    assert (image.name, image.id, image.labels) == ("x:1", "sha256:1", {"a": "b"})


def test_an_image_that_may_not_be_fetched_is_missing():
    with pytest.raises(ImageMissing, match="'pull' is 'never'"):
        engine(inspect_image=MISSING).image("x:1", "never")


def test_an_image_is_fetched_when_it_is_missing_and_that_is_told(monkeypatch, caplog):
    monkeypatch.setattr(client, "_PROGRESS_S", -1.0)
    steps = [
        {"status": "Pulling from x", "id": "1"},
        {"status": "Downloading", "id": "a", "progressDetail": {"current": 2**20, "total": 2**22}},
        {"status": "Downloading", "id": "b", "progressDetail": {}},
    ]
    with caplog.at_level(logging.INFO):
        image = engine(inspect_image=[MISSING, FOUND], pull=steps).image("x:1")
    assert image.id == "sha256:1"
    assert "fetched=1" in caplog.text


@pytest.mark.parametrize(
    "pull", [[{"error": "toomanyrequests: slow down"}], refusal(APIError, 500, "toomanyrequests")]
)
def test_an_image_that_cannot_be_fetched_is_missing_in_the_registrys_words(pull):
    with pytest.raises(ImageMissing, match="toomanyrequests"):
        engine(inspect_image=MISSING, pull=pull).image("x:1")


# -- containers ------------------------------------------------------------------------------


def test_a_container_is_read():
    found = engine(inspect_container=CONTAINER).inspect("id1")
    assert (found.name, found.running, found.pid, found.labels) == ("gpu0", True, 7, {"a": "b"})


def test_a_container_that_goes_while_it_is_looked_for_is_not_found():
    listed = [{"Id": "id1"}, {"Id": "id2"}]
    found = engine(containers=[listed], inspect_container=[GONE, CONTAINER]).find({"a": "b"})
    assert [each.id for each in found] == ["id1"]


def test_a_container_that_is_not_there_is_gone():
    with pytest.raises(Gone):
        engine(stop=GONE).stop("id1", 1.5)


@pytest.mark.parametrize("said", [GONE, refusal(APIError, 409, "removal is already in progress")])
def test_what_is_gone_or_going_need_not_be_removed(said):
    engine(remove_container=said).remove("id1")


def test_a_refusal_names_the_container():
    refused = engine(start=refusal(APIError, 500, "no such thing"))
    with pytest.raises(ContainerFailed, match="'gpu0': the engine says: no such thing"):
        refused.start("id1", "gpu0", "container.ports")


LATE = requests.exceptions.ConnectionError("UnixHTTPConnectionPool: Read timed out.")


@pytest.mark.parametrize("said", [requests.exceptions.ReadTimeout("Read timed out."), LATE])
def test_a_container_that_runs_on_has_no_status(said):
    assert engine(wait=said).wait("id1", 10) is None


def test_a_container_that_ended_has_a_status():
    assert engine(wait={"StatusCode": 137}).wait("id1", 10) == 137


def test_an_engine_that_goes_away_is_told_by_every_call():
    broken = requests.exceptions.ConnectionError("Connection aborted.")
    for call in ("wait", "inspect_container", "stop"):
        named = "inspect" if call == "inspect_container" else call
        arguments = ("id1",) if named == "inspect" else ("id1", 1)
        with pytest.raises(EngineUnavailable, match=ADDRESS):
            getattr(engine(**{call: broken}), named)(*arguments)
