"""NVIDIA's own client in its four flavours, used in one way."""

from __future__ import annotations

import asyncio
import inspect
from concurrent.futures import Future
from functools import partial
from types import ModuleType

import numpy
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

FLAVOURS: dict[str, ModuleType] = {
    "http": tritonclient.http,
    "http.aio": tritonclient.http.aio,
    "grpc": tritonclient.grpc,
    "grpc.aio": tritonclient.grpc.aio,
}


class Client:
    """An unmodified client; what it would have awaited is awaited here."""

    def __init__(self, flavour, address, **options):
        self.flavour, self.is_grpc = flavour, flavour.startswith("grpc")
        self._module = FLAVOURS[flavour]
        self._runner = asyncio.Runner()
        self._client = self._runner.run(self._made(address, options))

    async def _made(self, address, options):
        # The asynchronous ones belong to the loop that they were made on.
        return self._module.InferenceServerClient(address, **options)

    def __getattr__(self, name):
        method = getattr(self._client, name)

        def call(*arguments, **options):
            result = method(*arguments, **options)
            return self._runner.run(result) if inspect.isawaitable(result) else result

        return call

    def told(self, name, *arguments, **options):
        """What a question about server or models is answered with, as a dictionary."""
        answer = getattr(self, name)(*arguments, **options)
        if not self.is_grpc:
            return answer
        return MessageToDict(answer, preserving_proto_field_name=True)

    def tensor(self, name, array, *, binary_data=True):
        """An input of a request; only HTTP has more than one way to send it."""
        made = self.empty_tensor(name, array)
        options = {} if self.is_grpc else {"binary_data": binary_data}
        made.set_data_from_numpy(array, **options)
        return made

    def empty_tensor(self, name, array):
        """An input whose data is somewhere else."""
        return self._module.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))

    def output(self, name, *, binary_data=True, **options):
        """An output that is asked for."""
        if not self.is_grpc:
            options["binary_data"] = binary_data
        return self._module.InferRequestedOutput(name, **options)

    def refusal(self, *arguments, **options):
        """(code, text) of the error that an inference ends with."""
        try:
            self.infer(*arguments, **options)
        except InferenceServerException as error:
            return error.status(), error.message()
        raise AssertionError("it was answered")

    def infer_together(self, model, requests):
        """The answers to requests that are all under way at once, in their order."""
        if self.flavour.endswith("aio"):
            return self._runner.run(self._gathered(model, requests))
        if not self.is_grpc:
            under_way = [self._client.async_infer(model, inputs) for inputs in requests]
            return [one.get_result() for one in under_way]
        futures = [Future() for _ in requests]
        for future, inputs in zip(futures, requests, strict=True):
            self._client.async_infer(model, inputs, partial(_settle, future))
        return [future.result(60) for future in futures]

    async def _gathered(self, model, requests):
        return await asyncio.gather(*(self._client.infer(model, inputs) for inputs in requests))

    def id_of(self, result):
        """The request's id in an answer."""
        answer = result.get_response()
        return answer.id if self.is_grpc else answer.get("id")

    def close(self):
        """Ends its connections, and the loop that they live on."""
        result = self._client.close()
        if inspect.isawaitable(result):
            self._runner.run(result)
        self._runner.close()


def _settle(future, result, error):
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def rows(*first):
    """What adders are given: a row for each number."""
    return numpy.array([[number, 2, 3, 4] for number in first], numpy.float32)


def one(value):
    """What the models of numbers are given."""
    return numpy.array([value], numpy.int32)


def grpc_tensor(name, array):
    """An input of a request on a stream."""
    made = tritonclient.grpc.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made
