"""`rpc`: calls into the rest of the gateway, which the composition root hands in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from gateway.auth.principals import Principal
from gateway.errors import GatewayError
from gateway.fanout import centrifuge, codes, replies
from gateway.fanout.channel_commands import Refused, known
from gateway.fanout.session import Session
from gateway.web.decoding import compact

# Gets who calls and compact JSON; returns JSON. Raises a GatewayError.
Call = Callable[[Principal, bytes], Awaitable[bytes]]


class RpcCommands:
    """Runs the calls that are offered, by method."""

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self._calls = calls

    async def rpc(self, session: Session, command: centrifuge.Command) -> replies.RpcResult:
        """Run one call; its errors keep their sentence."""
        request = command.rpc or centrifuge.RpcRequest()
        call = self._calls.get(request.method)
        if call is None:
            raise Refused(codes.NOT_AVAILABLE)
        try:
            data = await call(known(session), compact(bytes(request.data) or b"{}"))
        except GatewayError as error:
            raise Refused(codes.told(error)) from None
        return replies.RpcResult(data=msgspec.Raw(data))
