from metalserve.pyinfra_seam.role import begin
from tests.seam import roles

begin(roles.watch)
roles.seam()
