"""Save, load, resume and convert checkpoints."""
