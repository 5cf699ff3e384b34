"""Takes back a self-announce from one node. Source: hyperdht 6.34.0 `lib/announcer.js`; docs/protocol/hyperdht.md."""

from collections.abc import Callable

from ..addresses import Address
from ..crypto import KeyPair, blake2b
from ..rpc import Answer, RpcNode
from .constants import Command
from .messages import encode_announce
from .signatures import sign_unannounce


class Withdrawal:
    """FIND_PEER, because the token from when we announced is too old by now; then UNANNOUNCE, if the node still has us."""

    def __init__(
        self, rpc: RpcNode, key_pair: KeyPair, node: Address, *, now: float, then: Callable[[Address, float], None]
    ) -> None:
        """`then(node, now)` is called when the node has confirmed, has nothing of ours, or does not answer."""
        self._rpc = rpc
        self._key_pair = key_pair
        self._node = node
        self._then = then
        self._target = blake2b(key_pair.public_key)
        self._handle = rpc.request(node, Command.FIND_PEER, target=self._target, then=self._unannounce, now=now)

    def cancel(self) -> None:
        """Stop; `then` is not called."""
        self._rpc.cancel(self._handle)

    def _unannounce(self, answer: Answer) -> None:
        reply = answer.reply
        if reply is None or reply.token is None or reply.id is None or reply.value is None:
            self._then(self._node, answer.now)
            return
        signed = sign_unannounce(self._key_pair, target=self._target, node_id=reply.id, token=reply.token)
        self._handle = self._rpc.request(
            self._node,
            Command.UNANNOUNCE,
            target=self._target,
            token=reply.token,
            value=encode_announce(signed),
            then=self._end,
            now=answer.now,
        )

    def _end(self, answer: Answer) -> None:
        self._then(self._node, answer.now)
