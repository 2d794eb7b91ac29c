"""Slack and the webhook, against a server that is dead, slow, broken, busy, and well."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from onerow.adapters.notify import post
from onerow.adapters.notify.post import TRIES
from onerow.adapters.notify.slack import Slack
from onerow.adapters.notify.webhook import Webhook
from onerow.core.incidents import Message
from onerow.errors import ConfigurationError, NotifierError
from support.receiver import PATH, SECRET

TIMEOUT_S = 1.0
"""Of one try; more than a busy machine needs for a request on loopback."""
MESSAGE = Message(
    message_id="m1",
    event="opened",
    level="CRITICAL",
    kind="duplicates",
    table="props",
    of="partition",
    members=("2026-01-11", "2026-01-12"),
    member_count=2,
    what="5 keys stand more than once.",
    command="onerow check --table props --partition 2026-01-11",
    opening_us=1_768_093_594_538_000,
    since_us=1_768_093_594_538_000,
    at_us=1_768_093_600_000_000,
    resolved_us=0,
    openings=1,
)


@pytest.fixture
def notifier(receiver, monkeypatch):
    """Both receivers post in the same way; the pauses between tries are short here."""
    monkeypatch.setattr(post, "FIRST_PAUSE_S", 0.01)
    made = Webhook(receiver.url, timeout_s=TIMEOUT_S)
    yield made
    made.close()


def test_the_webhook_gets_everything_a_person_needs(receiver):
    webhook = Webhook(receiver.url)
    webhook.send(MESSAGE)
    webhook.close()
    ((path, headers, body),) = receiver.asked
    assert (path, headers["Idempotency-Key"], headers["Content-Type"]) == (PATH, "m1", "application/json")
    assert body == {
        "version": 1,
        "id": "m1",
        "event": "opened",
        "status": "open",
        "level": "CRITICAL",
        "kind": "duplicates",
        "table": "props",
        "partitions": ["2026-01-11", "2026-01-12"],
        "batches": [],
        "checks": [],
        "count": 2,
        "what": "5 keys stand more than once.",
        "since": "2026-01-11T01:06:34Z",
        "resolved": None,
        "at": "2026-01-11T01:06:40Z",
        "openings": 1,
        "command": "onerow check --table props --partition 2026-01-11",
    }


def slack_text(body):
    return [
        *[block["text"]["text"] for block in body["attachments"][0]["blocks"][:-1]],
        body["attachments"][0]["blocks"][-1]["elements"][0]["text"],
    ]


def test_slack_gets_level_table_partitions_what_since_and_the_command(receiver):
    slack = Slack(receiver.url)
    slack.send(MESSAGE)
    slack.close()
    ((_, _, body),) = receiver.asked
    assert body["text"] == "CRITICAL: duplicates in props"
    assert slack_text(body) == [
        "CRITICAL: duplicates in props",
        "5 keys stand more than once.\npartitions: 2026-01-11, 2026-01-12\nsince 2026-01-11T01:06:34Z",
        "onerow check --table props --partition 2026-01-11",
        "onerow m1",
    ]


def test_slack_shows_hostile_names_as_they_stand(receiver):
    slack = Slack(receiver.url)
    hostile = "<!channel> <https://evil|click> *b* `c` &"
    many = tuple(f"p{number}" for number in range(40))
    slack.send(replace(MESSAGE, table=hostile, what="w" * 5_000, members=many, member_count=70, command=hostile))
    slack.send(replace(MESSAGE, event="resolved", resolved_us=1_768_093_999_000_000))
    slack.close()
    body, over = (asked[2] for asked in receiver.asked)
    assert "<" not in body["text"]
    assert body["text"].startswith("CRITICAL: duplicates in &lt;!channel&gt;")
    blocks = body["attachments"][0]["blocks"]
    assert {block["text"]["type"] for block in blocks[:-1]} == {"plain_text"}, "Slack reads no marks there"
    assert blocks[2]["text"]["text"] == hostile
    assert all(len(block["text"]["text"]) <= (150 if block["type"] == "header" else 3_000) for block in blocks[:-1])
    assert "RESOLVED: duplicates in props is over" in slack_text(over)[0]
    assert "over since 2026-01-11T01:13:19Z" in slack_text(over)[1]
    assert over["attachments"][0]["color"] != body["attachments"][0]["color"]


def test_slack_counts_the_partitions_it_does_not_show(receiver):
    slack = Slack(receiver.url)
    many = tuple(f"p{number}" for number in range(40))
    slack.send(replace(MESSAGE, members=many, member_count=70))
    slack.close()
    assert "partitions: p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 and 60 more" in slack_text(receiver.asked[0][2])[1]


@pytest.mark.parametrize("bad", [500, 502, 503, 429, 408, "drop"])
def test_what_may_pass_is_tried_again(notifier, receiver, bad):
    receiver.answers.append(bad)
    notifier.send(MESSAGE)
    assert (len(receiver.asked), len(receiver.taken)) == (2, 1)


@pytest.mark.parametrize("bad", [400, 403, 404, 410, 302])
def test_a_refusal_is_told_at_once(notifier, receiver, bad):
    receiver.answers += [bad] * 9
    with pytest.raises(NotifierError, match=f"answered {bad}") as told:
        notifier.send(MESSAGE)
    assert told.value.refused
    assert len(receiver.asked) == 1


def test_tries_are_bounded(notifier, receiver):
    receiver.answers += [500] * 9
    with pytest.raises(NotifierError, match="answered 500") as told:
        notifier.send(MESSAGE)
    assert not told.value.refused
    assert len(receiver.asked) == TRIES


def test_a_short_retry_after_is_waited_for_and_a_long_one_is_handed_on(receiver, monkeypatch):
    monkeypatch.setattr(post, "FIRST_PAUSE_S", 0.01)
    webhook = Webhook(receiver.url, timeout_s=1)
    receiver.answers.append((429, {"Retry-After": "1"}))
    begun = time.monotonic()
    webhook.send(MESSAGE)
    assert time.monotonic() - begun >= 1
    assert len(receiver.taken) == 1
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    for text, low, high in (("120", 120, 120), (later, 3_500, 3_600), ("soon", 0, 0), ("-3", 0, 0), ("nan", 0, 0)):
        receiver.answers += [(503, {"Retry-After": text})] * TRIES
        with pytest.raises(NotifierError) as told:
            webhook.send(MESSAGE)
        assert low <= told.value.retry_after_s <= high, text
        receiver.answers.clear()
    webhook.close()


@pytest.mark.parametrize("bad", ["hang", "trickle"])
def test_a_receiver_that_is_slow_costs_a_bounded_time(notifier, receiver, bad):
    receiver.answers += [bad] * 9
    begun = time.monotonic()
    with pytest.raises(NotifierError, match="did not answer in time"):
        notifier.send(MESSAGE)
    assert time.monotonic() - begun < 3 * TIMEOUT_S + 5
    receiver.answers.clear()
    receiver.taken.clear()
    notifier.send(MESSAGE)
    assert receiver.taken, "the next message gets through"


def test_a_receiver_that_is_dead_is_told_and_one_that_is_back_takes_it(notifier, receiver):
    receiver.die()
    with pytest.raises(NotifierError, match="could not be reached") as told:
        notifier.send(MESSAGE)
    assert not told.value.refused
    receiver.start()
    notifier.send(MESSAGE)
    assert len(receiver.taken) == 1


@pytest.mark.parametrize("bad", [[], [404], [500] * 9, ["hang"] * 9])
def test_no_log_line_and_no_error_holds_the_address(notifier, receiver, caplog, bad):
    caplog.set_level(logging.DEBUG)
    receiver.answers += bad
    told = None
    try:
        notifier.send(MESSAGE)
    except NotifierError as error:
        told = error
    assert (told is not None) == bool(bad)
    said = [record.getMessage() for record in caplog.records] + [json.dumps([str(told), repr(told)])]
    assert not [line for line in said if SECRET in line]
    chain = told
    while chain is not None:
        assert SECRET not in str(chain)
        chain = chain.__cause__ or chain.__context__


def test_without_our_filter_the_client_library_would_log_the_address(receiver, caplog):
    """The negative control of the test above."""
    caplog.set_level(logging.INFO)
    with httpx.Client() as client:
        client.post(receiver.url, json={})
    assert SECRET in caplog.text


@pytest.mark.parametrize("address", ["", "hooks.slack.com/x", "ftp://host/x", "http://", f"://{SECRET}"])
def test_an_address_that_is_none_is_refused_without_showing_it(address):
    with pytest.raises(ConfigurationError, match="ONEROW_SLACK_WEBHOOK holds no address") as told:
        Slack(address, setting="ONEROW_SLACK_WEBHOOK")
    assert SECRET not in str(told.value)
    assert told.value.__context__ is None or SECRET not in str(told.value.__context__)
