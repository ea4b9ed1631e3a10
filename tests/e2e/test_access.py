"""Keys, scopes, tenants, and what the commands say when something is wrong."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from tests.e2e.clients import read_sse, socket, token
from tests.e2e.stack import Stack, client


def command(product: Stack, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env={**product.env, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def make_key(product: Stack, tenant: str, *scopes: str) -> str:
    """`gateway keys create`."""
    options = [word for scope in scopes for word in ("--scope", scope)]
    made = command(product, "gateway", "keys", "create", "--tenant", tenant, "--name", "test", *options)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


async def test_tenants_see_nothing_of_each_other(product: Stack) -> None:
    _, url = product.gateway()
    product.worker()
    scopes = ("jobs:read", "jobs:write", "events:publish", "channels:read")
    acme, other = make_key(product, "acme", *scopes), make_key(product, "other", *scopes)
    async with client(url, acme) as ours, client(url, other) as theirs:
        body = {"type": "echo", "input": {"value": 1}, "channels": ["room"], "owner": "ann"}
        job = (await ours.post("/v1/jobs", json=body, headers={"Prefer": "wait=20"})).json()
        assert (job["tenant"], job["status"]) == ("acme", "succeeded")
        for path in ("", "/result", "/events"):
            assert (await ours.get(f"/v1/jobs/{job['id']}{path}")).status_code == 200
            assert (await theirs.get(f"/v1/jobs/{job['id']}{path}")).status_code == 404
        assert (await theirs.get("/v1/jobs")).json()["items"] == []
        assert len((await ours.get("/v1/channels/room/history", params={"since": 0})).json()["publications"]) == 3
        assert (await theirs.get("/v1/channels/room/history", params={"since": 0})).json()["publications"] == []
    ann_of_acme, ann_of_other = token("ann", tenant="acme"), token("ann", tenant="other")
    async with (
        client(url, ann_of_acme) as mine,
        client(url, ann_of_other) as namesake,
        client(url, token("bob")) as bob,
    ):
        assert (await mine.get(f"/v1/jobs/{job['id']}")).status_code == 200
        assert (await namesake.get(f"/v1/jobs/{job['id']}")).status_code == 404
        assert (await bob.get(f"/v1/jobs/{job['id']}")).status_code == 404
        assert [item["id"] for item in (await mine.get("/v1/jobs")).json()["items"]] == [job["id"]]
    async with socket(url, ann_of_acme) as opened:
        assert "subscribe" in await opened.call(subscribe={"channel": f"job:{job['id']}"})
    async with socket(url, ann_of_other) as opened:
        assert (await opened.call(subscribe={"channel": f"job:{job['id']}"}))["error"]["code"] == 103


@pytest.mark.parametrize(
    ("scope", "method", "path", "body"),
    [
        ("jobs:read", "POST", "/v1/jobs", {"type": "echo"}),
        ("jobs:write", "GET", "/v1/jobs", None),
        ("jobs:read", "POST", "/v1/events", {"type": "a.b", "channels": ["x"], "data": 1}),
        ("jobs:read", "POST", "/v1/tokens", {"sub": "ann"}),
        ("jobs:read", "GET", "/v1/keys", None),
        ("jobs:read", "GET", "/v1/channels/x/history", None),
    ],
)
async def test_a_key_does_what_its_scopes_say(
    product: Stack, scope: str, method: str, path: str, body: dict[str, object] | None
) -> None:
    _, url = product.gateway()
    async with client(url, make_key(product, "acme", scope)) as http:
        refused = await http.request(method, path, json=body)
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"


async def test_a_revoked_key_is_refused(product: Stack) -> None:
    _, url = product.gateway()
    key = make_key(product, "acme", "jobs:read")
    listed = command(product, "gateway", "keys", "list", "--tenant", "acme").stdout
    revoked = command(product, "gateway", "keys", "revoke", "--tenant", "acme", listed.split()[0])
    assert revoked.returncode == 0, revoked.stderr
    async with client(url, key) as http:
        assert (await http.get("/v1/jobs")).status_code == 401


async def test_a_minted_token_hears_what_it_was_granted(product: Stack) -> None:
    _, url = product.gateway()
    minted = command(product, "gateway", "token", "ann", "--channel", "news:*").stdout.strip()
    async with client(url) as http:

        async def publish() -> None:
            for n in range(50):
                await http.post("/v1/events", json={"type": "news.flash", "channels": ["news:1"], "data": {"n": n}})
                await asyncio.sleep(0.05)

        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(publish())
            events, _ = await read_sse(url, ["news:1"], minted, lambda event: event["type"] == "news.flash")
            publishing.cancel()
    assert events[-1]["data"]["n"] >= 0


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("gateway", "serve"), {"GATEWAY_COLOUR": "red"}, "GATEWAY_COLOUR is not a setting"),
        (("gateway", "serve"), {"GATEWAY_LEASE": "soon"}, "lease"),
        (("consumers", "run", "no.such.module"), {}, "there is no module 'no.such.module'"),
        (("consumers", "run", "json"), {}, "registers no task"),
        (("consumers", "run", "consumers.examples", "--pool", "gpu"), {}, "registers no task of the pool 'gpu'"),
        (("gateway", "keys", "create", "--name", "x", "--scope", "everything"), {}, "'everything' is not one of"),
    ],
)
def test_commands_say_what_is_wrong(
    product: Stack, arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    ended = command(product, *arguments, **environment)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_no_secret_is_logged(product: Stack) -> None:
    process, url = product.gateway()
    credential = token("ann")
    async with client(url, credential) as http:
        ticket = (await http.post("/v1/tickets")).json()["ticket"]
        await http.get("/v1/stream", params={"ticket": "nonsense", "channel": "x"})
        async with http.stream("GET", "/v1/stream", params={"ticket": ticket, "channel": "user:ann"}) as stream:
            assert stream.status_code == 200
        await http.post("/v1/jobs", content=b"{", headers={"Content-Type": "application/json"})
    process.stop()
    for secret in (credential, ticket, product.env["GATEWAY_ROOT_KEY"], product.env["GATEWAY_TOKEN_SECRET"]):
        assert secret not in process.output
    assert all(json.loads(line) for line in process.lines)
