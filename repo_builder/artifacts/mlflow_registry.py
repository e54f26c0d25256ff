"""Model versions of an MLflow registry: ``models:/NAME/VERSION`` and ``models:/NAME@ALIAS``.

Which registry is MLflow's own business: MLFLOW_TRACKING_URI and MLFLOW_REGISTRY_URI.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_builder.artifacts.address import Address
from repo_builder.artifacts.contained import check_links
from repo_builder.artifacts.place import Place, version_of
from repo_builder.artifacts.troubles import translated
from tritonfleet.errors import SourceUnavailable

_ADDRESS = re.compile(r"^models:/+(?P<name>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[\w.-]+))/?$")
_CONFIGURED_BY = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
# A builder that only reads sends nothing about itself, and does not try for minutes.
_DEFAULTS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
             "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RegistryPlace(Place):
    """One model version; its artifact is a folder."""

    model: str
    address: Address

    def version(self) -> str:
        """Versions are never overwritten: their number and origin tell them apart."""
        found = self._look()
        return version_of([found.name, str(found.version), found.source, found.creation_timestamp])

    def download(self, folder: Path) -> Path:
        """All files of the version."""
        found = self._look()
        target = folder / "model"
        target.mkdir()
        try:
            from mlflow.artifacts import download_artifacts

            uri = f"models:/{found.name}/{found.version}"
            download_artifacts(artifact_uri=uri, dst_path=str(target))
        except Exception as error:
            raise translated(self.model, self.address, error) from error
        check_links(self.model, target)
        return target

    def _look(self) -> Any:
        match = _ADDRESS.match(self.address.url)
        if match is None:
            cause = f"{self.address.shown} names no version of a model"
            hint = "Write models:/NAME/3 or models:/NAME@ALIAS; '#PATH' chooses a file inside."
            raise SourceUnavailable(self.model, cause, hint)
        if not any(os.environ.get(name) for name in _CONFIGURED_BY):
            cause = f"{self.address.shown} is in an MLflow registry, and none is configured"
            raise SourceUnavailable(self.model, cause, f"Set {_CONFIGURED_BY[0]} to its address.")
        try:
            return _find(**match.groupdict())
        except Exception as error:
            raise translated(self.model, self.address, error) from error


def _find(name: str, version: str | None, alias: str | None) -> Any:
    for setting, value in _DEFAULTS.items():
        os.environ.setdefault(setting, value)
    from mlflow import MlflowClient

    client = MlflowClient()
    if alias is not None:
        return client.get_model_version_by_alias(name, alias)
    return client.get_model_version(name, str(version))
