"""Training and evaluation: detectron2's DefaultTrainer on the project's parts."""

import os
import weakref

from sar.data import loader
from sar.data.class_frequency import ClassFrequency
from sar.data.datasets import load_dataset
from sar.data.mapper import PanopticMapper, SemanticSegmentationMapper
from sar.evaluation import LongTailEvaluator, tap_evaluation
from sar.modeling.embedding_tap import find_classifier
from sar.modeling.inference import inference_model

from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.engine import DefaultTrainer

from .checkpoint import Checkpointer
from .hooks import GateLogger
from .solver import build_lr_scheduler, build_optimizer


class Trainer(DefaultTrainer):
    """detectron2's trainer with the project's mapper, loader, evaluator, schedules, checkpoints."""

    @classmethod
    def build_model(cls, cfg):
        """As DefaultTrainer.

        Raises:
            InputError: TEST.GEOMETRY, but MODEL.CLASSIFIER is no classifier of the model.
        """
        model = super().build_model(cfg)
        if cfg.TEST.GEOMETRY:  # looked for again in each evaluation, the first after hours
            find_classifier(model, cfg.MODEL.CLASSIFIER, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return build_lr_scheduler(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        dicts = [record for name in cfg.DATASETS.TRAIN for record in load_dataset(name)]
        if cfg.MODEL.MASK_ON:
            mapper = PanopticMapper(cfg)
            # detectron2's mapper cannot crop what has no instance
            dicts = filter_images_with_only_crowd_annotations(dicts)
        else:
            mapper = SemanticSegmentationMapper(cfg, True)
        return loader.build_train_loader(cfg, mapper, dicts)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return loader.build_test_loader(cfg, cls.build_test_mapper(cfg), load_dataset(dataset_name))

    @classmethod
    def build_test_mapper(cls, cfg):
        """Reads images for `inference_model`."""
        if cfg.TEST.AUG.ENABLED:  # which resizes them itself: twice would blur
            return SemanticSegmentationMapper(cfg, False, test_size=(0, 0))
        return SemanticSegmentationMapper(cfg, False)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, tap=None):
        path = cfg.DATASETS.CLASS_FREQUENCY
        return LongTailEvaluator(
            dataset_name,
            class_frequency=ClassFrequency.load(path) if path else None,
            output_dir=os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name),
            save_json=cfg.TEST.SAVE_JSON,
            tap=tap,
        )

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """As DefaultTrainer, in the inference mode of TEST.MODE and TEST.AUG; with TEST.GEOMETRY,
        the evaluators it builds listen to the model."""
        if not cfg.TEST.GEOMETRY or evaluators is not None:
            return super().test(cfg, inference_model(cfg, model), evaluators)
        num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
        with tap_evaluation(model, cfg.MODEL.CLASSIFIER, num_classes) as tap:
            evaluators = [cls.build_evaluator(cfg, name, tap) for name in cfg.DATASETS.TEST]
            return super().test(cfg, model, evaluators)

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

    def resume_or_load(self, resume=True):
        """As DefaultTrainer; a resumed run goes on with the samples that come next."""
        super().resume_or_load(resume)
        self.data_loader.batch_sampler.start = self.start_iter * self.cfg.SOLVER.IMS_PER_BATCH

    def state_dict(self):
        # detectron2 0.6 leaves out the optimizer.
        return super().state_dict() | {"_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

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
