"""A second run that changes nothing: metalserve against ansible-core, side by side on the same lab hosts.

    python bench/rerun.py [--rounds 3] [--delay-ms 20]

The Ansible playbook is generated from the desired state of metalserve's own roles, so both keep the same packages,
files, directories and units; written as an Ansible author would: one `apt` task with a list and one looped task a
kind and role, pipelining and ControlPersist on, forks for all hosts at once. What metalserve checks beyond that
(drives, weights, image, GPU topology, a completion) stands in the playbook as the fewest `command` and `uri` tasks
that tell the same. Rounds are interleaved, so that drift of the machine hits both; the medians' ratio is the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


CHECKS = [
    "nvidia-smi --query-gpu=index,name,memory.total,pcie.link.width.current --format=csv",
    "nvidia-smi topo -m",
    "nvidia-smi nvlink -s",
    "docker image ls --digests",
    "blkid",
]


def main() -> int:
    """Run both sides and print a table and one JSON line; exit 1 when a side changed something or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delay-ms", type=int, default=20, help="second series with this delay added on the link")
    arguments = parser.parse_args()
    ansible = ansible_playbook()
    with tempfile.TemporaryDirectory(prefix="metalserve-bench-") as work:
        directory = Path(work)
        hosts = write_playbook(directory)
        print(f"hosts: {', '.join(hosts)}; {arguments.rounds} rounds, interleaved; first an unmeasured run of each")
        results = {}
        for delay in (0, arguments.delay_ms):
            lab("delay", str(delay))
            try:
                results[delay] = series(directory, ansible, arguments.rounds)
            finally:
                lab("delay", "0")
    rows = []
    for delay, (ours, theirs, sessions) in results.items():
        ratio = statistics.median(theirs) / statistics.median(ours)
        rows.append({"delay_ms": delay, "metalserve_s": ours, "ansible_s": theirs, "ratio": round(ratio, 2)})
        print(
            f"delay {delay:3d} ms: metalserve {statistics.median(ours):6.2f} s, "
            f"ansible {statistics.median(theirs):6.2f} s, "
            f"ratio {ratio:.1f}x; SSH sessions a host: {sessions}"
        )
    print(json.dumps({"bench": "rerun", "hosts": len(hosts), "series": rows, "sessions_per_host": sessions}))
    return 0


def ansible_playbook() -> Path:
    """Return ansible-playbook of .bench-venv, installed there (pinned by hash) when it is missing."""
    venv = ROOT / ".bench-venv"
    program = venv / "bin" / "ansible-playbook"
    if not program.exists():
        print("installing ansible-core into .bench-venv")
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run(
            [venv / "bin/pip", "-q", "install", "--require-hashes", "-r", ROOT / "bench/requirements.lock"], check=True
        )
    return program


def lab(*words: str) -> None:
    """Call `metalserve lab`."""
    subprocess.run([sys.executable, "-m", "metalserve", "lab", *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def inventory_hosts() -> dict[str, dict]:
    """Return the lab's hosts with their connection data, as inventories/lab.py gives them to pyinfra."""
    namespace: dict = {"__file__": str(ROOT / "inventories/lab.py")}
    exec(compile((ROOT / "inventories/lab.py").read_text(), "inventories/lab.py", "exec"), namespace)
    return dict(namespace["gpu_nodes"])


def write_playbook(directory: Path) -> list[str]:
    """Write inventory, ansible.cfg and playbook for the lab's hosts from metalserve's desired state."""
    desired = directory / "desired"
    desired.mkdir()
    environment = {**os.environ, "METALSERVE_DESIRED_DIR": str(desired), "METALSERVE_REPORT": str(directory / "r.json")}
    subprocess.run(
        [ROOT / ".venv/bin/pyinfra", "--dry", "inventories/lab.py", "bench/collect_desired.py"],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
    )
    hosts = inventory_hosts()
    plays, inventory = [], {}
    for name, data in hosts.items():
        model, engine = data.get("model") or {}, data.get("engine") or {}
        inventory[name] = {
            "ansible_host": data["ssh_hostname"],
            "ansible_user": data["ssh_user"],
            "ansible_ssh_private_key_file": str(data["ssh_key"]),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={data['ssh_known_hosts_file']} "
            "-o StrictHostKeyChecking=yes",
            "ansible_python_interpreter": "/usr/bin/python3",
            "stages": json.loads((desired / f"{name}.json").read_text()),
            "port": engine.get("port", 8000),
            "served": model.get("served_name") or model.get("name"),
        }
    width = max(len(v["stages"]) for v in inventory.values())
    tasks = [task for i in range(width) for task in stage_tasks(i)]
    tasks += [
        {"name": f"check {c.split()[0]}", "command": c, "changed_when": False, "failed_when": False} for c in CHECKS
    ]
    url = "http://127.0.0.1:{{ port }}"
    tasks += [
        {"name": "health", "uri": {"url": url + "/health"}},
        {"name": "models", "uri": {"url": url + "/v1/models"}},
        {
            "name": "completion",
            "uri": {
                "url": url + "/v1/completions",
                "method": "POST",
                "body_format": "json",
                "body": {"model": "{{ served }}", "prompt": "2+2=", "max_tokens": 8},
            },
        },
    ]
    plays.append({"hosts": "all", "gather_facts": True, "tasks": tasks})
    (directory / "site.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": inventory}}))
    (directory / "ansible.cfg").write_text(
        "[defaults]\nforks = 50\n[ssh_connection]\npipelining = True\n"
        "ssh_args = -o ControlMaster=auto -o ControlPersist=60s\n"
    )
    return list(hosts)


def stage_tasks(index: int) -> list[dict]:
    """Return the Ansible tasks of one stage of a role, over the variables that its host has for it."""
    stage = f"(stages[{index}] | default({{}}))"
    return [
        {
            "name": f"packages {index}",
            "apt": {"name": f"{{{{ {stage}.packages | map(attribute='name') | list }}}}", "state": "present"},
            "when": f"{stage}.packages | default([]) | length > 0",
        },
        {
            "name": f"directories {index}",
            "file": {"path": "{{ item.path }}", "mode": "{{ item.mode }}", "state": "directory"},
            "loop": f"{{{{ {stage}.directories | default([]) }}}}",
        },
        {
            "name": f"files {index}",
            "copy": {"dest": "{{ item.path }}", "content": "{{ item.content }}", "mode": "{{ item.mode }}"},
            "loop": f"{{{{ {stage}.files | default([]) | selectattr('content', 'string') | list }}}}",
            "loop_control": {"label": "{{ item.path }}"},
        },
        {
            "name": f"units {index}",
            "systemd_service": {"name": "{{ item.name }}", "state": "started", "enabled": True},
            "loop": f"{{{{ {stage}.units | default([]) | selectattr('running') | list }}}}",
        },
    ]


def series(directory: Path, ansible: Path, rounds: int) -> tuple[list[float], list[float], dict[str, int]]:
    """Measure `rounds` interleaved runs of both; returns seconds of each and metalserve's sessions a host."""
    ours, theirs = [], []
    sessions: dict[str, int] = {}
    for number in range(rounds + 1):
        seconds, sessions = run_metalserve(directory)
        other = run_ansible(directory, ansible, must_be_clean=number > 0)
        if number:
            ours.append(round(seconds, 2))
            theirs.append(round(other, 2))
    return ours, theirs, sessions


def run_metalserve(directory: Path) -> tuple[float, dict[str, int]]:
    """One run of the main job; raises SystemExit when it changed something."""
    report = directory / "report.json"
    start = time.monotonic()
    done = subprocess.run(
        [ROOT / ".venv/bin/pyinfra", "-y", "inventories/lab.py", "deploys/gpu_node.py"],
        check=False,
        cwd=ROOT,
        env={**os.environ, "METALSERVE_REPORT": str(report)},
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - start
    hosts = json.loads(report.read_text())["hosts"]
    bad = {n: h["status"] for n, h in hosts.items() if h["status"] != "unchanged"}
    if done.returncode or bad:
        sys.exit(f"metalserve's run was not without changes: {bad}\n{done.stderr[-3000:]}")
    return seconds, {n: h["sessions"] for n, h in hosts.items()}


def run_ansible(directory: Path, program: Path, *, must_be_clean: bool) -> float:
    """One run of the playbook; the first may change what Ansible sees otherwise, the measured ones may not."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
        "ANSIBLE_HOME": str(directory / "home"),
    }
    start = time.monotonic()
    done = subprocess.run(
        [program, "-i", "hosts.yml", "site.yml"],
        check=False,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - start
    if done.returncode:
        sys.exit(f"ansible-playbook failed ({done.returncode}):\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")
    # the recap of the default output, one line a host: "NAME : ok=41 changed=0 unreachable=0 failed=0 ..."
    recap = dict(re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.stdout, re.MULTILINE))
    if not recap:
        sys.exit(f"ansible-playbook printed no recap:\n{done.stdout[-2000:]}")
    changed = {name: int(count) for name, count in recap.items() if int(count)}
    if must_be_clean and changed:
        sys.exit(f"ansible's run was not without changes: {changed}")
    return seconds


if __name__ == "__main__":
    if shutil.which("ssh") is None:
        sys.exit("bench: ssh is needed")
    sys.exit(main())
