"""Where a model lies: any location of an artifact, or an id of the Hugging Face hub.

A hub snapshot that is on this machine is used without asking the hub, so that a build repeats
offline; a branch that has moved on since is fetched anew only after its snapshot is gone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from repo_builder.artifacts.address import is_address
from repo_builder.artifacts.artifact import artifact_path, artifact_state
from repo_builder.artifacts.local import PACKAGE_PREFIX, existing_path
from repo_builder.sources.base import Digest, SourceContext
from tritonfleet.errors import SourceUnavailable

__all__ = [
    "PACKAGE_PREFIX",
    "artifact_path",
    "artifact_state",
    "cached_snapshot",
    "fetch_snapshot",
    "local_path",
    "model_path",
    "model_state",
]

_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
# Code is fetched with the rest, and run only where the fleet file trusts it.
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.py", "1_Pooling/*")


def model_path(
    where: str, revision: str | None, required: Iterable[str], context: SourceContext
) -> Path:
    """The folder or file of a location or of a hub id, brought here if it is not."""
    if _is_hub_id(where, context.base):
        return fetch_snapshot(context.model, where, revision, required)
    return artifact_path(where, context)


def model_state(
    where: str,
    revision: str | None,
    required: Iterable[str],
    context: SourceContext,
    digest: Digest,
) -> dict[str, Any] | None:
    """The digest of a location's content, or the commit of a hub snapshot; None before a fetch."""
    if not _is_hub_id(where, context.base):
        return artifact_state(where, context, digest)
    snapshot = cached_snapshot(where, revision, required)
    return {"commit": snapshot.name} if snapshot else None


def local_path(model: str, where: str, base: Path) -> Path | None:
    """The path of a file or folder named in a fleet file; None when it can only be a hub id.

    Raises SourceUnavailable when it names a path or a package that is not there.
    """
    return None if _is_hub_id(where, base) else existing_path(model, where, base)


def _is_hub_id(where: str, base: Path) -> bool:
    """Whether a text that names nothing here has the form of an id."""
    if is_address(where) or where.startswith((".", "/", "~")) or not _HUB_ID.match(where):
        return False
    return not (base / where).exists()


def cached_snapshot(where: str, revision: str | None, required: Iterable[str]) -> Path | None:
    """The hub snapshot already on this machine, if it holds a match for every pattern."""
    from huggingface_hub import try_to_load_from_cache

    required = tuple(required)
    found = try_to_load_from_cache(where, required[0], revision=revision)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    return folder if all(any(folder.glob(pattern)) for pattern in required) else None


def fetch_snapshot(model: str, where: str, revision: str | None, required: Iterable[str]) -> Path:
    """The folder of a hub snapshot, downloaded unless it is here already.

    Raises SourceUnavailable when the hub cannot be reached or does not have it.
    """
    required = tuple(required)
    cached = cached_snapshot(where, revision, required)
    if cached is not None:
        return cached
    folder = _download(model, where, revision)
    missing = [pattern for pattern in required if not any(folder.glob(pattern))]
    if missing:
        hint = "Only safetensors weights are read: pickled ones can run code."
        raise SourceUnavailable(model, f"'{where}' on the hub has no {', '.join(missing)}", hint)
    return folder


def _download(model: str, where: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f"'{where}' at revision '{revision}'" if revision else f"'{where}'"
    try:
        return Path(snapshot_download(where, revision=revision, allow_patterns=list(_WANTED)))
    except GatedRepoError as error:
        hint = "Accept its terms on the hub and set HF_TOKEN."
        raise SourceUnavailable(model, f"{at} is gated", hint) from error
    except RevisionNotFoundError as error:
        raise SourceUnavailable(model, f"the hub has no {at}", "Check 'revision'.") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        hint = "Check the id; a private model needs HF_TOKEN."
        raise SourceUnavailable(model, f"the hub has no {at}", hint) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        cause = f"{at} is not on this machine and the hub cannot be reached"
        hint = (
            "Copy the model here and name its directory, or build where the hub can be reached "
            "(HF_HUB_OFFLINE must not be set; HF_ENDPOINT names a mirror)."
        )
        raise SourceUnavailable(model, cause, hint) from error
