"""What the tests of decay converge: the first roles of the main job, and the outlook."""

from metalserve.pyinfra_seam.role import begin
from roles import base, next_boot, nvidia_driver

begin(base.desired.watch, nvidia_driver.desired.watch, next_boot.desired.watch)

base.base()
nvidia_driver.nvidia_driver()
next_boot.next_boot()
