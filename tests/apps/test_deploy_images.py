"""The images: what can be said of them without building them. The linter's word, and what each line names."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest

from support.nba import APP, ROOT

DOCKERFILE = APP / "deploy/Dockerfile"
TEXT = DOCKERFILE.read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def instructions(text=TEXT):
    """Return (stage, word, rest) of each instruction."""
    joined = re.sub(r"\\\n", " ", "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")))
    found, stage = [], ""
    for line in filter(None, map(str.strip, joined.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.rpartition(" ")[2]
        found.append((stage, word, rest))
    return found


def lint(file):
    return subprocess.run([BIN / "hadolint", file], capture_output=True, text=True, check=False, timeout=60)


def test_the_linter_has_nothing_to_say(tmp_path):
    assert lint(DOCKERFILE).returncode == 0, lint(DOCKERFILE).stdout
    bad = tmp_path / "Dockerfile"
    bad.write_text(TEXT.replace("FROM ${PYTHON} AS app", "FROM python:latest AS app"))
    assert lint(bad).returncode != 0, "the linter looks"


def test_the_base_is_an_exact_version_of_a_python_that_is_supported():
    base = re.search(r"^ARG PYTHON=python:(\d+)\.(\d+)\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?$", TEXT, re.MULTILINE)
    assert base
    assert (int(base[1]), int(base[2])) >= (3, 11)
    assert all(rest.startswith(("${PYTHON} ", "app ")) for _, word, rest in instructions() if word == "FROM")


def test_nothing_runs_as_root_and_no_tools_of_the_build_are_in_it():
    for target in "worker", "coordinator":
        lines = [(word, rest) for stage, word, rest in instructions() if stage in {"app", target}]
        (user,) = [rest for word, rest in lines if word == "USER"]
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
        assert not [rest for word, rest in lines if word == "RUN" and "pip" in rest]
    assert "--without-pip" in TEXT


def test_every_package_is_pinned():
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    installs = re.findall(r"pip (?:--python \S+ )?install (.*?)(?= &&|$)", "\n".join(rest for _, word, rest in instructions() if word == "RUN"), re.MULTILINE)
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in one for one in installs)
    extras = re.search(r"\.whl\)\[([\w,]+)\]", installs[1])[1].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    for requirement in [*wanted, *re.findall(r"(\w+)==", installs[0])]:
        assert re.match(r"[\w-]+", requirement)[0].lower() in pinned, requirement


def ignored(path, patterns):
    """Say whether a path of the context is kept from the builder: the last pattern that matches it, or a folder of it, decides."""
    names = [path, *(str(folder) for folder in Path(path).parents if str(folder) != ".")]
    out = False
    for pattern in patterns:
        plain = pattern.removeprefix("!").replace("**/", "*/")
        if any(fnmatch.fnmatch(name, plain) or fnmatch.fnmatch(f"/{name}", plain) for name in names):
            out = not pattern.startswith("!")
    return out


def test_what_is_copied_is_there_and_reaches_the_builder():
    patterns = [line for line in (APP / "deploy/Dockerfile.dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    sources = [
        source
        for _, word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert len(sources) >= 8
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source, patterns), source
    for secret in ".git", "apps/nba_props/run/local/predictions.duckdb", "tests/conftest.py", "src/onerow/.env", "src/x/__pycache__":
        assert ignored(secret, patterns), secret


@pytest.mark.parametrize("target", ["worker", "coordinator"])
def test_what_is_copied_is_enough_to_start(target, tmp_path):
    (command,) = [rest for stage, word, rest in instructions() if (stage, word) == (target, "CMD")]
    words = json.loads(command)
    assert words == ["python", "-m", f"predictions.{target}.{target}", "--host", "0.0.0.0"]  # noqa: S104 -- all of a container
    app = tmp_path / "app"
    for stage, word, rest in instructions():
        if word == "COPY" and stage in {"app", target} and not rest.startswith("--from"):
            *sources, to = rest.split()
            shutil.copytree(ROOT / sources[0], app / to, ignore=shutil.ignore_patterns("__pycache__"))
    environ = {
        "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": os.pathsep.join([str(app), str(ROOT / "src")]), "PORT": "0",
        "NBA_PROPS_HOME": str(tmp_path / "home"), "NBA_PROPS_BEHIND_IAM": "true", "NBA_PROPS_DATA": "generated", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    with subprocess.Popen(words, env=environ, cwd=app, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as service:
        try:
            told = service.stdout.readline()
            url = re.search(r"takes requests at (http://\S+)", told)
            assert url, service.communicate(timeout=60)[1]
            local = url[1].replace("0.0.0.0", "127.0.0.1")  # noqa: S104 -- as it is told
            assert httpx.get(f"{local}/health", timeout=30).json()["status"] == "ok"
        finally:
            service.terminate()
            service.communicate(timeout=60)
    assert service.returncode == 0
