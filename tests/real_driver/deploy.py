"""The roles that put a driver into an image, as an OS template would: base and nvidia_driver."""

from metalserve.pyinfra_seam.role import begin
from roles import base, nvidia_driver

begin(base.desired.watch, nvidia_driver.desired.watch)
base.base()
nvidia_driver.nvidia_driver()
