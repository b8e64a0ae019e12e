"""See what the choice of a driver depends on, changing nothing; `metalserve driver plan HOST` runs this.

pyinfra inventories/prod.py deploys/driver_plan.py --dry
"""

from roles import nvidia_driver

nvidia_driver.see()
