"""What everybody can see: on a phone, in the dark, without scripts, with a screen reader; and pictures of it."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from support.browser import PHONE, QUESTIONS, WIDE, Service, shot
from support.night import HOSTILE, Night

BATCH = f"/tables/predictions/batches/{quote(HOSTILE, safe='')}"
PAGES = {
    "overview": "/",
    "batch": BATCH,
    "duplicates": "/tables/predictions/duplicates?look=1",
    "consolidation": "",  # named by chance: the failed one
    "nothing": "/tables/none/duplicates",
}


def address(service, name):
    """Return where a page is."""
    if name != "consolidation":
        return service.url + PAGES[name]
    with service.night.store() as store:
        failed = next(run for run in store.runs.list("predictions") if run.result.status == "failed")
    return f"{service.url}/consolidations/{failed.result.consolidation}"


def ask(page, question):
    """Ask the page about itself; it is the test's own script, so the page's policy does not stop it."""
    page.evaluate(QUESTIONS)
    return page.evaluate(f"inspected.{question}()")


def open_all(page):
    for summary in page.locator("summary").all():
        summary.click()


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A service over a store in which nothing has happened."""
    service = Service(Night(tmp_path_factory.mktemp("empty"))).start()
    yield service
    service.kill()


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_all_of_it_without_scrolling_sideways(shared_night, visit, name):
    page = visit(address(shared_night, name), size=PHONE, allowed=["404"])
    open_all(page)
    assert ask(page, "overflow") == []
    shot(page, f"{name}-phone")


@pytest.mark.parametrize("width", [600, 768, 1024, 1152, 1160, 1280])
def test_no_width_between_phone_and_desk_cuts_anything_off(shared_night, visit, width):
    page = visit(shared_night.url, size={"width": width, "height": 800}, allowed=["404"])
    for name in PAGES:
        page.goto(address(shared_night, name))
        open_all(page)
        assert ask(page, "overflow") == [], name


def test_large_text_on_a_phone_needs_no_scrolling_sideways_either(shared_night, visit):
    page = visit(shared_night.url, size=PHONE)
    page.evaluate("document.documentElement.style.setProperty('font-size', '150%')")
    assert ask(page, "overflow") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_words_and_signs_stand_out_in_both_schemes(shared_night, visit, name, scheme):
    page = visit(address(shared_night, name), scheme=scheme, allowed=["404"])
    open_all(page)
    found = ask(page, "contrast")
    assert found["wrong"] == []
    assert found["seen"] > (5 if name == "nothing" else 15)
    shot(page, f"{name}-{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_store_in_which_nothing_has_happened_yet_is_readable_too(empty, visit, scheme):
    page = visit(empty.url, scheme=scheme)
    assert page.get_by_role("heading", level=1).inner_text() == "Cannot tell"
    assert ask(page, "contrast")["wrong"] == []
    assert ask(page, "rules") == []
    shot(page, f"empty-{scheme}")


def test_the_contrast_check_finds_what_is_hard_to_read(shared_night, visit):
    """Negative control: grey on grey is found, in text and in pictures."""
    page = visit(shared_night.url)
    page.get_by_role("button", name="Pause refresh").click()
    page.evaluate("""() => {
        document.querySelector('.asof').style.setProperty('color', '#b0a0a0');
        document.querySelector('.chart rect').style.setProperty('fill', '#f0f0f0');
    }""")
    wrong = ask(page, "contrast")["wrong"]
    assert any("“Seen at" in line for line in wrong)
    assert any(line.startswith("rect.series-0: ") for line in wrong)


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("name", PAGES)
def test_a_screen_reader_is_told_names_headings_landmarks_and_tables(shared_night, visit, name, size):
    page = visit(address(shared_night, name), size=size, allowed=["404"])
    open_all(page)
    assert ask(page, "rules") == []
    tree = page.locator("body").aria_snapshot()
    for landmark in ("- banner", "- main", "- contentinfo", "- navigation"):
        assert landmark in tree
    if name == "overview":
        assert '- table "Locks that are held' in tree  # also where it looks like cards
        assert '- img "How long locks are waited for Half within' in tree
        assert 'rowheader "3 keys of predictions stand more than once.' in tree


def test_the_rules_find_what_a_screen_reader_would_miss(shared_night, visit):
    """Negative control: a nameless button, a heading that leaves a level out, a table without a caption."""
    page = visit(shared_night.url)
    page.get_by_role("button", name="Pause refresh").click()
    page.evaluate("""() => {
        document.getElementById('pause').textContent = '';
        document.querySelector('#locks h2').outerHTML = '<h4>Locks</h4>';
        document.querySelector('#staging table').caption.remove();
    }""")
    wrong = " ".join(ask(page, "rules"))
    for words in ("button#pause.quiet has no name", "h4 leaves a level out", "a table has no caption"):
        assert words in wrong


def test_everything_can_be_read_without_scripts(shared_night, visit):
    page = visit(shared_night.url, java_script_enabled=False)
    assert page.get_by_role("heading", level=1).inner_text() == "Act now"
    assert page.get_by_text("Up to date").count() == 0
    assert page.locator("#pause").is_hidden()
    page.get_by_role("link", name="2026-01-19").click()
    assert page.get_by_role("heading", level=1).inner_text() == "Batch 2026-01-19"
    page.get_by_role("link", name="Overview").click()
    page.locator("#runs tbody a").first.click()
    assert "Consolidation of batch" in page.get_by_role("heading", level=1).inner_text()


def test_who_wants_little_motion_gets_none(shared_night, visit):
    def moving(page):
        return page.evaluate("getComputedStyle(document.documentElement).scrollBehavior")

    assert moving(visit(shared_night.url, reduced_motion="no-preference")) == "smooth"
    still = visit(shared_night.url, reduced_motion="reduce")
    assert moving(still) == "auto"
    lively = "[...document.querySelectorAll('*')].filter(e => { const s = getComputedStyle(e); return s.animationName !== 'none' || s.transitionDuration !== '0s' }).length"
    assert still.evaluate(lively) == 0


def test_hostile_names_are_words(shared_night, visit):
    page = visit(shared_night.url)
    link = page.get_by_role("link", name=HOSTILE)
    assert link.inner_text() == HOSTILE
    link.click()
    assert page.get_by_role("heading", level=1).inner_text() == f"Batch {HOSTILE}"
    assert page.locator("img, iframe, object").count() == 0


def test_a_picture_has_its_figures_as_a_table(shared_night, visit):
    page = visit(shared_night.url)
    panel = page.locator("section.card", has=page.get_by_role("heading", name="Checks inside the transactions"))
    panel.locator("summary").click()
    rows = panel.locator("tbody tr").all()
    assert len(rows) == 7
    passed = sum(int(row.locator("td").nth(0).inner_text()) for row in rows)
    failed = sum(int(row.locator("td").nth(1).inner_text()) for row in rows)
    assert f"{passed} passed, {failed} failed" in panel.locator(".sum").inner_text()
