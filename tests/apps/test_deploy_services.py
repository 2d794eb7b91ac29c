"""The descriptions of services and jobs, held against the API's own schema and against each other."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest
import yaml
from googleapiclient import discovery_cache

from predictions.serving import access_of
from support.nba import APP, settings
from support.predicting import coordinator_of, worker_of

DEPLOY = APP / "deploy"
SERVICES = sorted((DEPLOY / "services").glob("*.yaml"))
JOBS = [*sorted((DEPLOY / "jobs").glob("*.yaml")), APP / "examples/cloud_run_job/job.yaml"]
CLOUD_BUILD = DEPLOY / "cloudbuild.yaml"
TYPES = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}


def schemas(name):
    """Return the schemas of an API, as its discovery document tells them."""
    file = Path(discovery_cache.__file__).with_name("documents") / name
    return json.loads(file.read_text(encoding="utf-8"))["schemas"]


def problems(data, schema, known, where=""):
    """Return where ``data`` is not what the API's schema says: unknown fields, other types."""
    if "$ref" in schema:
        schema = known[schema["$ref"]]
    if schema.get("type") == "array":
        if not isinstance(data, list):
            return [f"{where}: no list"]
        return [one for place, item in enumerate(data) for one in problems(item, schema["items"], known, f"{where}[{place}]")]
    if "properties" in schema or "additionalProperties" in schema:
        if not isinstance(data, dict):
            return [f"{where}: no object"]
        fields, rest, found = schema.get("properties", {}), schema.get("additionalProperties"), []
        for name, value in data.items():
            if name not in fields and rest is None:
                found.append(f"{where}.{name}: unknown")
            else:
                found += problems(value, fields.get(name, rest), known, f"{where}.{name}")
        return found
    wanted = TYPES.get(schema.get("type"), object)
    if schema.get("format") == "int64":
        wanted = (int, str)  # JSON writes them as text, YAML as numbers
    wrong = not isinstance(data, wanted) or (isinstance(data, bool) and wanted is not bool and wanted is not object)
    return [f"{where}: {data!r} is no {schema['type']}"] if wrong else []


def load(file):
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def container(described):
    (one,) = described["spec"]["template"]["spec"]["containers"]
    return one


def environment(one):
    return {entry["name"]: entry.get("value") for entry in one["env"]}


def test_yaml_is_tidy():
    files = [*SERVICES, *JOBS, CLOUD_BUILD]
    done = subprocess.run(
        [Path(sys.executable).with_name("yamllint"), "--strict", "-c", DEPLOY / ".yamllint.yaml", *files],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("kind", "files"), [("Service", SERVICES), ("Job", JOBS)])
def test_descriptions_fit_the_schema_of_cloud_run(kind, files):
    known = schemas("run.v1.json")
    assert len(files) >= 2
    for file in files:
        described = load(file)
        assert described["kind"] == kind
        assert problems(described, known[kind], known) == [], file.name
    described["spec"]["template"]["speck"] = {}
    described["metadata"]["name"] = 7
    assert len(problems(described, known[kind], known)) == 2, "the schema is looked at"


def test_the_build_fits_the_schema_of_cloud_build():
    known = schemas("cloudbuild.v1.json")
    described = load(CLOUD_BUILD)
    assert problems(described, known["Build"], known) == []
    words = described["steps"][0]["args"]
    assert (APP.parents[1] / words[words.index("--file") + 1]).exists()


@pytest.mark.parametrize("file", SERVICES, ids=lambda file: file.stem)
def test_a_service_is_as_it_should_be(file):
    described = load(file)
    name = described["metadata"]["name"]
    template = described["spec"]["template"]
    assert name == file.stem
    assert template["spec"]["serviceAccountName"] == f"{name}@${{PROJECT_ID}}.iam.gserviceaccount.com", "an account of its own"
    one = container(described)
    startup, liveness = one["startupProbe"], one["livenessProbe"]
    assert (startup["httpGet"]["path"], liveness["httpGet"]["path"]) == ("/health/deep", "/health")
    for probe in startup, liveness:
        assert probe["httpGet"]["port"] == one["ports"][0]["containerPort"] == 8080
        assert probe["timeoutSeconds"] < probe["periodSeconds"], "the API wants it so"
    assert startup["periodSeconds"] * startup["failureThreshold"] <= 240, "the API's limit"
    marks = template["metadata"]["annotations"]
    assert 0 <= int(marks["autoscaling.knative.dev/minScale"]) <= int(marks["autoscaling.knative.dev/maxScale"])
    assert 1 <= template["spec"]["timeoutSeconds"] <= 3600
    told = environment(one)
    assert told["CONSOLIDATION_LOCK_ENABLED"] == "true"
    assert told["NBA_PROPS_BEHIND_IAM"] == "true"
    for secret in "ONEROW_SLACK_WEBHOOK", "ONEROW_TOKENS_ADMIN":
        assert told.get(secret) is None, "secrets come from Secret Manager"
    mounts = {mount["name"] for mount in one["volumeMounts"]}
    assert mounts == {volume["name"] for volume in template["spec"]["volumes"]}


@pytest.fixture(scope="module")
def running():
    """Both services, reached by others than this machine and let in by IAM, as their descriptions say."""
    told = {file.stem: environment(container(load(file))) for file in SERVICES}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        patch.setenv(settings.HOME, home)
        urls = {}
        for name, run in ("prediction-worker", worker_of), ("prediction-coordinator", coordinator_of):
            access = access_of(told[name], host="0.0.0.0")  # noqa: S104 -- all that a container has
            urls[name] = stack.enter_context(run("local", access=access))
        yield urls


@pytest.mark.parametrize("file", SERVICES, ids=lambda file: file.stem)
def test_the_probes_are_good_and_others_are_not_let_in(file, running):
    one, url = container(load(file)), running[file.stem]
    for probe in one["startupProbe"]["httpGet"], one["livenessProbe"]["httpGet"]:
        headers = {header["name"]: header["value"] for header in probe.get("httpHeaders", ())}
        answer = httpx.get(f"{url}{probe['path']}", headers=headers, timeout=30)
        assert answer.status_code == 200, answer.text
    assert httpx.get(f"{url}/health/deep", timeout=30).status_code == 401


def test_what_the_scheduler_and_pubsub_send_is_understood(running):
    wire = (DEPLOY / "wire.sh").read_text(encoding="utf-8")
    body, path = json.loads(re.search(r"--message-body '(.*?)'", wire)[1]), re.search(r"coordinator_url(/\w+)", wire)[1]
    let_in = {"Authorization": "Bearer whatever IAM has let in"}
    today = dt.datetime.now(ZoneInfo("America/New_York")).date()
    answer = httpx.post(f"{running['prediction-coordinator']}{path}", json=body, headers=let_in, timeout=30)
    assert (answer.status_code, answer.json()["state"]) == (200, "no_games"), answer.text
    assert f"Nobody is known to play on {today}" in answer.text, "no day was named, and the test's season has no such day"
    pushed = {"message": {"data": base64.b64encode(b"{}").decode(), "messageId": "1"}, "subscription": "s", "deliveryAttempt": 1}
    path = re.search(r'--push-endpoint "\$worker_url(/\w+)"', wire)[1]
    answer = httpx.post(f"{running['prediction-worker']}{path}", json=pushed, headers=let_in, timeout=30)
    assert (answer.status_code, answer.json()["kind"]) == (422, "invalid_request"), "it goes to the dead letters"


def test_a_delivery_is_answered_before_it_comes_again():
    wire = (DEPLOY / "wire.sh").read_text(encoding="utf-8")
    deadline = int(re.search(r"--ack-deadline (\d+)", wire)[1])
    worker = next(load(file) for file in SERVICES if "worker" in file.stem)
    assert worker["spec"]["template"]["spec"]["timeoutSeconds"] < deadline <= 600


def test_the_coordinator_works_while_nobody_calls():
    coordinator = next(load(file) for file in SERVICES if "coordinator" in file.stem)
    marks = coordinator["spec"]["template"]["metadata"]["annotations"]
    assert (marks["run.googleapis.com/cpu-throttling"], marks["autoscaling.knative.dev/minScale"]) == ("false", "1")


@pytest.mark.parametrize("file", [*SERVICES, *JOBS], ids=lambda file: file.stem)
def test_what_is_filled_in_is_known_to_the_scripts(file):
    names = set(re.findall(r"\$\{(\w+)\}", "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))))
    assert names <= {"PROJECT_ID", "REGION", "DATASET", "IMAGE"}
    assert "IMAGE" in names
