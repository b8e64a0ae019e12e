"""Prove that hosts are right, changing nothing: what the roles' checks say.

pyinfra inventories/prod.py deploys/verify.py -y         (-v shows the good findings too; the report has all of them)
"""

from metalserve.pyinfra_seam.role import begin, judge
from roles import base, container_runtime, cuda, fabric_manager, nvidia_driver, storage, topology, vllm, weights

begin(
    *(
        role.desired.watch
        for role in (base, nvidia_driver, cuda, container_runtime, fabric_manager, topology, storage, weights, vllm)
    ),
    proofs_only=True,
)

# The roles themselves, whose stages are skipped: what is proved after a change and what is proved here is the same.
base.base()
nvidia_driver.nvidia_driver()
cuda.cuda()
container_runtime.container_runtime()
fabric_manager.fabric_manager()
topology.topology()
storage.storage()
weights.weights()
vllm.vllm()
judge()
