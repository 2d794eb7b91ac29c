"""The alert rules and the dashboard name metrics, labels and values that exist, and warn where the monitor does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from onerow.config import Monitoring
from onerow.core.results import STATUS_GRAVITY
from onerow.faces.cli.main import cli
from onerow.faces.metrics import KINDS, REASONS, Metrics
from onerow.services import sightings
from support.promql import OF_COUNTERS, NotPromQLError, read

ROOT = Path(__file__).resolve().parents[2]
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/onerow.rules.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
BY_NAME = {rule["alert"]: rule for rule in RULES}
DASHBOARD = json.loads((ROOT / "deploy/grafana/onerow.json").read_text("utf-8"))
TARGETS = [(panel, target) for panel in DASHBOARD["panels"] for target in panel["targets"]]
RUNBOOK = (ROOT / "docs/runbook.md").read_text("utf-8")

OUTCOMES = {
    "onerow_consolidations": set(STATUS_GRAVITY),
    "onerow_consolidation_duration_seconds": set(STATUS_GRAVITY),
    "onerow_checks": {"clean", "findings", "failed"},
}


def metrics():
    """Every sample's name with its type, label names and bounds."""
    found = {}
    for collector in Metrics(process=False).registry._collector_to_names:
        for family in collector.describe():
            labels = set(collector._labelnames)
            if family.type == "counter":
                found[f"{family.name}_total"] = ("counter", labels, family.name)
            elif family.type == "histogram":
                for ending in ("bucket", "count", "sum"):
                    more = {"le"} if ending == "bucket" else set()
                    found[f"{family.name}_{ending}"] = ("counter", labels | more, family.name)
                found[f"{family.name}_bucket"] += ({str(float(bound)) for bound in collector._kwargs["buckets"]} | {"+Inf"},)
            else:
                found[family.name] = ("gauge", labels, family.name)
    return found


KNOWN = metrics()


def problems(expression):
    """What is wrong with an expression, [] for nothing."""
    expression = expression.replace("$__rate_interval", "5m").replace("$table", ".*")
    try:
        selectors = read(expression)
    except NotPromQLError as error:
        return [str(error)]
    found = [] if selectors else ["it looks at no metric"]
    for one in selectors:
        if one.metric not in KNOWN:
            found.append(f"there is no metric {one.metric}")
            continue
        kind, labels, family, *bounds = KNOWN[one.metric]
        named = {label for label, _, _ in one.matchers} | one.grouped
        found += [f"{one.metric} has no label {label}" for label in sorted(named - labels)]
        counted = bool(set(one.over) & OF_COUNTERS)
        if (kind == "counter") != counted or one.ranged != counted:
            found.append(f"{one.metric} is a {kind} and stands in {one.over}")
        if "histogram_quantile" in one.over and "le" not in one.grouped:
            found.append(f"a quantile of {one.metric} needs le")
        for label, operator, value in one.matchers:
            if label == "le" and value not in bounds[0]:
                found.append(f"{one.metric} has no bound {value}")
            values = set(value.split("|")) if operator == "=~" else {value}
            if label == "outcome" and values - OUTCOMES.get(family, set()):
                found.append(f"{one.metric} has no outcome {values}")
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_looks_at_what_exists_and_leads_to_its_part_of_the_runbook(rule):
    assert not problems(rule["expr"])
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    named = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    kept = set.intersection(*(set(one.grouped) for one in read(rule["expr"])))
    assert named <= kept, "labels in the text are those that the expression keeps"
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^##+ (.+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert anchor in anchors
    words = shlex.split(rule["annotations"]["description"].partition(": ")[2].split(",")[0])
    assert words[0] == "onerow"
    assert cli.get_command(None, words[1]) is not None


@pytest.mark.parametrize(("panel", "target"), TARGETS, ids=lambda one: one.get("title") or one.get("refId"))
def test_a_panel_looks_at_what_exists(panel, target):
    assert not problems(target["expr"])
    kept = set.intersection(*(set(one.grouped) for one in read(target["expr"].replace("$__rate_interval", "5m"))))
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept


def test_the_dashboard_shows_everything_that_is_counted_for_a_table():
    shown = {one.metric for _, target in TARGETS for one in read(target["expr"].replace("$__rate_interval", "5m"))}
    families = {KNOWN[name][2] for name in shown}
    left_out = {family for _, labels, family, *_ in KNOWN.values() if "table" in labels} - families
    assert left_out == {"onerow_cleanups", "onerow_checks", "onerow_findings", "onerow_oldest_lock_age_seconds",
                        "onerow_failed_reports"}  # fmt: skip


def test_the_dashboard_is_whole():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    places = {(x, y) for panel in DASHBOARD["panels"] for g in [panel["gridPos"]]
              for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}  # fmt: skip
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in DASHBOARD["panels"])
    assert max(x for x, _ in places) < 24
    assert "://" not in json.dumps(DASHBOARD), "it names no server"


def bounds_of(name):
    return {float(value) for one in read(BY_NAME[name]["expr"]) for label, _, value in one.matchers if label == "le"}


def above(name):
    return float(re.search(r"> ([\d.]+)$", BY_NAME[name]["expr"])[1])


def test_rules_and_panels_warn_where_the_monitor_does():
    monitor, limits = Monitoring(), sightings.Limits()
    assert bounds_of("OnerowLockWaitLong") == {monitor.lock_wait} == {limits.lock_wait_s} == {120.0}
    assert bounds_of("OnerowLockWait") == {monitor.lock_wait, limits.told_wait_s}
    assert bounds_of("OnerowConsolidationSlow") == {monitor.consolidation} == {limits.consolidation_s} == {60.0}
    assert above("OnerowLockHeld") == monitor.lock_held == limits.lock_held_s
    assert above("OnerowStagingOld") == monitor.staged == limits.staged_s
    assert above("OnerowMonitorGone") > 2 * monitor.every
    assert above("OnerowCheckOld") > 2 * monitor.check_every
    shown = {
        panel["title"]: panel["fieldConfig"]["defaults"].get("thresholds", {"steps": [{"value": None}]})["steps"][-1]["value"]
        for panel in DASHBOARD["panels"]
    }
    assert shown["Lock wait"] == monitor.lock_wait
    assert shown["Consolidation duration"] == monitor.consolidation
    assert shown["Oldest staged part"] == monitor.staged
    assert shown["Last check"] == above("OnerowCheckOld")


def test_levels_are_those_of_the_incident_s_team():
    levels = {name: rule["labels"]["severity"] for name, rule in BY_NAME.items()}
    assert [name for name, level in levels.items() if level == "critical"] == ["OnerowDuplicates"]
    assert {name: levels[name] for name in ("OnerowLockWaitLong", "OnerowLockWait", "OnerowConsolidationSlow",
                                            "OnerowCheckFailed")} == {
        "OnerowLockWaitLong": "warning", "OnerowLockWait": "info", "OnerowConsolidationSlow": "warning",
        "OnerowCheckFailed": "warning",
    }  # fmt: skip


def test_every_kind_of_incident_has_a_part_in_the_runbook():
    headings = re.findall(r"^### `(\w+)`", RUNBOOK, re.MULTILINE)
    assert sorted(headings) == sorted(sightings.KINDS)


def test_words_of_labels_are_those_that_events_carry():
    sources = "\n".join(path.read_text("utf-8") for path in (ROOT / "src/onerow/services").rglob("*.py"))
    assert {*re.findall(r'reason="(\w+)", (?:\*\*facts_of|error=)', sources), "unknown"} == set(REASONS)
    assert {"inserted", "updated", "unchanged", "superseded"} < set(KINDS)


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("onerow_duplicate_key > 0", "no metric"),
        ('onerow_duplicate_keys{partition="x"} > 0', "no label partition"),
        ("max by (batch) (onerow_duplicate_keys)", "no label batch"),
        ("increase(onerow_duplicate_keys[5m])", "is a gauge"),
        ("sum(onerow_leases_lost_total) > 0", "is a counter"),
        ("rate(onerow_leases_lost_total)", "is a counter"),
        ('increase(onerow_lock_wait_seconds_bucket{le="120"}[5m])', "no bound 120"),
        ("histogram_quantile(0.9, sum by (table) (rate(onerow_lock_wait_seconds_bucket[5m])))", "needs le"),
        ('increase(onerow_consolidations_total{outcome=~"failed|broken"}[5m])', "no outcome"),
        ("sum by (table (onerow_duplicate_keys)", "should stand"),
        ("onerow_duplicate_keys >", "should stand"),
        ("medium(onerow_duplicate_keys)", "function medium"),
        ("onerow_duplicate_keys onerow_findings", "left over"),
        ("1 > 0", "no metric"),
    ],
)
def test_control_a_wrong_expression_is_found(expression, problem):
    assert any(problem in one for one in problems(expression)), problems(expression)
