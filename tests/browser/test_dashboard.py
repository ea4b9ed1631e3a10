"""The dashboard against `gateway dev`, as somebody would use it."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.harness import ARTEFACTS, DevGateway, Observed

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

MOST_TABS = 40


async def sign_in(page: Page, key: str) -> None:
    await page.goto(f"/#key={key}")
    await expect(page.locator("#link")).to_have_attribute("data-phase", "live")


async def submit_echo(page: Page, *, value: str = "hello", seconds: str = "0", steps: str = "1") -> str:
    """Submit by the form; the id at the end of the link to the job."""
    await page.get_by_role("tab", name="Echo").click()
    form = page.locator("#form-echo")
    await form.get_by_label("Value").fill(value)
    await form.get_by_label("Seconds").fill(seconds)
    await form.get_by_label("Steps").fill(steps)
    await form.get_by_role("button", name="Submit").click()
    return await accepted_id(form)


async def accepted_id(form: Locator) -> str:
    href = await form.locator(".accepted a").get_attribute("href")
    assert href
    return href.rsplit("/", 1)[1]


def row_of(page: Page, job_id: str) -> Locator:
    return page.locator(f'.row[data-id="{job_id}"]')


async def press_until(page: Page, key: str, selector: str) -> None:
    for _ in range(MOST_TABS):
        await page.keyboard.press(key)
        if await page.evaluate("s => document.activeElement.matches(s)", selector):
            return
    pytest.fail(f"{key} never leads to {selector}")


async def test_a_submitted_job_appears_moves_and_succeeds_without_reload(page: Page, root_key: str) -> None:
    await sign_in(page, root_key)
    await page.evaluate("() => { window.sameDocument = true; }")
    job_id = await submit_echo(page, seconds="3", steps="12")
    row = row_of(page, job_id)
    await expect(row).to_be_visible()
    seen: list[int] = []
    while len(seen) < 3:
        handle = await page.wait_for_function(
            """([id, last]) => {
                const bar = document.querySelector(`.row[data-id="${id}"] [role=progressbar]`);
                const now = Number(bar?.getAttribute("aria-valuenow") ?? 0);
                return now > last ? now : false;
            }""",
            arg=[job_id, seen[-1] if seen else 0],
        )
        seen.append(await handle.json_value())
    assert seen == sorted(seen)
    assert seen[0] < 100
    await expect(row.locator(".badge")).to_have_text("Succeeded")
    await expect(row.get_by_role("progressbar")).to_have_attribute("aria-valuenow", "100")
    await expect(page.locator("#announcer")).to_contain_text("succeeded")
    assert await page.evaluate("() => window.sameDocument")


async def test_the_timeline_tells_the_story_in_order_and_the_result_is_shown(page: Page, root_key: str) -> None:
    await sign_in(page, root_key)
    job_id = await submit_echo(page, value="<img src=x onerror=alert(1)>", seconds="1", steps="5")
    await page.locator("#form-echo .accepted a").click()
    entries = page.locator(".timeline .entry")
    await expect(entries.last).to_have_attribute("data-event", "job.succeeded")
    kinds = await entries.evaluate_all("all => all.map((each) => each.dataset.event)")
    assert kinds == ["job.queued", "job.started", "job.progress", "job.succeeded"]
    await expect(page.locator(".panel-result")).to_contain_text("<img src=x onerror=alert(1)>")
    await expect(page.locator(".panel-input")).to_contain_text('"steps": 5')
    await expect(page.locator(".panel-follow")).to_contain_text(f"/v1/stream?channel=job:{job_id}")
    await expect(page.locator("#view-job img")).to_have_count(0)
    await page.reload()
    await expect(entries.last).to_have_attribute("data-event", "job.succeeded")


async def test_a_report_of_the_sample_is_a_table_with_distributions(page: Page, root_key: str) -> None:
    await sign_in(page, root_key)
    await page.get_by_role("tab", name="Report").click()
    form = page.locator("#form-report")
    await form.get_by_role("button", name="Sample data").click()
    await expect(form.get_by_label("CSV with a header line")).not_to_be_empty()
    await form.get_by_role("button", name="Submit").click()
    await form.locator(".accepted a").click()
    await expect(page.locator(".report tbody tr").first).to_be_visible()
    assert await page.locator(".report .histogram").count() > 0


async def test_thumbnails_are_shown_although_they_need_the_key(page: Page, root_key: str) -> None:
    await sign_in(page, root_key)
    await page.get_by_role("tab", name="Images").click()
    form = page.locator("#form-image")
    await form.get_by_role("button", name="Submit").click()
    await form.locator(".accepted a").click()
    await expect(page.locator(".gallery img").first).to_be_visible()
    await page.wait_for_function("() => document.querySelector('.gallery img').naturalWidth > 0")


async def test_wrong_input_is_explained_beside_its_field(page: Page, root_key: str) -> None:
    await sign_in(page, root_key)
    await page.get_by_role("tab", name="Any").click()
    form = page.locator("#form-any")
    area = form.get_by_label("Input (JSON)")
    await area.fill('{"value": }')
    await form.get_by_role("button", name="Submit").click()
    await expect(area).to_have_attribute("aria-invalid", "true")
    await expect(area).to_be_focused()
    await expect(area).to_have_accessible_description(re.compile("This is not JSON"))
    await area.fill("{}")
    kind = form.get_by_label("Type")
    await kind.fill("no.such.type")
    await form.get_by_role("button", name="Submit").click()
    await expect(kind).to_have_attribute("aria-invalid", "true")
    await expect(kind).to_have_accessible_description(re.compile(r"\S"))
    await area.fill('"' + "x" * 300_000 + '"')
    await form.get_by_role("button", name="Submit").click()
    await expect(area).to_have_accessible_description(re.compile("the limit is 256 KiB"))


async def test_everything_can_be_done_with_the_keyboard(page: Page, root_key: str) -> None:
    await sign_in(page, root_key)
    await page.keyboard.press("Tab")
    await expect(page.locator("#skip")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#main")).to_be_focused()
    await press_until(page, "Tab", '.tab[aria-selected="true"]')
    await page.keyboard.press("End")
    await expect(page.get_by_role("tab", name="Any")).to_be_focused()
    await page.keyboard.press("Home")
    await press_until(page, "Tab", "#form-echo input")
    await page.keyboard.press("Enter")
    job_id = await accepted_id(page.locator("#form-echo"))
    await press_until(page, "Shift+Tab", ".row-link")
    await page.keyboard.press("Home")
    await expect(row_of(page, job_id).locator(".row-link")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#view-job h1")).to_have_text("echo")
    await expect(page.locator("#main")).to_be_focused()
    await press_until(page, "Tab", ".back")
    await page.keyboard.press("Enter")
    await expect(row_of(page, job_id).locator(".row-link")).to_be_focused()
    await press_until(page, "Shift+Tab", '.chip[aria-checked="true"]')
    await page.keyboard.press("End")
    await expect(page.get_by_role("radio", name="Cancelled")).to_be_checked()
    await expect(row_of(page, job_id)).to_be_hidden()


async def test_the_key_leaves_the_address_bar_and_stays_in_the_tab(page: Page, root_key: str) -> None:
    await sign_in(page, root_key)
    assert root_key not in page.url
    await page.reload()
    await expect(page.locator("#link")).to_have_attribute("data-phase", "live")
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_label("API key")).to_be_focused()
    await page.reload()
    await expect(page.get_by_label("API key")).to_be_visible()


async def test_a_bad_key_is_refused_in_words(page: Page) -> None:
    await page.goto("/")
    await page.get_by_label("API key").fill("gk_certainly_not_a_key")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.locator("#key-error")).to_have_text("This key is not accepted.")
    await expect(page.locator("#view-jobs")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [360, 1280])
async def test_it_fits_and_looks_right(page: Page, root_key: str, scheme: Literal["dark", "light"], width: int) -> None:
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    await page.set_viewport_size({"width": width, "height": 800})
    await sign_in(page, root_key)
    if width < 600:
        await page.get_by_role("button", name="New job").click()
    job_id = await submit_echo(page)
    await expect(row_of(page, job_id).locator(".badge")).to_have_text("Succeeded")
    await page.screenshot(path=ARTEFACTS / f"list-{scheme}-{width}.png")
    assert await page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    await row_of(page, job_id).locator(".row-link").click()
    await expect(page.locator(".timeline .entry").last).to_have_attribute("data-event", "job.succeeded")
    assert await page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")


async def test_every_sample_of_the_form_for_any_type_can_be_submitted(page: Page, root_key: str) -> None:
    await sign_in(page, root_key)
    await page.get_by_role("tab", name="Any").click()
    form = page.locator("#form-any")
    samples = await form.get_by_label("Begin with").locator("option").all_inner_texts()
    assert len(samples) == 7
    ends: dict[str, str] = {}
    for sample in samples:
        await form.get_by_label("Begin with").select_option(label=sample)
        await form.get_by_role("button", name="Submit").click()
        ends[await accepted_id(form)] = "Failed" if "fails" in sample else "Succeeded"
    assert len(ends) == len(samples)
    for job_id, end in ends.items():
        await expect(row_of(page, job_id).locator(".badge")).to_have_text(end, timeout=60_000)


async def test_it_reconnects_after_a_restart_and_catches_up(
    page: Page, root_key: str, dev_gateway: DevGateway, observed: Observed
) -> None:
    observed.expected += ["WebSocket connection to", "Failed to load resource", "ERR_CONNECTION"]
    await sign_in(page, root_key)
    before = await submit_echo(page)
    await expect(row_of(page, before).locator(".badge")).to_have_text("Succeeded")
    dev_gateway.stop()
    await expect(page.locator("#link")).to_have_attribute("data-phase", "reconnecting")
    await expect(page.locator("#banner")).to_be_visible()
    dev_gateway.start()
    # What happened while the page was away, by somebody else.
    other = await page.context.request.post(
        "/v1/jobs", data={"type": "echo", "input": {}}, headers={"Authorization": f"Bearer {dev_gateway.key}"}
    )
    missed = (await other.json())["id"]
    await page.get_by_role("button", name="Try now").click()
    await expect(page.locator("#link")).to_have_attribute("data-phase", "live")
    await expect(page.locator("#banner")).to_be_hidden()
    await expect(row_of(page, missed).locator(".badge")).to_have_text("Succeeded")
    await expect(row_of(page, before)).to_be_visible()
    after = await submit_echo(page)
    await expect(row_of(page, after).locator(".badge")).to_have_text("Succeeded")
