"""Findings: expectation against observation."""
