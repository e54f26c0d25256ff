"""``ModelInfer`` of a model that Envoy does not know to be in memory."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import grpc
import grpc.aio

from tritonfleet.controller.controller import Controller
from tritonfleet.errors import FleetError, ServerUnreachable
from tritonfleet.gateway.activator import PAUSES_S, absence, is_absent
from tritonfleet.gateway.desk import Admission, Asked, Desk
from tritonfleet.gateway.grpc_front.call import Call
from tritonfleet.gateway.grpc_front.channels import Answer, Channels
from tritonfleet.gateway.grpc_front.messages import Head, directed, read_head

_QUEUE_FULL = "Exceeds maximum queue size"


class _NothingRun(Exception):
    """An attempt that ended before the model ran."""

    def __init__(self, outcome: grpc.aio.AioRpcError | FleetError, *, overloaded: bool) -> None:
        super().__init__(outcome)
        self.outcome, self.overloaded = outcome, overloaded


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One request, through all its attempts."""

    call: Call
    head: Head
    body: bytes


class Inference:
    """Holds a request until its model is there, and then forwards it as it came."""

    def __init__(self, controller: Controller, desk: Desk, channels: Channels) -> None:
        self._controller, self._desk, self._channels = controller, desk, channels

    async def infer(self, body: bytes, call: Call) -> bytes:
        """Triton's answer."""
        head = read_head(body)
        with self._desk.holding(head.model, len(body)):
            answer = await self._answered(_Exchange(call, head, body), call.asked(head))
        call.trailing = answer.trailing
        return answer.body

    async def _answered(self, exchange: _Exchange, asked: Asked) -> Answer:
        """The answer to the first attempt, or to a later one where that is safe."""
        started = self._controller.now()
        for pause_s in PAUSES_S:
            try:
                return await self._attempt(exchange, asked)
            except _NothingRun as refusal:
                last = refusal
            await asyncio.sleep(pause_s)
            spent_s = self._controller.now() - started
            asked = replace(asked, spent_s=spent_s, overloaded=last.overloaded)
        raise last.outcome

    async def _attempt(self, exchange: _Exchange, asked: Asked) -> Answer:
        try:
            async with self._desk.admit(asked) as admission:
                exchange.call.tell(admission)
                answer = await self._relayed(exchange, admission)
                admission.proved()
                return answer
        except ServerUnreachable as error:
            if error.sent:
                raise
            raise _NothingRun(error, overloaded=True) from error

    async def _relayed(self, exchange: _Exchange, admission: Admission) -> Answer:
        try:
            return await self._channels.unary(
                admission.server,
                "ModelInfer",
                directed(exchange.body, exchange.head, admission.model, admission.version),
                timeout_s=admission.remaining_s,
                metadata=exchange.call.passed_on,
            )
        except grpc.aio.AioRpcError as error:
            await self._judge(admission, error)
            raise

    async def _judge(self, admission: Admission, error: grpc.aio.AioRpcError) -> None:
        """Raises _NothingRun for an error that shows that the model has not run."""
        text = error.details() or ""
        if await is_absent(text, admission, self._controller):
            self._controller.missing(admission.model)
            raise _NothingRun(absence(admission), overloaded=False) from error
        refused = _QUEUE_FULL in text and admission.fallback is None
        if refused and self._desk.has_alternative(admission.model):
            raise _NothingRun(error, overloaded=True) from error
