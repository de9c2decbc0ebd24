import os
import signal
import subprocess
import sys

import pytest
from dvc.dependency.param import read_param_file
from dvc.fs import localfs
from dvc.utils.serialize import YAMLFileCorruptedError, load_yaml, modify_yaml, parse_yaml

from charlm.repro import lock_file, params_file
from charlm.repro.command import run, signals
from charlm.repro.schedule import Schedule, Task
from charlm.repro.workers import Outcome, Workers
from tests.workspace import PROJECT


def task(name, *needs, threads=1, seconds=1.0):
    return Task(name, frozenset(needs), threads, seconds)


def started(schedule):
    return [one.name for one in schedule.start()]


def test_the_longest_way_to_the_end_starts_first():
    schedule = Schedule(
        [
            task("short", seconds=5.0),
            task("a", seconds=2.0),
            task("long", "a", seconds=9.0),
            task("end", "long", "short"),
        ],
        cores=2,
    )
    assert started(schedule) == ["a", "short"]
    schedule.done("a")
    assert started(schedule) == ["long"]
    schedule.done("short")
    assert started(schedule) == []  # what it needs is running
    schedule.done("long")
    assert started(schedule) == ["end"]
    schedule.done("end")
    assert not schedule.active
    assert schedule.finished == len(schedule) == 4


def test_no_more_cores_are_used_than_there_are():
    schedule = Schedule([task(name) for name in "abcde"], cores=3)
    assert started(schedule) == ["a", "b", "c"]
    assert started(schedule) == []
    schedule.done("b")
    assert started(schedule) == ["d"]


def test_a_stage_of_several_threads_waits_for_them_and_is_not_overtaken_for_ever():
    schedule = Schedule(
        [task("wide", threads=2, seconds=9.0), task("a", seconds=20.0), task("b")], cores=2
    )
    assert started(schedule) == ["a"]
    assert started(schedule) == []
    schedule.done("a")
    assert started(schedule) == ["wide"]
    schedule.done("wide")
    assert started(schedule) == ["b"]


def test_a_stage_of_more_threads_than_cores_runs_alone():
    schedule = Schedule([task("wide", threads=8, seconds=9.0), task("a")], cores=2)
    assert started(schedule) == ["wide"]
    assert started(schedule) == []
    schedule.done("wide")
    assert started(schedule) == ["a"]


def test_what_is_up_to_date_is_not_waited_for():
    schedule = Schedule([task("report", "train", "encode")], cores=1)
    assert started(schedule) == ["report"]


@pytest.mark.parametrize(("cores", "left"), [(1, 16.0), (2, 12.0), (64, 12.0)])
def test_the_time_left_is_the_work_left_or_the_longest_way(cores, left):
    tasks = [task("a", seconds=2.0), task("b", "a", seconds=10.0), task("c", seconds=4.0)]
    schedule = Schedule(tasks, cores)
    assert schedule.seconds_left() == left
    schedule.start()
    assert schedule.seconds_left() == left  # nothing is done yet


@pytest.fixture
def lock(tmp_path):
    path = tmp_path / "dvc.lock"
    path.write_bytes((PROJECT / "dvc.lock").read_bytes())
    return path


def test_an_entry_of_the_lock_is_written_as_dvc_writes_it(lock, tmp_path):
    """Every stage once more with another hash, a new one, and one whose values must be quoted."""
    theirs = tmp_path / "theirs.lock"
    theirs.write_bytes(lock.read_bytes())
    new = {"cmd": "x" * 100 + " y" * 50, "params": {"params.yaml": {"a.b": ["no", 1.0e-3, None]}}}
    names = ("train@lstm", "download", "report", "train@new")

    def change(stages, name):
        entry = dict(stages.get(name, new))
        entry["cmd"] = f"{entry['cmd']} --again: 'yes'"
        stages.update({name: entry})

    for name in names:
        with lock_file.modify(lock) as content:
            change(content["stages"], name)
    # DVC takes a second for each time that it writes the file.
    with modify_yaml(theirs) as content:
        for name in names:
            change(content["stages"], name)
    assert lock.read_bytes() == theirs.read_bytes()
    assert b"train@new" in lock.read_bytes()


def test_nothing_changes_where_nothing_changed(lock):
    before = lock.read_bytes()
    with lock_file.modify(lock):
        pass
    assert lock.read_bytes() == before


@pytest.mark.parametrize("text", [None, "", "stages: {}\n", "# mine\nschema: '2.0'\nstages: {}\n"])
def test_another_lock_is_left_to_dvc(tmp_path, text):
    path = tmp_path / "dvc.lock"
    if text is not None:
        path.write_text(text)
    with lock_file.modify(path) as content:
        content.update({"schema": "2.0", "stages": {"a": {"cmd": "b"}}})
    assert load_yaml(path) == {"schema": "2.0", "stages": {"a": {"cmd": "b"}}}


def test_the_lock_is_read_as_dvc_reads_it(lock):
    text = lock.read_text()
    ours, theirs = lock_file.parse(text, str(lock)), load_yaml(lock)
    assert ours == theirs
    assert list(ours["stages"]) == list(theirs["stages"])
    ours["stages"]["download"]["cmd"] = "other"
    assert lock_file.parse(text, str(lock)) == theirs


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  download:\n", "  encode:\n"),  # twice
        ("  download:\n", "<<<<<<< HEAD\n  download:\n"),
        ("  download:\n", "  download:\n   x: 1\n"),
        ("stages:\n", "stages:\n  # mine\n\n"),
        ("    cmd:", "    cmd: [:"),
    ],
)
def test_a_lock_that_was_edited_is_read_as_dvc_reads_it_too(lock, old, new):
    text = lock.read_text().replace(old, new, 1)
    outcomes = []
    for parse in (parse_yaml, lock_file.parse):
        try:
            outcomes.append(parse(text, str(lock)))
        except YAMLFileCorruptedError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]


def test_a_killed_writer_leaves_the_whole_old_file(lock, monkeypatch):
    before = lock.read_bytes()
    monkeypatch.setattr(lock_file, "replaced", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), lock_file.modify(lock) as content:
        content["stages"]["download"]["cmd"] = "other"
    assert lock.read_bytes() == before


def test_parameters_are_what_dvc_reads(tmp_path):
    """By whole keys, by keys that are missing, and by patterns and places, which only DVC knows."""
    path = tmp_path / "params.yaml"
    text = "a: {b: 1e-3, c: [1, 2]}\nd: null\n"
    path.write_text(text)
    for keys in (["a.b", "d"], ["a"], ["a.c.1"], ["a.x", "d"], ["d*"], None):
        for flatten in (True, False):
            ours = params_file.read(localfs, str(path), keys, flatten)
            assert ours == read_param_file(localfs, str(path), keys, flatten)
    params_file.read(localfs, str(path), ["a"], True)["a"]["b"] = 5
    assert params_file.read(localfs, str(path), ["a.b"], True) == {"a.b": 1e-3}
    path.write_text(text.replace("1e-3", "7"))
    assert params_file.read(localfs, str(path), ["a.b"], True) == {"a.b": 7}


def test_all_parameters_of_the_pipeline_are_read_as_dvc_reads_them():
    path = str(PROJECT / "params.yaml")
    lock = load_yaml(PROJECT / "dvc.lock")["stages"]
    keys = {
        key for stage in lock.values() for key in stage.get("params", {}).get("params.yaml", [])
    }
    assert len(keys) > 50
    assert params_file.read(localfs, path, [*keys], True) == read_param_file(
        localfs, path, [*keys], flatten=True
    )


def test_an_interrupted_start_or_end_of_python_is_no_traceback():
    """Ctrl-C may meet a stage where its command cannot catch it; other faults are shown."""
    start = 'Traceback (most recent call last):\n  File "<frozen runpy>", line 1, in _run\n'
    text = f"train@a: said\n{start}    import click\nKeyboardInterrupt\nafter\n"
    assert Outcome("a", 130, 1.0, text).lines == ["train@a: said", "after"]
    fault = f"{start}ValueError: 3\n"
    assert Outcome("a", 1, 1.0, fault).lines[-1] == "ValueError: 3"
    assert len(Outcome("a", 1, 1.0, fault + text).lines) == 3 + 2
    code = "import atexit, signal; atexit.register(lambda: signal.raise_signal(signal.SIGINT))"
    code += "; signal.signal(signal.SIGINT, signal.default_int_handler)"
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert "KeyboardInterrupt" in done.stderr
    assert Outcome("a", 0, 1.0, done.stderr).lines == []


class Interrupted(Workers):
    """Workers of which each start, and each look at them, meets a signal."""

    def __init__(self, number):
        self.number, self.given, self.told = number, [], False

    def give(self, name):
        os.kill(os.getpid(), self.number)
        self.given.append(name)

    def wait(self, seconds):
        os.kill(os.getpid(), self.number)
        return [Outcome(self.given.pop(), 130, 1.0, "")] if self.told else []

    def interrupt(self):
        self.told = True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_the_pipeline(number, tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    schedule = Schedule([task("a"), task("b", "a")], cores=1)
    # Where the tests run in the background, Ctrl-C is ignored.
    before = signal.signal(number, signal.default_int_handler)
    try:
        with signals() as came:
            assert run(schedule, Interrupted(number), came) == 130
    finally:
        signal.signal(number, before)
    assert schedule.running == []
