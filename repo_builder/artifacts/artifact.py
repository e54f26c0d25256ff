"""From what a fleet file names to a path on this machine, downloading only what has changed.

A remote place is asked for its version each time, which is cheap, and is read when that version is
not in the cache. Where nobody answers, what was brought last serves, and a line in the log says so.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from repo_builder.artifacts.address import REGISTRY_PREFIX, Address, is_address, parse_address
from repo_builder.artifacts.cache import Cache, Content
from repo_builder.artifacts.contained import check_link
from repo_builder.artifacts.local import FILE_PREFIX, existing_path
from repo_builder.artifacts.mlflow_registry import RegistryPlace
from repo_builder.artifacts.place import Place
from repo_builder.artifacts.remote import RemotePlace
from repo_builder.artifacts.troubles import Unreachable
from repo_builder.sources.base import Digest, SourceContext
from tritonfleet.errors import SourceUnavailable

_log = logging.getLogger(__name__)
_LISTED = 5


def artifact_path(where: str, context: SourceContext) -> Path:
    """The file or folder that a fleet file names, on this machine.

    Raises SourceUnavailable for what cannot be had, and for an address that carries credentials.
    """
    if _is_local(where):
        return existing_path(context.model, where, context.base)
    address = parse_address(context.model, where)
    store = Cache(context.cache.absolute(), address.url)
    whole = store.path(_brought(_place(context.model, address), store, address))
    return _inside(context.model, whole, address)


def artifact_state(where: str, context: SourceContext, digest: Digest) -> dict[str, Any] | None:
    """What identifies the content, for the fingerprint; None when it must be fetched first.

    Costs one question to a remote place. Raises SourceUnavailable as artifact_path does.
    """
    if _is_local(where):
        return {"digest": digest(existing_path(context.model, where, context.base))}
    address = parse_address(context.model, where)
    store = Cache(context.cache.absolute(), address.url)
    try:
        version = _place(context.model, address).version()
        content = store.find(version) if version else None
    except Unreachable as error:
        content = _offline(store, address, error)
    return {"digest": content.digest} if content else None


def _is_local(where: str) -> bool:
    return where.startswith(FILE_PREFIX) or not is_address(where)


def _place(model: str, address: Address) -> Place:
    if address.url.startswith(REGISTRY_PREFIX):
        return RegistryPlace(model, address)
    return RemotePlace(model, address)


def _brought(place: Place, store: Cache, address: Address) -> Content:
    """What the place holds now, from the cache or into it."""
    try:
        version = place.version()
    except Unreachable as error:
        return _offline(store, address, error)
    with store.locked():
        content = store.find(version) if version else None
        if version and content and store.is_intact(content):
            store.confirm(version)
            return content
        return _download(place, store, version, address)


def _offline(store: Cache, address: Address, error: Unreachable) -> Content:
    content = store.newest()
    if content is None:
        raise error
    _log.warning("nobody answers for %s: the copy in the cache is used", address.shown)
    return content


def _download(place: Place, store: Cache, version: str | None, address: Address) -> Content:
    with store.room() as folder:
        payload = place.download(folder)
        if place.version() != version:
            cause = f"{address.shown} changed while it was downloaded"
            raise SourceUnavailable(place.model, cause, "Build again when it is complete.")
        return store.keep(version, payload)


def _inside(model: str, whole: Path, address: Address) -> Path:
    """The part that is meant; an error lists what there is."""
    path = whole / address.inside if address.inside else whole
    if not path.exists():
        there = sorted(p.relative_to(whole).as_posix() for p in whole.rglob("*") if p.is_file())
        listed = ", ".join(there[:_LISTED]) + (", …" if len(there) > _LISTED else "")
        cause = f"{address.shown} has no '{address.inside}'"
        raise SourceUnavailable(model, cause, f"It has {listed or 'no files'}.")
    check_link(model, path, whole)
    return path
