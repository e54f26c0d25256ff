"""Where a Transformers model lies: a directory, an installed package, or the Hugging Face hub.

What is on this machine is used without asking the hub, so that a build repeats offline; a branch
that has moved on since is fetched anew only after its cached snapshot is gone.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

from tritonfleet.errors import SourceUnavailable

PACKAGE_PREFIX = "package:"
_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "1_Pooling/*")


def local_path(model: str, where: str, base: Path) -> Path | None:
    """The path of a file or folder named in a fleet file; None when it can only be a hub id.

    Raises SourceUnavailable when it names a path or a package that is not there.
    """
    if where.startswith(PACKAGE_PREFIX):
        return _in_package(model, where)
    path = base / Path(where).expanduser()
    if path.exists():
        return path.resolve()
    if where.startswith((".", "/", "~")) or not _HUB_ID.match(where):
        hint = f"Relative paths start at {base}."
        raise SourceUnavailable(model, f"there is nothing at {path}", hint)
    return None


def _in_package(model: str, where: str) -> Path:
    name, _, inside = where.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        hint = f"Install the distribution that brings '{name}', or name a directory instead."
        raise SourceUnavailable(model, f"no package '{name}' is installed", hint)
    path = Path(spec.submodule_search_locations[0]) / inside
    if not path.exists():
        hint = f"The package lies in {path.parents[inside.count('/')]}."
        raise SourceUnavailable(model, f"package '{name}' has no '{inside}'", hint)
    return path


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
