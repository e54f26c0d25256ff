"""Callers, limits and other models that contradict themselves, told with line and way out."""

from __future__ import annotations

import textwrap

import pytest

from tritonfleet.errors import InvalidSpec
from tritonfleet.spec import load_fleet

SERVERS = "servers: [{name: gpu0, capacity: 8GiB}]\n"
SOURCE = "source: {kind: huggingface, model: x, task: feature-extraction}"


def fleet(models, rest=""):
    entries = "".join(f"  {name}: {{{SOURCE}, {more}}}\n" for name, more in models.items())
    return SERVERS + textwrap.dedent(rest) + "models:\n" + entries


def load(tmp_path, text):
    path = tmp_path / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return load_fleet(path)


def problem(tmp_path, text):
    with pytest.raises(InvalidSpec) as caught:
        load(tmp_path, text)
    (found,) = caught.value.problems
    return found.path, found.message, found.suggestion


@pytest.mark.parametrize(
    ("models", "path", "message", "hint"),
    [
        ({"bert": "fallback: [brt-tiny]", "bert-tiny": ""}, "models.bert.fallback.0",
         "there is no model 'brt-tiny'", "did you mean 'bert-tiny'?"),
        ({"a": "fallback: [zebra]"}, "models.a.fallback.0", "there is no model 'zebra'", None),
        ({"a": "fallback: [a]"}, "models.a.fallback.0", "'a' names itself", "name another model"),
        ({"a": "fallback: [b, b]", "b": ""}, "models.a.fallback.1", "'b' is named twice",
         "name each once"),
        ({"a": "mirror: {model: a}"}, "models.a.mirror.model", "'a' names itself",
         "name another model"),
        ({"a": "mirror: {model: digit}", "digits": ""}, "models.a.mirror.model",
         "there is no model 'digit'", "did you mean 'digits'?"),
    ],
)  # fmt: skip
def test_another_model_must_be_one_that_is_there(tmp_path, models, path, message, hint):
    assert problem(tmp_path, fleet(models)) == (path, message, hint)


def test_fallbacks_in_a_circle_are_shown_as_one(tmp_path):
    models = {
        "a": "fallback: [b]",
        "b": "fallback: [c]",
        "c": "fallback: [a]",
        "d": "fallback: [a]",
    }
    with pytest.raises(InvalidSpec) as caught:
        load(tmp_path, fleet(models))
    told = [(each.path, each.message) for each in caught.value.problems]
    assert told == [
        ("models.a.fallback", "the fallbacks lead in a circle: a -> b -> c -> a"),
        ("models.b.fallback", "the fallbacks lead in a circle: b -> c -> a -> b"),
        ("models.c.fallback", "the fallbacks lead in a circle: c -> a -> b -> c"),
    ]


def test_two_models_may_have_the_same_fallback(tmp_path):
    models = {"a": "fallback: [c]", "b": "fallback: [c, a]", "c": ""}
    assert load(tmp_path, fleet(models)).models["b"].fallback == ("c", "a")


@pytest.mark.parametrize(
    ("limits", "field", "message"),
    [
        ("{batch_concurrency: 2}", "batch_concurrency",
         "it is a share of max_concurrency, which is not set"),
        ("{max_concurrency: 2, batch_concurrency: 3}", "batch_concurrency",
         "3 is above max_concurrency 2"),
        ("{rate: {requests_per_s: 1e7}}", "rate.requests_per_s",
         "1e+07 is not between one a day and a million a second"),
        ("{rate: {requests_per_s: 1e-6}}", "rate.requests_per_s",
         "1e-06 is not between one a day and a million a second"),
        ("{rate: {requests_per_s: 1, burst: 1000001}}", "rate.burst", "1000001 is above a million"),
    ],
)  # fmt: skip
def test_a_limit_that_cannot_be_kept_is_told(tmp_path, limits, field, message):
    path, told, _hint = problem(tmp_path, fleet({"a": f"limits: {limits}"}))
    assert (path, told) == (f"models.a.limits.{field}", message)


def test_limits_are_checked_with_the_defaults_beneath_them(tmp_path):
    defaults = "defaults: {limits: {max_concurrency: 2}}\n"
    assert load(tmp_path, fleet({"a": "limits: {batch_concurrency: 2}"}, defaults))
    _path, told, _hint = problem(tmp_path, fleet({"a": "limits: {batch_concurrency: 3}"}, defaults))
    assert told == "3 is above max_concurrency 2"


TENANT = "api_keys: [env:A]"
JWT = "issuer: https://i"


@pytest.mark.parametrize(
    ("access", "path", "message", "hint"),
    [
        ("{tenants: {t: {}}}", "access.tenants.t", "nothing tells who is 't'",
         "give it api_keys, or declare 'access: jwt'"),
        (f"{{tenants: {{t: {{{TENANT}, models: [dgits]}}}}}}", "access.tenants.t.models.0",
         "no model is called like 'dgits'", "did you mean 'digits'?"),
        (f"{{tenants: {{t: {{{TENANT}, models: ['team-*']}}}}}}", "access.tenants.t.models.0",
         "no model is called like 'team-*'", None),
        (f"{{tenants: {{t: {{{TENANT}}}, u: {{{TENANT}}}}}}}", "access.tenants.u.api_keys.0",
         "'t' has the same key", "give each its own"),
        (f"{{tenants: {{t: {{{TENANT}, rate: {{requests_per_s: 1e9}}}}}}}}",
         "access.tenants.t.rate.requests_per_s",
         "1e+09 is not between one a day and a million a second",
         "leave the rate out where there is none"),
        (f"{{jwt: {{{JWT}}}, tenants: {{t: {{}}}}}}", "access.jwt",
         "give exactly one of 'jwks_file' and 'jwks_url'", None),
        (f"{{jwt: {{{JWT}, jwks_file: k, jwks_url: 'https://i/k'}}, tenants: {{t: {{}}}}}}",
         "access.jwt", "give exactly one of 'jwks_file' and 'jwks_url'", None),
        (f"{{jwt: {{{JWT}, jwks_file: k}}}}", "access.jwt",
         "tokens name tenants, and none is declared: everybody may call",
         "declare them under 'access: tenants'"),
    ],
)  # fmt: skip
def test_a_caller_whom_nothing_lets_in_is_told(tmp_path, access, path, message, hint):
    assert problem(tmp_path, fleet({"digits": ""}, f"access: {access}\n")) == (path, message, hint)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://issuer.example/keys", True),
        ("http://127.0.0.1:8080/keys", True),
        ("http://localhost/keys", True),
        ("http://[::1]/keys", True),
        ("http://issuer.example/keys", False),
        ("ftp://issuer.example/keys", False),
        ("https://", False),
        ("https://host:port/", False),
    ],
)
def test_keys_of_an_issuer_come_from_it_alone(tmp_path, url, safe):
    access = f"access: {{jwt: {{{JWT}, jwks_url: '{url}'}}, tenants: {{t: {{}}}}}}\n"
    text = fleet({"digits": ""}, access)
    if safe:
        assert load(tmp_path, text).access.jwt.jwks_url == url
    else:
        assert problem(tmp_path, text)[0] == "access.jwt.jwks_url"


def test_a_tenant_known_by_tokens_needs_no_key(tmp_path):
    access = f"access: {{jwt: {{{JWT}, jwks_file: k}}, tenants: {{t: {{models: ['dig*']}}}}}}\n"
    assert load(tmp_path, fleet({"digits": ""}, access)).access.tenants["t"].models == ("dig*",)


def test_a_pattern_may_mean_a_model_that_has_problems_of_its_own(tmp_path):
    access = f"access: {{tenants: {{t: {{{TENANT}, models: [digits]}}}}}}\n"
    models = {"digits": "serving: {max_batch: 1}", "other": ""}
    path, _told, _hint = problem(tmp_path, fleet(models, access))
    assert path == "models.digits.serving.max_batch"
