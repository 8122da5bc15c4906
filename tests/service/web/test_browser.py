"""The pages in a real browser, with JavaScript and without."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from search.records import StageName
from tests.job_story import Story, small_spec
from tests.service.api.conftest import Api
from tests.service.web.conftest import HOSTILE, Stories

pytestmark = pytest.mark.browser


def open_job(page: Page, api: Api, story: Story) -> None:
    page.goto(f"{api.server.url}/jobs/{story.job_id}")


class TestWithoutJavaScript:
    @pytest.fixture
    def page(self, browser: Browser) -> Any:
        context = browser.new_context(java_script_enabled=False)
        yield context.new_page()
        context.close()

    def test_the_whole_report_can_be_read(self, page: Page, api: Api, stories: Stories) -> None:
        open_job(page, api, stories.succeeded)

        expect(page.get_by_role("heading", name="Verdict")).to_be_visible()
        expect(page.locator(".verdict .sentence")).to_contain_text("Use the searched process")
        expect(page.locator("table.arms tbody tr")).to_have_count(5)
        expect(page.locator("figure.chart svg").first).to_be_visible()
        page.get_by_text("In figures").click()
        expect(page.get_by_role("rowheader", name="logits · kd")).to_be_visible()

    def test_from_the_list_to_a_job_and_back(self, page: Page, api: Api, stories: Stories) -> None:
        page.goto(api.server.url)
        page.get_by_role("link", name="A teacher that cannot teach").click()
        expect(page.locator(".why")).to_contain_text("The teacher knows nothing.")
        page.get_by_role("link", name="Jobs").first.click()
        page.get_by_role("link", name="failed").click()
        expect(page.locator("table.jobs tbody tr")).to_have_count(1)


class TestWithJavaScript:
    def test_a_running_job_changes_under_the_readers_eyes(self, page: Page, api: Api) -> None:
        story = Story(api.store, api.artifact_root, spec=small_spec(name="Live"))
        story.submit()
        open_job(page, api, story)
        expect(page.locator(".chip").first).to_have_text("queued")
        expect(page.locator("[data-live-status]")).to_have_text("live")
        page.get_by_text("Job spec, with all defaults").click()
        page.evaluate("window.sameDocument = true")

        story.tell(until=StageName.TUNING)
        expect(page.locator(".chip").first).to_have_text("running", timeout=10_000)
        expect(page.locator(".stages .now")).to_contain_text("Tuning of KD")
        expect(page.locator("#spec")).to_have_attribute("open", "")

        story.fail("nan", "A loss became infinite.")
        expect(page.locator(".why")).to_contain_text("A loss became infinite.", timeout=10_000)
        expect(page.locator("[data-live-status]")).to_be_hidden()
        assert page.evaluate("window.sameDocument") is True

    def test_the_list_changes_too(self, page: Page, api: Api, stories: Stories) -> None:
        page.goto(api.server.url)
        story = Story(api.store, api.artifact_root, spec=small_spec(name="Appears by itself"))
        story.submit()

        expect(page.get_by_role("link", name="Appears by itself")).to_be_visible(timeout=10_000)

    def test_a_finished_job_opens_no_stream(self, page: Page, api: Api, stories: Stories) -> None:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        open_job(page, api, stories.succeeded)
        page.wait_for_timeout(800)

        assert [url for url in asked if "/events" in url or "/fragment" in url] == []
        assert [url for url in asked if not url.startswith(api.server.url)] == []

    def test_hostile_names_do_nothing(self, page: Page, api: Api, stories: Stories) -> None:
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        open_job(page, api, stories.running)
        expect(page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
        page.wait_for_timeout(800)

        assert dialogs == []


class TestForEverybody:
    @pytest.mark.parametrize("width", [360, 768, 1600])
    def test_no_page_is_wider_than_the_window(
        self, page: Page, api: Api, stories: Stories, width: int
    ) -> None:
        page.set_viewport_size({"width": width, "height": 800})
        for path in ("/", *(f"/jobs/{story.job_id}" for story in vars(stories).values())):
            page.goto(api.server.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_text_stands_out_from_its_ground(
        self, page: Page, api: Api, stories: Stories, scheme: Any
    ) -> None:
        page.emulate_media(color_scheme=scheme)
        for story in (stories.succeeded, stories.failed, stories.running):
            open_job(page, api, story)
            weak = page.evaluate(CONTRASTS)
            assert weak == []

    def test_everything_has_a_name_and_headings_are_in_order(
        self, page: Page, api: Api, stories: Stories
    ) -> None:
        open_job(page, api, stories.succeeded)
        levels = page.evaluate(
            "[...document.querySelectorAll('h1,h2,h3')].map((one) => Number(one.tagName[1]))"
        )

        assert levels[0] == 1
        assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
        assert page.locator("svg[role=img]:not([aria-label])").count() == 0
        assert page.locator("table:not(:has(th[scope=col]))").count() == 0
        assert page.locator("html[lang=en]").count() == 1

    def test_the_keyboard_reaches_content_first(self, page: Page, api: Api, stories: Stories) -> None:
        page.goto(api.server.url)
        page.keyboard.press("Tab")

        assert page.evaluate("document.activeElement.textContent") == "Skip to content"


# Elements whose text has less than the contrast of 4.5 that WCAG asks for, by the nearest opaque ground.
CONTRASTS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const found = rgb(getComputedStyle(one).backgroundColor);
      if (found[3] > 250) return found;
    }
    return [255, 255, 255];
  };
  const weak = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("[hidden], .skip, title") || element.closest("details:not([open])")) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(rgb(colour)), light(ground(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    const name = element.className.baseVal ?? element.className;
    if (contrast < 4.5) weak.push(`${name}: ${contrast.toFixed(2)} ${element.textContent.slice(0, 30)}`);
  }
  return [...new Set(weak)];
}
"""
