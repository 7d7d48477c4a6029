"""Each request leaves a line in the log and a mark in the metrics."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from serving.log import Log, fault
from serving.metrics import Metrics
from serving.store import StoreError


def note(metrics: Metrics, log: Log, scope: Scope, status: int, seconds: float) -> None:
    """Notes a request, how it was answered, and how long that took.

    >>> log = Log()
    >>> note(Metrics(), log, {"method": "GET"}, status=404, seconds=0.001)
    >>> b'"status":404' in log.waiting[0]
    True
    """
    operation, problem = scope.get("operation"), scope.get("problem")
    metrics.request("" if operation is None else operation.name, status, seconds)
    fields: dict[str, Any] = {} if status < 400 or problem is None else {"error": type(problem).__name__}
    if isinstance(problem, StoreError):
        metrics.store_failed()
        fields = fault(problem)
    log.line(
        "info" if status < 500 else "error", "request", method=scope["method"],
        # The path that was asked for may name a lead; that of the operation does not.
        route="" if operation is None else operation.path,
        status=status, ms=round(1e3 * seconds, 3), tenant=scope.get("tenant", ""), key=scope.get("key", ""),
        **fields,
    )  # fmt: skip
