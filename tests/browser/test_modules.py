"""The dashboard's pure modules, run by Chromium from the files: no gateway, no page of ours."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Route

from tests.browser.harness import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

ORIGIN = "http://dashboard.test"
T0 = "2026-01-01T10:00:00.000Z"


@pytest_asyncio.fixture(loop_scope="session")
async def blank(browser: Browser) -> AsyncIterator[Page]:
    async def serve(route: Route) -> None:
        path = route.request.url.removeprefix(ORIGIN)
        if path == "/":
            await route.fulfill(body="<!doctype html><title>blank</title>", content_type="text/html")
        else:
            await route.fulfill(path=ROOT / path.lstrip("/"), content_type="text/javascript")

    page = await browser.new_page(timezone_id="UTC", locale="en")
    await page.route(f"{ORIGIN}/**", serve)
    await page.goto(ORIGIN + "/")
    yield page
    await page.close()


async def call(page: Page, module: str, expression: str, arg: object = None) -> Any:
    """Evaluate `expression` with the module as `m` and the argument as `x`."""
    body = f"async (x) => {{ const m = await import('/static/js/{module}.js'); return {expression}; }}"
    return await page.evaluate(body, arg)


def job(number: int = 1, version: int = 1, status: str = "running", **more: object) -> dict[str, object]:
    created = f"2026-01-01T10:00:{number:02d}.000Z"
    base = {"id": f"job_{number}", "type": "echo", "status": status, "owner": None, "version": version}
    return {**base, "created_at": created, "progress": None, "error": None, "attempt": 1, "max_attempts": 5, **more}


def event(version: int, kind: str, at: str, **more: object) -> dict[str, object]:
    data = {**job(1, version), **more}
    return {"id": f"job_1-{version}", "type": f"job.{kind}", "time": at, "data": data}


async def test_the_order_of_news_does_not_matter(blank: Page) -> None:
    news = [job(1, 1, "queued"), job(1, 2), job(1, 3, "succeeded"), job(1, 2)]
    for order in itertools.permutations(news):
        run = "x.reduce((s, j) => { s.apply(j); return s; }, new m.JobStore()).jobs.get('job_1')"
        assert (await call(blank, "store", run, order))["status"] == "succeeded"


async def test_events_do_not_take_input_and_attempts_away(blank: Page) -> None:
    full = job(1, 2, input={"a": 1}, attempts=[])
    kept = await call(blank, "store", "m.newer(x[0], x[1])", [full, job(1, 3)])
    assert (kept["version"], kept["input"], kept["attempts"]) == (3, {"a": 1}, [])
    gained = await call(blank, "store", "m.newer(x[0], x[1])", [job(1, 2), full])
    assert gained["input"] == {"a": 1}


async def test_the_list_is_bounded_and_forgets_old_ended_jobs_first(blank: Page) -> None:
    jobs = [job(n, 1, "running" if n % 2 else "failed") for n in range(1, 9)]
    run = "x.reduce((s, j) => { s.apply(j); return s; }, new m.JobStore(5)).jobs.keys().toArray()"
    assert await call(blank, "store", run, jobs) == ["job_1", "job_3", "job_5", "job_7", "job_8"]


@pytest.mark.parametrize(
    ("group", "text", "found"),
    [
        ("all", "", True),
        ("running", "", True),
        ("failed", "", False),
        ("all", "ECHO ada", True),
        ("all", "grace", False),
        ("all", "step 3", True),
    ],
)
async def test_filters(blank: Page, group: str, text: str, found: bool) -> None:  # noqa: FBT001 - a table's column
    one = job(owner="ada", progress={"done": 3, "total": 9, "fraction": 0.3, "message": "step 3 of 9"})
    assert await call(blank, "store", "m.matches(...x)", [one, {"group": group, "text": text}]) is found


async def test_a_filtered_list_counts_every_group(blank: Page) -> None:
    jobs = [job(1, 1, "accepted"), job(2, 1, "queued"), job(3, 1, "expired"), job(4, 1, "waiting")]
    counts = await call(blank, "store", "m.countByGroup(x)", jobs)
    assert counts == {"all": 4, "queued": 2, "cancelled": 1, "running": 1}


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("m.formatDuration(-5)", "0 ms"),
        ("m.formatDuration(999.4)", "999 ms"),
        ("m.formatDuration(3240)", "3.2 s"),
        ("m.formatDuration(3990, {coarse: true})", "3 s"),
        ("m.formatDuration(65000)", "1 m 05 s"),
        ("m.formatDuration(7800000)", "2 h 10 m"),
        ("m.formatDuration(100 * 3600000)", "4 d 4 h"),
        ("m.formatBytes(512)", "512 B"),
        ("m.formatBytes(262144)", "256 KiB"),
        ("m.formatBytes(1572864)", "1.5 MiB"),
        ("m.formatPercent(0.999)", "99 %"),
        ("m.formatPercent(1)", "100 %"),
        ("m.formatWhen('2026-01-01T10:00:00Z', Date.parse('2026-01-01T12:00:00Z'))", "10:00:00"),
        ("m.formatWhen('2026-01-01T10:00:00Z', Date.parse('2026-01-03T12:00:00Z'))", "2026-01-01 10:00"),
        ("m.formatWhen(null, 0)", "\u2013"),
        ("m.shortId('job_0123456789abcdef')", "89abcdef"),
        ("m.formatNumber(1234567)", "1,234,567"),
        ("m.formatNumber(3.14159)", "3.142"),
    ],
)
async def test_formats(blank: Page, expression: str, text: str) -> None:
    assert await call(blank, "format", expression) == text


@pytest.mark.parametrize(
    ("pointer", "field"),
    [
        ("/input/csv", "/input/csv"),
        ("#/input/csv", "/input/csv"),
        ("/input/other/deep", "/input"),
        ("/inputs", None),
        ("/type", "/type"),
        ("", None),
    ],
)
async def test_a_pointer_finds_its_field(blank: Page, pointer: str, field: str | None) -> None:
    known = ["/input", "/input/csv", "/type"]
    assert await call(blank, "fields", "m.fieldFor(...x)", [pointer, known]) == field


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "JSON is needed here"),
        ('{"a": 1', "This is not JSON"),
        ('{"a": 1,\n "b" 2}', "line 2, column 6"),
        ('{"value": }', "} is not expected here"),
    ],
)
async def test_json_mistakes_are_explained(blank: Page, text: str, says: str) -> None:
    run = "(() => { try { m.readJson(x, '/input'); } catch (e) { return e.errors[0]; } })()"
    error = await call(blank, "fields", run, text)
    assert says in error["detail"]
    assert error["pointer"] == "/input"


@pytest.mark.parametrize(
    ("hash_", "key", "rest"),
    [
        ("#key=gk_abc", "gk_abc", ""),
        ("#key=gk_abc&/jobs/1", "gk_abc", "#/jobs/1"),
        ("#key=%", "%", ""),
        ("#/jobs/1", None, "#/jobs/1"),
        ("", None, ""),
    ],
)
async def test_the_key_in_the_address(blank: Page, hash_: str, key: str | None, rest: str) -> None:
    assert await call(blank, "session", "m.keyFromHash(x)", hash_) == {"key": key, "hash": rest}


@pytest.mark.parametrize(
    ("hash_", "route"),
    [
        ("", {"name": "jobs"}),
        ("#/", {"name": "jobs"}),
        ("#/jobs/job_1", {"name": "job", "id": "job_1"}),
        ("#/jobs/a%2Fb", {"name": "job", "id": "a/b"}),
        ("#/jobs/%", {"name": "jobs"}),
        ("#/jobs/a/b", {"name": "jobs"}),
    ],
)
async def test_routes(blank: Page, hash_: str, route: dict[str, str]) -> None:
    assert await call(blank, "router", "m.parseRoute(x)", hash_) == route


async def test_progress_becomes_one_entry_whatever_the_order(blank: Page) -> None:
    events = [
        event(2, "started", "2026-01-01T10:00:01.000Z"),
        event(1, "queued", T0, status="queued"),
        event(4, "progress", "2026-01-01T10:00:03.000Z", progress={"fraction": 1, "message": "b"}),
        event(3, "progress", "2026-01-01T10:00:02.000Z", progress={"fraction": 0.5, "message": "a"}),
        event(3, "progress", "2026-01-01T10:00:02.000Z", progress={"fraction": 0.5, "message": "a"}),
        event(5, "succeeded", "2026-01-01T10:00:03.250Z", status="succeeded"),
    ]
    entries = await call(blank, "timeline", "m.buildTimeline(m.inOrder(x))", events)
    assert [entry["type"] for entry in entries] == ["job.queued", "job.started", "job.progress", "job.succeeded"]
    assert [entry["after"] for entry in entries] == ["", "+1.0 s", "+1.0 s", "+250 ms"]
    assert entries[2]["detail"] == "2 updates · b"


@pytest.mark.parametrize(
    ("key", "index", "wrap", "to"),
    [
        ("ArrowDown", 0, False, 1),
        ("ArrowDown", 2, False, 2),
        ("ArrowRight", 2, True, 0),
        ("ArrowUp", 0, True, 2),
        ("Home", 2, False, 0),
        ("End", 0, False, 2),
        ("a", 0, False, None),
    ],
)
async def test_arrow_keys(blank: Page, key: str, index: int, wrap: bool, to: int | None) -> None:  # noqa: FBT001 - a table's column
    assert await call(blank, "roving", "m.nextIndex(...x)", [key, index, 3, wrap]) == to


@pytest.mark.parametrize(
    ("phase", "online", "age", "says"),
    [
        ("live", True, 60_000, ""),
        ("reconnecting", True, 100, ""),
        ("reconnecting", True, 5_000, "caught up"),
        ("reconnecting", False, 5_000, "You are offline"),
        ("connecting", True, 5_000, "not up yet"),
        ("closed", True, 5_000, "have ended: gone"),
    ],
)
async def test_the_banner(blank: Page, phase: str, online: bool, age: int, says: str) -> None:  # noqa: FBT001 - a table's column
    state = {"phase": phase, "failures": 2, "since": 1_000_000, "within": 1500, "reason": "gone"}
    text = await call(blank, "connection", "m.bannerText(...x)", [state, online, 1_000_000 + age])
    assert says in text
    assert bool(text) is bool(says)


async def test_endings_are_told_in_one_sentence(blank: Page) -> None:
    one, two = job(1, 9, "succeeded"), job(2, 9, "failed")
    assert await call(blank, "endings", "m.sentence(x)", [one]) == "echo 1 succeeded"
    assert await call(blank, "endings", "m.sentence(x)", [one, two]) == "2 jobs ended: 1 succeeded, 1 failed"


async def test_json_tokens_are_the_text(blank: Page) -> None:
    value = {"key": 'a "quoted": text', "n": [-1.5e3, True, None], "long": "x" * 5000}
    text, parts = await call(blank, "json", "[m.prettyJson(x), m.tokens(m.prettyJson(x))]", value)
    assert "".join(part["text"] for part in parts) == text
    assert len(text) < 1000
    assert {"kind": "key", "text": '"key"'} in parts
    assert {"kind": "number", "text": "-1500"} in parts


async def test_attachments_are_found_wherever_they_are(blank: Page) -> None:
    file = {"name": "a.png", "type": "image/png", "size": 1, "url": "/v1/jobs/job_1/attachments/a.png"}
    result = {"thumbnails": [file], "deep": {"er": [{"name": "no", "type": "x", "url": "http://elsewhere/"}]}}
    assert await call(blank, "attachments", "m.attachmentsOf(x)", result) == [file]


async def test_a_column_of_a_report(blank: Page) -> None:
    raw = {"name": "price", "type": "number", "count": 9, "distinct": 2000, "distinct_capped": True, "min": 0, "max": 2}
    histogram = {"from": 0, "to": 2, "counts": [4, 5], "sampled": False}
    column = await call(blank, "report", "m.columnOf(x)", {**raw, "histogram": histogram})
    assert column["bars"] == [{"label": "0 to 1: 4", "count": 4}, {"label": "1 to 2: 5", "count": 5}]
    assert ["distinct", "over 2,000"] in column["facts"]
