"""Who may come in, from the fleet file: its references followed, its patterns resolved.

Reads secrets, and puts them nowhere but into the plan. Errors name the tenant and the reference,
never what was found there. To be read again from time to time: a renewed certificate or key is
another ``Access``, and whoever compares the two knows that something has to be replaced.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

from tritonfleet.errors import InvalidAccess
from tritonfleet.gateway.envoy.plan import Access, Credential, Jwt, Tls
from tritonfleet.spec.references import read_secret, read_text
from tritonfleet.spec.traffic import AccessSpec, JwtSpec, TenantSpec, TlsSpec

SHORTEST_KEY = 16
"""Characters. What is shorter can be guessed."""
_KEY = re.compile(r"[!#-&(-\[\]-~]+")
"""Printable, and spelt the same inside quotes and out of them."""
_TOKEN_LIKE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def read_access(
    access: AccessSpec, folder: Path, environment: Mapping[str, str] | None = None
) -> Access:
    """All that Envoy must know of callers; ``folder`` is the fleet file's.

    Raises InvalidAccess for the first reference that leads nowhere.
    """
    found = os.environ if environment is None else environment
    tenants = access.tenants
    batch = (name for name, tenant in tenants.items() if tenant.latency_class == "batch")
    return Access(
        tls=_read_tls(access.tls, folder) if access.tls else None,
        jwt=_read_jwt(access.jwt, folder) if access.jwt else None,
        tenants=tuple(tenants),
        batch_tenants=tuple(batch),
        credentials=_read_credentials(access, folder, found),
        rates={name: tenant.rate for name, tenant in tenants.items() if tenant.rate},
    )


def tenants_of(access: AccessSpec, model: str) -> tuple[str, ...] | None:
    """Who may call a model; None for everybody whom the gateway lets in."""
    allowed = tuple(name for name, tenant in access.tenants.items() if _may_call(tenant, model))
    return None if len(allowed) == len(access.tenants) else allowed


def _may_call(tenant: TenantSpec, model: str) -> bool:
    return any(fnmatch.fnmatchcase(model, pattern) for pattern in tenant.models)


# -- keys --------------------------------------------------------------------------------------


def _read_credentials(
    access: AccessSpec, folder: Path, environment: Mapping[str, str]
) -> tuple[Credential, ...]:
    owners: dict[str, str] = {}
    for tenant, reference in _references(access):
        key = read_secret(_whose(tenant), reference, folder, environment)
        _check_key(tenant, reference, key, tokens=access.jwt is not None)
        owner = owners.setdefault(key, tenant)
        if owner != tenant:
            cause = f"it holds the same key as one of tenant '{owner}'"
            raise InvalidAccess(_whose(tenant), reference, cause, "Give each its own.")
    return tuple(Credential(tenant, key) for key, tenant in owners.items())


def _references(access: AccessSpec) -> Iterator[tuple[str, str]]:
    for name, tenant in access.tenants.items():
        for reference in tenant.api_keys:
            yield name, reference


def _check_key(tenant: str, reference: str, key: str, *, tokens: bool) -> None:
    cause, hint = "", f"Use at least {SHORTEST_KEY} letters, digits or signs."
    if not key:
        cause = "it is empty"
    elif not _KEY.fullmatch(key):
        cause = "it has blanks, quotes, a backslash or characters beyond ASCII"
    elif len(key) < SHORTEST_KEY:
        cause = f"it has {len(key)} characters, which can be guessed"
    elif tokens and _TOKEN_LIKE.fullmatch(key):
        cause, hint = "it would be taken for a token", "Use a key that has not exactly two dots."
    if cause:
        raise InvalidAccess(_whose(tenant), reference, cause, hint)


def _whose(tenant: str) -> str:
    return f"the key of tenant '{tenant}'"


# -- tokens ------------------------------------------------------------------------------------


def _read_jwt(jwt: JwtSpec, folder: Path) -> Jwt:
    keys = _read_jwks(jwt.jwks_file, folder) if jwt.jwks_file else None
    https = jwt.jwks_url is not None and jwt.jwks_url.startswith("https:")
    return Jwt(
        issuer=jwt.issuer,
        audiences=jwt.audiences,
        tenant_claim=jwt.tenant_claim,
        jwks=keys,
        jwks_url=jwt.jwks_url,
        jwks_ca=_authorities(jwt.issuer) if https else None,
    )


def _read_jwks(file: str, folder: Path) -> str:
    what = "the keys of the tokens' issuer"
    text = read_text(what, file, folder / file)
    try:
        keys = json.loads(text)["keys"]
        known = bool(keys) and all("kty" in key for key in keys)
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        hint = 'It must hold {"keys": [...]} with at least one public key.'
        raise InvalidAccess(what, file, "it is no JSON Web Key Set", hint)
    return json.dumps({"keys": keys})


def _authorities(issuer: str) -> Path:
    """The certificates that this machine trusts."""
    paths = ssl.get_default_verify_paths()
    for file in (paths.cafile, paths.openssl_cafile):
        if file and Path(file).is_file():
            return Path(file)
    hint = "Install ca-certificates, or name a bundle in SSL_CERT_FILE."
    raise InvalidAccess(f"the issuer {issuer}", "jwks_url", "no certificates are trusted", hint)


# -- certificates ------------------------------------------------------------------------------


def _read_tls(tls: TlsSpec, folder: Path) -> Tls:
    certificate, key = folder / tls.certificate, (folder / tls.private_key).resolve()
    chain = _certificates("the gateway's certificate", tls.certificate, folder)
    read_text("the gateway's private key", tls.private_key, key)
    _check_pair(tls, certificate, key)
    authorities = (
        _certificates("the authorities of clients", tls.client_ca, folder)
        if tls.client_ca
        else None
    )
    return Tls(chain, key, authorities)


def _certificates(what: str, file: str, folder: Path) -> str:
    """The certificates of a PEM file; a key beside them stays there."""
    found = _CERTIFICATE.findall(read_text(what, file, folder / file))
    if not found:
        raise InvalidAccess(what, file, "it holds no certificate", "PEM is expected.")
    chain = "".join(f"{certificate}\n" for certificate in found)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=chain)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidAccess(what, file, "it holds a broken certificate", "Renew it.") from error
    return chain


def _check_pair(tls: TlsSpec, certificate: Path, key: Path) -> None:
    what = "the gateway's private key"
    try:
        # Never a question on the terminal: an empty password is none.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        cause = f"it does not open, or does not belong to {tls.certificate}"
        hint = "Renew both together; a key with a password cannot be used."
        raise InvalidAccess(what, tls.private_key, cause, hint) from error
