"""Dead letters over HTTP and from the command line, on a real Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import patch

import httpx
import pytest
from click.testing import CliRunner, Result
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from structlog.testing import capture_logs

from consumers.outcome import describe
from gateway import cli
from gateway.__main__ import main
from gateway.auth.authenticator import Authenticator
from gateway.auth.keys import KeyStore
from gateway.auth.middleware import Authentication
from gateway.auth.principals import Scope
from gateway.auth.tokens import Claims, Tokens
from gateway.jobs.dead_routes import DeadLetterRoutes
from gateway.jobs.deadletters import DeadLetters
from gateway.jobs.local import LocalQueue
from gateway.settings import load
from gateway.store.deadletters import DeadLetterStore
from gateway.store.redis import Store
from gateway.web.context import RequestContext
from gateway.web.problems import Errors, exception_handlers
from tests.jobs.bench import TENANT, Bench
from tests.jobs.dead import failing
from tests.web.asgi import client

ROOT_KEY = "the-root-key-of-this-test"
TOKENS = Tokens(b"s" * 32)


class World:
    def __init__(self, bench: Bench, http: httpx.AsyncClient, keys: KeyStore, url: str) -> None:
        self.bench = bench
        self.http = http
        self.keys = keys
        self.url = url
        self.messages = DeadLetterStore(bench.store, bench.settings)

    async def call(
        self, method: str, path: str = "", *, key: str = ROOT_KEY, status: int = 200, **body: Any
    ) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        request = self.http.request(method, f"/v1/dead-letters{path}", headers=headers, json=body or None)
        answer = await request
        assert answer.status_code == status, answer.text
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = answer.json()
        return found

    async def key(self, tenant: str, *scopes: Scope) -> str:
        return (await self.keys.create(tenant, "test", scopes))[1]

    async def failing(self, error: BaseException | None = None, **changes: Any) -> str:
        text = describe(error or ValueError("row 7 is bad"), 1, retryable=True)
        return await failing(self.bench, text, **changes)

    async def ids(self, query: str = "", **more: Any) -> list[str]:
        return [item["id"] for item in (await self.call("GET", query, **more))["items"]]

    async def command(self, *words: str) -> Result:
        environment = {"GATEWAY_REDIS_URL": self.url, "GATEWAY_AMQP_URL": "memory://"}
        with patch.object(cli, "configure"), capture_logs() as logs:  # the logging of this process stays as it is
            result = await asyncio.to_thread(CliRunner().invoke, main, ["dead-letters", *words], env=environment)
        self.logs = logs
        return result


@pytest.fixture
async def world(redis_url: str, redis: Redis) -> AsyncIterator[World]:
    del redis  # emptied
    settings = load({"GATEWAY_REDIS_URL": redis_url, "GATEWAY_ROOT_KEY": ROOT_KEY})
    async with Store.open(settings) as store:
        bench = Bench(store, settings)
        await bench.jobs.register({"echo": ("default", 3, 60.0), "other": ("slow", 3, 60.0)})
        keys = KeyStore(store, settings)
        routes = DeadLetterRoutes(DeadLetters(store, LocalQueue(), settings), DeadLetterStore(store, settings))
        app = Starlette(
            routes=routes.routes(),
            middleware=[
                Middleware(RequestContext),
                Middleware(Errors),
                Middleware(Authentication, verify=Authenticator(keys, TOKENS).verify),
            ],
            exception_handlers=exception_handlers(),
        )
        async with client(app) as http:
            yield World(bench, http, keys, redis_url)


async def test_it_is_listed_shown_put_back_and_discarded(world: World) -> None:
    first, second = await world.failing(), await world.failing()
    listed = await world.call("GET")
    assert {item["id"] for item in listed["items"]} == {first, second}
    assert (listed["total"], listed["dropped"], listed["next_cursor"]) == (2, 0, None)
    shown = await world.call("GET", f"/{first}")
    assert shown["job"]["input"] == {"value": []}
    assert shown["job"]["attempts"][0]["error"]["type"] == "ValueError"
    with capture_logs() as logs:
        await world.call("POST", f"/{first}/requeue", status=202)
        await world.call("POST", f"/{second}/discard")
    assert [(line["how"], line["id"], line["by"]) for line in logs] == [
        ("requeued", first, "root"),
        ("discarded", second, "root"),
    ]
    assert await world.ids() == []
    assert [(await world.bench.job(job_id))["status"] for job_id in (first, second)] == ["accepted", "failed"]
    await world.call("GET", f"/{first}", status=404)
    await world.call("POST", f"/{first}/requeue", status=409)
    await world.call("POST", f"/{second}/discard", status=404)
    await world.call("GET", "/nonsense", status=404)


async def test_groups_say_what_is_worth_looking_at(world: World) -> None:
    ids = [await world.failing(ValueError(f"row {number} is bad")) for number in range(3)]
    await world.failing(OSError("disk"))
    groups = (await world.call("GET", "/groups"))["items"]
    assert {(item["group"]["message"], item["count"]) for item in groups} == {("row <n> is bad", 3), ("disk", 1)}
    (rows,) = [item for item in groups if item["count"] == 3]
    assert rows["sample"] in ids
    assert sorted(await world.ids(f"?group={rows['group']['id']}")) == sorted(ids)
    assert len(await world.ids("?error_type=OSError")) == 1
    page = await world.call("GET", "/groups?limit=1")
    rest = await world.call("GET", f"/groups?limit=1&cursor={page['next_cursor']}")
    assert page["items"] + rest["items"] == groups
    assert rest["next_cursor"] is None


async def test_pages_and_filters(world: World) -> None:
    ids = [await world.failing(type="other" if number % 2 else "echo") for number in range(5)]
    page = await world.call("GET", "?limit=2")
    seen = [item["id"] for item in page["items"]]
    while page["next_cursor"]:
        page = await world.call("GET", f"?limit=2&cursor={page['next_cursor']}")
        seen += [item["id"] for item in page["items"]]
    assert sorted(seen) == sorted(ids)
    assert sorted(await world.ids("?type=other&pool=slow&reason=failed")) == sorted(ids[1::2])
    assert await world.ids("?type=other&pool=default") == []
    assert await world.ids("?since=2100-01-01T00:00:00Z") == []
    assert await world.ids("?until=2000-01-01T00:00:00%2B02:00") == []


@pytest.mark.parametrize("query", ["?since=yesterday", "?until=2026-01-01", "?limit=0", "?cursor=x", "?unowned=maybe"])
async def test_a_wrong_parameter_is_named(world: World, query: str) -> None:
    answer = await world.call("GET", query, status=422)
    assert answer["errors"][0]["pointer"] == "?" + query[1:].split("=", maxsplit=1)[0]


async def test_many_with_a_dry_run_first_and_from_where_it_stopped(world: World) -> None:
    ids = [await world.failing(type="other") for _ in range(5)]
    kept = await world.failing()
    dry = await world.call("POST", "/requeue", type="other", dry_run=True)
    assert (dry["dry_run"], dry["matched"], dry["done"], len(dry["sample"])) == (True, 5, 0, 5)
    assert len(await world.ids()) == 6
    first = await world.call("POST", "/requeue", type="other", limit=3)
    assert (first["matched"], first["done"], first["failed"]) == (3, 3, [])
    second = await world.call("POST", "/requeue", type="other", limit=3, cursor=first["next_cursor"])
    assert (second["done"], second["next_cursor"]) == (2, None)
    assert [(await world.bench.job(job_id))["run"] for job_id in ids] == [2] * 5
    assert (await world.call("POST", "/discard", all=True, dry_run=True))["matched"] == 1
    assert (await world.call("POST", "/discard", all=True))["done"] == 1
    assert (await world.bench.job(kept))["run"] == 1


async def test_at_a_rate_it_says_when_to_come_again(world: World) -> None:
    for _ in range(3):
        await world.failing()
    headers = {"Authorization": f"Bearer {ROOT_KEY}"}
    body = {"all": True, "limit": 2, "rate": 0.5}
    answer = await world.http.post("/v1/dead-letters/requeue", headers=headers, json=body)
    assert answer.json()["done"] == 2
    assert answer.headers["retry-after"] == "4"


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/requeue", {"dry_run": True}, ""),
        ("/discard", {"limit": 10}, ""),
        ("/discard", {"all": True, "rate": 1}, "/rate"),
        ("/requeue", {"all": True, "limit": 5000}, "/limit"),
        ("/requeue", {"all": True, "rate": 0}, "/rate"),
        ("/requeue", {"all": True, "rate": 1e-300}, "/rate"),
        ("/requeue", {"since": "yesterday"}, "/since"),
        ("/requeue", {"typ": "x"}, "/typ"),
    ],
)
async def test_a_wrong_order_for_many_does_nothing(world: World, path: str, body: dict[str, Any], pointer: str) -> None:
    await world.failing()
    answer = await world.call("POST", path, status=422, **body)
    assert answer["errors"][0]["pointer"] == pointer
    assert len(await world.ids()) == 1


async def test_scopes_are_asked_for(world: World) -> None:
    job_id = await world.failing()
    reader = await world.key(TENANT, "jobs:read")
    writer = await world.key(TENANT, "jobs:write")
    token = TOKENS.mint(Claims(sub="ann", tenant=TENANT, exp=4_000_000_000))
    assert await world.ids(key=reader) == [job_id]
    for method, path, body in (
        ("POST", f"/{job_id}/requeue", {}),
        ("POST", f"/{job_id}/discard", {}),
        ("POST", "/requeue", {"all": True}),
        ("POST", "/discard", {"all": True, "dry_run": True}),
    ):
        await world.call(method, path, key=reader, status=403, **body)
    for path in ("", "/groups", f"/{job_id}"):
        await world.call("GET", path, key=writer, status=403)
        await world.call("GET", path, key=token, status=403)
    await world.call("POST", f"/{job_id}/requeue", key=writer, status=202)


async def test_another_tenant_finds_nothing(world: World) -> None:
    job_id = await world.failing()
    stranger = await world.key("acme", "*")
    assert await world.ids(key=stranger) == []
    for method, path in (("GET", f"/{job_id}"), ("POST", f"/{job_id}/requeue"), ("POST", f"/{job_id}/discard")):
        await world.call(method, path, key=stranger, status=404)
    assert (await world.call("POST", "/discard", key=stranger, all=True))["done"] == 0
    assert await world.ids() == [job_id]


async def test_what_belongs_to_nobody_is_the_root_keys(world: World) -> None:
    raw = await world.messages.bury(None, "undecodable", "jobs.default.bulk", b"x", {})
    assert await world.ids() == []
    assert await world.ids("?unowned=true") == [raw]
    assert (await world.call("GET", f"/{raw}?unowned=true"))["message"]["body"]["text"] == "x"
    await world.call("GET", f"/{raw}", status=404)
    admin = await world.key(TENANT, "*")
    for query in ("?unowned=true", "/groups?unowned=true", f"/{raw}?unowned=true"):
        await world.call("GET", query, key=admin, status=403)
    await world.call("POST", "/discard", key=admin, status=403, all=True, unowned=True)
    # The in-process queue takes no messages back; on RabbitMQ they return (test_undertaker.py).
    await world.call("POST", f"/{raw}/requeue?unowned=true", status=409)
    done = await world.call("POST", "/requeue", all=True, unowned=True)
    assert (done["done"], done["failed"][0]["problem"]["status"]) == (0, 409)
    await world.call("POST", f"/{raw}/discard?unowned=true")
    assert await world.ids("?unowned=true") == []


async def test_the_commands_do_the_same(world: World) -> None:
    ids = [await world.failing() for _ in range(3)]
    listed = await world.command("list", "--json")
    assert {json.loads(line)["id"] for line in listed.output.splitlines()} == set(ids)
    assert ids[0] in (await world.command("list", "--since", "1h")).output
    assert (await world.command("list", "--until", "1h")).output == ""
    group = json.loads((await world.command("groups", "--json")).output)
    assert group["count"] == 3
    assert "row <n> is bad" in (await world.command("groups")).output
    assert json.loads((await world.command("show", ids[0])).output)["id"] == ids[0]
    dry = await world.command("requeue", "--group", group["group"]["id"], "--dry-run")
    assert dry.output.splitlines()[-1] == "3 match"
    assert (await world.command("requeue", ids[0])).output == "1 requeued\n"
    assert (await world.command("requeue", "--all", "--json", "--rate", "1000")).exit_code == 0
    assert [(await world.bench.job(job_id))["run"] for job_id in ids] == [2] * 3
    last = await world.failing()
    assert (await world.command("discard", last)).output == "1 discarded\n"
    assert [(line["how"], line["count"]) for line in world.logs if "how" in line] == [("discarded", 1)]
    assert await world.ids() == []


async def test_named_ones_beyond_the_quota_are_told_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_MAX_OPEN_JOBS", "1")
    ids = [await world.failing() for _ in range(3)]
    result = await world.command("requeue", "--json", *ids)
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert (told["matched"], told["done"]) == (3, 1)
    left = set(await world.ids())
    assert len(left) == 2
    assert sorted(failure["id"] for failure in told["failed"]) == sorted(left)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("requeue",), "Say which"),
        (("discard", "--all", "job_x"), "Say which"),
        (("discard", "job_x", "--dry-run"), "is for a filter"),
        (("list", "--since", "yesterday"), "not valid"),
        (("list", "--since", "999999d"), "999999d ago"),
        (("list", "--tenant", "a b"), "/tenant must be"),
        (("show", "job_x"), "no such dead letter"),
        (("discard", "job_x"), "no such dead letter"),
    ],
)
async def test_a_wrong_command_is_told_as_a_sentence(world: World, words: tuple[str, ...], said: str) -> None:
    result = await world.command(*words)
    assert result.exit_code != 0
    assert said in result.output
    assert not isinstance(result.exception, ValueError | OverflowError)


async def test_a_user_without_a_name_may_use_the_commands(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54_321)
    assert (await world.command("discard", await world.failing())).output == "1 discarded\n"
    assert [line["by"] for line in world.logs if "how" in line] == ["uid 54321"]
