"""`python -m lab` runs the command `lab`."""

from lab.cli.main import start

start()
