"""What goes wrong with remote places, in one sentence each.

Libraries wrap errors in errors; what started it decides. Their own texts are not repeated where
they may hold a signed address. Everything is told by name, since none of them need be installed.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from repo_builder.artifacts.address import REGISTRY_PREFIX, Address
from repo_builder.causes import root_cause
from tritonfleet.errors import SourceUnavailable

_EXTRAS = {"s3": "s3", "s3a": "s3", "models": "mlflow"}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "abfs": "AZURE_STORAGE_ACCOUNT_NAME with one of its keys",
    "models": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
}
_UNREACHABLE = frozenset((
    "ClientConnectorError", "ClientConnectorDNSError", "ServerDisconnectedError", "ConnectionError",
    "ConnectionRefusedError", "ConnectionResetError", "ConnectTimeoutError", "ReadTimeoutError",
    "EndpointConnectionError", "ConnectionClosedError", "gaierror", "TimeoutError",
    "ServerTimeoutError", "ConnectionTimeoutError", "MaxRetryError", "NewConnectionError",
    "NameResolutionError",
))  # fmt: skip
_NO_CREDENTIALS = frozenset((
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "DefaultCredentialsError",
))  # fmt: skip
_EXPIRED = frozenset(("ExpiredToken", "TokenRefreshRequired", "RequestExpired"))
_REFUSED = frozenset((
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "401", "UNAUTHENTICATED",
    "AuthorizationHeaderMalformed",
))  # fmt: skip
_DENIED = frozenset((
    "PermissionError", "AccessDenied", "AllAccessDisabled", "403", "PERMISSION_DENIED",
))  # fmt: skip
_NO_BUCKET = frozenset(("NoSuchBucket", "InvalidBucketName"))
_ABSENT = frozenset((
    "FileNotFoundError", "NoSuchKey", "NoSuchVersion", "404", "RESOURCE_DOES_NOT_EXIST",
    "NotADirectoryError",
    # MLflow's answer to an unknown alias.
    "INVALID_PARAMETER_VALUE",
))  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT)
# MLflow gives the cause of a failed request as text only.
_UNREACHABLE_TEXT = re.compile(r"HTTPS?ConnectionPool|Max retries exceeded|failed with exception")


class Unreachable(SourceUnavailable):
    """Nobody answers: what an earlier build has brought may still serve."""


def translated(model: str, address: Address, error: Exception) -> SourceUnavailable:
    """The one sentence for what a library raised."""
    where, names = address.shown, _names(error)
    kind = address.protocol
    if isinstance(error, SourceUnavailable):
        return error
    if isinstance(error, ImportError):
        return _missing_package(model, address, error)
    if isinstance(error, OSError) and error.errno in _FULL:
        cause = f"the disk is full: {where} does not fit into the cache of artifacts"
        return SourceUnavailable(model, cause, "Free some disk space and build again.")
    if names & _NO_CREDENTIALS:
        return SourceUnavailable(model, f"no credentials for {where} were found", _how(kind))
    if names & _EXPIRED:
        cause = f"the credentials for {where} have expired"
        return SourceUnavailable(model, cause, "Renew them, and build again.")
    if names & _REFUSED:
        return SourceUnavailable(model, f"the credentials for {where} are refused", _how(kind))
    if names & _UNREACHABLE or _UNREACHABLE_TEXT.search(str(error)):
        cause = f"nobody answers for {where}"
        hint = "Check the network and the configured endpoint; an earlier copy is not here either."
        return Unreachable(model, cause, hint)
    return _answered(model, address, error, names)


def _answered(
    model: str, address: Address, error: Exception, names: frozenset[str]
) -> SourceUnavailable:
    """For what the other side said about the artifact itself."""
    where = address.shown
    if names & _NO_BUCKET:
        return SourceUnavailable(model, f"the bucket of {where} does not exist", "Check its name.")
    # A missing file is told before a denied one: some stores deny what they do not want to list.
    if names & _DENIED:
        hint = "The credentials in use may not read it: grant them that, or use others."
        return SourceUnavailable(model, f"access to {where} is denied", hint)
    if names & _ABSENT:
        what = "no such model version or alias" if _registered(address) else "nothing"
        return SourceUnavailable(model, f"there is {what} at {where}", "Check the address.")
    hint = "Check the address, and that the place can be read from this machine."
    return SourceUnavailable(model, f"{where} cannot be read: {_telling(error)}", hint)


def _registered(address: Address) -> bool:
    return address.url.startswith(REGISTRY_PREFIX)


def _how(protocol: str) -> str:
    names = _CREDENTIALS.get(protocol.removesuffix("a"))
    if names is None:
        return "Set what its library reads from the environment."
    public = " For a public bucket: FSSPEC_S3='{\"anon\": true}'." if protocol == "s3" else ""
    return f"Set {names}.{public}"


def _missing_package(model: str, address: Address, error: ImportError) -> SourceUnavailable:
    extra = _EXTRAS.get(address.protocol)
    cause = f"{address.shown} needs a package that is not installed"
    if error.name in ("boto3", "botocore"):
        extra = "s3"
    if extra:
        return SourceUnavailable(model, cause, f"pip install 'tritonfleet[{extra}]'.")
    return SourceUnavailable(model, f"{cause}: {error}", "Install it beside tritonfleet.")


def _telling(error: Exception) -> str:
    """The cause without what follows a question mark in any address."""
    return re.sub(r"\?\S+", "", root_cause(error))


def _names(error: BaseException) -> frozenset[str]:
    """Class names and codes of an error and of all that it stands for."""
    return frozenset(name for link in _chain(error) for name in _own_names(link))


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _own_names(error: BaseException) -> Iterator[str]:
    yield from (kind.__name__ for kind in type(error).__mro__)
    yield str(getattr(error, "status", ""))
    yield str(getattr(error, "error_code", ""))
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code", ""))
