"""Training and evaluation: detectron2's DefaultTrainer with the parts of this project."""

import logging
import os
import warnings
import weakref
from contextlib import ExitStack, contextmanager

import torch
from fvcore.nn.precise_bn import get_bn_modules
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from sar.checkpoints.checkpointer import Checkpointer
from sar.checkpoints.classes import Classes
from sar.config import portable_config
from sar.data import loader
from sar.data.class_frequency import class_frequency_of
from sar.data.cloud_mapper import CloudMapper
from sar.data.datasets import load_dataset
from sar.data.image_files import read_image_size
from sar.data.mapper import SemanticSegmentationMapper, build_train_mapper
from sar.errors import InputError
from sar.evaluation import LongTailEvaluator, tap_evaluation
from sar.evaluation.results_file import evaluation_folder
from sar.evaluation.validation_loss import loss_of
from sar.files.atomic import remove_leftovers
from sar.files.disk import require_folder, writing_to
from sar.files.run_folder import (
    CLASS_FREQUENCY,
    CONFIG,
    INFERENCE,
    METRICS,
    check_is_evaluation,
    mark,
    set_aside,
    write_config,
)
from sar.modeling.build import build_model, drop_training_branch
from sar.modeling.inference import check_pooling, inference_model
from sar.modeling.taps import find_classifier
from sar.solver import build_lr_scheduler, build_optimizer, follow_base_rates
from sar.training.checkpoint_hooks import CheckpointHook, InferenceFileHook
from sar.training.history import TensorboardWriter, cut_metrics, restore_storage, storage_state
from sar.training.hooks import (
    LOG_PERIOD,
    EvalHook,
    FirstLosses,
    GateLogger,
    PeriodicWriter,
    PreciseBN,
    StopAtSigterm,
    WritingHooks,
    is_due,
)
from sar.training.log import log_to_file
from sar.training.pictures import Pictures
from sar.training.restart import note_begun
from sar.training.sigterm import Sigterm
from sar.training.step import TrainingStep
from sar.training.summary import describe_training
from sar.user_code import writer_functions

from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.engine import DefaultTrainer, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter, EventStorage, JSONWriter

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """detectron2's trainer with the mapper, loader, evaluator, solver and checkpoints of `sar`."""

    def __init__(self, cfg):
        """Build model, optimizer and hooks. Then call `resume_or_load` and `train`.

        Every process calls these.
        """
        TrainerBase.__init__(self)
        self.cfg = cfg
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.sigterm = Sigterm()
        model = self.build_model(cfg)
        check_test_images(cfg, model)
        optimizer = self.build_optimizer(cfg, model)
        if comm.get_world_size() > 1:
            _share_buffers(model)  # such as random anchors; DDP shares only parameters
            device_ids = [comm.get_local_rank()] if cfg.MODEL.DEVICE.startswith("cuda") else None
            with warnings.catch_warnings():  # its new name is not in all releases of torch
                warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
                model = DistributedDataParallel(
                    model, device_ids=device_ids, broadcast_buffers=False
                )
        precision = getattr(torch, cfg.SOLVER.AMP.DTYPE) if cfg.SOLVER.AMP.ENABLED else None
        trainer = weakref.proxy(self)
        self._trainer = TrainingStep(
            model,
            optimizer,
            seed=self.seed,
            precision=precision,
            waiting=lambda: trainer._waiting_for_data(),
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(
            model,
            cfg.OUTPUT_DIR,
            skip_mismatched=cfg.MODEL.WEIGHTS_SKIP_MISMATCHED,
            kept=cfg.SOLVER.CHECKPOINTS_KEPT,
            classes=Classes.of_dataset(cfg.DATASETS.TRAIN[0]),
            trainer=trainer,
        )
        # From the resumed run: its latest scalars, and if it was stopped before the evaluation,
        # metrics and checkpoints of its last step.
        self._history = {}
        self._is_step_unfinished = False
        self._is_resumed = False
        self._pictures = Pictures(cfg, self.build_test_mapper)
        self._writer_hook = PeriodicWriter(self.build_writers, cfg.TEST.EVAL_PERIOD)
        self.register_hooks(self.build_hooks())
        if not any(isinstance(hook, StopAtSigterm) for hook in self._hooks):
            logger.warning(
                f"{type(self).__name__}.build_hooks leaves out the hooks of its superclass: "
                "SIGTERM saves no checkpoint then. Extend super().build_hooks()"
            )

    @classmethod
    def build_model(cls, cfg):
        """As DefaultTrainer.

        Raises:
            InputError: the model cannot be built; TEST.GEOMETRY is True, but MODEL.CLASSIFIER does
                not name a classifier, or the model has no backbone; TEST.LOSS is True, but the
                loss of the head is not known.
        """
        model = build_model(cfg)
        logger.debug(f"Model:\n{model}")
        if cfg.MODEL.CHANNELS_LAST:  # activations follow the weights
            model.to(memory_format=torch.channels_last)
        if cfg.TEST.GEOMETRY:  # report a wrong path now, not in an evaluation
            find_classifier(model, cfg.MODEL.CLASSIFIER, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
            if not hasattr(model, "backbone"):
                raise InputError(
                    f"TEST.GEOMETRY is True, but {type(model).__name__} has no attribute "
                    '"backbone", whose input tells the size of the embedding: set it to False'
                )
        if cfg.TEST.LOSS:
            loss_of(model, cfg.MODEL.TAP.HEAD)
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
        if cfg.MODEL.MASK_ON and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:  # as detectron2
            dicts = filter_images_with_only_crowd_annotations(dicts)
        mapper = build_train_mapper(cfg)
        if isinstance(mapper, CloudMapper):
            mapper.partners = dicts
        return loader.build_train_loader(cfg, mapper, dicts)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return loader.build_test_loader(cfg, cls.build_test_mapper(cfg), load_dataset(dataset_name))

    @classmethod
    def build_test_mapper(cls, cfg):
        """Return the mapper that reads images or clouds for `inference_model`."""
        if cfg.INPUT.POINTS.VOXEL_SIZE:
            return CloudMapper(cfg, False)
        if cfg.TEST.AUG.ENABLED:  # it resizes images itself
            return SemanticSegmentationMapper(cfg, False, test_size=(0, 0))
        return SemanticSegmentationMapper(cfg, False)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, tap=None, loss=None):
        return LongTailEvaluator(
            dataset_name,
            class_frequency=class_frequency_of(cfg),
            output_dir=os.path.join(cfg.OUTPUT_DIR, INFERENCE, dataset_name),
            save_json=cfg.TEST.SAVE_JSON,
            boundary_iou=cfg.TEST.BOUNDARY_IOU,
            object_iou=cfg.TEST.OBJECT_IOU if cfg.TEST.OBJECTS else None,
            tap=tap,
            loss=loss,
        )

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """As DefaultTrainer, in the inference mode of TEST.MODE and TEST.AUG.

        With TEST.GEOMETRY, the evaluators also read the embeddings; with TEST.LOSS, they compute
        the loss. The results of a model of `load_for_evaluation` are written to a folder of its
        checkpoint, with a log.
        """
        with ExitStack() as stack:
            stack.enter_context(writing_to(cfg.OUTPUT_DIR))
            if evaluators is not None:
                return super().test(cfg, inference_model(cfg, model), evaluators)
            options = {}
            if cfg.TEST.GEOMETRY:
                num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
                options["tap"] = stack.enter_context(
                    tap_evaluation(model, cfg.MODEL.CLASSIFIER, num_classes)
                )
            if cfg.TEST.LOSS:
                options["loss"] = loss_of(model, cfg.MODEL.TAP.HEAD)
            evaluators = [cls.build_evaluator(cfg, name, **options) for name in cfg.DATASETS.TEST]
            if weights := getattr(model, "weights_file", ""):
                check_test_images(cfg, model)
                folder = evaluation_folder(cfg.OUTPUT_DIR, weights)
                if comm.is_main_process():
                    check_is_evaluation(cfg.OUTPUT_DIR, folder)
                    mark(folder)
                    _save_class_frequency(cfg, folder)
                comm.synchronize()  # no process may write there before the check
                log_to_file(folder)
            for evaluator in evaluators:
                # detectron2's DatasetEvaluators holds several evaluators.
                for each in getattr(evaluator, "_evaluators", [evaluator]):
                    if isinstance(each, LongTailEvaluator):
                        each.describe_run(cfg, weights)
            return super().test(cfg, inference_model(cfg, model), evaluators)

    @classmethod
    def load_for_evaluation(cls, cfg, resume: bool = False):
        """Build the model, load all weights for inference, and return it in evaluation mode.

        The model has no regularizers and no auxiliary head, and the loss of MODEL.LOSS only for
        TEST.LOSS. Its attribute `weights_file` is the path of the checkpoint.

        Raises:
            InputError: MODEL.WEIGHTS is missing or broken, or has another model or other classes.
        """
        cfg = cfg.clone()
        cfg.defrost()
        drop_training_branch(cfg)
        model = cls.build_model(cfg)
        classes = Classes.of_first_known((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN))
        checkpointer = Checkpointer(model, cfg.OUTPUT_DIR, require_all=True, classes=classes)
        loaded = checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
        model.weights_file = loaded["file"]
        return model.eval()

    def resume_or_load(self, resume=True):
        """As DefaultTrainer. A resumed run continues as if it had not been interrupted.

        Changes in SOLVER take effect. No file is changed before `train`.

        Raises:
            InputError: weights are missing or broken, or have another model or other classes; a
                checkpoint has done more iterations than SOLVER.MAX_ITER.
        """
        self._is_resumed = self.checkpointer.start_run(self.cfg.MODEL.WEIGHTS, resume=resume)
        if self._is_resumed:
            self.start_iter = self.iter + 1
            if self.start_iter > self.max_iter:
                raise InputError(
                    f"SOLVER.MAX_ITER is {self.max_iter}, but the training in "
                    f"{self.cfg.OUTPUT_DIR} has done {self.start_iter} iterations. Set it to "
                    f"{self.start_iter} or more, or start a new run without --resume."
                )

    def _start_run(self):
        """Make OUTPUT_DIR the folder of this run and move an earlier run. All processes call it."""
        folder = self.cfg.OUTPUT_DIR
        if comm.is_main_process():
            remove_leftovers(folder)
            if self._is_resumed:
                is_extended = self.start_iter < self.max_iter
                cut_metrics(folder, self._first_logged(), keep_evaluation=is_extended)
            elif (moved := set_aside(folder)) is not None:
                logger.warning(f"Moved the files of an earlier training in {folder} to {moved}")
            mark(folder)
            write_config(folder, self.cfg.dump(), self.start_iter)
            _save_class_frequency(self.cfg, folder)
            note_begun()
        comm.synchronize()  # no process may write to a file that is about to be moved
        log_to_file(folder)

    def _first_logged(self):
        return self.start_iter - self._is_step_unfinished

    def train(self):
        """As DefaultTrainer, but the hooks' `after_train` runs only after the last iteration.

        The writers are also closed after an error or SIGTERM.

        Raises:
            InputError: a sample that cannot be read, a loss that is not finite, a full disk.
            SystemExit: after a SIGTERM and a checkpoint, with code 143.
        """
        summary = describe_training(self.cfg, self.model, class_frequency_of(self.cfg))
        logger.info(f"Starting training from iteration {self.start_iter}:\n{summary}")
        self._trainer.data_loader = self._build_seeded_loader(self.start_iter)
        with writing_to(self.cfg.OUTPUT_DIR):
            self._start_run()  # last: a run that cannot start does not touch OUTPUT_DIR
        with EventStorage(self.start_iter) as self.storage, self.sigterm.listening():
            try:
                self._run_iterations()
            except InputError:  # the message is enough
                raise
            except Exception:
                if comm.get_world_size() > 1 and self.sigterm.is_received:
                    self.sigterm.exit()  # another process has ended first
                if comm.get_world_size() == 1:  # with several, the cause may be in another one
                    logger.exception("Exception during training:")
                raise
            finally:
                self._writer_hook.close()
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results

    def _run_iterations(self):
        unwritten = self.start_iter - 1 if self._is_step_unfinished else None
        restore_storage(self.storage, self._history, unwritten)
        self.before_train()
        if self._is_step_unfinished:
            self._is_step_unfinished = False
            self.iter = self.storage.iter = self.start_iter - 1
            for hook in self._hooks[self._hooks.index(self._stop_hook) + 1 :]:
                hook.after_step()
        for iteration in range(self.start_iter, self.max_iter):
            self.iter = iteration
            self.before_step()
            self.run_step()
            self.after_step()
        self.iter = self.max_iter
        self.after_train()

    def run_step(self):
        self._trainer.run(self.iter)

    def after_step(self):
        """As DefaultTrainer.

        Losses enter the storage every LOG_PERIOD iterations, and before an evaluation or a
        checkpoint, because this checks that they are finite.
        """
        periods = (LOG_PERIOD, self.cfg.TEST.EVAL_PERIOD, self.cfg.SOLVER.CHECKPOINT_PERIOD)
        if self.iter == self.max_iter - 1 or any(is_due(self.iter, each) for each in periods):
            self.record_losses()
        super().after_step()

    def record_losses(self):
        """Put the losses of all steps since the last call into the storage: means over processes.

        All processes must call it. A hook that reads losses in other iterations calls it first.

        Raises:
            InputError: a loss, or the model, is not finite.
        """
        for step in self._trainer.fetch_losses():
            self.storage.iter = step[0].iteration
            losses = {
                name: sum(seen.losses[name] for seen in step) / len(step) for name in step[0].losses
            }
            self.storage.put_scalars(
                data_time=max(seen.data_time for seen in step),
                total_loss=sum(losses.values()),
                **losses,
            )
        self.storage.iter = self.iter

    def save_unfinished_step(self):
        """Save a checkpoint of this iteration before its evaluation, metrics and checkpoints."""
        self.record_losses()
        self._is_step_unfinished = True
        with self.writing():
            self.checkpointer.save_iteration(self.iter)

    @contextmanager
    def writing(self):
        """Return a context for writing to OUTPUT_DIR, without the time limit of SIGTERM.

        Raises:
            InputError: OUTPUT_DIR was removed, or its disk is full or read-only.
        """
        with self.sigterm.unlimited(), writing_to(self.cfg.OUTPUT_DIR):
            if comm.is_main_process():
                require_folder(self.cfg.OUTPUT_DIR, CONFIG)
            yield

    @contextmanager
    def _waiting_for_data(self):
        """React to a SIGTERM while waiting: the state is the one after the previous iteration."""
        try:
            with self.sigterm.interrupts():
                yield
        except SystemExit:
            if self.iter > self.start_iter:
                self.iter -= 1
                self.record_losses()
                with self.writing():
                    self.checkpointer.save_iteration(self.iter)
            raise

    def state_dict(self):
        """Return the state of a run; together with config and data, it is complete."""
        return TrainerBase.state_dict(self) | {
            "iteration": min(self.iter, self.max_iter - 1),
            "_trainer": self._trainer.state_dict(),
            "seed": self.seed,
            "history": storage_state(self.storage) if hasattr(self, "storage") else self._history,
            "is_step_unfinished": self._is_step_unfinished,
        }

    def load_state_dict(self, state_dict):
        TrainerBase.load_state_dict(self, state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
        follow_base_rates(self.scheduler)
        if self.cfg.SEED < 0:
            self.seed = self._trainer.seed = state_dict.get("seed", self.seed)
        self._history = state_dict.get("history", {})
        self._is_step_unfinished = state_dict.get("is_step_unfinished", False)

    def build_hooks(self):
        """Return the hooks of every process, in the order in which they run after a step."""
        cfg = self.cfg
        precise_bn = []
        if cfg.TEST.PRECISE_BN.ENABLED and get_bn_modules(self.model):
            num_iter = cfg.TEST.PRECISE_BN.NUM_ITER
            precise_bn = [
                PreciseBN(cfg.TEST.EVAL_PERIOD, self.model, self._build_seeded_loader, num_iter)
            ]
        self._stop_hook = StopAtSigterm()
        return [
            hooks.IterationTimer(),
            hooks.LRScheduler(),
            GateLogger(self.model),
            FirstLosses(),
            self._stop_hook,
            *precise_bn,
            EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate),
            # One hook, because users' hooks are inserted before the last one.
            WritingHooks(
                self._writer_hook,
                CheckpointHook(
                    self.checkpointer,
                    cfg.SOLVER.CHECKPOINT_PERIOD,
                    eval_period=cfg.TEST.EVAL_PERIOD,
                    best_metric=cfg.TEST.BEST_METRIC if cfg.DATASETS.TEST else "",
                ),
                InferenceFileHook(self.checkpointer, portable_config(cfg)),
            ),
        ]

    def build_writers(self):
        """Return the writers of the main process. Called when the first iteration is known."""
        output_dir = self.cfg.OUTPUT_DIR
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(os.path.join(output_dir, METRICS)),
            *(writer for build in writer_functions for writer in build(self.cfg)),
            # Last, because it clears the pictures.
            TensorboardWriter(output_dir, purge_step=self._first_logged() or None),
        ]

    def _build_seeded_loader(self, start_iter=0):
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.SEED = self.seed
        data_loader = self.build_train_loader(cfg)
        sampler = getattr(data_loader, "batch_sampler", None)
        if isinstance(sampler, loader.TrainBatchSampler):
            sampler.start = start_iter * cfg.SOLVER.IMS_PER_BATCH
        elif start_iter > 0:
            logger.warning("This build_train_loader cannot resume: it starts with the first sample")
        return data_loader

    def _evaluate(self):
        model = self.model
        if isinstance(model, DistributedDataParallel):
            model = model.module
            _share_buffers(model)  # evaluate the state that the checkpoint holds
        self._last_eval_results = self.test(self.cfg, model)
        if self._writer_hook.writes_images:  # in the main process
            self._pictures.put(model, self.storage)
        return self._last_eval_results


@torch.no_grad()
def _share_buffers(model):
    """Give every process the buffers of the first one."""
    for buffer in model.buffers():
        distributed.broadcast(buffer, 0)


def check_test_images(cfg, model):
    """Raise InputError, in the main process, for test images of a size that the model cannot take.

    Args:
        model: of this config; only its layers are looked at.
    """
    if not comm.is_main_process():
        return
    records = (record for name in cfg.DATASETS.TEST for record in load_dataset(name))
    check_pooling(cfg, model, map(_size_of, records))


def _size_of(record):
    if "height" in record and "width" in record:
        return record["height"], record["width"]
    return read_image_size(record["file_name"])


def _save_class_frequency(cfg, folder):
    if (frequency := class_frequency_of(cfg)) is not None:
        frequency.save(os.path.join(folder, CLASS_FREQUENCY))
