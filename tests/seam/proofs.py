from metalserve.pyinfra_seam.role import begin, judge
from tests.seam import roles

begin(roles.watch, proofs_only=True)
roles.seam()
judge()
