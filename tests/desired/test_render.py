"""Rendered scripts are run for real, with dash and bash, in a temporary directory."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path

import pytest

from metalserve.desired.diff import Change, difference
from metalserve.desired.model import Action, Desired, Directory, File, Package, Reboot, SigningKey, Unit
from metalserve.desired.observed import Observation, ObservedFile
from metalserve.desired.render import render
from tests.desired.shells import GROUP, SHELLS, USER, function_call, mend, run_script, tool, with_tools

shells = pytest.mark.parametrize("shell", SHELLS)


def changes(desired: Desired) -> list[Change]:
    return list(difference(desired, Observation()))


def file(path: Path, content: str | None, mode: str = "0644") -> File:
    return File(str(path), content, mode=mode, owner=USER, group=GROUP)


AWKWARD = "no newline at the end, 'quotes' \"$HOME\" `id` \\n MS_EOF\nMS_EOF\n\tünïcode\n\n$(exit 3)"


@shells
def test_a_file_is_written_whole_with_its_mode(shell: str, tmp_path: Path) -> None:
    target = tmp_path / "new dir" / "it's a file"
    done = mend(changes(Desired(files=(file(target, AWKWARD, "0640"),))), shell, tmp_path / "run")
    assert done.rc == 0, done.out
    assert target.read_text() == AWKWARD
    assert target.stat().st_mode & 0o7777 == 0o640
    assert done.steps[-1] == "done"
    assert [p.name for p in target.parent.iterdir()] == [target.name]  # no temporary file is left


@shells
def test_a_large_script_arrives_whole(shell: str, tmp_path: Path) -> None:
    content = "".join(f"line {i} of a large file\n" for i in range(6000))
    target = tmp_path / "large"
    script = render(changes(Desired(files=(file(target, content),))))
    assert len(script) > 150_000
    assert run_script(script, shell, tmp_path / "run").rc == 0
    assert target.read_text() == content


@shells
def test_no_moment_at_which_others_can_read_a_secret(shell: str, tmp_path: Path) -> None:
    """When the content is about to be written, the temporary file is 0600 already."""
    tools = tmp_path / "tools"
    log = tmp_path / "log"
    tool(tools, "base64", f'stat -c "%a" {tmp_path}/.metalserve.* >>{log}; exec /usr/bin/base64 "$@"')
    target = tmp_path / "secret"
    script = render(changes(Desired(files=(file(target, "TOKEN", "0600"),))))
    assert run_script(with_tools(script, tools), shell, tmp_path / "run").rc == 0
    assert log.read_text().split() == ["600"]
    assert target.stat().st_mode & 0o777 == 0o600


@shells
def test_a_secret_is_never_in_any_process_argv(shell: str, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    log = tmp_path / "argv"
    for name in ("base64", "mktemp", "chown", "chmod", "mv", "sync", "mkdir", "dirname", "flock"):
        path = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        tool(tools, name, f'printf "%s\\n" "$0 $*" >>{log}; exec {path} "$@"')
    secret = "hf_abcdefghijklmnop"
    desired = Desired(files=(File(str(tmp_path / "env"), f"HF_TOKEN={secret}\n", "0600", USER, GROUP, secret=True),))
    script = render(changes(desired))
    encoded = "SEZfVE9LRU4"  # how "HF_TOKEN" begins in base64
    assert encoded in script and secret not in script
    done = run_script(with_tools(script, tools), shell, tmp_path / "run")
    assert done.rc == 0
    argv = log.read_text()
    assert "base64" in argv and "mv" in argv
    assert encoded not in argv and secret not in argv
    assert encoded not in done.out and secret not in done.out


@shells
def test_a_failing_write_leaves_the_old_file_and_says_so(shell: str, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tool(tools, "sync", "exit 1")  # a full disk shows itself at the latest here
    target = tmp_path / "kept"
    target.write_text("old")
    script = render(changes(Desired(files=(file(target, "new"),))))
    done = run_script(with_tools(script, tools), shell, tmp_path / "run")
    assert done.rc == 1
    assert f"could not write {target}" in done.out
    assert target.read_text() == "old"
    assert not list(tmp_path.glob(".metalserve.*"))


@shells
def test_a_directory_in_the_place_of_a_file_is_told(shell: str, tmp_path: Path) -> None:
    target = tmp_path / "place"
    (target / "full").mkdir(parents=True)
    done = mend(changes(Desired(files=(file(target, "x"),))), shell, tmp_path / "run")
    assert done.rc == 1
    assert f"could not write {target}" in done.out
    assert not list(tmp_path.glob(".metalserve.*"))


@shells
def test_removal_and_directories(shell: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.write_text("x")
    made = tmp_path / "made"
    observed = Observation(files={str(gone): ObservedFile(str(gone), "file", "0644", USER, GROUP, 0.0)})
    desired = Desired(files=(file(gone, None),), directories=(Directory(str(made), "0750", USER, GROUP),))
    done = mend(list(difference(desired, observed)), shell, tmp_path / "run")
    assert done.rc == 0, done.out
    assert not gone.exists()
    assert made.stat().st_mode & 0o777 == 0o750


@shells
def test_a_file_in_the_place_of_a_directory_is_refused(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "it's"
    path.write_text("precious")
    observed = Observation(files={str(path): ObservedFile(str(path), "file", "0644", USER, GROUP, 0.0)})
    desired = Desired(directories=(Directory(str(path), "0755", USER, GROUP),))
    done = mend(list(difference(desired, observed)), shell, tmp_path / "run")
    assert done.rc == 1
    assert f"{path} exists and is no directory -> move it away" in done.out
    assert path.read_text() == "precious"


@shells
def test_the_failing_step_is_the_last_one_told_and_nothing_follows(shell: str, tmp_path: Path) -> None:
    later = tmp_path / "later"
    desired = Desired(
        actions=(
            Action("first", lambda o: False, "cd /; MARK=1; echo fine"),
            Action("second", lambda o: False, 'echo to-output; echo to-errors >&2; test -z "${MARK:-}"; false'),
            Action("third", lambda o: False, f"touch {later}"),
        )
    )
    done = mend(changes(desired), shell, tmp_path / "run")
    assert done.rc == 1
    assert done.steps == ["first", "second"]
    assert done.out.splitlines()[-2:] == ["to-output", "to-errors"]  # in the order in which they were said
    assert not later.exists()


@shells
def test_undefined_variables_and_failing_pipes_stop_an_action(shell: str, tmp_path: Path) -> None:
    desired = Desired(actions=(Action("typo", lambda o: False, 'echo "$NO_SUCH"; touch /never'),))
    assert mend(changes(desired), shell, tmp_path / "run").rc != 0


@shells
def test_nothing_but_a_reboot_is_still_a_valid_script(shell: str, tmp_path: Path) -> None:
    done = mend([Change(Reboot("because"), "reboot: because")], shell, tmp_path / "run")
    assert (done.rc, done.steps) == (0, ["done"])


class TestApplyLock:
    """A script left over from a run that was cut off must not overlap with the next run's."""

    @shells
    def test_two_scripts_do_not_overlap(self, shell: str, tmp_path: Path) -> None:
        log = tmp_path / "log"
        desired = Desired(actions=(Action("slow", lambda o: False, f"echo in >>{log}; sleep 0.5; echo out >>{log}"),))
        script = render(changes(desired), lock_timeout_s=20)
        threads = [
            threading.Thread(target=run_script, args=(script, shell, tmp_path / "run"), daemon=True) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert log.read_text().split() == ["in", "out"] * 3

    @shells
    def test_a_daemon_that_a_change_started_does_not_hold_it(self, shell: str, tmp_path: Path) -> None:
        pid_file = tmp_path / "pid"
        daemon = f"setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $! >{pid_file}"
        first = mend(changes(Desired(actions=(Action("daemon", lambda o: False, daemon),))), shell, tmp_path / "run")
        try:
            assert first.rc == 0
            begun = time.monotonic()
            second = mend(changes(Desired(actions=(Action("next", lambda o: False, ":"),))), shell, tmp_path / "run")
            assert second.rc == 0, second.out
            assert time.monotonic() - begun < 3
        finally:
            subprocess.run(["kill", pid_file.read_text().strip()], check=True)

    @shells
    def test_it_is_held_while_the_changes_run(self, shell: str, tmp_path: Path) -> None:
        probe = f'flock -n "{tmp_path}/run/apply" true && echo free || echo held'
        done = mend(changes(Desired(actions=(Action("probe", lambda o: False, probe),))), shell, tmp_path / "run")
        assert "held" in done.out.splitlines()

    @shells
    def test_waiting_ends_with_who_holds_it(self, shell: str, tmp_path: Path) -> None:
        run_dir = tmp_path / "run"
        run_dir.mkdir()
        (run_dir / "applying").write_text("process 42 since yesterday\n")
        holding = f'exec 8>>"{run_dir}/apply"; flock 8; exec sleep 30'
        with subprocess.Popen(["sh", "-c", holding]) as holder:
            time.sleep(0.3)
            done = mend(
                changes(Desired(actions=(Action("x", lambda o: False, ":"),))), shell, run_dir, lock_timeout_s=1
            )
            holder.terminate()
        assert done.rc == 1
        assert "still at work (process 42 since yesterday)" in done.out


class TestPackages:
    """apt-get and dpkg are stand-ins here; the real ones are met in the lab."""

    @shells
    def test_versions_are_resolved_before_anything_is_installed(self, shell: str, tmp_path: Path) -> None:
        tools, log = tmp_path / "tools", tmp_path / "log"
        tool(tools, "dpkg", "exit 0")
        tool(tools, "apt-get", f'echo "$*" >>{log}')
        tool(
            tools,
            "apt-cache",
            'for v in 590.1-1 2:580.178.04-1 580.178.041-1; do echo " driver | $v | http://x"; done',
        )
        desired = Desired(packages=(Package("driver", "580.178.04"), Package("plain"), Package("old", present=False)))
        observed = Observation(packages={})
        found = [
            *difference(desired, observed),
            Change(Package("old", present=False), "package old: 1 -> removed"),
        ]
        script = with_tools(render(found), tools)
        done = run_script(script, shell, tmp_path / "run")
        assert done.rc == 0, done.out
        calls = log.read_text().splitlines()
        assert calls[0].endswith(" update")
        assert calls[1].split()[-2:] == ["purge", "old"]
        assert calls[2].endswith("driver=2:580.178.04-1 plain")
        assert len(calls) == 3  # one transaction, whatever the number of packages

    @shells
    def test_a_version_the_repositories_do_not_have_is_told_with_what_they_have(
        self, shell: str, tmp_path: Path
    ) -> None:
        tools, log = tmp_path / "tools", tmp_path / "log"
        tool(tools, "dpkg", "exit 0")
        tool(tools, "apt-get", f'echo "$*" >>{log}')
        tool(
            tools,
            "apt-cache",
            """for v in 570.1-1 580.95.05-1 580.178.03-1~rc1 580.178.03-1; do
echo " driver | $v | http://mirror.invalid/nvidia/debian12 ./ Packages"; done
echo " driver | 580.95.05-1 | http://other.invalid stable/main amd64 Packages"
""",
        )
        wish = Desired(packages=(Package("driver", "580.178.04"),))
        removed = Change(Package("old", present=False), "package old: 1 -> removed")
        done = run_script(with_tools(render([*changes(wish), removed]), tools), shell, tmp_path / "run")
        assert done.rc == 1
        assert done.steps[-1] == "packages driver=580.178.04"
        assert done.out.splitlines()[-1] == (
            "the host's repositories have no driver 580.178.04; they have: 580.178.03-1, 580.178.03-1~rc1, "
            "580.95.05-1, 570.1-1 (in http://mirror.invalid/nvidia/debian12, http://other.invalid) "
            "-> check the release and repositories.nvidia.url"
        )
        assert [line.split()[-1] for line in log.read_text().splitlines()] == ["update"], "nothing else was done"

    @shells
    def test_all_versions_that_are_missing_are_told(self, shell: str, tmp_path: Path) -> None:
        tools, log = tmp_path / "tools", tmp_path / "log"
        tool(tools, "dpkg", "exit 0")
        tool(tools, "apt-get", f'echo "$*" >>{log}')
        tool(
            tools,
            "apt-cache",
            '[ "$2" = gone ] || for v in 1.10 1.9 1:1.2; do echo " $2 | $v | http://x ./ Packages"; done',
        )
        wish = Desired(packages=(Package("gone", "3"), Package("driver", "2"), Package("here", "1.9"), Package("any")))
        done = run_script(with_tools(render(changes(wish)), tools), shell, tmp_path / "run")
        assert done.rc == 1
        assert "the host's repositories have no gone 3; they have: no version of it -> check" in done.out
        assert (
            "the host's repositories have no driver 2; they have: 1:1.2, 1.10, 1.9 (in http://x) -> check" in done.out
        )
        assert done.out.splitlines()[-1] == (
            "the host's repositories lack 2 packages of the release: gone 3, driver 2 (what they have stands above) "
            "-> check the release and repositories.nvidia.url"
        )
        assert "install" not in log.read_text()

    @shells
    def test_a_package_that_no_repository_has_is_told_with_what_is_near_it(self, shell: str, tmp_path: Path) -> None:
        tools = tmp_path / "tools"
        tool(tools, "dpkg", "exit 0")
        tool(
            tools,
            "apt-get",
            '[ "$(eval echo "\\${$#}")" = update ] || { echo "E: Unable to locate package"; exit 100; }',
        )
        tool(
            tools,
            "apt-cache",
            'case $1 in pkgnames) for v in 580 580.9.1 580.178.04; do echo "pin-$v"; done ;; show) exit 100 ;; esac',
        )
        done = run_script(
            with_tools(render(changes(Desired(packages=(Package("pin-580.200.01"),)))), tools), shell, tmp_path / "run"
        )
        assert done.rc == 1
        assert done.out.splitlines()[-1] == (
            "the host's repositories have no package pin-580.200.01; near it they have: "
            "pin-580.178.04 pin-580.9.1 pin-580 -> check the release and the repositories"
        )

    @shells
    def test_a_long_list_of_versions_is_cut(self, shell: str, tmp_path: Path) -> None:
        offers = function_call('for n in $(seq 20); do echo " p | 1.$n | http://x ./ Packages"; done | ms_offers')
        done = run_script(offers, shell, tmp_path / "run")
        assert done.out.strip() == f"{', '.join(f'1.{n}' for n in range(20, 8, -1))} and 8 older (in http://x)"
        assert run_script(function_call("printf '\\nN: nothing\\n' | ms_offers"), shell, tmp_path / "run").out == ""

    @shells
    def test_a_lock_of_another_process_is_waited_for(self, shell: str, tmp_path: Path) -> None:
        tools, count = tmp_path / "tools", tmp_path / "count"
        tool(
            tools,
            "apt-get",
            f"""n=$(cat {count} 2>/dev/null || echo 0); echo $((n+1)) >{count}
if [ "$n" -lt 2 ]; then
  echo "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 77 (unattended-upgr)"; exit 100; fi
echo "Setting up x (1)"
""",
        )
        tool(tools, "sleep", "exit 0")
        done = run_script(function_call("ms_apt install x", tools, lock_timeout_s=30), shell, tmp_path / "run")
        assert done.rc == 0, done.out
        assert done.out.count("waiting for the apt lock: held by process 77 (unattended-upgr)") == 2
        assert "Setting up x" in done.out

    @shells
    def test_a_lock_that_is_never_given_back_ends_with_its_holder(self, shell: str, tmp_path: Path) -> None:
        tools = tmp_path / "tools"
        message = "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 5 (apt-get)"
        tool(tools, "apt-get", f'echo "{message}"; exit 100')
        done = run_script(function_call("ms_apt update", tools, lock_timeout_s=1), shell, tmp_path / "run")
        assert done.rc == 1
        assert "apt is locked: held by process 5 (apt-get) after 1 s -> wait for it" in done.out
        assert not list((tmp_path / "run").glob("apt.*"))

    @shells
    def test_another_failure_is_not_taken_for_a_lock(self, shell: str, tmp_path: Path) -> None:
        tools = tmp_path / "tools"
        tool(tools, "apt-get", 'echo "E: Unable to locate package nope"; exit 100')
        tool(tools, "dpkg", "exit 0")
        script = with_tools(render(changes(Desired(packages=(Package("nope"),)))), tools)
        done = run_script(script, shell, tmp_path / "run")
        assert done.rc == 1
        assert "E: Unable to locate package nope" in done.out
        assert "waiting" not in done.out

    @shells
    def test_dpkg_left_half_way_is_healed_first(self, shell: str, tmp_path: Path) -> None:
        tools, log = tmp_path / "tools", tmp_path / "log"
        tool(
            tools,
            "dpkg",
            f'echo "dpkg $*" >>{log}; [ "$1" = --audit ] && echo "The following packages are broken"; exit 0',
        )
        tool(tools, "apt-get", f'echo "apt $*" >>{log}')
        script = with_tools(render(changes(Desired(packages=(Package("x"),)))), tools)
        assert run_script(script, shell, tmp_path / "run").rc == 0
        assert log.read_text().splitlines()[:2] == ["dpkg --audit", "dpkg --configure -a"]


class TestUnits:
    def test_one_reload_before_all_units(self) -> None:
        desired = Desired(
            files=(File("/etc/systemd/system/a.service", "[Unit]\n"),),
            units=(Unit("a.service"), Unit("b.service"), Unit("c.timer", masked=True)),
        )
        live = Observation(facts={"live": "1"})
        script = render(list(difference(desired, live)))
        body = script[script.rindex("\n(\n") :]
        assert body.index("daemon-reload") < body.index("systemctl -q enable a.service")
        assert body.count("systemctl daemon-reload") == 2  # once for all, once after the mask
        assert "systemctl start b.service ||" in body
        assert "ln -sfT /dev/null /etc/systemd/system/c.timer" in body

    def test_a_unit_file_alone_is_reloaded_too(self) -> None:
        desired = Desired(files=(File("/etc/systemd/system/a.service", "[Unit]\n"),))
        assert render(changes(desired)).count("systemctl daemon-reload") == 1


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Make a throw-away OpenPGP key: {"fingerprint", "armoured", "binary"}."""
    home = tmp_path_factory.mktemp("gnupg")
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--pinentry-mode", "loopback", "--passphrase", ""]
    made = subprocess.run([*gpg, "--quick-gen-key", "test", "ed25519", "sign", "never"], capture_output=True)
    assert made.returncode == 0, made.stderr
    listed = subprocess.run([*gpg, "--list-keys", "--with-colons"], capture_output=True, text=True, check=True).stdout
    fingerprint = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))
    export = [*gpg, "--export"]
    binary = subprocess.run(export, capture_output=True, check=True).stdout
    armoured = subprocess.run([*export, "--armor"], capture_output=True, check=True).stdout
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)
    return {"fingerprint": fingerprint.encode(), "binary": binary, "armoured": armoured}


class TestKeys:
    @shells
    def test_installed_only_with_the_expected_fingerprint(
        self, shell: str, tmp_path: Path, keys: dict[str, bytes]
    ) -> None:
        target = tmp_path / "metalserve-x.asc"
        call = f"cat {tmp_path}/key | ms_key {target} "
        (tmp_path / "key").write_bytes(keys["armoured"])
        # ms_put gives it to root; whoever runs the tests stands for root here
        fix = f"chown() {{ :; }}\n{call}"
        refused = run_script(function_call(fix + "A" * 40), shell, tmp_path / "run")
        assert refused.rc == 1
        assert f"fingerprint(s) '{keys['fingerprint'].decode()} ', expected {'A' * 40}" in refused.out
        assert not target.exists()
        taken = run_script(function_call(fix + keys["fingerprint"].decode()), shell, tmp_path / "run")
        assert taken.rc == 0, taken.out
        assert target.read_bytes() == keys["armoured"]
        assert not list((tmp_path / "run").glob("key.*"))

    @shells
    def test_a_binary_key_is_armoured_so_that_apt_reads_it_as_asc(
        self, shell: str, tmp_path: Path, keys: dict[str, bytes]
    ) -> None:
        target = tmp_path / "metalserve-x.asc"
        (tmp_path / "key").write_bytes(keys["binary"])
        call = f"chown() {{ :; }}\ncat {tmp_path}/key | ms_key {target} {keys['fingerprint'].decode()}"
        done = run_script(function_call(call), shell, tmp_path / "run")
        assert done.rc == 0, done.out
        assert target.read_text().startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----\n")
        shown = subprocess.run(
            ["gpg", "--show-keys", "--with-colons", str(target)], capture_output=True, text=True, check=True
        )
        assert keys["fingerprint"].decode() in shown.stdout

    @shells
    def test_what_is_no_key_is_refused(self, shell: str, tmp_path: Path) -> None:
        target = tmp_path / "metalserve-x.asc"
        done = run_script(function_call(f"echo '<html>' | ms_key {target} {'A' * 40}"), shell, tmp_path / "run")
        assert done.rc == 1
        assert "fingerprint(s) 'none'" in done.out

    @shells
    def test_a_failed_download_is_not_told_as_a_wrong_fingerprint(self, shell: str, tmp_path: Path) -> None:
        tools = tmp_path / "tools"
        tool(tools, "curl", 'echo "curl: (6) Could not resolve host: nowhere" >&2; exit 6')
        key = SigningKey("/etc/apt/keyrings/metalserve-x.asc", "A" * 40, url="https://nowhere/key.asc")
        script = with_tools(render(changes(Desired(keys=(key,)))), tools)
        done = run_script(script, shell, tmp_path / "run")
        assert done.rc == 1
        assert done.out.splitlines()[-1].startswith("could not fetch the repository key -> check repositories")
        assert "curl: (6)" in done.out and "fingerprint(s)" not in done.out
