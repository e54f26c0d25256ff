"""What the fleet file says of callers, with its references followed."""

from __future__ import annotations

import json
import os

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from tritonfleet.errors import InvalidAccess
from tritonfleet.gateway.access_plan import read_access, tenants_of
from tritonfleet.gateway.envoy.plan import Access, Credential
from tritonfleet.spec.traffic import AccessSpec

KEY, OTHER_KEY = "k-0123456789abcdef", "k-fedcba9876543210"
JWKS = {
    "keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]
}


def spec(**access):
    return AccessSpec.model_validate(access)


def tenant(*references, **more):
    return {"api_keys": list(references), **more}


def refusal(access, folder, environment=None):
    with pytest.raises(InvalidAccess) as caught:
        read_access(access, folder, environment or {})
    return str(caught.value)


def test_nothing_declared_is_nothing_asked(tmp_path):
    assert read_access(spec(), tmp_path) == Access()
    assert tenants_of(spec(), "digits") is None


def test_keys_are_found_in_variables_and_in_files_beside_the_fleet_file(tmp_path):
    (tmp_path / "b.key").write_text(f"{OTHER_KEY}\n")
    access = spec(tenants={"a": tenant("env:A_KEY", "file:b.key"), "b": tenant("env:B_KEY")})
    found = read_access(access, tmp_path, {"A_KEY": KEY, "B_KEY": f" {KEY[::-1]}\n"})
    assert found.credentials == (
        Credential("a", KEY), Credential("a", OTHER_KEY), Credential("b", KEY[::-1])
    )  # fmt: skip
    assert found.tenants == ("a", "b")


def test_the_variables_are_those_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("TENANT_A", KEY)
    assert read_access(spec(tenants={"a": tenant("env:TENANT_A")}), tmp_path).credentials


def test_a_key_given_twice_to_one_tenant_is_one_key(tmp_path):
    access = spec(tenants={"a": tenant("env:OLD", "env:NEW")})
    assert read_access(access, tmp_path, {"OLD": KEY, "NEW": KEY}).credentials == (
        Credential("a", KEY),
    )


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("two words 0123456789", "it has blanks, quotes, a backslash or"),
        ("clé-0123456789abcdef", "it has blanks, quotes, a backslash or"),
        ("quoted'0123456789abcdef", "it has blanks, quotes, a backslash or"),
        ("back\\slash0123456789", "it has blanks, quotes, a backslash or"),
        ("0123456789abcde", "it has 15 characters, which can be guessed"),
    ],
)
def test_a_key_that_cannot_serve_is_told_without_being_shown(tmp_path, key, cause):
    told = refusal(spec(tenants={"a": tenant("env:A")}), tmp_path, {"A": key})
    assert told.startswith(f"the key of tenant 'a', env:A: {cause}")
    assert not key.strip() or key.strip() not in told


def test_a_key_that_looks_like_a_token_is_refused_where_tokens_are_accepted(tmp_path):
    key = "abcdefgh.ijklmnop.qrstuvwx"
    (tmp_path / "jwks.json").write_text(json.dumps(JWKS))
    tenants = {"a": tenant("env:A")}
    assert read_access(spec(tenants=tenants), tmp_path, {"A": key}).credentials
    jwt = {"issuer": "https://i", "jwks_file": "jwks.json"}
    told = refusal(spec(tenants=tenants, jwt=jwt), tmp_path, {"A": key})
    assert "it would be taken for a token" in told
    assert key not in told


@pytest.mark.parametrize(
    ("reference", "cause"),
    [("env:MISSING", "there is no such variable"), ("file:missing", "No such file or directory")],
)
def test_a_reference_that_leads_nowhere_is_named_with_its_tenant(tmp_path, reference, cause):
    told = refusal(spec(tenants={"acme": tenant(reference)}), tmp_path)
    assert told.startswith(f"the key of tenant 'acme', {reference}: {cause}")


def test_two_tenants_with_one_key_are_told_by_name_alone(tmp_path):
    access = spec(tenants={"a": tenant("env:A"), "b": tenant("env:B")})
    told = refusal(access, tmp_path, {"A": KEY, "B": KEY})
    assert "tenant 'b', env:B: it holds the same key as one of tenant 'a'" in told
    assert KEY not in told


def test_a_credential_does_not_show_its_key():
    assert KEY not in repr(Access(credentials=(Credential("a", KEY),)))


# -- who may call what -------------------------------------------------------------------------


def test_patterns_say_which_models_a_tenant_may_call():
    access = spec(
        tenants={"a": tenant("env:A", models=["team-a-*", "shared"]), "b": tenant("env:B")}
    )
    assert tenants_of(access, "team-a-1") is None
    assert tenants_of(access, "team-b-1") == ("b",)
    assert tenants_of(access, "shared") is None
    assert tenants_of(access, "Shared") == ("b",)


def test_a_model_may_be_nobodys():
    assert tenants_of(spec(tenants={"a": tenant("env:A", models=["x"])}), "y") == ()


NAMES = st.text("ab-.", min_size=1, max_size=6)


@given(st.dictionaries(st.sampled_from("tuv"), st.lists(NAMES, min_size=1)), NAMES)
def test_whole_names_mean_these_models_and_no_others(models, model):
    access = spec(tenants={name: tenant("env:A", models=own) for name, own in models.items()})
    allowed = tuple(name for name, own in models.items() if model in own)
    assert tenants_of(access, model) == (None if len(allowed) == len(models) else allowed)


def test_rates_and_classes_of_tenants_are_handed_on(tmp_path):
    tenants = {
        "a": tenant("env:A", rate={"requests_per_s": 5}),
        "b": tenant("env:B", latency_class="batch"),
    }
    found = read_access(spec(tenants=tenants), tmp_path, {"A": KEY, "B": OTHER_KEY})
    assert {name: rate.requests_per_s for name, rate in found.rates.items()} == {"a": 5}
    assert found.batch_tenants == ("b",)


# -- tokens ------------------------------------------------------------------------------------


def test_keys_of_an_issuer_are_read_from_a_file(tmp_path):
    (tmp_path / "jwks.json").write_text(json.dumps({**JWKS, "of": "somebody"}, indent=2))
    found = read_access(spec(jwt={"issuer": "https://i", "jwks_file": "jwks.json"}), tmp_path)
    assert json.loads(found.jwt.jwks) == JWKS
    assert found.jwt.jwks_ca is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"keys": []}', '{"keys": [1]}', '{"keys": 3}']
)
def test_what_is_no_key_set_is_refused(tmp_path, text):
    (tmp_path / "jwks.json").write_text(text)
    told = refusal(spec(jwt={"issuer": "https://i", "jwks_file": "jwks.json"}), tmp_path)
    assert told.startswith("the keys of the tokens' issuer, jwks.json: it is no JSON Web Key Set")


def test_an_issuer_on_the_net_is_checked_by_what_the_machine_trusts(tmp_path, monkeypatch):
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    jwt = {"issuer": "https://i", "jwks_url": "https://i/keys"}
    assert read_access(spec(jwt=jwt), tmp_path).jwt.jwks_ca == bundle


def test_an_issuer_on_this_machine_needs_no_certificate(tmp_path):
    jwt = {"issuer": "https://i", "jwks_url": "http://127.0.0.1:1/keys"}
    assert read_access(spec(jwt=jwt), tmp_path).jwt.jwks_ca is None


# -- certificates ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def tls(tmp_path, authority):
    issued = authority.issue_cert("localhost")
    write_pair(issued, tmp_path)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return {"certificate": "cert.pem", "private_key": "key.pem"}


def write_pair(issued, folder):
    pems = b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    (folder / "cert.pem").write_bytes(pems)
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))


def test_a_certificate_is_read_and_its_key_is_not(tmp_path, tls):
    found = read_access(spec(tls=tls), tmp_path).tls
    assert found.certificate == (tmp_path / "cert.pem").read_text()
    assert found.private_key == tmp_path / "key.pem"
    assert found.client_ca is None


def test_a_key_in_the_certificates_file_stays_there(tmp_path, tls):
    with (tmp_path / "cert.pem").open("a") as file:
        file.write((tmp_path / "key.pem").read_text())
    tls["private_key"] = "cert.pem"
    found = read_access(spec(tls=tls), tmp_path).tls
    assert "BEGIN CERTIFICATE" in found.certificate
    assert "PRIVATE KEY" not in found.certificate


def test_a_renewed_certificate_is_another_access(tmp_path, tls, authority):
    before = read_access(spec(tls=tls), tmp_path)
    assert read_access(spec(tls=tls), tmp_path) == before
    write_pair(authority.issue_cert("localhost"), tmp_path)
    assert read_access(spec(tls=tls), tmp_path) != before


def test_authorities_of_clients_are_read(tmp_path, tls, authority):
    found = read_access(spec(tls={**tls, "client_ca": "ca.pem"}), tmp_path).tls
    assert found.client_ca.strip() == authority.cert_pem.bytes().decode().strip()


def test_half_a_renewal_is_refused(tmp_path, tls, authority):
    authority.issue_cert("localhost").private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    told = refusal(spec(tls=tls), tmp_path)
    assert "the gateway's private key, key.pem: it does not open, or does not belong to" in told


def test_a_key_with_a_password_is_refused_and_nobody_is_asked(tmp_path, tls):
    from cryptography.hazmat.primitives import serialization as form

    key = form.load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
    locked = form.BestAvailableEncryption(b"secret")
    (tmp_path / "key.pem").write_bytes(
        key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, locked)
    )
    assert "a key with a password cannot be used" in refusal(spec(tls=tls), tmp_path)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"hello", "it holds no certificate"),
        (b"\xff\xfe", "it is not text"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
         "it holds a broken certificate"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("role", ["certificate", "client_ca"])
def test_what_is_no_certificate_is_refused(tmp_path, tls, role, content, cause):
    (tmp_path / "bad.pem").write_bytes(content)
    assert f"bad.pem: {cause}" in refusal(spec(tls={**tls, role: "bad.pem"}), tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_may_not_be_read_is_told(tmp_path, tls):
    (tmp_path / "key.pem").chmod(0)
    assert "key.pem: Permission denied" in refusal(spec(tls=tls), tmp_path)
