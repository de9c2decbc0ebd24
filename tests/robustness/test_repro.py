"""`charlm repro` on a small graph of shell commands: what is stopped, killed or broken."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from dvc import rwlock
from ruamel.yaml import YAML

from charlm.errors import UserError
from charlm.repro import command, fork
from tests.workspace import PROJECT, environment, run

COMMAND = [sys.executable, "-m", "charlm.repro", "--jobs", "2"]
WAIT_S = 60

WAITS = """
import time
Path(".begun").touch()
while not Path(".end").exists():
    time.sleep(0.1)
"""
"""Of a module: it waits for a file."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """An empty repository of DVC."""
    folder = tmp_path_factory.mktemp("repository")
    run(folder, "dvc", "init", "-q", "--no-scm")
    return folder


@pytest.fixture
def project(repository, tmp_path):
    """A repository of DVC; its stages are made by `graph`."""
    shutil.copytree(repository, tmp_path, dirs_exist_ok=True)
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    return tmp_path


def graph(folder, **stages):
    """Write dvc.yaml: name=(command, dependencies). Each stage leaves a file of its name."""
    content = {
        name: {"cmd": command, "deps": list(deps), "outs": [name]}
        for name, (command, deps) in stages.items()
    }
    with (folder / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": content}, file)


def begin(folder, *options, on_interrupt=signal.default_int_handler):
    def prepare():
        # Where the tests run in the background, both are ignored, and a process inherits that.
        signal.signal(signal.SIGINT, on_interrupt)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    return subprocess.Popen(
        [*COMMAND, *options],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        preexec_fn=prepare,
        process_group=0,
    )


def ended(process):
    output, _ = process.communicate(timeout=WAIT_S)
    assert "Traceback" not in output, output
    return process.returncode, output


def repro(folder, *options):
    return ended(begin(folder, *options))


def test_without_a_git_repository_it_says_how_to_go_without(tmp_path):
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").touch()
    graph(tmp_path, a=("touch a", []))
    status, output = repro(tmp_path)
    assert status == 1
    assert "Error: no git repository here: run `git init`, or `dvc config --local" in output


def appears(path):
    deadline = time.monotonic() + WAIT_S
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.05)


def locked(folder):
    lock = YAML(typ="safe").load(Path(folder, "dvc.lock"))
    return lock["stages"]


def workers(process):
    """Return the processes that reproduce stages: each leads a group of its own."""
    forks = psutil.Process(process.pid).children(recursive=True)
    return [fork for fork in forks if os.getpgid(fork.pid) == fork.pid]


def module(folder, name, code):
    """Write a module that is a stage: `python -m NAME` writes what it prints into a file NAME."""
    text = f"from pathlib import Path\ndef say(what): Path({name!r}).write_text(f'{{what}}\\n')\n"
    (folder / f"{name}.py").write_text(text + code)
    return f"python -m {name}"


def test_two_at_a_time_leave_what_one_after_the_other_leaves(project, repository, tmp_path):
    stages = {
        "first": ("echo 1 > first", []),
        # Neither ends before the other has begun.
        "left": (
            "touch .left; until [ -e .right ]; do sleep 0.1; done; cat first > left",
            ["first"],
        ),
        "right": (
            "touch .right; until [ -e .left ]; do sleep 0.1; done; cat first > right",
            ["first"],
        ),
        "last": ("cat left right > last; echo said by last", ["left", "right"]),
    }
    graph(project, **stages)
    status, output = repro(project)
    assert status == 0, output
    assert re.search(r"^last \(\d+ s\)\nsaid by last$", output, re.MULTILINE)
    assert (project / "last").read_text() == "1\n1\n"
    assert "up to date" in run(project, "dvc", "repro").stdout
    serial = tmp_path / "serial"
    shutil.copytree(repository, serial)
    shutil.copy(project / "dvc.yaml", serial)
    for name in (".left", ".right"):
        (serial / name).touch()
    run(serial, "dvc", "repro")
    assert locked(project) == locked(serial)
    # Nothing is started that is up to date; of a change, what follows from it.
    assert repro(project) == (0, "Data and pipelines are up to date.\n")
    stages["right"] = ("echo 2 > right", ["first"])
    graph(project, **stages)
    status, output = repro(project, "right")
    assert (project / "last").read_text() == "1\n1\n"
    status, output = repro(project)
    assert status == 0
    assert (project / "last").read_text() == "1\n2\n"


def test_mlflow_gives_the_trainings_of_one_call_one_parent(project):
    code = "from charlm.tracking import running; print(*running())"
    graph(
        project,
        one=(f"python -c '{code}' > one", []),
        two=(f"python -c '{code}' > two", []),
        three=(f"python -c '{code}' > three", ["one"]),
    )
    assert repro(project)[0] == 0
    (first,) = {(project / name).read_text() for name in ("one", "two", "three")}
    assert first.startswith("charlm repro ")
    (project / "one").unlink()
    graph(project, one=(f"python -c '{code}' > one; true", []))
    assert repro(project)[0] == 0
    assert (project / "one").read_text() != first


def test_after_a_failure_nothing_is_started_and_what_runs_is_kept(project):
    graph(
        project,
        bad=("echo what is wrong >&2; exit 3", []),
        good=("sleep 2; echo 1 > good", []),
        after=("cat bad good > after", ["bad", "good"]),
        more=("cat good > more", ["good"]),
    )
    status, output = repro(project)
    assert status not in (0, 130)
    assert "what is wrong" in output
    assert "stage bad failed" in output
    assert sorted(locked(project)) == ["good"]
    graph(
        project,
        bad=("echo 2 > bad", []),
        good=("sleep 2; echo 1 > good", []),
        after=("cat bad good > after", ["bad", "good"]),
    )
    assert repro(project)[0] == 0
    assert (project / "after").read_text() == "2\n1\n"


def test_ctrl_c_ends_what_runs_and_keeps_what_is_done(project):
    graph(
        project,
        done=("echo 1 > done", []),
        long=("touch .begun; exec sleep 300", ["done"]),
        after=("cat long > after", ["long"]),
    )
    process = begin(project)
    appears(project / ".begun")
    process.send_signal(signal.SIGINT)
    status, output = ended(process)
    assert status == 130, output
    assert "stopped" in output
    assert sorted(locked(project)) == ["done"]
    graph(project, done=("echo 1 > done", []), long=("cat done > long", ["done"]))
    assert repro(project)[0] == 0
    assert "up to date" in run(project, "dvc", "repro").stdout


def locked_by(project, path):
    """Write DVC's list of files in use: a process that is alive writes one, a dead one read one."""
    held = {"write": {str(path): {"pid": os.getpid(), "cmd": "dvc repro elsewhere"}}}
    held["read"] = {"/elsewhere": [{"pid": 2**22 + 1, "cmd": "dvc repro, killed"}]}
    (project / ".dvc/tmp").mkdir(exist_ok=True)
    (project / ".dvc/tmp/rwlock").write_text(json.dumps(held))


@pytest.mark.filterwarnings("ignore")  # what DVC uses of others
def test_ctrl_c_while_dvc_looks_at_the_stages_leaves_its_files_whole(project, monkeypatch):
    """Where a file is in use, DVC writes the list anew for each stage. A half of it stops all."""
    graph(project, one=("echo 1 > one", []), two=("echo 1 > two", []))
    locked_by(project, "/elsewhere")
    monkeypatch.chdir(project)

    def dump(content, file):
        os.kill(os.getpid(), signal.SIGINT)
        file.write(json.dumps(content))

    monkeypatch.setattr(rwlock.json, "dump", dump)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            command.stages_to_run((), lambda stage: 1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "/elsewhere" in json.loads((project / ".dvc/tmp/rwlock").read_text())["write"]
    assert repro(project)[0] == 0


@pytest.mark.filterwarnings("ignore")  # what DVC uses of others
def test_a_file_that_another_process_writes_is_not_looked_at(project, monkeypatch):
    graph(project, one=("echo 1 > one", []))
    locked_by(project, project / "one")
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=r"one' is busy, .* dvc repro elsewhere"):
        command.stages_to_run((), lambda stage: 1)
    locked_by(project, "/elsewhere")
    assert [task.name for task in command.stages_to_run((), lambda stage: 1)] == ["one"]


@pytest.mark.filterwarnings("ignore")  # what DVC uses of others
def test_where_nobody_writes_files_the_list_of_those_in_use_is_not_written(project, monkeypatch):
    graph(project, one=("echo 1 > one", []))
    monkeypatch.chdir(project)
    in_use = project / ".dvc/tmp/rwlock"
    for content in (None, '{"read": {"/elsewhere": [{"pid": 4194305, "cmd": "killed"}]}}'):
        if content:
            in_use.write_text(content)
        assert [task.name for task in command.stages_to_run((), lambda stage: 1)] == ["one"]
        assert content == (in_use.read_text() if in_use.exists() else None)


@pytest.mark.filterwarnings("ignore")  # what DVC uses of others
@pytest.mark.parametrize("content", ["", "[]", '{"write": 1}'])
def test_a_damaged_list_of_files_in_use_is_one_line_with_a_remedy(project, content, monkeypatch):
    graph(project, one=("echo 1 > one", []))
    (project / ".dvc/tmp").mkdir(exist_ok=True)
    (project / ".dvc/tmp/rwlock").write_text(content)
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=r"rwlock is damaged, .* that was killed: remove it$"):
        command.stages_to_run((), lambda stage: 1)


def test_a_second_call_is_told_of_the_first(project):
    graph(project, long=("touch .begun; until [ -e .end ]; do sleep 0.1; done; echo > long", []))
    process = begin(project)
    appears(project / ".begun")
    status, output = repro(project)
    assert (status, output.count("\n")) == (1, 1)
    assert "running in this folder already" in output
    (project / ".end").touch()
    assert ended(process)[0] == 0
    assert sorted(locked(project)) == ["long"]


def test_a_killed_worker_is_a_failed_stage_that_does_not_go_on(project):
    graph(project, long=("echo $$ > .pid; exec sleep 300", []))
    process = begin(project)
    appears(project / ".pid")
    (worker,) = workers(process)
    worker.kill()
    status, output = ended(process)
    assert status not in (0, 130)
    assert "stage long failed (its process was killed)" in output
    number = int((project / ".pid").read_text())
    deadline = time.monotonic() + WAIT_S
    while psutil.pid_exists(number) and psutil.Process(number).status() != "zombie":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    graph(project, long=("echo 1 > long", []))
    assert repro(project)[0] == 0


@pytest.mark.parametrize("kind", ["shell", "module"])
def test_a_stage_of_a_killed_scheduler_ends_well_and_is_waited_for(project, kind):
    """So it is where the terminal was closed, which tells the whole process group."""
    commands = {
        "shell": "touch .begun; until [ -e .end ]; do sleep 0.1; done; echo 1 > long",
        "module": module(project, "long", WAITS + "say(1)\n"),
    }
    graph(project, long=(commands[kind], []), after=("cat long > after", ["long"]))
    process = begin(project)
    appears(project / ".begun")
    if kind == "shell":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGHUP)
    process.wait(WAIT_S)
    process.stdout.close()
    second = begin(project)
    time.sleep(1.5)
    assert second.poll() is None
    (project / ".end").touch()
    status, output = ended(second)
    assert status == 0, output
    assert "waiting for stages of a run that was killed" in output
    assert (project / "after").read_text() == "1\n"
    assert "up to date" in run(project, "dvc", "repro").stdout


def test_a_full_disk_loses_nothing(project):
    graph(
        project,
        small=("echo 1 > small", []),
        large=("head -c 3000000 /dev/zero > large", ["small"]),
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    process = subprocess.Popen(
        COMMAND,
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        preexec_fn=limit,
    )
    status, output = ended(process)
    assert status not in (0, 130)
    assert "stage large failed" in output
    assert sorted(locked(project)) == ["small"]
    assert repro(project)[0] == 0


def test_mistakes_are_one_line(project):
    graph(project, one=("echo 1 > one", []))
    for options, expected in (
        (["nothing"], "nothing"),
        (["--jobs", "0"], "--jobs"),
    ):
        status, output = repro(project, *options)
        assert status != 0
        assert expected in output
    (project / "dvc.yaml").write_text("stages: [")
    status, output = repro(project)
    assert status == 1
    assert "dvc.yaml" in output
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("excerpt:", "excerp:"))
    status, output = repro(project)
    assert (status, output.count("\n")) == (1, 1)
    assert "did you mean" in output
    assert not (project / "one").exists()


def test_a_project_may_be_a_subfolder_of_its_repository(tmp_path):
    run(tmp_path, "dvc", "init", "-q", "--no-scm")
    project = tmp_path / "sub/project"
    project.mkdir(parents=True)
    shutil.copy(PROJECT / "params.yaml", project)
    graph(project, one=("echo 1 > one", []))
    status, output = repro(project)
    assert status == 0, output
    assert sorted(locked(project)) == ["one"]
    assert not (project / ".dvc").exists()
    assert "up to date" in run(project, "dvc", "repro").stdout


def test_without_a_repository_there_is_one_line(tmp_path):
    shutil.copy(PROJECT / "params.yaml", tmp_path)
    status, output = repro(tmp_path)
    assert (status, output.count("\n")) == (1, 1)
    assert "no .dvc in" in output


def test_a_stage_that_is_a_module_is_what_a_new_process_would_be(project):
    """It has arguments, folder and environment, its output is shown, and its end is clean."""
    graph(
        project,
        one=(
            module(
                project,
                "one",
                "import atexit, os, sys\n"
                "print('said by', os.environ['DVC_STAGE'])\n"
                "here = Path(sys.path[0]) == Path.cwd() == Path(__file__).parent\n"
                "seen = [__name__, sys.argv[1:], here, 'charlm.repro' in sys.modules]\n"
                "atexit.register(say, seen)\n",
            )
            + " --model a/b.c",
            [],
        ),
        two=(module(project, "two", "import sys\nsay(2)\nsys.exit(print('bad luck') or 3)\n"), []),
    )
    status, output = repro(project, "one")
    assert status == 0, output
    assert (project / "one").read_text() == "['__main__', ['--model', 'a/b.c'], True, False]\n"
    assert "said by one" in output
    status, output = repro(project, "two")
    assert status not in (0, 130)
    assert "bad luck" in output
    assert "exited with 3" in output
    assert sorted(locked(project)) == ["one"]


def test_a_stage_of_several_has_the_libraries_and_forks_what_tracks_it(project):
    code = "import sys\nfrom charlm.tracking import tracker\n"
    code += "say([tracker.may_fork(), 'torch' in sys.modules, 'charlm.repro' in sys.modules])\n"
    graph(project, one=(module(project, "one", code), []))
    assert repro(project)[0] == 0
    assert (project / "one").read_text() == "[False, False, False]\n"
    graph(project, one=(module(project, "one", code), []), two=(module(project, "two", code), []))
    (project / "one").unlink()
    assert repro(project)[0] == 0
    for name in ("one", "two"):
        assert (project / name).read_text() == f"[{fork.FORKS}, {fork.FORKS}, False]\n"


def test_a_stage_may_be_a_module_of_another_folder(project):
    """As those of `charlm ideas` are; no new Python is started for it."""
    (project / "sub/below").mkdir(parents=True)
    code = "import sys\nhere = Path(sys.path[0]) == Path.cwd() == Path(__file__).parent\n"
    code += "seen = [here, 'multiprocessing' in sys.modules]\n"
    code += "Path('../one').write_text(f'{seen} {sys.argv[1:]}')\n"
    command = f"cd sub/below/.. && {module(project / 'sub', 'one', code)} --name a"
    graph(project, one=(command, []))
    status, output = repro(project)
    assert status == 0, output
    assert (project / "one").read_text() == f"[True, {fork.FORKS}] ['--name', 'a']"


def test_a_module_that_is_edited_while_the_graph_runs_is_read_when_its_stage_begins(project):
    command = module(project, "after", "import part\nsay(part.NUMBER)\n")
    (project / "part.py").write_text("NUMBER = 1\n")
    graph(
        project,
        first=("touch .begun; until [ -e .end ]; do sleep 0.1; done; echo > first", []),
        before=(module(project, "before", "import part\nsay(part.NUMBER)\n"), []),
        after=(command, ["first", "part.py"]),
    )
    process = begin(project)
    appears(project / "before")
    appears(project / ".begun")
    (project / "part.py").write_text("NUMBER = 22\n")
    (project / ".end").touch()
    assert ended(process)[0] == 0
    assert [(project / name).read_text() for name in ("before", "after")] == ["1\n", "22\n"]


@pytest.mark.parametrize(
    ("number", "on_interrupt", "wait"),
    [
        (signal.SIGINT, signal.default_int_handler, "time.sleep(300)"),
        (signal.SIGINT, signal.default_int_handler, "exec('while True: pass')"),
        (signal.SIGTERM, signal.SIG_IGN, "time.sleep(300)"),  # begun in the background
    ],
)
def test_a_signal_ends_a_module_without_a_traceback(project, number, on_interrupt, wait):
    code = f"import time\nPath('.begun').touch()\n{wait}\n"
    graph(project, long=(module(project, "long", code), []))
    process = begin(project, on_interrupt=on_interrupt)
    appears(project / ".begun")
    process.send_signal(number)
    status, output = ended(process)
    assert status == 130, output
    assert "stopped" in output
    assert not (project / "dvc.lock").exists()


def test_a_killed_module_is_a_failed_stage(project):
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n"
    graph(project, long=(module(project, "long", code), []))
    status, output = repro(project)
    assert status not in (0, 130)
    assert "stage long failed" in output
    module(project, "long", "say(1)\n")
    assert repro(project)[0] == 0


@pytest.mark.skipif(not fork.FORKS, reason="stages are no forks here")
@pytest.mark.parametrize("kind", ["shell", "module"])
def test_where_the_process_of_all_forks_is_killed_what_runs_is_waited_for(project, kind):
    """A stage of the shell ends well. How a fork ended nobody knows, so it has failed."""
    commands = {
        "shell": "touch .begun; until [ -e .end ]; do sleep 0.1; done; echo 1 > first",
        "module": module(project, "first", WAITS + "time.sleep(1)\nsay(1)\n"),
    }
    after = module(project, "after", "say(2)\n") if kind == "shell" else "echo 2 > after"
    graph(project, first=(commands[kind], []), after=(after, ["first"]))
    process = begin(project)
    appears(project / ".begun")
    (server,) = {fork.parent() for fork in workers(process)}
    server.kill()
    (project / ".end").touch()
    status, output = ended(process)
    assert status not in (0, 130), output
    assert (project / "first").read_text() == "1\n"
    assert f"stage {'after' if kind == 'shell' else 'first'} failed" in output
    assert repro(project)[0] == 0
