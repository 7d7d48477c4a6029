"""The pages on CRMs: every request in them is sent as it is written, and every push is run."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from test_cli import Runner, run  # noqa: F401
from test_push import IDS, listed
from trained import ROOT, Trained, serving

from serving.crms import CRMS
from serving.openapi20 import OPERATIONS
from serving.schemas import TierChangedEvent

FOLDER = ROOT / "docs" / "crm"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.md"))}
ADDRESS = "https://touchstone.example"
REQUEST = re.compile(r"```http\n(.*?)```(?:\n\n```json\n(.*?)```)?", re.DOTALL)
COMMAND = re.compile(r"^touchstone .*$", re.MULTILINE)


class Sent(NamedTuple):
    """A request as it is written, and what is said to be answered."""

    method: str
    url: str
    headers: dict[str, str]
    body: str
    answer: Any


def requests(page: str) -> Iterator[Sent]:
    for text, answer in REQUEST.findall(page):
        head, _, body = text.partition("\n\n")
        first, *headers = head.strip().splitlines()
        method, url = first.split(" ")
        named = dict(header.split(": ", 1) for header in headers)
        yield Sent(method, url, named, body.strip(), json.loads(answer) if answer else None)


class Service(NamedTuple):
    address: str
    keys: dict[str, str]

    def send(self, one: Sent) -> httpx.Response:
        """Sends a request, with the address and the keys put in."""
        headers = {name: self._filled(value) for name, value in one.headers.items()}
        url = one.url.replace(ADDRESS, self.address)
        return httpx.request(one.method, url, headers=headers, content=one.body.encode(), timeout=300)

    def _filled(self, value: str) -> str:
        for placeholder, key in self.keys.items():
            value = value.replace(placeholder, key)
        return value


@pytest.fixture(scope="module")
def service(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the keys that the first page makes, of the scopes that it says."""
    database = f"sqlite:///{tmp_path_factory.mktemp('crm')}/touchstone.db"
    commands = [line.split() for line in COMMAND.findall(PAGES["README"]) if line.startswith("touchstone keys")]
    assert [words[3] for words in commands] == ["crm", "setup"]
    keys = []
    for words in commands:
        done = subprocess.run(
            [sys.executable, "-m", *words], env={**os.environ, "TOUCHSTONE_DATABASE": database}, cwd=ROOT,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        keys.append(done.stdout.splitlines()[0])
    with serving(trained.bundle, "--database", database, no_auth=False) as (_, address):
        yield Service(address, {"ts_your_key": keys[0], "ts_admin_key": keys[1]})


def check_shape(said: Any, got: Any, where: str = "") -> None:
    """What is said to be answered is: by name and by type."""
    if isinstance(said, dict):
        assert said.keys() <= got.keys(), where
        for name, value in said.items():
            check_shape(value, got[name], f"{where}.{name}")
    elif isinstance(said, list):
        assert isinstance(got, list), where
        for one, other in zip(said, got, strict=False):
            check_shape(one, other, f"{where}[]")
    else:
        assert isinstance(got, type(said)) or {type(said), type(got)} == {int, float}, where


@pytest.mark.parametrize("name", PAGES)
def test_every_request_works_as_it_is_written(service: Service, name: str) -> None:
    sent = [*requests(PAGES[name])]
    assert len(sent) == PAGES[name].count("```http") >= 5
    for one in sent:
        assert one.url.startswith(f"{ADDRESS}/")
        got = service.send(one)
        for _ in range(100):
            # The ranking follows within seconds.
            if not (one.answer and one.answer.get("next") and got.json()["next"] is None):
                break
            time.sleep(0.1)
            got = service.send(one)
        assert got.status_code == 200, f"{one}: {got.text}"
        if one.answer is not None:
            check_shape(one.answer, got.json())
        if one.answer and "accepted" in one.answer:
            assert got.json() == one.answer


def test_each_page_tells_of_all_there_is_to_do() -> None:
    assert PAGES.keys() == {"README", "salesforce", "hubspot", "dynamics", "odoo", "zapier", "n8n"}
    for name, page in PAGES.items():
        asked = [(one.method, one.url.removeprefix(ADDRESS).partition("?")[0]) for one in requests(page)]
        assert any(path.endswith("/score") for _, path in asked), name
        assert {("POST", "/v1/touchpoints"), ("POST", "/v1/track")} & {*asked}, name
        assert {("POST", "/v1/outcomes"), ("POST", "/v1/track")} & {*asked}, name
        assert ("POST", "/v1/webhooks") in asked, name
        assert "touchstone push" in page, name
        if name != "README":
            assert re.search(r"Tested against the written contract alone, never in a live \w+", page), name
    assert "Nothing was tried in a live" in PAGES["README"]


def test_a_request_that_is_wrong_is_found(service: Service) -> None:
    """The test of the pages fails where a page does."""
    page = PAGES["README"]
    for right, wrong in (('"channel"', '"chanel"'), ("ts_your_key", "ts_another_key"), ("/v1/outcomes", "/v1/outcome")):
        assert right in page
        assert any(service.send(one).status_code >= 400 for one in requests(page.replace(right, wrong)))
    with pytest.raises(AssertionError):
        check_shape({"a": [{"b": 1}]}, {"a": [{"c": 1}]})


def test_the_event_is_as_the_page_shows_it() -> None:
    (shown,) = (
        json.loads(text) for text in re.findall(r"```json\n(\{\"id\": \"evt_.*?)```", PAGES["README"], re.DOTALL)
    )
    assert shown.keys() == {field.encode_name for field in msgspec.structs.fields(TierChangedEvent)}
    msgspec.convert(shown, TierChangedEvent)


def test_the_operations_that_pages_name_are_there(server: httpx.Client) -> None:
    document = server.get("/openapi-3.0.json").json()
    known = {operation["operationId"] for path in document["paths"].values() for operation in path.values()}
    for name in ("salesforce", "dynamics"):
        named = set(re.findall(r"`((?:score|list|get|put|add|replay)[A-Z]\w+)`", PAGES[name]))
        assert named and named <= known
    assert named == {*OPERATIONS} - known.difference(OPERATIONS)


@pytest.mark.parametrize("name", CRMS)
def test_every_push_works_as_it_is_written(
    run: Runner,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    page = PAGES[name]
    blocks = [block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "touchstone push" in block]
    assert len(blocks) == (2 if name == "salesforce" else 1)
    for number, block in enumerate(blocks):
        (tmp_path / str(number) / "build").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / str(number))
        listed(Path("build/scored.csv"), IDS[name])
        (command,) = COMMAND.findall(block)
        told = run(*command.split()[1:])
        assert told.code == 0, told.err
        assert told.err == ""
    # What each CRM's own tool is to load is what was written.
    for file in re.findall(r"build/push/[\w*.-]+", page):
        assert [*Path().glob(file)], file
    for theirs in CRMS[name].fields.values():
        assert f"`{theirs}`" in page


def test_what_hubspot_is_told_of_the_file_is_true(run: Runner, tmp_path: Path) -> None:  # noqa: F811
    (text,) = re.findall(r"```json\n(\{\"name\": .*?)```", PAGES["hubspot"], re.DOTALL)
    (file,) = json.loads(text)["files"]
    run("push", listed(tmp_path / "a.csv", IDS["hubspot"]), "--to", "hubspot", "--output", tmp_path / "out")
    (written,) = (tmp_path / "out").iterdir()
    with written.open(encoding="utf-8", newline="") as lines:
        header = next(csv.reader(lines))
    assert (file["fileName"], file["fileFormat"]) == (written.name, "CSV")
    mapped = file["fileImportPage"]["columnMappings"]
    assert [one["columnName"] for one in mapped] == header
    assert [one["propertyName"] for one in mapped] == [None, *header[1:]]


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", PAGES[name]):
        assert (FOLDER / link).exists(), link
