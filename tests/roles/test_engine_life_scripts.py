"""The scripts that keep engines going, run by the shell against made-up tools: replace, record, watch, group."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from metalserve.paths import FILES

SCRIPTS = FILES / "vllm"
UNITS = "etc/systemd/system"

SYSTEMCTL = r"""#!/bin/sh
echo "systemctl $*" >>{root}/calls
verb=
for word; do case "$word" in
  start|restart|stop|is-active|show|daemon-reload|reset-failed) [ -n "$verb" ] || verb=$word ;;
esac; done
case "$verb" in
  is-active) cat {root}/active 2>/dev/null || echo active ;;
  show) cat {root}/show 2>/dev/null ;;
  start|restart)
    for word; do case "$word" in metalserve-vllm-[0-9]*.service)
      ! grep -qs bad "{root}/etc/systemd/system/$word" "{root}/etc/metalserve/engine.env" || exit 1 ;;
    esac; done ;;
esac
exit 0
"""


class Host:
    """A directory as the host's root, and tools that do what the test says."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.library = root / "lib"
        for name in ("bin", "lib", UNITS, "etc/metalserve", "run", "var/lib"):
            (root / name).mkdir(parents=True)
        for name in ("replace", "record", "warm", "watch", "group", "beacon"):
            shutil.copy(SCRIPTS / f"{name}.sh", self.library / f"engine-{name}")
        self.tool("systemctl", SYSTEMCTL.replace("{root}", str(root)))
        self.tool(
            "journalctl", "#!/bin/sh\nprintf 'ValueError: too long -> shorter\\nmetalserve: the engine ended\\n'\n"
        )
        self.tool("docker", f'#!/bin/sh\necho "docker $*" >>{root}/calls\ncase "$1" in logs) cat {root}/log ;; esac\n')
        self.tool("nvidia-smi", "#!/bin/sh\necho '0, 100 %, 70000 MiB, P0'\n")
        self.tool(
            "curl",
            '#!/bin/sh\nfor url; do :; done\nhost=${url#http://}\nhost=${host%%[:/]*}\n'
            f'[ -s {root}/says-$host ] || exit 7\ncat {root}/says-$host\n',
        )  # fmt: skip
        self.probe(ok=False)

    def tool(self, name: str, text: str) -> None:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def probe(self, *, ok: bool) -> None:
        path = self.library / "engine-probe"
        path.write_text(f"#!/bin/sh\nexit {0 if ok else 1}\n")
        path.chmod(0o755)

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def read(self, name: str) -> str:
        path = self.root / name
        return path.read_text() if path.exists() else ""

    def unit(self, number: int) -> str:
        return self.read(f"{UNITS}/metalserve-vllm-{number}.service")

    def prove(self, number: int, text: str) -> None:
        self.write(f"var/lib/metalserve/engines/metalserve-vllm-{number}.service", text)

    def engine(self, number: int, text: str) -> None:
        self.write(f"{UNITS}/metalserve-vllm-{number}.service", text)

    @property
    def calls(self) -> list[str]:
        return self.read("calls").splitlines()

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(self.library / f"engine-{script}"), *arguments]
        return self._run(command, environment)

    def shell(self, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self._run(["sh", "-uc", f". {self.library}/engine-group; {text}"], environment)

    def _run(self, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        given = {"PATH": f"{self.root}/bin:{os.environ['PATH']}", "MS_ROOT": str(self.root), **environment}
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)


@pytest.fixture
def box(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_engines_are_replaced_one_after_the_other(box: Host) -> None:
    for number in (0, 1):
        box.prove(number, "old")
        box.engine(number, "new")
    done = box.run("replace", "--roll", "0", "1")
    assert done.returncode == 0, done.stderr
    assert [c for c in box.calls if " restart " in c] == [
        f"systemctl restart metalserve-vllm-{i}.service" for i in (0, 1)
    ]
    assert box.unit(0) == "new"


def test_one_that_does_not_answer_goes_back_and_the_others_are_left(box: Host) -> None:
    for number in (0, 1):
        box.prove(number, "old")
        box.engine(number, "bad")
    done = box.run("replace", "--roll", "0", "1")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "engine 0 did not answer as it is wanted now: ValueError: too long; the one before serves again -> "
    )
    # the second was not touched, and would not start as what was refused either
    assert (box.unit(0), box.unit(1)) == ("old", "old")
    assert not any("vllm-1" in call for call in box.calls)
    assert "serves again" in box.read("var/lib/metalserve/engines-refused")
    box.engine(0, "new")
    assert box.run("replace", "--roll", "0").returncode == 0
    assert box.read("var/lib/metalserve/engines-refused") == ""


def test_the_environment_goes_back_with_the_first_engine(box: Host) -> None:
    box.prove(0, "old")
    box.engine(0, "old")
    box.write("var/lib/metalserve/engines/engine.env", "KEY=1\n")
    box.write("etc/metalserve/engine.env", "KEY=bad\n")
    done = box.run("replace", "--roll", "0")
    assert "serves again" in done.stderr
    assert box.read("etc/metalserve/engine.env") == "KEY=1\n"


def test_without_one_before_there_is_nothing_to_go_back_to(box: Host) -> None:
    box.engine(0, "bad")
    done = box.run("replace", "--roll", "0")
    assert done.returncode == 1 and "there is none before it to go back to" in done.stderr


def test_a_new_cut_ends_the_old_ones_first_and_brings_them_back_together(box: Host) -> None:
    for number in (0, 1):
        box.prove(number, "old")
    box.engine(0, "new")
    box.engine(1, "old")
    assert box.run("replace", "--swap", "0 1", "0").returncode == 0
    verbs = [c for c in box.calls if " stop " in c or " start " in c]
    assert verbs == [
        "systemctl stop metalserve-vllm-0.service metalserve-vllm-1.service",
        "systemctl start metalserve-vllm-0.service",
    ]
    box.engine(0, "bad")
    box.engine(2, "bad")
    done = box.run("replace", "--swap", "0 1", "0 2")
    assert done.returncode == 1 and "those before ( 0 1 ) serve again" in done.stderr, done.stderr
    assert (box.unit(0), box.unit(1), box.unit(2)) == ("old", "old", "")


LOG = """\
(APIServer pid=1) INFO 11-25 18:13:47 [x.py:1] non-default args: {'api_key': ['secret']}
(Worker pid=1) INFO 11-25 18:13:48 [x.py:1] Model loading took 15.02 GiB memory and "9.2"\tseconds\\
(APIServer pid=1) INFO: GET /health
(EngineCore pid=1) INFO 11-25 18:13:49 [x.py:1] GPU KV cache size: 38,224 tokens
"""


def test_what_answered_is_kept_and_recorded(box: Host) -> None:
    box.write("log", LOG)
    box.engine(0, "Environment=MS_ID=abc\n")
    box.write("etc/metalserve/engine.env", "KEY=1\n")
    box.write("show", "1000000\n")
    done = box.run("record", "0", MS_ID="abc", MS_MODEL='m"x', MS_GPUS="GPU-1,GPU-2")
    assert done.returncode == 0, done.stderr
    found = json.loads(box.read("var/lib/metalserve/launch/0.json"))
    assert found["schema"] == 1 and found["replica"] == 0 and found["model"] == 'm"x'
    assert found["ready_after_s"] > 0
    assert len(found["lines"]) == 2 and '"9.2" seconds\\' in found["lines"][0]
    assert "secret" not in json.dumps(found)
    assert box.read("var/lib/metalserve/engines/metalserve-vllm-0.service") == "Environment=MS_ID=abc\n"
    assert (box.root / "var/lib/metalserve/engines").stat().st_mode & 0o777 == 0o700
    # a file that was written after the start is not what answered
    box.engine(0, "Environment=MS_ID=def\n")
    box.run("record", "0", MS_ID="abc")
    assert box.read("var/lib/metalserve/engines/metalserve-vllm-0.service") == "Environment=MS_ID=abc\n"


def models(box: Host, sizes: dict[str, int]) -> str:
    directory = box.root / "models/aaaa"
    directory.mkdir(parents=True)
    for name, size in sizes.items():
        (directory / name).write_bytes(b"x" * size)
    box.tool("findmnt", "#!/bin/sh\necho ' 7:3'\n")
    box.write("sys/dev/block/7:3/stat", "  10 0 1000 5 0 0 0\n")
    box.write("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable: 8000000 kB\n")
    return str(directory)


def history(box: Host) -> list[dict[str, object]]:
    return [json.loads(line) for line in box.read("var/lib/metalserve/loads.jsonl").splitlines()]


def test_each_start_is_added_to_the_history_and_the_oldest_go(box: Host) -> None:
    box.write("log", LOG + "(W pid=1) INFO 11-25 18:13:47 [default_loader.py:501] Loading weights took 8.10 seconds\n")
    box.write("show", "1000000\n")
    given = {"MS_MODELS": models(box, {"a.safetensors": 3000, "b.safetensors": 500, "c.json": 7})}
    given |= {"MS_CACHE": "off", "MS_FORMAT": "fastsafetensors", "MS_IMAGE": "vllm:1", "MS_GPUS": "GPU-1,GPU-2"}
    assert box.run("warm", "0", **given).stdout == ""
    box.write("sys/dev/block/7:3/stat", "  20 0 1006 5 0 0 0\n")
    done = box.run("record", "0", MS_ID="abc", MS_MODEL="m", **given)
    assert done.returncode == 0, done.stderr
    (found,) = history(box)
    assert (found["revision"], found["image"], found["format"]) == ("aaaa", "vllm:1", "fastsafetensors")
    assert (found["weights_bytes"], found["read_bytes"], found["warmed_bytes"]) == (3500, 6 * 512, None)
    assert found["lines"] == [
        "Loading weights took 8.10 seconds",
        'Model loading took 15.02 GiB memory and "9.2" seconds\\',
    ]
    assert found["gate_s"] == 0.0
    box.write("var/lib/metalserve/loads.jsonl", "".join('{"schema": 1, "replica": 7}\n' for _ in range(230)))
    box.run("record", "1", MS_ID="abc")
    kept = history(box)
    assert len(kept) == 200
    assert [line["replica"] for line in kept[-2:]] == [7, 1]
    assert kept[-1]["read_bytes"] is None  # nothing was noted when it began


def test_weights_are_read_ahead_where_memory_allows(box: Host) -> None:
    given = {"MS_MODELS": models(box, {"a.safetensors": 3000, "b c.safetensors": 500}), "MS_CACHE": "auto"}
    done = box.run("warm", "0", MS_RESERVE_MIB="1", **given)
    assert done.returncode == 0
    assert done.stdout.startswith("metalserve: 0 MiB of weights read ahead in ")
    assert box.read("run/metalserve/loads/0.warmed").split()[0] == "3500"
    assert box.read("run/metalserve/loads/0.sectors") == "1000\n"
    box.run("record", "0", MS_ID="abc", **given)
    assert history(box)[-1]["warmed_bytes"] == 3500
    short = box.run("warm", "0", MS_RESERVE_MIB="8000", **given)
    assert short.returncode == 0
    assert "weights not read ahead: 7812 MiB of memory are available, 8000 are needed" in short.stdout
    assert box.read("run/metalserve/loads/0.warmed") == ""  # that of the start before says nothing of this one
    off = box.run("warm", "0", MS_RESERVE_MIB="1", **{**given, "MS_CACHE": "off"})
    assert (off.returncode, off.stdout) == (0, "")


def test_engines_that_start_together_read_the_weights_once(box: Host) -> None:
    given = {"MS_MODELS": models(box, {"a.safetensors": 10}), "MS_CACHE": "auto", "MS_RESERVE_MIB": "1"}
    box.tool("dd", f"#!/bin/sh\necho read >>{box.root}/reads\nsleep 1\n")
    command = ["sh", str(box.library / "engine-warm")]
    environment = {"PATH": f"{box.root}/bin:{os.environ['PATH']}", "MS_ROOT": str(box.root), **given}
    running = [subprocess.Popen([*command, str(i)], env=environment, stdout=subprocess.DEVNULL) for i in range(3)]
    assert [process.wait(timeout=30) for process in running] == [0, 0, 0]
    assert box.read("reads").count("read") == 1


WATCH = {"MS_ADDRESS": "engine", "MS_MODEL": "m", "MS_AUTH": "/none", "MS_PORT": "8000"}
WATCH |= {"MS_INTERVAL": "1", "MS_STALL": "0", "MS_RESTARTS": "2"}


def metrics(running: int, steps: int) -> str:
    return (
        f'vllm:num_requests_running{{engine="0"}} {running}.0\n'
        f'vllm:iteration_tokens_total_count{{engine="0"}} {steps}.0\nvllm:generation_tokens_total 7\n'
    )


def looks(box: Host, count: int, **more: str) -> str:
    return "".join(box.run("watch", "--look", **{**WATCH, **more}).stdout for _ in range(count))


def test_an_engine_that_makes_steps_or_has_nothing_to_do_is_ready(box: Host) -> None:
    box.engine(0, "x")
    for steps in (5, 6, 7, 8, 9):
        box.write("says-engine", metrics(3, steps))
        assert looks(box, 1) == ""
    box.write("says-engine", metrics(0, 9))
    assert looks(box, 5) == ""
    assert box.read("run/metalserve/engines/0") == "ready\n"
    assert not any(call.startswith("docker kill") for call in box.calls)


@pytest.mark.parametrize(("said", "words"), [(metrics(2, 5), "2 requests run and no step"), ("", "no answer from")])
def test_a_stalled_engine_is_restarted_but_not_for_ever(box: Host, said: str, words: str) -> None:
    box.engine(0, "x")
    box.write("log", "last words\n")
    box.write("says-engine", said)
    told = looks(box, 4)
    assert f"engine 0 stalled: {words}" in told and "restarted (1 of 2 within an hour)" in told
    assert "engine 0 said: last words" in told and "100 %" in told
    assert [c for c in box.calls if c.startswith(("docker kill", "systemctl restart"))] == [
        "docker kill metalserve-vllm-0",
        "systemctl restart --no-block metalserve-vllm-0.service",
    ]
    assert "restarted (2 of 2" in looks(box, 4)
    assert looks(box, 9).count("not restarted: that was done 2 times within an hour -> ") == 1
    assert sum(c.startswith("docker kill") for c in box.calls) == 2
    assert box.read("run/metalserve/engines/0").startswith("stalled: ")


def test_three_looks_and_a_missing_token_are_asked_for(box: Host) -> None:
    box.engine(0, "x")
    box.write("says-engine", metrics(2, 5))
    assert looks(box, 3) == ""  # the first sets the mark, two saw it unmoved
    box.probe(ok=True)
    assert "yet a token came: left alone" in looks(box, 1)
    assert not any(call.startswith("docker kill") for call in box.calls)
    assert looks(box, 4, MS_STALL="600") == ""


def test_an_engine_that_does_not_run_is_not_watched(box: Host) -> None:
    box.engine(0, "x")
    box.write("active", "activating\n")
    assert looks(box, 5) == ""
    assert box.read("run/metalserve/engines/0") == "not running\n"


HEAD = {"MS_RANK": "0", "MS_PEERS": "b=hostb c=hostc", "MS_STATE_PORT": "29502", "MS_VERSION": "v1"}
MEMBER = {**HEAD, "MS_RANK": "1", "MS_PEERS": "a=hosta"}


def tells(box: Host, host: str, state: str, *, id_: str = "i1", version: str = "v1", joined: str = "none") -> None:
    box.write(f"says-{host}", f"HTTP said\nid={id_} state={state} version={version} joined={joined}\n")


def test_the_head_waits_for_members_that_are_set_up_alike(box: Host) -> None:
    tells(box, "hostb", "activating/start-pre")
    assert "host c does not answer on hostc" in box.shell("members_missing", **HEAD).stdout
    tells(box, "hostc", "active/running", version="v0")
    assert "host c is set up for something else" in box.shell("members_missing", **HEAD).stdout
    tells(box, "hostc", "failed/failed")
    assert "engine of host c is stopped (failed/failed)" in box.shell("members_missing", **HEAD).stdout
    tells(box, "hostc", "activating/auto-restart")
    assert box.shell("members_missing", **HEAD).stdout == ""


def test_a_member_joins_a_start_of_the_head_once(box: Host) -> None:
    assert "the head a does not answer" in box.shell("head_missing", **MEMBER).stdout
    tells(box, "hosta", "activating/start-pre", id_="h1")
    (box.root / "run/metalserve/engines").mkdir(parents=True)
    assert "has not begun" in box.shell("head_missing", **MEMBER).stdout
    tells(box, "hosta", "activating/start-post", id_="h1")
    assert box.shell("head_missing", **MEMBER).stdout == ""
    assert box.read("run/metalserve/engines/joined") == "h1\n"
    assert "has yet to start anew" in box.shell("head_missing", **MEMBER).stdout
    tells(box, "hosta", "active/running", id_="h2")
    assert "has yet to start anew" in box.shell("head_missing", **MEMBER).stdout
    tells(box, "hosta", "activating/start", id_="h3")
    assert box.shell("head_missing", **MEMBER).stdout == ""


def own(box: Host, state: str, id_: str = "h1") -> None:
    active, _, sub = state.partition("/")
    box.write("show", f"InvocationID={id_}\nActiveState={active}\nSubState={sub}\n")


GROUP_LOOK = "restart() { echo restarted $1; }; group"


def test_the_head_starts_anew_when_a_member_that_had_joined_has_ended(box: Host) -> None:
    own(box, "active/running")
    for host in ("hostb", "hostc"):
        tells(box, host, "active/running", joined="h1")
    assert box.shell(GROUP_LOOK, **HEAD).stdout == ""
    tells(box, "hostc", "activating/auto-restart", joined="h1")
    said = box.shell(GROUP_LOOK, **HEAD).stdout
    assert "host c of the group had joined and has ended (activating/auto-restart)" in said and "restarted 0" in said
    # while the head starts, a member that waits in its gate is on its way
    own(box, "activating/start-post", id_="h2")
    tells(box, "hostb", "activating/start-pre", joined="h1")
    tells(box, "hostc", "activating/start-pre", joined="h1")
    assert box.shell(GROUP_LOOK, **HEAD).stdout == ""
    own(box, "active/running", id_="h2")
    assert "is not part of what runs here" in box.shell(GROUP_LOOK, **HEAD).stdout


def test_a_silent_member_gets_three_looks(box: Host) -> None:
    own(box, "active/running")
    tells(box, "hostb", "active/running", joined="h1")
    (box.root / "run/metalserve/engines").mkdir(parents=True)
    said = [box.shell(GROUP_LOOK, **HEAD).stdout for _ in range(3)]
    assert said[:2] == ["", ""] and "host c of the group is silent" in said[2]


def test_members_follow_a_head_that_was_started_anew(box: Host) -> None:
    own(box, "active/running", id_="m1")
    box.write("run/metalserve/engines/joined", "h1\n")
    tells(box, "hosta", "active/running", id_="h1")
    assert box.shell(GROUP_LOOK, **MEMBER).stdout == ""
    (box.root / "says-hosta").unlink()
    assert box.shell(GROUP_LOOK, **MEMBER).stdout == "", "a head that is silent may come back the same"
    tells(box, "hosta", "activating/start-pre", id_="h2")
    said = box.shell(GROUP_LOOK, **MEMBER).stdout
    assert "the head a was started anew" in said and "restarted 0" in said


def test_the_beacon_answers_like_a_web_server(box: Host) -> None:
    own(box, "activating/start-post", id_="h9")
    box.engine(0, "Environment=MS_VERSION=v7\n")
    done = subprocess.run(
        ["sh", str(box.library / "engine-beacon")],
        input="GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        env={"PATH": f"{box.root}/bin:{os.environ['PATH']}", "MS_ROOT": str(box.root)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    head, _, body = done.stdout.partition("\n\n")
    assert head.startswith("HTTP/1.0 200 OK")
    assert body == "id=h9 state=activating/start-post version=v7 joined=none\n"
