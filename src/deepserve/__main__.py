"""`python -m deepserve`."""

from deepserve.cli import main

main()
