"""The deploy scripts: their dry runs, and what they really call, asked of recording doubles of gcloud, bq and curl."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.gcloud import Cloud
from support.nba import APP

DEPLOY = APP / "deploy"
WORKER = APP / "bin/predictions/deploy/deploy_prediction_worker.sh"
COORDINATOR = APP / "bin/predictions/deploy/deploy_prediction_coordinator.sh"
SHORT = APP / "predictions/worker/deploy.sh"
ENTRIES = [
    (WORKER,), (COORDINATOR,), (SHORT,), (DEPLOY / "deploy_service.sh", "worker"), (DEPLOY / "check_roles.sh",), (DEPLOY / "setup.sh",),
    (DEPLOY / "wire.sh",), (DEPLOY / "verify.sh",), (DEPLOY / "rollback.sh", "worker"), (DEPLOY / "lock_switch.sh", "off"),
]  # fmt: skip
PROJECT = "my-project"
AT = ["--project", PROJECT, "--region", "us-central1"]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def test_the_linter_has_nothing_to_say(tmp_path):
    scripts = [file for file in APP.rglob("*.sh") if "run" not in file.relative_to(APP).parts]
    assert len(scripts) >= 12
    linter = [Path(sys.executable).with_name("shellcheck"), "--external-sources", "--source-path=SCRIPTDIR"]
    done = subprocess.run([*linter, *scripts], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        if script.name != "lib.sh":
            assert "\nset -euo pipefail\n" in text, script
            assert os.access(script, os.X_OK), script
    bad = tmp_path / "bad.sh"
    bad.write_text("#!/usr/bin/env bash\nrm -rf $1/*\n")
    assert subprocess.run([*linter, bad], capture_output=True, check=False, timeout=60).returncode != 0, "the linter looks"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: " ".join([entry[0].name, *entry[1:]]))
def test_a_dry_run_calls_nothing_and_needs_nothing(entry, cloud):
    for name in "gcloud", "bq", "curl":
        (cloud.folder / "bin" / name).write_text('#!/bin/sh\necho called >>"$RECORD"\nexit 9\n')
    done = cloud.run(*entry, "--dry-run", "--project-id", PROJECT)
    assert done.returncode == 0, done.stderr
    assert cloud.calls == []
    told = done.stdout.splitlines()
    assert told
    assert all(line.startswith(("would run: ", "would ask: ", "would look: ", "would fill in: ")) for line in told), done.stdout
    assert PROJECT in done.stdout


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: " ".join([entry[0].name, *entry[1:]]))
def test_what_is_missing_is_said_before_anything_is_done(entry, cloud):
    done = cloud.run(*entry)
    assert done.returncode == 2
    assert "PROJECT_ID" in done.stderr
    done = cloud.run(*entry, "--project-id", "No Project")
    assert (done.returncode, "no project of Google Cloud" in done.stderr) == (2, True)
    assert cloud.calls == []
    tools = cloud.folder / "tools"
    tools.mkdir()
    for name in "bash", "dirname", "sed", "git", "env", "cat":
        (tools / name).symlink_to(shutil.which(name))
    done = cloud.run(*entry, "--project-id", PROJECT, PATH=str(tools))
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert re.search(r"gcloud is not installed, or not on PATH\. Nothing was done\.", done.stderr)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: " ".join([entry[0].name, *entry[1:]]))
def test_help_and_unknown_options(entry, cloud):
    done = cloud.run(*entry, "--help")
    assert done.returncode == 0
    assert "[--dry-run]" in done.stdout
    done = cloud.run(*entry, "--dry-rum", "--project-id", PROJECT)
    assert (done.returncode, "unknown option --dry-rum" in done.stderr) == (2, True), done.stderr
    assert cloud.calls == []


def good_roles(cloud):
    for kind in "worker", "coordinator":
        cloud.answer(f"get-iam-policy {PROJECT} --flatten bindings[].members --filter bindings.members:serviceAccount:prediction-{kind}@", "roles/bigquery.jobUser\\nroles/datastore.user\\n")
    access = [f'{{"role": "WRITER", "userByEmail": "prediction-{kind}@{PROJECT}.iam.gserviceaccount.com"}}' for kind in ("worker", "coordinator")]
    cloud.answer("bq --project_id", f'{{"access": [{", ".join(access)}]}}')


def well(cloud, kind="worker", revision="r-2"):
    cloud.answer("status.latestCreatedRevisionName", f"{revision}\\n")
    cloud.answer("status.latestReadyRevisionName", f"{revision}\\n")
    cloud.answer("status.url", f"https://{kind}.example\\n")
    cloud.answer("print-identity-token", "token\\n")
    cloud.answer("curl", '{"status":"ok"}')


def test_a_deployment_step_by_step(cloud):
    good_roles(cloud)
    well(cloud)
    done = cloud.run(WORKER, "--tag", "t1", PROJECT_ID=PROJECT)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == [
        f"gcloud projects get-iam-policy {PROJECT} bindings[].members",
        f"bq {PROJECT} json show {PROJECT}:onerow",
        f"gcloud builds submit {APP.parents[1]} {PROJECT}",
        "gcloud run services describe prediction-worker",
        "gcloud run services describe prediction-worker",
        f"gcloud run services replace {cloud.calls[5][4]}",
        "gcloud run services describe prediction-worker",
        "gcloud run services describe prediction-worker",
        "gcloud run services describe prediction-worker",
        "gcloud auth print-identity-token",
        f"curl 20 {cloud.calls[10][-2]} https://worker.example/health",
        f"curl 20 {cloud.calls[11][-2]} https://worker.example/health/deep",
    ]
    image = f"us-central1-docker.pkg.dev/{PROJECT}/nba-props/prediction-worker:t1"
    assert cloud.calls[2][-1] == f"_TARGET=worker,_IMAGE={image}"
    filled = (cloud.folder / "prediction-worker.yaml").read_text()
    assert f"image: {image}\n" in filled
    assert f"serviceAccountName: prediction-worker@{PROJECT}.iam" in filled
    assert "${" not in "\n".join(line for line in filled.splitlines() if not line.startswith("#"))
    assert "token" not in cloud.record.read_text().replace("print-identity-token", ""), "no secret in a command line"


@pytest.mark.parametrize(
    ("fails", "calls", "said"),
    [
        ("projects get-iam-policy", 1, ""),
        ("bq --project_id", 2, ""),
        ("builds submit", 3, ""),
        ("services replace", 6, "serves on"),
        ("curl", 12, "rollback.sh worker"),
    ],
)
def test_a_deployment_ends_where_a_step_fails(cloud, fails, calls, said):
    cloud.answer(fails, "PERMISSION_DENIED", 1)
    good_roles(cloud)
    well(cloud)
    done = cloud.run(SHORT, "--tag", "t1", PROJECT_ID=PROJECT)
    assert done.returncode not in {0, 3}
    assert len(cloud.calls) == calls, cloud.verbs()
    assert "PERMISSION_DENIED" in done.stderr
    assert said in done.stderr
    if fails == "curl":
        assert f"--project-id {PROJECT} --region us-central1 --to r-2" in done.stderr


def test_nothing_is_built_where_the_image_is_named_and_a_revision_that_is_not_ready_is_told(cloud):
    good_roles(cloud)
    cloud.answer("status.latestCreatedRevisionName", "r-3\\n")
    well(cloud, "coordinator")
    done = cloud.run(COORDINATOR, "--image", "registry/x:1", "--project-id", PROJECT, "--region", "europe-west1")
    assert done.returncode == 1
    assert "r-3 is not ready; r-2 serves" in done.stdout
    assert not [call for call in cloud.calls if "builds" in call]
    assert all("europe-west1" in call for call in cloud.calls if call[1:3] == ["run", "services"])


def test_a_service_that_could_not_be_seen_is_not_taken_for_a_new_one(cloud):
    good_roles(cloud)
    cloud.answer("run services describe prediction-worker --project", "PERMISSION_DENIED: run.services.get", 1)
    done = cloud.run(WORKER, "--image", "registry/x:1", "--project-id", PROJECT)
    assert done.returncode == 1
    assert "could not be seen" in done.stderr
    assert not [call for call in cloud.calls if "replace" in call]


def test_roles_that_are_missing_or_too_wide_are_told_with_what_mends_them(cloud):
    cloud.answer("serviceAccount:prediction-worker@", "roles/bigquery.jobUser\\nroles/editor\\n")
    cloud.answer("bq --project_id", '{"access": []}')
    done = cloud.run(DEPLOY / "check_roles.sh", "worker", "--project-id", PROJECT)
    assert done.returncode == 3
    mail = f"prediction-worker@{PROJECT}.iam.gserviceaccount.com"
    assert [line.partition(" Mend: ")[0] for line in done.stdout.splitlines()] == [
        f"{mail} lacks roles/datastore.user.",
        f"{mail} has roles/editor, which is far more than it needs.",
        f"{mail} may not write to the dataset onerow.",
    ]
    assert all(" Mend: gcloud " in line or " Mend: bq " in line for line in done.stdout.splitlines())
    cloud.answers.clear()
    cloud.answer("bq --project_id", "no JSON")
    cloud.answer("serviceAccount:prediction-worker@", "roles/bigquery.jobUser\\nroles/datastore.user\\n")
    assert cloud.run(DEPLOY / "check_roles.sh", "worker", "--project-id", PROJECT).returncode not in {0, 3}, "not seen is no answer"


def test_a_service_that_everybody_may_call_is_told(cloud):
    cloud.answer("get-iam-policy prediction-worker", f"serviceAccount:prediction-invoker@{PROJECT}.iam.gserviceaccount.com\\nallUsers\\n")
    cloud.answer("describe prediction-coordinator", "Cannot find service [prediction-coordinator]", 1)
    done = cloud.run(DEPLOY / "check_roles.sh", "invoker", "--project-id", PROJECT)
    assert done.returncode == 3
    assert done.stdout.startswith("Everybody may call prediction-worker.")
    assert len(done.stdout.splitlines()) == 1


def test_rolling_back_takes_the_ready_revision_before_the_one_that_serves(cloud):
    cloud.answer("status.traffic[0].revisionName", "r-4\\n")
    cloud.answer("revisions list", "r-5\\nr-4\\nr-3\\nr-2\\n")
    done = cloud.run(DEPLOY / "rollback.sh", "coordinator", "--project-id", PROJECT)
    assert done.returncode == 0, done.stderr
    assert cloud.calls[-1] == ["gcloud", "run", "services", "update-traffic", "prediction-coordinator", *AT, "--to-revisions", "r-3=100"]
    assert "r-3 serves, no longer r-4" in done.stdout

    done = cloud.run(DEPLOY / "rollback.sh", "coordinator", "--project-id", PROJECT, "--to", "r-2")
    assert cloud.calls[-1][-1] == "r-2=100"
    done = cloud.run(DEPLOY / "rollback.sh", "coordinator", "--project-id", PROJECT, "--to", "r-4")
    assert (done.returncode, "serves already" in done.stderr, len(cloud.calls)) == (0, True, 1)


def test_rolling_back_without_a_revision_to_go_to_does_nothing(cloud):
    cloud.answer("status.traffic[0].revisionName", "r-1\\n")
    cloud.answer("revisions list", "r-1\\n")
    done = cloud.run(DEPLOY / "rollback.sh", "worker", "--project-id", PROJECT)
    assert (done.returncode, "no ready revision" in done.stderr) == (1, True)
    assert not [call for call in cloud.calls if "update-traffic" in call]
    cloud.answers.clear()
    cloud.answer("describe", "UNAVAILABLE", 1)
    assert cloud.run(DEPLOY / "rollback.sh", "worker", "--project-id", PROJECT).returncode == 1


def test_the_lock_is_switched_without_a_build(cloud):
    cloud.answer("--flatten", "false\\n")
    done = cloud.run(DEPLOY / "lock_switch.sh", "off", "--project-id", PROJECT)
    assert done.returncode == 0, done.stderr
    assert cloud.calls[0] == ["gcloud", "run", "services", "update", "prediction-coordinator", *AT, "--update-env-vars", "CONSOLIDATION_LOCK_ENABLED=false"]
    assert "THE CONSOLIDATION LOCK IS OFF" in done.stdout
    cloud.answers.clear()
    cloud.answer("--flatten", "true\\n")
    done = cloud.run(DEPLOY / "lock_switch.sh", "on", "--project-id", PROJECT)
    assert (cloud.calls[0][-1], done.stdout) == ("CONSOLIDATION_LOCK_ENABLED=true", "The consolidation lock is on.\n")
    cloud.answers.clear()
    cloud.answer("services update", "PERMISSION_DENIED", 1)
    done = cloud.run(DEPLOY / "lock_switch.sh", "off", "--project-id", PROJECT)
    assert (done.returncode, len(cloud.calls)) == (1, 1)


def wired(cloud):
    cloud.answer("describe prediction-worker", "https://worker.example\\n")
    cloud.answer("containers[0].image", "registry/coordinator:7\\n")
    cloud.answer("describe prediction-coordinator", "https://coordinator.example\\n")
    cloud.answer("projectNumber", "42\\n")


def test_wiring_makes_what_is_missing_and_changes_what_is_there(cloud):
    wired(cloud)
    cloud.answer(" describe ", "NOT_FOUND: Resource not found", 1)
    done = cloud.run(DEPLOY / "wire.sh", "--project-id", PROJECT)
    assert done.returncode == 0, done.stderr
    made = [" ".join(call[1:5]) for call in cloud.calls if "create" in call]
    assert made == [
        "pubsub topics create prediction-requests",
        "pubsub topics create prediction-requests-dead",
        "pubsub subscriptions create prediction-requests-dead-kept",
        "pubsub subscriptions create prediction-requests-worker",
        "scheduler jobs create http",
        "scheduler jobs create http",
        "scheduler jobs create http",
        "scheduler jobs create http",
    ]
    (push,) = [call for call in cloud.calls if call[4:5] == ["prediction-requests-worker"] and "create" in call]
    options = dict(zip(push[5::2], push[6::2], strict=True))
    assert options["--push-endpoint"] == "https://worker.example/predict"
    assert options["--push-auth-service-account"] == f"prediction-invoker@{PROJECT}.iam.gserviceaccount.com"
    assert options["--push-auth-token-audience"] == "https://worker.example"
    assert options["--dead-letter-topic"] == f"projects/{PROJECT}/topics/prediction-requests-dead"
    grants = {(call[4], call[-3].split(":")[1].split("@")[0], call[-1]) for call in cloud.calls if "add-iam-policy-binding" in call}
    agent = "service-42"
    assert {
        ("prediction-worker", "prediction-invoker", "roles/run.invoker"),
        ("prediction-coordinator", "prediction-invoker", "roles/run.invoker"),
        ("prediction-requests", "prediction-coordinator", "roles/pubsub.publisher"),
        ("prediction-requests-dead", agent, "roles/pubsub.publisher"),
        ("prediction-requests-worker", agent, "roles/pubsub.subscriber"),
    } <= grants
    assert "image: registry/coordinator:7\n" in (cloud.folder / "prediction-grading.yaml").read_text()
    scheduled = [call for call in cloud.calls if call[1:5] == ["scheduler", "jobs", "create", "http"]]
    assert all(("--oidc-service-account-email" in call) != ("--oauth-service-account-email" in call) for call in scheduled)

    cloud.answers.clear()
    wired(cloud)
    done = cloud.run(DEPLOY / "wire.sh", "--project-id", PROJECT)
    assert done.returncode == 0, done.stderr
    assert not [call for call in cloud.calls if "create" in call], "all of it is there"
    assert [call[5] for call in cloud.calls if call[1:5] == ["scheduler", "jobs", "update", "http"]] == [
        "predictions-daily", "predictions-retry", "grading-daily", "quality-check-daily",
    ]  # fmt: skip


def test_wiring_ends_where_a_step_fails(cloud):
    cloud.answer("topics describe", "PERMISSION_DENIED", 1)
    wired(cloud)
    done = cloud.run(DEPLOY / "wire.sh", "--project-id", PROJECT)
    assert done.returncode == 1
    assert "could not be seen" in done.stderr
    assert not [call for call in cloud.calls if "create" in call]


def test_setting_up_twice_makes_nothing_twice(cloud):
    cloud.answer(" describe ", "NOT_FOUND", 1)
    cloud.answer(" show ", "BigQuery error in show operation: Not found: Dataset", 1)
    done = cloud.run(DEPLOY / "setup.sh", "--project-id", PROJECT, "--location", "EU")
    assert done.returncode == 0, done.stderr
    made = {tuple(call[1:4]) for call in cloud.calls if "create" in call}
    assert made == {("artifacts", "repositories", "create"), ("firestore", "databases", "create"), ("storage", "buckets", "create"), ("iam", "service-accounts", "create"), ("secrets", "create", "slack-webhook")}
    assert [call[-1] for call in cloud.calls if "mk" in call] == [f"{PROJECT}:nba_predictions", f"{PROJECT}:onerow"]
    assert all("EU" in call for call in cloud.calls if "mk" in call)
    cloud.answers.clear()
    assert cloud.run(DEPLOY / "setup.sh", "--project-id", PROJECT).returncode == 0
    assert not [call for call in cloud.calls if "create" in call or "mk" in call]


def test_verifying_judges_what_has_happened_since_the_revision_was_made(cloud, monkeypatch):
    well(cloud)
    cloud.answer("metadata.creationTimestamp", "2026-01-11T01:00:00.5Z\\n")
    cloud.answer("logging read", "")
    judge = cloud.folder / "judge"
    judge.write_text('#!/bin/sh\necho "$*"; cat >/dev/null; exit 3\n')
    judge.chmod(0o755)
    done = cloud.run(DEPLOY / "verify.sh", "--project-id", PROJECT, "--format", "json", PYTHON=str(judge))
    assert done.returncode == 3, "what verify_deployment says is passed on"
    assert done.stdout.splitlines()[-1] == f"-m deploy.verify_deployment --project-id {PROJECT} --deployed-at 2026-01-11T01:00:00.5Z --format json --log-lines -"
    cloud.answers.insert(0, "logging read\t1\tPERMISSION_DENIED\n")
    done = cloud.run(DEPLOY / "verify.sh", "--project-id", PROJECT, PYTHON=str(judge))
    assert done.returncode not in {0, 3}, "logs that could not be read are no pass"
