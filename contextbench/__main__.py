"""`python -m contextbench`."""

from contextbench.cli import main

main()
