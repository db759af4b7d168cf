"""`python -m ttl.cli …`."""

from ttl.cli import main

main()
