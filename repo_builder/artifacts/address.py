"""Addresses as a fleet file writes them: which are remote, what they choose, and what they hide."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import parse_qsl, urlsplit

from tritonfleet.errors import SourceUnavailable

REGISTRY_PREFIX = "models:/"
# One letter would be a drive, not a protocol.
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_CHAIN = "::"
# A colon before an at sign, unless it introduces a port; secrets may contain slashes.
_PASSWORD = re.compile(r"://[^@]*?:(?!\d{1,5}/)[^@]*@")
_SECRET_KEY = re.compile(r"^x-|^sig|sig$|signature|token|key|secret|passw|credential|auth", re.I)


@dataclass(frozen=True, slots=True)
class Address:
    """Something remote, and which part of it is meant."""

    url: str
    inside: str = ""
    """A relative path within what the address names; empty for all of it."""

    @property
    def protocol(self) -> str:
        """The one that names the files: the first of a chain."""
        return self.url.partition(":")[0].lower()

    @property
    def is_chain(self) -> bool:
        """Whether one file system lies inside another, as an archive in a bucket."""
        return _CHAIN in self.url

    @property
    def shown(self) -> str:
        """For people and logs: without a query, which belongs to the request."""
        return _CHAIN.join(link.partition("?")[0] for link in self.url.split(_CHAIN))


def is_address(where: str) -> bool:
    """Whether this names something remote, rather than a path, a package or a hub id."""
    return where.startswith(REGISTRY_PREFIX) or bool(_SCHEME.match(where))


def parse_address(model: str, where: str) -> Address:
    """The address, with what follows a '#' as the path inside it.

    Raises SourceUnavailable when it carries credentials or leaves what it names.
    """
    url, _, inside = where.partition("#")
    if any(_has_credentials(link) for link in url.split(_CHAIN)):
        cause = f"its {url.partition(':')[0]} address carries credentials"
        hint = (
            "Take them out of the fleet file, which is copied and published; the environment or "
            "the provider's own configuration has their place."
        )
        raise SourceUnavailable(model, cause, hint)
    check_relative(model, inside, Address(url).shown)
    return Address(url, inside)


def _has_credentials(link: str) -> bool:
    if _PASSWORD.search(link):
        return True
    try:
        query = urlsplit(link).query
    except ValueError:
        return False
    return any(_SECRET_KEY.search(name) for name, _ in parse_qsl(query, keep_blank_values=True))


def check_relative(model: str, name: str, where: str) -> None:
    """Refuses a name that would leave the folder it is put into."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        hint = "Names of files inside an artifact must stay inside it."
        raise SourceUnavailable(model, f"the name {name!r} leads out of {where}", hint)
