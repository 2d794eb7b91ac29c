"""The control surface: tests switch faults and read counts through it, over the same connection as everything else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import grpc

from onerow.testing.firestore.faults import Faults, Rule
from onerow.testing.firestore.messages import Refusal, refuse

if TYPE_CHECKING:
    from onerow.testing.firestore.service import Firestore

SERVICE: Final = "onerow.testing.firestore.Control"
ASK: Final = f"/{SERVICE}/Ask"
ANSWER_S: Final = 30.0


class ControlService:
    """A generic handler of gRPC. Takes JSON and answers with the state of the database, as JSON."""

    def __init__(self, faults: Faults, firestore: Firestore) -> None:
        self._faults = faults
        self._firestore = firestore
        self._handler = grpc.unary_unary_rpc_method_handler(self._answer)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what answers a call."""
        return self._handler if handler_call_details.method == ASK else None

    def _answer(self, asked: bytes, context: grpc.ServicerContext) -> bytes:
        try:
            return json.dumps(self._do(**json.loads(asked))).encode()
        except (Refusal, TypeError, KeyError) as error:
            refuse(context, Refusal(grpc.StatusCode.INVALID_ARGUMENT, repr(error)))

    def _do(self, database: str, do: str, **facts: Any) -> dict[str, Any]:
        state = self._faults.state(database)
        if do == "rule":
            state.rules.append(Rule(**facts))
        elif do == "clear":
            state.rules.clear()
            state.denied.clear()
            state.kind, state.optimistic, state.preconditions = "native", False, True
        elif do == "count":
            state.calls.clear()
            state.billed.clear()
        elif do == "set":
            for name in facts:
                getattr(state, name)  # no other switches than there are
            if "denied" in facts:
                facts["denied"] = set(facts["denied"])
            for name, value in facts.items():
                setattr(state, name, value)
        elif do == "end_listeners":
            refusal = Refusal(grpc.StatusCode[facts["status"]], "injected") if facts.get("status") else None
            return {"ended": self._firestore.end_streams(database, refusal)}
        elif do != "tell":
            raise KeyError(do)
        return self._faults.told(database)


class Control:
    """The tests' side, for one database of the server at ``address``."""

    def __init__(self, address: str, database: str) -> None:
        """Connect.

        Args:
            address: host and port.
            database: ``projects/P/databases/D``; what is switched is switched for it alone.
        """
        self._database = database
        self._channel = grpc.insecure_channel(address)
        self._ask = self._channel.unary_unary(ASK)

    def rule(self, method: str, action: str, **facts: Any) -> None:
        """Have something go wrong; see ``faults.Rule``."""
        self._do("rule", method=method, action=action, **facts)

    def set(self, **switches: Any) -> None:
        """Set switches; see ``faults.State``."""
        self._do("set", **switches)

    def clear(self) -> None:
        """Let everything work again."""
        self._do("clear")

    def end_listeners(self, status: str = "") -> int:
        """End all listeners, with a status if one is given; return how many."""
        return int(self._do("end_listeners", status=status)["ended"])

    def count(self) -> None:
        """Begin to count anew."""
        self._do("count")

    def calls(self) -> dict[str, int]:
        """Return how often each method was called."""
        return dict(self._do("tell")["calls"])

    def billed(self) -> dict[str, int]:
        """Return how many reads, writes and deletes are paid for."""
        return {"reads": 0, "writes": 0, "deletes": 0, **self._do("tell")["billed"]}

    def rules(self) -> list[Rule]:
        """Return the rules, with how often they still apply."""
        return [Rule(**one) for one in self._do("tell")["rules"]]

    def close(self) -> None:
        """Disconnect."""
        self._channel.close()

    def _do(self, do: str, **facts: Any) -> dict[str, Any]:
        asked = json.dumps({"database": self._database, "do": do, **facts}).encode()
        reply = self._ask(asked, timeout=ANSWER_S, wait_for_ready=True)
        answer: dict[str, Any] = json.loads(reply)
        return answer
