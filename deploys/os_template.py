"""The roles that are built into an image, of those that converge a node; run by `metalserve template build`.

pyinfra INVENTORY deploys/os_template.py, with a host `@image//TREE`. METALSERVE_TEMPLATE_ROLES names some of them.
"""

import os

from metalserve.pyinfra_seam.role import begin
from roles import base, container_runtime, cuda, fabric_manager, nvidia_driver, storage

ROLES = {
    "base": (base.desired.watch, base.base),
    "nvidia_driver": (nvidia_driver.desired.watch, nvidia_driver.nvidia_driver),
    "cuda": (cuda.desired.watch, cuda.cuda),
    "container_runtime": (container_runtime.desired.watch, container_runtime.container_runtime),
    "fabric_manager": (fabric_manager.desired.watch, fabric_manager.fabric_manager),
    "storage": (storage.desired.watch, storage.storage),
}

wanted = os.environ.get("METALSERVE_TEMPLATE_ROLES", ",".join(ROLES)).split(",")
chosen = [ROLES[name] for name in ROLES if name in wanted]

begin(*(watch for watch, _ in chosen))
for _, role in chosen:
    role()
