"""What a process of the crash tests does. Runs in a fork of the zygote, on the real adapters."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import onerow
from onerow.services import leases
from support import coordinators
from support.hooks import hook_store


def run(request):
    """Consolidate what ``request`` names and write what came of it to ``request["answer"]``.

    Args:
        request: ``config``; ``table``; ``jobs``: [batch, {options}] pairs; ``halt``: [step, signal name, which
            time it is reached]; ``without``: steps left out, and "lease_check"; ``busy_timeout_s``; ``lease_s``;
            ``full_disk``: [step, bytes]: from that step on no file grows beyond so many bytes;
            ``coordinator``: be one until SIGTERM, see ``support.coordinators``.
    """
    halt_at, signal_name, countdown = request.get("halt") or ("", "SIGKILL", 1)
    left = [countdown]
    full_at, most_bytes = request.get("full_disk") or ("", 0)

    def reach(step):
        if step == full_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        if step == halt_at:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), getattr(signal, signal_name))

    if "coordinator" in request:
        coordinators.run(request, reach)
        return
    without = request.get("without", ())
    if "lease_check" in without:  # a negative control: the holder never notices that its lease is gone
        leases.HeldLeases.raise_if_cancelled = lambda self: None
    answers = []
    with onerow.open(request["config"]) as store:
        hook_store(
            store,
            reach,
            without=without,
            busy_timeout_s=request.get("busy_timeout_s"),
            lease_s=request.get("lease_s"),
        )
        reach("opened")
        for batch, options in request["jobs"]:
            try:
                result = store.consolidate(request["table"], batch, **options)
            except onerow.OnerowError as error:
                answers.append({"raised": error.kind, "error": str(error), "exit_code": error.exit_code})
            else:
                answers.append({**result.to_json(), "exit_code": result.exit_code})
    answer = Path(request["answer"])
    answer.with_suffix(".tmp").write_text(json.dumps(answers), encoding="utf-8")
    answer.with_suffix(".tmp").replace(answer)
