"""One container engine. The only module that knows the Docker SDK.

Synchronous: whoever has an event loop calls it on a thread. Bodies are those of the Engine API.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.utils import kwargs_from_env, parse_repository_tag

from tritonfleet.errors import ImageMissing
from tritonfleet.launchers.engine.facts import (
    Container,
    EngineFacts,
    Gone,
    Image,
    address_of,
    is_podman,
)
from tritonfleet.launchers.engine.faults import not_pulled, refused, unreachable
from tritonfleet.units import format_bytes

log = logging.getLogger(__name__)
_CONNECT_TIMEOUT_S = 10
_CALL_TIMEOUT_S = 60
_PROGRESS_S = 15.0


class Engine:
    """A Docker engine, or Podman's imitation of one."""

    def __init__(self, address: str, api: docker.APIClient, facts: EngineFacts) -> None:
        self.address, self.facts = address, facts
        self._api: Any = api  # its types are told in part only

    @classmethod
    def connect(cls, wanted: str | None = None) -> Engine:
        """The engine at an address, or the user's; EngineUnavailable when it does not answer."""
        address = address_of(wanted)
        with _reached(address):
            api = _client(wanted)
            facts = _facts(api.version(), api.info())
            api.timeout = _CALL_TIMEOUT_S
        return cls(address, api, facts)

    def close(self) -> None:
        """Closes the connections."""
        self._api.close()

    # -- images ------------------------------------------------------------------------------

    def image(self, name: str, pull: str = "missing") -> Image:
        """An image, fetched when that is needed and allowed; ImageMissing otherwise."""
        found = None if pull == "always" else self._find_image(name)
        if found is None and pull == "never":
            raise ImageMissing(
                name,
                f"the engine at {self.address} does not have it, and 'pull' is 'never'",
                f"Fetch it with 'docker pull {name}', build ours with 'make image', or name "
                "another with 'image'.",
            )
        if found is None:
            self._pull(name)
            found = self._find_image(name)
        if found is None:
            raise not_pulled(name, "the engine fetched it and does not know it")
        return found

    def _find_image(self, name: str) -> Image | None:
        with _reached(self.address):
            try:
                told = self._api.inspect_image(name)
            except ImageNotFound:
                return None
        return Image(name, told["Id"], told.get("Config") or {})

    def _pull(self, name: str) -> None:
        log.info("image=%s is being fetched", name)
        try:
            with _reached(self.address):
                self._follow_pull(name)
        except APIError as error:
            raise not_pulled(name, _words(error)) from error

    def _follow_pull(self, name: str) -> None:
        fetched: dict[str, int] = {}
        told_at = time.monotonic()
        repository, tag = parse_repository_tag(name)
        for step in self._api.pull(repository, tag or "latest", stream=True, decode=True):
            if "error" in step:
                raise not_pulled(name, str(step["error"]))
            if step.get("status") == "Downloading":
                fetched[step["id"]] = step.get("progressDetail", {}).get("current", 0)
            if time.monotonic() - told_at > _PROGRESS_S:
                told_at = time.monotonic()
                log.info("image=%s fetched=%s", name, format_bytes(sum(fetched.values())))

    # -- containers --------------------------------------------------------------------------

    def find(self, labels: Mapping[str, str]) -> list[Container]:
        """The containers that bear all these labels, running or not."""
        wanted = [f"{key}={value}" for key, value in labels.items()]
        with _reached(self.address):
            listed = self._api.containers(all=True, filters={"label": wanted})
        found = []
        for each in listed:
            with contextlib.suppress(Gone):
                found.append(self.inspect(each["Id"]))
        return found

    def inspect(self, container: str) -> Container:
        """How it is at the moment; Gone when it is not."""
        with _reached(self.address), _present():
            told = self._api.inspect_container(container)
        state = told["State"]
        return Container(
            id=told["Id"],
            name=told["Name"].lstrip("/"),
            status=state["Status"],
            pid=state.get("Pid") or 0,
            exit_status=state.get("ExitCode") or 0,
            out_of_memory=bool(state.get("OOMKilled")),
            error=state.get("Error") or "",
            labels=told["Config"].get("Labels") or {},
        )

    def create(self, name: str, body: Mapping[str, Any], setting: str) -> str:
        """A container that does not run yet; its id."""
        with _reached(self.address), _accepted(name, setting):
            return str(self._api.create_container_from_config(dict(body), name)["Id"])

    def start(self, container: str, name: str, setting: str) -> None:
        """Runs a container; ContainerFailed or PortTaken when the engine refuses."""
        with _reached(self.address), _accepted(name, setting):
            self._api.start(container)

    def stop(self, container: str, grace_s: float) -> None:
        """Ends it, by force after ``grace_s`` seconds; harmless when it has ended."""
        with _reached(self.address), _present():
            self._api.stop(container, timeout=math.ceil(grace_s))

    def remove(self, container: str) -> None:
        """Removes it with its anonymous volumes, by force; harmless when it is gone."""
        with _reached(self.address), contextlib.suppress(Gone), _present():
            try:
                self._api.remove_container(container, force=True, v=True)
            except APIError as error:
                if error.status_code != 409:  # somebody else removes it already
                    raise

    def wait(self, container: str, timeout_s: float) -> int | None:
        """Its exit status if it ends within so many seconds; Gone when it is not there."""
        with _reached(self.address), _present():
            try:
                told = self._api.wait(container, math.ceil(timeout_s), condition="not-running")
            except requests.exceptions.ReadTimeout:
                return None
            except requests.exceptions.ConnectionError as error:
                if "timed out" in str(error).lower():  # so it is told while a body is awaited
                    return None
                raise
        return int(told["StatusCode"])

    def output(self, container: str, since: float | None) -> Iterator[bytes]:
        """What it writes, from a moment or the beginning on, and to its end."""
        with _reached(self.address), _present():
            yield from self._api.logs(
                container, stdout=True, stderr=True, stream=True, follow=True, since=since
            )


def _client(wanted: str | None) -> docker.APIClient:
    options: dict[str, Any] = {**kwargs_from_env()}
    if wanted:
        options["base_url"] = wanted
    return docker.APIClient(version="auto", timeout=_CONNECT_TIMEOUT_S, **options)


def _facts(version: Mapping[str, Any], info: Mapping[str, Any]) -> EngineFacts:
    security = [str(option) for option in info.get("SecurityOptions") or ()]
    return EngineFacts(
        podman=is_podman(version),
        rootless=any("name=rootless" in option for option in security),
        remapped=any("name=userns" in option for option in security),
        version=str(version.get("Version", "")),
    )


@contextlib.contextmanager
def _reached(address: str) -> Iterator[None]:
    """Whatever keeps us from the engine is told in our words; its refusals pass."""
    try:
        yield
    except APIError:
        raise
    except (requests.exceptions.RequestException, DockerException, OSError) as error:
        raise unreachable(address, error) from error


@contextlib.contextmanager
def _present() -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise Gone from error


@contextlib.contextmanager
def _accepted(name: str, setting: str) -> Iterator[None]:
    try:
        yield
    except APIError as error:
        raise refused(name, _words(error), setting) from error


def _words(error: APIError) -> str:
    """What the engine said, without the request that it is about."""
    return str(error.explanation or error)
