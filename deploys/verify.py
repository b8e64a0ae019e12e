"""Prove that hosts are right, changing nothing: what the roles' checks say, and what the hardware gives.

pyinfra inventories/prod.py deploys/verify.py -y         (-v shows the good findings too; the report has all of them)
    --data depth=standard    bandwidth between the GPUs, read rate of the drive, a soak of 15 minutes, dcgmi diag -r 2
    --data depth=deep        a soak of an hour, dcgmi diag -r 3
    --data soak_seconds=120  another time; --data stop_engines=true stops the engines meanwhile, and starts them again
"""

from metalserve.pyinfra_seam.role import begin, judge
from roles import (
    base,
    container_runtime,
    cuda,
    fabric_manager,
    measure,
    next_boot,
    nvidia_driver,
    storage,
    topology,
    vllm,
    weights,
)

begin(
    *(
        role.desired.watch
        for role in (
            base,
            nvidia_driver,
            cuda,
            container_runtime,
            fabric_manager,
            topology,
            storage,
            weights,
            vllm,
            next_boot,
            measure,
        )
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
next_boot.next_boot()
measure.measure()
judge()
