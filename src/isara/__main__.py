"""`python -m isara`."""

from isara.cli import main

main()
