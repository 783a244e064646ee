"""`python -m vqnmt`: the command `vqnmt`."""

from vqnmt.commands.main import main

main()
