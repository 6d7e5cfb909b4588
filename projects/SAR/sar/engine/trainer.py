"""Training and evaluation: detectron2's DefaultTrainer on the project's parts."""

import os
import weakref

from sar.data import loader
from sar.data.class_frequency import ClassFrequency
from sar.data.datasets import load_dataset
from sar.data.mapper import SemanticSegmentationMapper
from sar.evaluation import LongTailEvaluator

from detectron2.engine import DefaultTrainer

from .checkpoint import Checkpointer
from .hooks import GateLogger
from .solver import build_lr_scheduler, build_optimizer


class Trainer(DefaultTrainer):
    """detectron2's trainer with the project's mapper, loader, evaluator, schedules, checkpoints."""

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        dicts = [record for name in cfg.DATASETS.TRAIN for record in load_dataset(name)]
        return loader.build_train_loader(cfg, SemanticSegmentationMapper(cfg, True), dicts)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        dicts = load_dataset(dataset_name)
        return loader.build_test_loader(cfg, SemanticSegmentationMapper(cfg, False), dicts)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        path = cfg.DATASETS.CLASS_FREQUENCY
        return LongTailEvaluator(
            dataset_name,
            class_frequency=ClassFrequency.load(path) if path else None,
            output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name),
            save_json=cfg.TEST.SAVE_JSON,
        )

    @classmethod
    def load_for_evaluation(cls, cfg, resume: bool = False):
        """The config's model with all the weights that inference needs, in evaluation mode.

        Raises:
            InputError: MODEL.WEIGHTS is missing, broken, or not of this model.
        """
        model = cls.build_model(cfg)
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, require_all=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        return model.eval()

    def build_hooks(self):
        # DefaultTrainer makes its own checkpointer just before, and hands it to the hooks here.
        self.checkpointer = Checkpointer(
            self.model,
            self.cfg.OUTPUT_DIR,
            skip_mismatched=self.cfg.MODEL.WEIGHTS_SKIP_MISMATCHED,
            trainer=weakref.proxy(self),
        )
        hooks = super().build_hooks()
        hooks.insert(0, GateLogger(self.model))  # before the writer, which comes last
        return hooks
