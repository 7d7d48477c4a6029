"""The short way to an operation answers as FastAPI's own would, and a start waits for nothing it does not need."""

import asyncio
import subprocess
import sys

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from trained import ROOT

from serving.direct import Direct
from serving.operation import Operation
from serving.schemas import Status


class Refused(Exception):
    """What an operation refuses."""


class RefusedKindly(Refused):
    """One of its kinds."""


async def fixed(request: Request) -> Response:
    return PlainTextResponse("fixed")


async def named(request: Request) -> Response:
    return PlainTextResponse(f"named {request.path_params['lead_id']!r}")


async def refuses(request: Request) -> Response:
    raise RefusedKindly("no")


async def crashes(request: Request) -> Response:
    raise KeyError("something inside")


async def on_refused(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"refused: {error}", 422)


async def on_crash(request: Request, error: Exception) -> Response:
    return PlainTextResponse("it failed", 500)


SEEN: list[str] = []
STATUS: list[int] = []


def seen(scope: dict, status: int, seconds: float) -> None:
    """Notes each path."""
    assert seconds > 0
    SEEN.append(scope["path"])
    STATUS.append(status)


@pytest.fixture
def client() -> httpx.AsyncClient:
    operations = [
        (Operation("GET", "/fixed", "fixed", "", fixed, Status), fixed),
        (Operation("GET", "/leads/{lead_id}/score", "named", "", named, Status), named),
        (Operation("POST", "/refuses", "refuses", "", refuses, Status), refuses),
        (Operation("GET", "/crashes", "crashes", "", crashes, Status), crashes),
    ]
    SEEN.clear()
    STATUS.clear()
    app = Direct(operations, seen=seen, handlers={Refused: on_refused, Exception: on_crash}, redirect_slashes=False)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://x"
    )  # fmt: skip


async def ask(client: httpx.AsyncClient, method: str, path: str) -> tuple[int, str]:
    answer = await client.request(method, path)
    return answer.status_code, answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/fixed", 200, "fixed"),
        ("HEAD", "/fixed", 200, ""),
        ("POST", "/fixed", 405, '{"detail":"Method Not Allowed"}'),
        ("GET", "/fixed/", 404, '{"detail":"Not Found"}'),
        ("GET", "/leads/L-1/score", 200, "named 'L-1'"),
        ("GET", "/leads/a%2Fb/score", 200, "named 'a/b'"),
        ("GET", "/leads/a/b/score", 404, '{"detail":"Not Found"}'),
        ("POST", "/leads/L-1/score", 405, '{"detail":"Method Not Allowed"}'),
        ("POST", "/refuses", 422, "refused: no"),
        ("GET", "/crashes", 500, "it failed"),
    ],
)
def test_operations_and_what_is_none_are_answered(
    client: httpx.AsyncClient, method: str, path: str, status: int, text: str
) -> None:
    assert asyncio.run(ask(client, method, path)) == (status, text)
    assert (len(SEEN), STATUS) == (1, [status])


def test_fastapi_still_has_its_documents(client: httpx.AsyncClient) -> None:
    for path in ("/docs", "/openapi.json"):
        assert asyncio.run(ask(client, "GET", path))[0] == 200


def test_the_service_starts_without_what_only_lists_need() -> None:
    script = "import sys, serving.server; print(*sorted({'pandas', 'pyarrow', 'lightgbm', 'sklearn'} & {*sys.modules}))"
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout == "\n"
