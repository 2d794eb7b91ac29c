"""The incident machine: decided cases, then any sequence of looks, deaths, lost replies and dead receivers."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest

from onerow.core import incidents as core
from onerow.core.incidents import Failure, Policy, Sighting
from onerow.errors import LockStoreError, NotifierError
from onerow.services.alerting import INCIDENT_PREFIX, Alerting
from onerow.testing.memory_locks import MemoryLocks, StoreClock

SECOND = core.SECOND
HOUR = 3_600 * SECOND
POLICY = Policy(repeat_us=4 * HOUR)
SLACK = frozenset({"slack"})


def seen(*partitions, kind="duplicates", level="CRITICAL", complete=True, table="props", **since):
    members = {name: since.get(name, 0) for name in partitions or ("2026-01-11",)}
    return Sighting(kind, table, level, "something", "onerow check", members, complete=complete)


def opened(*partitions, at=1_000, **more):
    return core.sighted(None, seen(*partitions, **more), at, receivers=SLACK, policy=POLICY)


def tell(incident, at, policy=POLICY):
    """Claim and deliver what is due; return the record and what was told."""
    claimed = core.claim(incident, "slack", at, by="m1", policy=policy)
    if claimed is None:
        return incident, None
    record, message = claimed
    return core.delivered(record, "slack", message, at, by="m1"), message


# --- decided cases ----------------------------------------------------------------------------


def test_an_incident_is_told_once_and_again_after_hours():
    incident, message = tell(opened(), 1_000)
    assert (message.event, message.level, message.members) == ("opened", "CRITICAL", ("2026-01-11",))
    for at in (2_000, HOUR, 4 * HOUR):
        incident = core.sighted(incident, seen(), at, receivers=SLACK, policy=POLICY)
        assert tell(incident, at)[1] is None
    incident, message = tell(incident, 4 * HOUR + 1_000)
    assert (message.event, message.since_us) == ("repeated", 1_000)
    assert tell(incident, 4 * HOUR + 2_000)[1] is None


def test_many_partitions_of_a_table_are_one_message_and_a_new_one_is_told_at_once():
    days = [f"2026-01-{day:02d}" for day in range(1, 31)]
    incident, message = tell(opened(*days), 1_000)
    assert (message.event, message.member_count, message.members) == ("opened", 30, tuple(days))
    incident = core.sighted(incident, seen(*days, "2026-02-01"), 2_000, receivers=SLACK, policy=POLICY)
    incident, message = tell(incident, 2_000)
    assert (message.event, message.member_count) == ("grown", 31)
    fewer = core.sighted(incident, seen(*days[1:]), 3_000, receivers=SLACK, policy=POLICY)
    again = core.sighted(fewer, seen(*days), 4_000, receivers=SLACK, policy=POLICY)
    assert "2026-02-01" not in again.members
    assert tell(again, 4_000)[1] is None, "a partition that comes and goes is not news"


def test_more_members_than_are_kept_are_counted_and_are_no_news_again_and_again():
    days = [f"d{number:03d}" for number in range(150)]
    incident, message = tell(opened(*days), 1_000)
    assert (len(incident.members), message.member_count) == (core.MAX_MEMBERS, 150)
    incident = core.sighted(incident, seen("a-new-one", *days), 2_000, receivers=SLACK, policy=POLICY)
    assert (len(incident.members), incident.more) == (core.MAX_MEMBERS, 51)
    assert tell(incident, 2_000)[1] is None


def test_what_a_look_could_not_see_is_still_there():
    incident = opened("2026-01-11", "2026-01-12")
    part = core.sighted(incident, seen("2026-01-12", complete=False), 2_000, receivers=SLACK, policy=POLICY)
    assert set(part.members) == {"2026-01-11", "2026-01-12"}
    whole = core.sighted(incident, seen("2026-01-12"), 2_000, receivers=SLACK, policy=POLICY)
    assert set(whole.members) == {"2026-01-12"}


def test_it_is_resolved_once_and_opened_again_when_it_is_back():
    incident, _ = tell(opened(), 1_000)
    incident = core.unseen(incident, 2_000, policy=POLICY)
    incident, message = tell(incident, 2_000)
    assert (message.event, message.resolved_us) == ("resolved", 2_000)
    assert tell(core.unseen(incident, 3_000, policy=POLICY), 3_000)[1] is None
    incident = core.sighted(incident, seen(), 4_000, receivers=SLACK, policy=POLICY)
    incident, message = tell(incident, 4_000)
    assert (message.event, message.openings) == ("reopened", 2)
    _, message = tell(core.unseen(incident, 5_000, policy=POLICY), 5_000)
    assert message.event == "resolved"


def test_what_was_over_before_it_could_be_told_is_told_in_one_message():
    incident = core.unseen(opened(), 2_000, policy=POLICY)
    incident, message = tell(incident, 3_000)
    assert (message.event, message.since_us, message.resolved_us) == ("resolved", 1_000, 2_000)
    assert tell(incident, 4_000)[1] is None


def test_levels_below_the_configured_one_are_kept_and_not_told():
    incident = opened(level="INFO")
    assert tell(incident, 1_000)[1] is None
    assert tell(core.unseen(incident, 2_000, policy=POLICY), 2_000)[1] is None
    graver = core.sighted(incident, seen(level="WARNING"), 2_000, receivers=SLACK, policy=POLICY)
    assert tell(graver, 2_000)[1].event == "opened"
    told, _ = tell(graver, 2_000)
    gravest = core.sighted(told, seen(level="CRITICAL"), 3_000, receivers=SLACK, policy=POLICY)
    assert tell(gravest, 3_000)[1].event == "raised"


def test_a_message_is_claimed_by_one_and_sent_again_by_another_with_the_same_identity():
    first, message = core.claim(opened(), "slack", 1_000, by="m1", policy=POLICY)
    assert core.claim(first, "slack", 2_000, by="m2", policy=POLICY) is None
    second, again = core.claim(first, "slack", 1_000 + POLICY.claim_us, by="m2", policy=POLICY)
    assert again == message
    assert core.delivered(second, "slack", message, 9_000, by="m1") is None, "it is not m1's any more"
    assert core.delivered(second, "slack", message, 9_000, by="m2").deliveries["slack"].knows_open


def test_a_failed_delivery_waits_longer_each_time_and_as_long_as_the_receiver_asks():
    incident, at, pauses = opened(), 1_000, []
    for asked in (0, 0, 0, 0, 0, 0, 0, HOUR):
        incident, message = core.claim(incident, "slack", at, by="m1", policy=POLICY)
        failure = Failure("slack answered 503.", retry_after_us=asked)
        incident = core.not_delivered(incident, "slack", message, at, by="m1", failure=failure, policy=POLICY)
        pause = incident.deliveries["slack"].next_us - at
        assert core.claim(incident, "slack", at + pause - 1, by="m1", policy=POLICY) is None
        pauses.append(pause // SECOND)
        at += pause
    assert pauses == [15, 30, 60, 120, 240, 480, 900, 3_600]
    _, message = tell(incident, at)
    assert message.event == "opened"


def test_a_refusal_is_kept_with_its_reason_and_tried_again_rarely():
    record, message = core.claim(opened(), "slack", 1_000, by="m1", policy=POLICY)
    failure = Failure("slack refused the message: it answered 404.", refused=True)
    record = core.not_delivered(record, "slack", message, 1_000, by="m1", failure=failure, policy=POLICY)
    kept = record.deliveries["slack"]
    assert (kept.refused, kept.error, kept.message) == (True, failure.error, message)
    assert kept.next_us == 1_000 + POLICY.max_retry_us


def test_a_settled_incident_is_forgotten_after_a_while_and_an_untold_one_much_later():
    untold = core.unseen(opened(), 2_000, policy=POLICY)
    told, _ = tell(untold, 2_000)
    assert core.unseen(told, 2_000 + POLICY.keep_us - 1, policy=POLICY) is told
    assert core.unseen(told, 2_000 + POLICY.keep_us, policy=POLICY) is None
    assert core.unseen(untold, 2_000 + POLICY.keep_us, policy=POLICY) is untold
    assert core.unseen(untold, 2_000 + POLICY.abandon_us, policy=POLICY) is None


def test_what_nobody_looks_at_any_more_is_not_repeated_and_at_last_forgotten():
    told, _ = tell(opened(), 1_000)
    assert core.event_due(told, "slack", 23 * HOUR, policy=POLICY) == "repeated"
    assert core.event_due(told, "slack", 25 * HOUR, policy=POLICY) is None
    assert not core.forgotten(told, POLICY.abandon_us, policy=POLICY)
    assert core.forgotten(told, POLICY.abandon_us + 1_000, policy=POLICY)


def test_a_look_that_says_nothing_new_writes_nothing():
    incident = opened()
    assert core.sighted(incident, seen(), 2_000, receivers=SLACK, policy=POLICY) is incident
    later = core.sighted(incident, seen(), 1_000 + core.SEEN_EVERY_US, receivers=SLACK, policy=POLICY)
    assert later == replace(incident, seen_us=1_000 + core.SEEN_EVERY_US)


def test_a_receiver_that_was_configured_later_is_told_of_what_is_open_and_not_of_the_past():
    incident = core.sighted(None, seen(), 1_000, receivers=frozenset(), policy=POLICY)
    assert tell(incident, 1_500)[1].event == "opened", "found by a monitor that tells nobody, told by one that does"
    assert tell(core.sighted(incident, seen(), 2_000, receivers=SLACK, policy=POLICY), 2_000)[1].event == "opened"
    over = core.unseen(incident, 2_000, policy=POLICY)
    assert tell(over, 3_000)[1] is None


def test_a_record_reads_back_as_it_was_written():
    record, message = core.claim(opened("a", "b"), "slack", 1_000, by="m1", policy=POLICY)
    failure = Failure("no", retry_after_us=5)
    for incident in (
        opened(),
        record,
        core.not_delivered(record, "slack", message, 2_000, by="m1", failure=failure, policy=POLICY),
        core.delivered(record, "slack", message, 2_000, by="m1"),
    ):
        store = MemoryLocks()
        store.swap("k", expected="", value=incident.to_json())
        assert core.incident_from_json(store.read("k").value) == incident
    for damaged in ({}, {"format": 2}, {**opened().to_json(), "deliveries": {"slack": {}}}):
        with pytest.raises(LockStoreError):
            core.incident_from_json(damaged)


def test_a_damaged_record_hides_no_other():
    store = MemoryLocks()
    store.swap(f"{INCIDENT_PREFIX}a/b", expected="", value={"format": 99})
    alerting = Alerting(register=store, notifiers=[Told(Run(0))], policy=POLICY, who="m1")
    alerting.record(alerting.known(), [seen()], looked={"duplicates/props"})
    assert alerting.tell().delivered == 1


# --- any sequence -----------------------------------------------------------------------------


class Died(BaseException):
    """The monitor's process is gone."""


@dataclass
class Run:
    """One seeded life of a register, two monitors and a receiver. ``problems`` is what went wrong.

    Attributes:
        present: what is really the case.
        openings: how often the incident was opened, by the register's own account.
        faults: faults that came up while a monitor was telling: each excuses one second copy of a message.
    """

    seed: int
    faulty: bool = True
    now_us: int = 1_000_000
    dead: bool = False
    present: set = field(default_factory=set)
    got: list = field(default_factory=list)
    faults: int = 0
    telling: bool = False
    chance: random.Random = field(init=False)

    def __post_init__(self):
        self.chance = random.Random(self.seed)

    def fault(self, *kinds):
        if not self.faulty or self.chance.random() > 0.04:
            return None
        self.faults += self.telling
        return self.chance.choice(kinds)


class Shaky:
    """A register whose client dies, loses replies, and lets another monitor in between."""

    def __init__(self, store, run):
        self.store, self.run, self.between = store, run, lambda: None

    def read(self, key):
        if self.run.fault("down"):
            raise LockStoreError("down")
        entry = self.store.read(key)
        self.between()
        return entry

    def entries(self, prefix):
        if self.run.fault("down"):
            raise LockStoreError("down")
        found = self.store.entries(prefix)
        self.between()
        return found

    def swap(self, key, *, expected, value):
        fault = self.run.fault("died", "died after", "lost", "lost after")
        if fault == "died":
            raise Died
        if fault == "lost":
            raise LockStoreError("lost")
        done = self.store.swap(key, expected=expected, value=value)
        if fault == "died after":
            raise Died
        if fault == "lost after":
            raise LockStoreError("lost")
        self.between()
        return done


class Told:
    """A receiver in memory that may be dead, or whose sender dies around the sending."""

    name = "slack"

    def __init__(self, run, between=lambda: None):
        self.run, self.between = run, between

    def send(self, message):
        self.between()
        if self.run.fault("died"):
            raise Died
        if self.run.dead:
            raise NotifierError("dead")
        self.run.got.append((self.run.now_us, message))
        if self.run.fault("died"):
            raise Died
        self.between()


class Simulation:
    """Two monitors over one register; whatever one does, the other may do in between."""

    def __init__(self, seed, *, alerting=Alerting, faulty=True, looked=True):
        self.run = Run(seed, faulty=faulty)
        self.looked_always = not looked
        self.store = MemoryLocks(clock=StoreClock(lambda: self.run.now_us, offset_us=0))
        self.alerting, self.made, self.depth = alerting, 0, 0
        self.monitors = [self.monitor(), self.monitor()]

    def monitor(self):
        self.made += 1
        register = Shaky(self.store, self.run)
        made = self.alerting(
            register=register, notifiers=[Told(self.run, self.between)], policy=POLICY, who=f"m{self.made}"
        )
        register.between = self.between
        return made

    def between(self):
        if self.depth == 0 and self.run.chance.random() < 0.2:
            self.depth += 1
            try:
                self.act(self.monitors[1])
            finally:
                self.depth -= 1

    def act(self, monitor):
        telling, self.run.telling = self.run.telling, self.run.chance.random() < 0.6
        try:
            if self.run.telling:
                monitor.tell()
            else:
                self.look(monitor)
        except LockStoreError:
            pass  # the next look tries again
        except Died:
            self.monitors[self.monitors.index(monitor)] = self.monitor()  # a new process, with a new identity
        finally:
            self.run.telling = telling

    def look(self, monitor):
        could_look = self.run.chance.random() < 0.8
        sightings = [seen(*sorted(self.run.present))] if self.run.present and could_look else []
        looked = {"duplicates/props"} if could_look or self.looked_always else set()
        monitor.record(monitor.known(), sightings, looked=looked)

    def record(self):
        entry = self.store.read(f"{INCIDENT_PREFIX}duplicates/props")
        return None if entry.value is None else core.incident_from_json(entry.value)

    def go(self, steps=60):
        run = self.run
        for _ in range(steps):
            choice = run.chance.random()
            if choice < 0.12:
                run.present = set(run.chance.sample(["a", "b", "c"], run.chance.randrange(4)))
            elif choice < 0.2:
                run.dead = not run.dead
            elif choice < 0.4:
                run.now_us += run.chance.choice([1, 20, 60, 400, 3_600, 5 * 3_600]) * SECOND
            else:
                self.act(self.monitors[0])
        run.dead, run.faulty = False, False  # in the end everything is well, and there is time
        for _ in range(16):
            run.now_us += 120 * SECOND
            for monitor in self.monitors:
                monitor.record(monitor.known(), [seen(*sorted(run.present))] if run.present else [],
                               looked={"duplicates/props"})  # fmt: skip
                monitor.tell()
        return self.problems()

    def flaps(self):
        """How often something that was there all the time was told to be over."""
        self.run.present = {"a"}
        for _ in range(20):
            self.look(self.monitors[0])
            self.monitors[0].tell()
            self.run.now_us += 60 * SECOND
        return sum(message.event == "resolved" for _, message in self.run.got)

    def problems(self):
        """What went wrong, by words."""
        run, record, found = self.run, self.record(), set()
        messages = [message for _, message in run.got]
        if record is not None:
            told = max((message.opening_us for message in messages), default=0)
            if told != record.opened_us:
                found.add("lost: the last opening was never told")
            if messages and (messages[-1].event == "resolved") == record.open:
                found.add("lost: the receiver believes something else than the register")
            unknown = set(record.members) - {name for message in messages if message.opening_us == record.opened_us
                                             for name in message.members}  # fmt: skip
            if unknown and record.open:
                found.add("lost: a member was never told")
            if record.open != bool(run.present):
                found.add("wrong: the register does not know what is the case")
        copies = Counter(message.message_id for message in messages)
        if sum(count - 1 for count in copies.values()) > run.faults:
            found.add("twice: more copies than monitors that died while telling")
        once = {message.message_id: message for message in messages}.values()
        for event in ("opened", "reopened", "resolved"):
            if any(count > 1 for count in Counter(m.opening_us for m in once if m.event == event).values()):
                found.add(f"twice: {event}")
        for opening in {message.opening_us for message in once}:
            made = sorted(message.at_us for message in once if message.opening_us == opening)
            for message in once:
                if message.opening_us == opening and message.event == "repeated":
                    before = [at for at in made if at < message.at_us]
                    if before and message.at_us - before[-1] < POLICY.repeat_us:
                        found.add("twice: repeated too early")
        return found


SEEDS = range(100)


def test_each_incident_is_told_whatever_fails_and_twice_only_if_a_monitor_died_while_telling():
    told = Counter()
    for seed in SEEDS:
        simulation = Simulation(seed)
        assert not simulation.go(), seed
        told.update(message.event for _, message in simulation.run.got)
    assert not told.keys() ^ {"opened", "reopened", "grown", "repeated", "resolved"}
    assert min(told.values()) > 5, told


def test_without_faults_nothing_is_told_twice():
    for seed in SEEDS:
        simulation = Simulation(seed, faulty=False)
        assert not simulation.go(), seed
        ids = [message.message_id for _, message in simulation.run.got]
        assert len(ids) == len(set(ids)), seed


# --- negative controls ------------------------------------------------------------------------


class WithoutClaims(Alerting):
    """Sends first and asks nobody."""

    def tell(self):
        for entry, incident in self.known().entries.values():
            claimed = core.claim(replace(incident, deliveries={name: replace(known, claim_until_us=0)
                                 for name, known in incident.deliveries.items()}),
                                 "slack", entry.now_us, by=self._who, policy=POLICY)  # fmt: skip
            if claimed is not None:
                record, message = claimed
                try:
                    self._notifiers[0].send(message)
                except NotifierError:
                    continue
                done = core.delivered(record, "slack", message, entry.now_us, by=self._who)
                self._register.swap(entry.key, expected=entry.version, value=done.to_json())


class ForgetsBeforeItIsSent(Alerting):
    """Notes a delivery, then sends."""

    def tell(self):
        for entry, incident in self.known().entries.values():
            claimed = core.claim(incident, "slack", entry.now_us, by=self._who, policy=POLICY)
            if claimed is not None:
                record, message = claimed
                done = core.delivered(record, "slack", message, entry.now_us, by=self._who)
                if self._register.swap(entry.key, expected=entry.version, value=done.to_json()) is not None:
                    try:
                        self._notifiers[0].send(message)
                    except NotifierError:
                        continue


def found_by(**broken):
    return set().union(*(Simulation(seed, **broken).go() for seed in range(60)))


def test_control_without_claims_messages_are_sent_twice():
    assert any(problem.startswith("twice") for problem in found_by(alerting=WithoutClaims, faulty=False))


def test_control_a_delivery_that_is_noted_before_it_is_made_loses_alerts():
    assert any(problem.startswith("lost") for problem in found_by(alerting=ForgetsBeforeItIsSent))


def test_control_a_check_that_could_not_run_must_not_resolve_anything():
    flapping = sum(Simulation(seed, looked=False, faulty=False).flaps() for seed in range(40))
    honest = sum(Simulation(seed, faulty=False).flaps() for seed in range(40))
    assert honest == 0 < flapping
