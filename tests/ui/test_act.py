"""What an operator does: by keyboard, while the page refreshes itself, while things are down."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from playwright.sync_api import expect

from support.browser import PHONE, QUESTIONS, shot
from support.services import TOKENS

ALIVE, DEAD = "predictions/2026-01-10", "predictions/2026-01-11"
REFUSED = ["409", "400"]
AWAY = ["ERR_CONNECTION_REFUSED", "ERR_EMPTY_RESPONSE", "ERR_CONNECTION_RESET", "ERR_SOCKET_NOT_CONNECTED"]


@pytest.fixture
def locked(night):
    """A store in which one holder is alive and one is dead."""
    night.well()
    with night.store() as store:
        night.holds(store, ALIVE)
        night.holds(store, DEAD, holder="merger@host-9:99", renewed_ago_s=700, lasts_s=30)
    return night


def reason(page):
    """Return the field of the reason of the dialog that is open."""
    return page.get_by_role("textbox", name="Reason")


def focused(page):
    """Return what has the focus, in words."""
    return page.evaluate("(document.activeElement.textContent || document.activeElement.id).replace(/\\s+/g, ' ').trim()")


def tab_to(page, words, limit=80):
    """Press the tab key until what is named so has the focus; everything on the way shows that it has it."""
    for _ in range(limit):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement === document.body"):
            continue
        shown = page.evaluate("(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2 })()")
        assert shown, f"the focus is not seen on {focused(page)}"
        if words in focused(page):
            return
    raise AssertionError(f"the tab key never comes to {words!r}")


def test_a_lock_is_taken_away_by_keyboard_alone(locked, serve, visit):
    page = visit(serve(locked).url, allowed=REFUSED)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    tab_to(page, f"Force release… of {ALIVE}")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Take this lock away?")
    expect(dialog).to_contain_text("merger@host-7:4711 holds it since")
    expect(dialog).to_contain_text("it is alive")
    expect(reason(page)).to_be_focused()

    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert focused(page) == f"Force release… of {ALIVE}", "the focus does not come back"

    page.keyboard.press("Enter")
    for _ in range(12):
        page.keyboard.press("Tab")
        inside = page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
        assert inside, "the focus has left the open dialog for the page behind it"
    reason(page).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert focused(page) == "Take it away"
    page.keyboard.press("Enter")
    expect(reason(page)).to_be_focused()
    expect(dialog).to_contain_text("Write a reason.")
    page.keyboard.type("it hangs since midnight")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("Confirm this too: the holder is alive.")
    shot(page, "release-asks-twice", whole=False)
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text(f"merger@host-7:4711 has lost the lock of {ALIVE}. The fence is at")
    assert focused(page) == "Close"
    shot(page, "release-done", whole=False)
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    assert page.evaluate("document.activeElement !== document.body"), "the focus is lost"
    expect(page.locator("#locks")).to_contain_text("taken away by local via")
    with locked.store() as store:
        lock = store.locks.lock(ALIVE)
        assert (lock.state, lock.forced_reason) == ("free", "it hangs since midnight")
        assert store.history("predictions")[0].reason == "it hangs since midnight"


def test_on_a_phone_a_dead_holder_needs_one_confirmation(locked, serve, visit):
    page = visit(serve(locked).url, size=PHONE, scheme="dark", has_touch=True)
    page.get_by_role("button", name=f"Force release… of {DEAD}").tap()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("has not renewed it for 11 min")
    expect(dialog.get_by_role("checkbox")).to_be_hidden()
    box = dialog.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]
    shot(page, "release-phone-dark", whole=False)
    reason(page).fill("host is gone")
    dialog.get_by_role("button", name="Take it away").tap()
    expect(dialog).to_contain_text("has lost the lock")


def test_a_second_step_that_cannot_be_done_is_told_and_done_later(locked, serve, visit):
    page = visit(serve(locked).url)
    code = f"import duckdb, sys; c = duckdb.connect({str(locked.folder / 'w.duckdb')!r}); print('held', flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "held\n"
        page.get_by_role("button", name=f"Force release… of {DEAD}").click()
        dialog = page.get_by_role("dialog")
        reason(page).fill("host is gone")
        dialog.get_by_role("button", name="Take it away").click()
        expect(dialog).to_contain_text("Half done. merger@host-9:99 has lost the lock")
        expect(dialog).to_contain_text("the second step could not be done")
        shot(page, "release-half-done", whole=False)
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()
    dialog.get_by_role("button", name="Try the second step again").click()
    expect(dialog).to_contain_text("The fence is at")


def test_a_batch_is_consolidated_again_and_the_page_tells_how_it_ended(night, serve, visit):
    night.well()
    with night.store() as store:
        night.waits(store, "2026-01-19")
    page = visit(serve(night).url)
    row = page.locator("#batches tbody tr", has=page.get_by_role("link", name="2026-01-19"))
    expect(row).to_contain_text("0 of 1")
    row.get_by_role("button").click()
    dialog = page.get_by_role("dialog", name="Consolidate again?")
    expect(dialog).to_contain_text("1 part")
    dialog.get_by_role("button", name="Consolidate").click()
    expect(dialog).to_contain_text("Write a reason.")
    reason(page).fill("the worker had died")
    dialog.get_by_role("button", name="Consolidate").click()
    expect(dialog).to_contain_text(re.compile("consolidates it next|being consolidated now|Nothing waits"))
    dialog.get_by_role("button", name="Close").click()
    expect(row).to_contain_text("1 of 1", timeout=30_000)


def test_refresh_keeps_focus_scroll_open_tables_and_what_is_being_typed(locked, serve, visit):
    page = visit(serve(locked).url)
    page.locator("#durations-table > summary").click()
    button = page.get_by_role("button", name=f"Force release… of {DEAD}")
    button.focus()
    page.evaluate("window.scrollTo(0, 300)")
    with locked.store() as store:
        store.locks.force_release(ALIVE, reason="no longer", by="somebody else", force=True)
        locked.waits(store, "2026-01-20")
    expect(page.get_by_role("link", name="2026-01-20")).to_be_visible(timeout=30_000)
    expect(page.locator("#locks")).to_contain_text("taken away by somebody else")
    expect(button).to_be_focused()
    assert page.evaluate("Math.abs(window.scrollY - 300)") < 40
    assert page.evaluate("document.getElementById('durations-table').open")
    button.click()
    reason(page).fill("half a sent")
    with locked.store() as store:
        locked.waits(store, "2026-01-21")
    expect(page.locator("#batches")).to_contain_text("2026-01-21", timeout=30_000)
    expect(reason(page)).to_have_value("half a sent")
    expect(reason(page)).to_be_focused()


def test_the_focus_goes_to_the_heading_when_what_had_it_is_gone(locked, serve, visit):
    page = visit(serve(locked).url)
    page.get_by_role("button", name=f"Force release… of {DEAD}").focus()
    with locked.store() as store:
        register, key = store.ports.locks, f"lease:{DEAD}"
        register.swap(key, expected=register.read(key).version, value=None)
        assert register.read(key).value is None
    expect(page.locator("#locks")).not_to_contain_text(DEAD, timeout=30_000)
    expect(page.get_by_role("heading", name="Locks", exact=True)).to_be_focused()


def test_a_change_for_the_worse_is_told_to_a_screen_reader_and_seen_in_the_tab(night, serve, visit):
    night.well()
    page = visit(serve(night).url)
    expect(page).to_have_title("All is well – onerow")
    expect(page.get_by_role("heading", level=1)).to_have_text("All is well")
    shot(page, "well")
    night.duplicate(2)
    expect(page.get_by_role("heading", level=1)).to_have_text("Act now", timeout=30_000)
    expect(page).to_have_title("Act now – onerow")
    expect(page.locator("#told")).to_have_text("Act now.")
    assert "critical.svg" in page.locator("link[rel=icon]").get_attribute("href")


def test_it_says_when_the_service_is_gone_and_when_it_is_back(night, serve, visit):
    night.well()
    service = serve(night)
    page = visit(service.url, allowed=AWAY)
    expect(page.locator("#freshness")).to_contain_text("Up to date")
    service.kill()
    expect(page.locator("#freshness")).to_contain_text("The service does not answer. What you see is", timeout=30_000)
    expect(page.locator("#told")).to_have_text("The service does not answer.")
    expect(page.get_by_role("link", name="2026-01-17").first).to_be_visible()
    assert page.title() == "No answer – onerow"
    before = page.evaluate("getComputedStyle(document.getElementById('status-title'), '::before').content")
    assert before == '"It was: "', "it still says that all is well"
    page.evaluate(QUESTIONS)
    assert page.evaluate("inspected.contrast()")["wrong"] == []
    shot(page, "service-gone")
    service.start()
    expect(page.locator("#freshness")).to_contain_text("Up to date", timeout=30_000)
    expect(page.locator("#told")).to_have_text("The service answers again.")
    expect(page).to_have_title("All is well – onerow")
    expect(page.locator("body.stale")).to_have_count(0)


def test_an_action_that_got_no_answer_is_not_called_done(locked, serve, visit):
    service = serve(locked)
    page = visit(service.url, allowed=AWAY)
    page.get_by_role("button", name=f"Force release… of {DEAD}").click()
    dialog = page.get_by_role("dialog")
    reason(page).fill("host is gone")
    service.kill()
    dialog.get_by_role("button", name="Take it away").click()
    expect(dialog).to_contain_text("Whether it was done is not known")


def test_the_refresh_can_be_paused(night, serve, visit):
    night.well()
    page = visit(serve(night).url)
    page.get_by_role("button", name="Pause refresh").click()
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#freshness")).to_contain_text("Paused.")
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(6_500)
    assert asked == []
    page.get_by_role("button", name="Pause refresh").click()
    expect(page.locator("#freshness")).to_contain_text("Up to date")
    assert asked


def test_login_by_token_shows_readers_no_actions_and_a_session_that_is_over_says_so(locked, serve, visit):
    service = serve(locked, tokens=True)
    page = visit(service.url, allowed=["401"])
    expect(page).to_have_title("Log in – onerow")
    page.get_by_label("Token").fill("this-is-no-token-at-all")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("none that this service knows")
    shot(page, "login-refused")
    page.get_by_label("Token").fill(TOKENS["read"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Have a look")
    expect(page.locator("main button")).to_have_count(0)
    page.context.clear_cookies()
    expect(page.locator("#freshness")).to_contain_text("The session is over", timeout=30_000)
    page.reload()
    page.get_by_label("Token").fill(TOKENS["admin"])
    page.keyboard.press("Enter")
    page.get_by_role("button", name=f"Force release… of {DEAD}").click()
    reason(page).fill("host is gone")
    page.get_by_role("button", name="Take it away").click()
    expect(page.get_by_role("dialog")).to_contain_text("The fence is at")
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_title("Log in – onerow")
