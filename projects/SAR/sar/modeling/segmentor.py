"""The meta-architectures: detectron2's own, with a regularizing branch in training."""

from contextlib import nullcontext

from torch import nn

from sar.modeling.heads import SemanticHead, auxiliary_loss, build_auxiliary_head
from sar.modeling.losses import build_loss, own_losses_over_processes
from sar.modeling.regularizer_registry import build_regularizers
from sar.regularizers.embedding_tap import embedding_channels, find_classifier, tap_embeddings

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, PanopticFPN, SemanticSegmentor


class RegularizedModel:
    """Lets the semantic head of a detectron2 meta-architecture feed regularizers in training.

    Stands before the meta-architecture among the bases of a class. Takes any registered semantic
    head that ends in a linear layer or 1x1 convolution. In evaluation, and where there are no
    regularizers, the model is the plain one at the plain cost.
    """

    @configurable
    def __init__(
        self,
        *,
        regularizers: dict[str, nn.Module],
        classifier: str | None = None,
        loss: nn.Module | None = None,
        auxiliary_head: nn.Module | None = None,
        **kwargs,
    ):
        """
        Args:
            regularizers: modules called as `regularizer(embeddings, labels, classifier)` that
                return a dict of losses.
            classifier: dotted path of the head's last layer, such as "sem_seg_head.predictor";
                not needed without regularizers.
            loss: called as `loss(predictions, targets)` in the place of the semantic head's own
                method `losses`; by default that stays, and is taken to be a mean over the valid
                pixels of its process.
            auxiliary_head: semantic head of whose losses "loss_sem_seg" joins those of training,
                as "loss_sem_seg_aux".
            kwargs: what the meta-architecture takes.
        """
        super().__init__(**kwargs)
        self.regularizers = nn.ModuleDict(regularizers)
        self._classifier = classifier
        self.loss = loss
        self.auxiliary_head = auxiliary_head
        if loss is not None:
            # A method, since a module would be hidden behind the method of the head's class.
            self.sem_seg_head.losses = loss.__call__

    @classmethod
    def from_config(cls, cfg):
        plain_cfg = cfg
        if cfg.MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING:
            plain_cfg = cfg.clone()
            plain_cfg.defrost()
            plain_cfg.INPUT.CROP.ENABLED = False  # DeepLab's heads pool over its size
        arguments = super().from_config(plain_cfg)
        arguments["loss"] = build_loss(
            cfg, arguments["sem_seg_head"], arguments["backbone"].size_divisibility
        )
        arguments["auxiliary_head"] = build_auxiliary_head(
            cfg, arguments["backbone"].output_shape()
        )
        arguments["regularizers"] = {}
        if cfg.MODEL.REGULARIZERS:
            plain_model = nn.ModuleDict(
                {name: part for name, part in arguments.items() if isinstance(part, nn.Module)}
            )
            num_classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
            classifier = find_classifier(plain_model, cfg.MODEL.CLASSIFIER, num_classes)
            arguments["classifier"] = cfg.MODEL.CLASSIFIER
            arguments["regularizers"] = build_regularizers(
                cfg, num_classes, embedding_channels(classifier)
            )
        return arguments

    def forward(self, batched_inputs):
        """As the meta-architecture; in training, the regularizers' losses join its own.

        The semantic losses are those of the pixels of all processes. Where all are ignored they are
        0; the means over no pixel of detectron2's heads are NaN, and would end the training.
        """
        if not self.training:
            return super().forward(batched_inputs)
        head = self.sem_seg_head
        classifier = self.get_submodule(self._classifier) if self.regularizers else None
        sees_all_processes = self.loss is not None or isinstance(head, SemanticHead)
        with (
            nullcontext() if sees_all_processes else own_losses_over_processes(head),
            auxiliary_loss(head, self.auxiliary_head),
            tap_embeddings(head, classifier) as step,
        ):
            losses = super().forward(batched_inputs)
        for regularizer in self.regularizers.values():
            losses.update(regularizer(step.embeddings, step.labels, classifier))
        return losses


@META_ARCH_REGISTRY.register()
class RegularizedSemanticSegmentor(RegularizedModel, SemanticSegmentor):
    """detectron2's SemanticSegmentor with a regularizing branch."""


@META_ARCH_REGISTRY.register()
class RegularizedPanopticFPN(RegularizedModel, PanopticFPN):
    """detectron2's PanopticFPN, whose semantic head has a regularizing branch."""
