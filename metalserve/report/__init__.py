"""Reports of verify runs for people and CI: terminal, one HTML page, JUnit XML, history, and what got worse.

Input is the JSON that a run leaves (`metalserve.pyinfra_seam.report`); this package does not import the seam, which
calls `history.keep`. Files are read as they come, of any age: what is missing is said to be missing.
"""
