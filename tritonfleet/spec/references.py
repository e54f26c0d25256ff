"""Follows a reference to a secret, ``env:NAME`` or ``file:PATH``, to the secret itself.

Errors name whose secret it is and where it should be, never what was found there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tritonfleet.errors import InvalidAccess

_HEADER = re.compile(r"[!-~]+")


def read_secret(
    what: str, reference: str, folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    """The secret without blanks around it; a path is relative to ``folder``, the fleet file's.

    Raises InvalidAccess when the reference leads nowhere.
    """
    kind, _, where = reference.partition(":")
    if kind == "file":
        return read_text(what, reference, folder / where).strip()
    found = os.environ if environment is None else environment
    if where not in found:
        hint = f"Export {where} where 'tritonfleet serve' is started."
        raise InvalidAccess(what, reference, "there is no such variable", hint)
    return found[where].strip()


def read_header(
    what: str, reference: str, folder: Path, environment: Mapping[str, str] | None = None
) -> str:
    """A secret that is sent as the value of a header, and so must be fit for one."""
    secret = read_secret(what, reference, folder, environment)
    if not secret:
        raise InvalidAccess(what, reference, "it is empty", "Leave it out where there is none.")
    if not _HEADER.fullmatch(secret):
        cause = "it has blanks, or characters beyond ASCII"
        raise InvalidAccess(what, reference, cause, "Use letters, digits and signs.")
    return secret


def read_text(what: str, reference: str, file: Path) -> str:
    """What a file holds that the fleet file refers to."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        cause, hint = f"{error.strerror}", f"It is looked for at {file.absolute()}."
    except UnicodeDecodeError:
        cause, hint = "it is not text", "A key is text, and certificates are PEM."
    raise InvalidAccess(what, reference, cause, hint)
