"""A pyinfra deploy that writes what every role wants of each host: the state that the Ansible side must keep too.

Run by `bench/rerun.py`; changes nothing (`--dry`). Writes one JSON file a host into $METALSERVE_DESIRED_DIR.
"""

import json
import os
from pathlib import Path

from metalserve.pyinfra_seam import role as role_module
from metalserve.pyinfra_seam.hostrun import current

if not hasattr(role_module, "_bench_wrapped"):
    _difference = role_module.difference
    role_module._bench_wrapped = True
    wanted_by_host: dict[str, list] = {}

    def _collect(desired, observed):
        run = current()
        wanted_by_host.setdefault(run.host.name, []).append(
            {
                "role": run.role_name,
                "packages": [{"name": p.name, "version": p.version} for p in desired.packages if p.present],
                "directories": [{"path": d.path, "mode": d.mode} for d in desired.directories],
                "files": [{"path": f.path, "mode": f.mode, "content": f.content} for f in desired.files],
                "units": [
                    {"name": u.name, "enabled": u.enabled, "running": u.running}
                    for u in desired.units
                    if not u.masked and not u.optional
                ],
                "actions": [a.name for a in desired.actions],
            }
        )
        target = Path(os.environ["METALSERVE_DESIRED_DIR"]) / f"{run.host.name}.json"
        target.write_text(json.dumps(wanted_by_host[run.host.name]))
        return _difference(desired, observed)

    role_module.difference = _collect

exec(compile(Path("deploys/gpu_node.py").read_text(), "deploys/gpu_node.py", "exec"))
