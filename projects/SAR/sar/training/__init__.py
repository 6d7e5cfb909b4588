"""Running: what is checked before, the trainer, its optimizer, checkpoints and hooks."""

from .checkpoint import Checkpointer
from .launch import run
from .predictor import Predictor
from .prepare import complete_config, prepare
from .trainer import Trainer

__all__ = ["Checkpointer", "Predictor", "Trainer", "complete_config", "prepare", "run"]
