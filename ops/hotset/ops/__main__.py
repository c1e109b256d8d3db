"""`python -m hotset.ops` is `hotset`; the demo starts its processes so, with the same interpreter."""

from hotset.ops.cli import main

main()
