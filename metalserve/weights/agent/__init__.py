"""The weights agent: what stages, checks and shares models on the host itself.

It is copied to the host as the package `msweights` and run by the host's own Python there: standard library only,
Python 3.9 or newer, relative imports, nothing of metalserve outside this directory. It goes on when the controller
goes away.
"""
