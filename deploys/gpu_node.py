"""The main job: from a fresh OS to a node that answers completions.

pyinfra inventories/prod.py deploys/gpu_node.py
"""

from metalserve.pyinfra_seam.role import begin
from roles import (
    base,
    container_runtime,
    cuda,
    fabric_manager,
    next_boot,
    node_metrics,
    nvidia_driver,
    storage,
    topology,
    upgrade,
    vllm,
    weights,
)

# One observation of the host serves all the roles; a run that changes nothing opens one SSH session.
begin(
    upgrade.desired.watch_record,
    base.desired.watch,
    nvidia_driver.desired.watch,
    cuda.desired.watch,
    container_runtime.desired.watch,
    fabric_manager.desired.watch,
    topology.desired.watch,
    storage.desired.watch,
    weights.desired.watch,
    vllm.desired.watch,
    next_boot.desired.watch,
    node_metrics.desired.watch,
)

upgrade.settled()
base.base()
nvidia_driver.nvidia_driver()
cuda.cuda()
container_runtime.container_runtime()
fabric_manager.fabric_manager()
topology.topology()
storage.storage()
weights.weights()
vllm.vllm()
weights.collect()
next_boot.next_boot()
node_metrics.node_metrics()
upgrade.remember()
