"""Real processes that stage, retire, purge and discard, killed at every step they take on the file system.

A driver process forks one process for each step: the first is killed before its first step, the second before
its second, until one comes to its end. A step is a call that opens, renames, links, removes, lists or syncs a
file of the store. SIGKILL leaves what the operating system has; the loss of power is what the syncs are for.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import test_partstore_files as files

DRIVER = """
import os, signal, sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import test_partstore_files as files

STEPS = {{"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.listdir", "os.scandir"}}


def prepare(root, state):
    store = files.store_at(root)
    if state != "nothing":
        files.stage(store, files.rows(500))
        if state in {{"retired", "purged"}}:
            store.retire(store.parts("t", "b"))
        if state == "purged":
            store.purge(store.parts("t", "b"))
        if state == "discarded":
            store.discard(store.parts("t", "b"), reason="r", by="me")


def act(root, action):
    store = files.store_at(root)
    if action == "stage":
        files.stage(store, files.rows(500))
    elif action == "discard":
        store.discard(store.parts("t", "b"), reason="r", by="me")
    else:
        getattr(store, action)(store.parts("t", "b"))


def arm(root, step):
    left = [step]

    def count():
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_event(event, args):
        if event in STEPS and isinstance(args[0], (str, os.PathLike)) and str(args[0]).startswith(root):
            count()

    def fsync(handle, plain=os.fsync):
        count()
        plain(handle)

    sys.addaudithook(on_event)
    os.fsync = fsync


def run(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


files.rows(1)  # pyarrow looks for pandas when it makes its first array; the children need not
top, state, action = sys.argv[1:]
for step in range(1, 200):
    root = os.path.join(top, f"{{step:03d}}")
    assert run(lambda: prepare(root, state)) == 0

    def killed():
        arm(root, step)
        act(root, action)

    code = run(killed)
    print(step, code, flush=True)
    if code != -signal.SIGKILL:
        assert code == 0, code
        break
"""


def drive(top, state, action):
    """Return the folders in which a process was killed, and last the one in which it came to its end."""
    found = subprocess.run(
        [sys.executable, "-c", DRIVER.format(tests=str(Path(files.__file__).parent)), str(top), state, action],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2] / "src")},
    )
    assert found.returncode == 0, found.stderr
    lines = [line.split() for line in found.stdout.splitlines()]
    assert [code for _, code in lines[:-1]] == ["-9"] * (len(lines) - 1)
    assert lines[-1][1] == "0"
    return [top / f"{int(step):03d}" for step, _ in lines]


def assert_whole(store, part):
    path = store.verify(part)
    assert pq.read_table(path).num_rows == part.rows == 500


def assert_clean(store, count):
    """Only what manifests name is left, once what crashes have left is removed."""
    store.remove_remains(older_than_s=0)
    assert len([name for name in files.names_under(store.root) if name.endswith(".parquet")]) == count
    assert files.temporary_files(store.root) == []


@pytest.mark.parametrize("state", ["nothing", "purged", "discarded"])
def test_a_killed_writer_leaves_no_part_or_the_whole_part(tmp_path, state):
    roots = drive(tmp_path, state, "stage")
    assert len(roots) > 12, "the steps are seen"
    seen = set()
    for root in roots:
        store = files.store_at(root)
        before = [part for part in store.parts("t", "b") if part.state == "staged"]
        for part in before:
            assert_whole(store, part)
        seen.add(len(before))
        again = files.stage(store, files.rows(500))
        assert again.status == ("already_staged" if before else "staged")
        part = files.only(store)
        assert (part.part_id, part.state) == (again.part_id, "staged")
        assert_whole(store, part)
        assert_clean(store, 1)
        assert files.only(store) == part
        assert_whole(store, part)
    assert seen == {0, 1}, "killed before and after the manifest was published"


def test_a_killed_retirement_leaves_the_part_staged_or_retired(tmp_path):
    seen = set()
    for root in drive(tmp_path, "staged", "retire"):
        store = files.store_at(root)
        part = files.only(store)
        seen.add(part.state)
        assert_whole(store, part)
        assert store.retire([part]) == (part.state == "staged")
        assert files.only(store).state == "retired"
        assert_clean(store, 1)
    assert seen == {"staged", "retired"}


def test_a_killed_purge_leaves_the_part_retired_with_its_data_or_purged(tmp_path):
    seen = set()
    for root in drive(tmp_path, "retired", "purge"):
        store = files.store_at(root)
        part = files.only(store)
        seen.add(part.state)
        if part.state == "retired":
            assert_whole(store, part)
        assert store.purge([part]) == (part.state == "retired")
        assert files.only(store).state == "purged"
        assert_clean(store, 0)
    assert seen == {"retired", "purged"}


def test_a_killed_discard_leaves_the_part_staged_with_its_data_or_discarded(tmp_path):
    seen = set()
    for root in drive(tmp_path, "staged", "discard"):
        store = files.store_at(root)
        part = files.only(store)
        seen.add(part.state)
        if part.state == "staged":
            assert_whole(store, part)
        store.discard([part], reason="r", by="me")
        assert files.only(store).state == "discarded"
        assert_clean(store, 0)
    assert seen == {"staged", "discarded"}


TIMED = """
import sys
sys.path.insert(0, {tests!r})
import test_partstore_files as files
store = files.store_at(sys.argv[1])
print("ready", flush=True)
files.stage(store, *(files.rows(50_000, start=index * 50_000) for index in range(8)))
print("staged", flush=True)
sys.stdin.read()
"""


def test_writers_killed_at_any_moment_stage_exactly_once_in_the_end(tmp_path):
    """The same large part again and again, killed after a random time; in the end it is there once."""
    chance = random.Random(20260111)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", TIMED.format(tests=str(Path(files.__file__).parent)), str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2] / "src")},
        )
        with process:
            assert process.stdout.readline() == b"ready\n"
            try:
                process.wait(timeout=chance.uniform(0, 0.5))
            except subprocess.TimeoutExpired:
                process.kill()
            told = process.stdout.read() == b"staged\n"
        store = files.store_at(tmp_path)
        parts = store.parts("t", "b")
        assert len(parts) <= 1
        assert parts or not told, "what was acknowledged stays"
        for part in parts:
            assert pq.read_table(store.verify(part)).num_rows == part.rows == 400_000
    files.stage(store, *(files.rows(50_000, start=index * 50_000) for index in range(8)))
    assert files.only(store).rows == 400_000
    assert_clean(store, 1)
