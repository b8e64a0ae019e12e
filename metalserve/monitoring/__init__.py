"""Monitoring as values: what is scraped, what is an alert, what is shown. Pure; the roles put it on hosts."""
