"""Train: the trainer, its steps and hooks, and the processes that it runs in."""
