"""The training loop and what belongs to it: checkpoints, metrics, schedules."""
