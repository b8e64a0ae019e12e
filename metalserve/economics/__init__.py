"""What a million tokens costs: rented, in the cloud, owned, or bought of others. Values in, values out; no I/O.

Money is in the currency of the case, time in hours, a month is 730 hours. Formulae: docs/decisions/0024.
"""
