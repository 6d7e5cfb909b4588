"""Train a model: the trainer, its steps and hooks, and the processes it runs in."""
