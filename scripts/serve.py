"""`vqnmt serve`, see `vqnmt/commands/serve.py`."""

from vqnmt.commands.main import run_command

if __name__ == "__main__":
    run_command("serve")
