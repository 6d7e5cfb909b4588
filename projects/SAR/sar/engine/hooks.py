"""What is looked at while a model trains."""

from sar.regularizers import SemanticAnchorRegularizer

from detectron2.engine.train_loop import HookBase


class GateLogger(HookBase):
    """Writes whether SAR's gate is open ("sar/gate_is_open", 0 or 1) with the losses.

    Args:
        model: its SemanticAnchorRegularizer modules are looked at.
        period: iterations between two looks, since each waits for the device.
    """

    def __init__(self, model, period: int = 20):
        self.regularizers = [
            module for module in model.modules() if isinstance(module, SemanticAnchorRegularizer)
        ]
        self.period = period

    def after_step(self):
        if (self.trainer.iter + 1) % self.period == 0:
            for regularizer in self.regularizers:
                is_open = float(regularizer.gate_is_open)
                self.trainer.storage.put_scalar("sar/gate_is_open", is_open, smoothing_hint=False)
