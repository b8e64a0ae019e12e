"""The fleet live: what each node streams (files/watching/sample.sh), made into values, rows and a screen. Pure."""
