"""Errors as the libraries raise them, and the sentence for each."""

from __future__ import annotations

import pickle

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from repo_builder.artifacts.address import Address
from repo_builder.artifacts.troubles import Unreachable, translated
from tritonfleet.errors import SourceUnavailable

WHERE = Address("s3://bucket/key")


def told(error: Exception, address: Address = WHERE) -> str:
    return str(translated("m", address, error))


def s3_error(code: str) -> Exception:
    """As s3fs raises it: a plain error whose cause is botocore's."""
    error = PermissionError("no")
    error.__cause__ = ClientError({"Error": {"Code": code, "Message": "no"}}, "HeadObject")
    return error


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("ExpiredToken", "the credentials for s3://bucket/key have expired. Renew them"),
        ("InvalidAccessKeyId", "the credentials for s3://bucket/key are refused"),
        ("SignatureDoesNotMatch", "are refused"),
        ("AccessDenied", "access to s3://bucket/key is denied"),
        ("403", "access to s3://bucket/key is denied"),
    ],
)
def test_what_a_store_says_of_credentials(code, text):
    assert text in told(s3_error(code))


def test_a_missing_bucket_is_told_from_a_missing_key():
    absent = FileNotFoundError("s3")
    assert "there is nothing at s3://bucket/key" in told(absent)
    absent.__cause__ = ClientError({"Error": {"Code": "NoSuchBucket"}}, "ListObjectsV2")
    assert "the bucket of s3://bucket/key does not exist" in told(absent)


def test_only_what_cannot_be_reached_lets_an_earlier_copy_serve():
    assert isinstance(
        translated("m", WHERE, EndpointConnectionError(endpoint_url="x")), Unreachable
    )
    assert isinstance(translated("m", WHERE, TimeoutError()), Unreachable)
    for error in (s3_error("403"), FileNotFoundError(), NoCredentialsError(), ValueError("x")):
        assert not isinstance(translated("m", WHERE, error), Unreachable)


def test_each_kind_of_store_has_its_own_credentials():
    error = NoCredentialsError()
    assert "AWS_PROFILE" in told(error)
    assert "GOOGLE_APPLICATION_CREDENTIALS" in told(error, Address("gs://bucket/key"))
    assert "environment" in told(error, Address("oss://bucket/key"))


@pytest.mark.parametrize("url", ["s3://bucket/key", "models:/bert/1"])
def test_a_missing_package_names_the_extra(url):
    extra = "mlflow" if url.startswith("models") else "s3"
    assert f"tritonfleet[{extra}]" in told(ImportError("x", name="mlflow"), Address(url))


def test_the_way_of_mlflow_to_s3_is_in_extra_s3():
    assert "tritonfleet[s3]" in told(ImportError("x", name="boto3"), Address("models:/bert/1"))


def test_a_signed_address_in_a_library_s_text_is_not_repeated():
    text = told(OSError("GET https://host/key?X-Amz-Signature=s3cr3t failed"))
    assert "s3cr3t" not in text and "https://host/key" in text


def test_an_error_of_ours_stays_as_it_is_and_survives_a_pickle():
    error = Unreachable("m", "nobody answers", "Wait.")
    assert translated("m", WHERE, error) is error
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, SourceUnavailable) and str(again) == str(error)
