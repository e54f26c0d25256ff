"""TLS, keys, tokens and who may call which model, in Envoy's words.

Where it all goes: ``http_filters`` before anything is buffered, ``late_http_filters`` where the
model is known (gRPC: after it was read from the message), ``virtual_host`` on the virtual host,
``route_config`` on every route of a model, ``reply_mappers`` before the general ones. Keys and
rules lie on the virtual host, so that they change with the routes and without new listeners; for
the same reason certificates and an issuer's keys are in watched files of their own.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import SplitResult, urlsplit

from tritonfleet.gateway.envoy.plan import (
    TENANT_HEADER,
    Access,
    GatewayPlan,
    Jwt,
    ModelPlan,
    Tls,
)
from tritonfleet.gateway.envoy.refusals import refusal
from tritonfleet.gateway.envoy.typed import Json, extension, present, resources, typed, watched

KEY_HEADER = "x-api-key"
OPEN_PATHS = (
    "/v2/health/live",
    "/v2/health/ready",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
)
"""What needs no credentials: whoever watches over the server has none."""
JWKS_CLUSTER = "jwks"
SERVER_FILE, CLIENTS_FILE, TOKENS_FILE = "tls_server.json", "tls_clients.json", "tokens.json"
_TOKEN_FILTER, _KEY_FILTER = "tritonfleet.token", "tritonfleet.key"
_MAY_FILTER = "tritonfleet.may"
_TOKEN = r"Bearer [A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
_MATCHED = "envoy.extensions.common.matching.v3.ExtensionWithMatcher"
_KEYS = "envoy.extensions.filters.http.api_key_auth.v3"
_TOKENS = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_RBAC = "envoy.extensions.filters.http.rbac.v3"
_TLS = "envoy.extensions.transport_sockets.tls.v3"


def http_filters(plan: GatewayPlan, *, inline: bool = False) -> list[Json]:
    """The filters that find out who calls; none where everybody may.

    ``inline``: without references to watched files, for a configuration that is only validated.
    """
    access = plan.access
    if not access.tenants:
        return []
    tokens = _token_filter(plan, access.jwt, inline) if access.jwt else None
    keys = _key_filter() if access.credentials or not tokens else None
    return [found for found in (tokens, keys) if found]


def late_http_filters(plan: GatewayPlan) -> list[Json]:
    """The filter that decides whether the caller may, to stand where the model is known."""
    return [extension(_MAY_FILTER, f"{_RBAC}.RBAC")] if plan.access.tenants else []


def virtual_host(plan: GatewayPlan) -> Json:
    """Fields of the virtual host: ``typed_per_filter_config``, ``request_headers_to_remove``."""
    access = plan.access
    if not access.tenants:
        return {}
    anybody = _first_match((_any(_opened()), _allow()), otherwise=_among(access.tenants))
    return {
        # Where no filter has used them up, as for what is open, they must not go further either.
        "request_headers_to_remove": ["authorization", KEY_HEADER],
        "typed_per_filter_config": {
            _MAY_FILTER: typed(f"{_RBAC}.RBACPerRoute", rbac={"matcher": anybody}),
            _KEY_FILTER: _credentials(access),
        },
    }


def route_config(plan: GatewayPlan, model: ModelPlan | None) -> Json:
    """``typed_per_filter_config`` of every route of a model; None: the activator's own routes."""
    if not plan.access.tenants or model is None or model.tenants is None:
        return {}
    # A map must not be empty; rules without a policy let nobody in.
    rbac = {"matcher": _among(model.tenants)} if model.tenants else {"rules": {"action": "ALLOW"}}
    return {_MAY_FILTER: typed(f"{_RBAC}.RBACPerRoute", rbac=rbac)}


def reply_mappers(plan: GatewayPlan) -> list[Json]:
    """How refusals are told, for ``local_reply_config``."""
    if not plan.access.tenants:
        return []
    unknown = (
        "the caller is not known (%LOCAL_REPLY_BODY%). Send an API key as 'x-api-key', or a key or "
        "token as 'authorization: Bearer ...'."
    )
    forbidden = (
        f"tenant '%REQ({TENANT_HEADER})%' may not call %REQ(:PATH)% (%ROUTE_NAME%). "
        "The fleet file says who may, under 'access'."
    )
    return [
        *refusal(403, forbidden, caller=TENANT_HEADER),
        # A token that is meant for others, to Envoy, is forbidden to somebody.
        *refusal(403, unknown, status=401, www_authenticate="Bearer"),
        *refusal(401, unknown, www_authenticate="Bearer"),
    ]


def transport_socket(plan: GatewayPlan, *, inline: bool = False) -> Json | None:
    """What the listeners encrypt with, if they do; ``inline`` as for ``http_filters``."""
    tls = plan.access.tls
    if tls is None:
        return None
    common = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        **(_inline_certificates(tls) if inline else _watched_certificates(plan, tls)),
    }
    return extension(
        "envoy.transport_sockets.tls",
        f"{_TLS}.DownstreamTlsContext",
        common_tls_context=common,
        require_client_certificate=tls.client_ca is not None,
    )


def clusters(plan: GatewayPlan) -> list[Json]:
    """Where an issuer's keys are fetched."""
    jwt = plan.access.jwt
    if jwt is None or jwt.jwks_url is None or not plan.access.tenants:
        return []
    url = urlsplit(jwt.jwks_url)
    return [
        typed(
            "envoy.config.cluster.v3.Cluster",
            name=JWKS_CLUSTER,
            # Whichever of its addresses answers first.
            type="LOGICAL_DNS",
            dns_lookup_family="ALL",
            connect_timeout="5s",
            load_assignment=_assignment(url),
            transport_socket=_issuer_socket(url, jwt) if url.scheme == "https" else None,
        )
    ]


def secret_files(plan: GatewayPlan) -> dict[str, Json]:
    """Files to be watched by Envoy, by name, relative to the plan's folder."""
    access = plan.access
    files: dict[str, Json] = {}
    if access.tls:
        files[SERVER_FILE] = _watched_file(_secret("server", tls_certificate=_server(access.tls)))
    if access.tls and access.tls.client_ca:
        clients = _secret("clients", validation_context=_clients(access.tls.client_ca))
        files[CLIENTS_FILE] = _watched_file(clients)
    if access.tenants and access.jwt:
        tokens = typed(
            "envoy.config.core.v3.TypedExtensionConfig",
            name=_TOKEN_FILTER,
            typed_config=_tokens(access, access.jwt),
        )
        files[TOKENS_FILE] = _watched_file(tokens)
    return files


def without_keys(access: Access, text: str) -> str:
    """What Envoy says of a configuration, which it likes to quote, without the keys in it."""
    # The longest first: one may begin with another.
    for credential in sorted(access.credentials, key=lambda found: -len(found.key)):
        text = text.replace(credential.key, f"<a key of {credential.tenant}>")
    return text


def _token_filter(plan: GatewayPlan, jwt: Jwt, inline: bool) -> Json:
    if inline:
        return {"name": _TOKEN_FILTER, "typed_config": _tokens(plan.access, jwt)}
    found = {
        "config_source": watched(str(plan.folder / TOKENS_FILE)),
        "type_urls": [_tokens(plan.access, jwt)["@type"]],
    }
    return {"name": _TOKEN_FILTER, "config_discovery": found}


def _tokens(access: Access, jwt: Jwt) -> Json:
    """Where there are keys too, only what looks like a token is taken for one."""
    provider = {
        "issuer": jwt.issuer,
        "audiences": list(jwt.audiences),
        "require_expiration": True,
        # Only there: what is in a path ends up in logs.
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "claim_to_headers": [{"header_name": TENANT_HEADER, "claim_name": jwt.tenant_claim}],
        "jwt_cache_config": {"jwt_cache_size": 1000},
        **_issuer_keys(jwt),
    }
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}
    check = extension(
        "envoy.filters.http.jwt_authn", _TOKENS, providers={"issuer": provider}, rules=[rule]
    )
    absent = _not(_header("authorization", _regex(_TOKEN)))
    by_key = [absent, _has(KEY_HEADER)] if access.credentials else []
    return _unless(check, _opened(), *by_key)


def _issuer_keys(jwt: Jwt) -> Json:
    if jwt.jwks is not None:
        return {"local_jwks": {"inline_string": jwt.jwks}}
    uri = {"uri": jwt.jwks_url, "cluster": JWKS_CLUSTER, "timeout": "5s"}
    # Fast: an issuer that is away must not keep the gateway from starting.
    fetch = {"fast_listener": True, "failed_refetch_duration": "2s"}
    return {"remote_jwks": {"http_uri": uri, "cache_duration": "300s", "async_fetch": fetch}}


def _key_filter() -> Json:
    check = extension(
        "envoy.filters.http.api_key_auth",
        f"{_KEYS}.ApiKeyAuth",
        key_sources=[{"header": KEY_HEADER}, {"header": "authorization"}],
        forwarding=_FORWARDING,
    )
    return {"name": _KEY_FILTER, "typed_config": _unless(check, _opened(), _has(TENANT_HEADER))}


_FORWARDING = {"header": TENANT_HEADER, "hide_credentials": True}


def _credentials(access: Access) -> Json:
    # Forwarding anew: what a route says of keys replaces all that the filter says.
    keys = [{"key": found.key, "client": found.tenant} for found in access.credentials]
    return typed(f"{_KEYS}.ApiKeyAuthPerRoute", credentials=keys, forwarding=_FORWARDING)


def _watched_certificates(plan: GatewayPlan, tls: Tls) -> Json:
    server = {"name": "server", "sds_config": watched(str(plan.folder / SERVER_FILE))}
    found: Json = {"tls_certificate_sds_secret_configs": [server]}
    if tls.client_ca:
        clients = {"name": "clients", "sds_config": watched(str(plan.folder / CLIENTS_FILE))}
        found["validation_context_sds_secret_config"] = clients
    return found


def _inline_certificates(tls: Tls) -> Json:
    clients = _clients(tls.client_ca) if tls.client_ca else None
    return present({"tls_certificates": [_server(tls)], "validation_context": clients})


def _server(tls: Tls) -> Json:
    return {
        "certificate_chain": {"inline_string": tls.certificate},
        "private_key": {"filename": str(tls.private_key)},
    }


def _clients(client_ca: str) -> Json:
    return {"trusted_ca": {"inline_string": client_ca}}


def _secret(name: str, **content: Any) -> Json:
    return typed(f"{_TLS}.Secret", name=name, **content)


def _watched_file(resource: Json) -> Json:
    digest = hashlib.sha256(json.dumps(resource, sort_keys=True).encode()).hexdigest()
    return resources(digest[:16], [resource])


def _assignment(url: SplitResult) -> Json:
    port = url.port or (443 if url.scheme == "https" else 80)
    address = {"socket_address": {"address": url.hostname, "port_value": port}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    return {"cluster_name": JWKS_CLUSTER, "endpoints": endpoints}


def _issuer_socket(url: SplitResult, jwt: Jwt) -> Json:
    name = {"san_type": "DNS", "matcher": {"exact": url.hostname}}
    validation = {
        "trusted_ca": {"filename": str(jwt.jwks_ca)},
        "match_typed_subject_alt_names": [name],
    }
    return extension(
        "envoy.transport_sockets.tls",
        f"{_TLS}.UpstreamTlsContext",
        sni=url.hostname,
        common_tls_context={"validation_context": validation},
    )


def _unless(check: Json, *conditions: Json) -> Json:
    """A filter that is passed over where one of the conditions holds."""
    skip = _action(
        extension("skip", "envoy.extensions.filters.common.matcher.action.v3.SkipFilter")
    )
    matcher = {"matcher_list": {"matchers": [{"predicate": _any(*conditions), "on_match": skip}]}}
    return typed(_MATCHED, xds_matcher=matcher, extension_config=check)


def _opened() -> Json:
    return _any(*(_header(":path", {"exact": path}) for path in OPEN_PATHS))


def _has(name: str) -> Json:
    return _header(name, _regex(".+"))


def _regex(pattern: str) -> Json:
    return {"safe_regex": {"google_re2": {}, "regex": pattern}}


def _header(name: str, value: Json) -> Json:
    return {"single_predicate": {"input": _input(name), "value_match": value}}


def _not(predicate: Json) -> Json:
    return {"not_matcher": predicate}


def _any(*predicates: Json) -> Json:
    # An alternative needs two, says Envoy.
    return {"or_matcher": {"predicate": predicates}} if len(predicates) > 1 else predicates[0]


def _first_match(*cases: tuple[Json, Json], otherwise: Json) -> Json:
    matchers = [{"predicate": predicate, "on_match": action} for predicate, action in cases]
    return {"matcher_list": {"matchers": matchers}, "on_no_match": {"matcher": otherwise}}


def _among(tenants: tuple[str, ...]) -> Json:
    """By a map, so that it costs the same however many tenants there are."""
    entries = {tenant: _allow() for tenant in tenants}
    return {"matcher_tree": {"input": _input(TENANT_HEADER), "exact_match_map": {"map": entries}}}


def _allow() -> Json:
    allow = typed("envoy.config.rbac.v3.Action", name="allow", action="ALLOW")
    return _action({"name": "allow", "typed_config": allow})


def _action(found: Json) -> Json:
    return {"action": found}


def _input(name: str) -> Json:
    return extension(
        "header", "envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name=name
    )
