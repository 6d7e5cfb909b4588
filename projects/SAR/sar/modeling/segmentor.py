"""The meta-architectures: detectron2's own, with a regularizing branch in training."""

from torch import nn

from sar.modeling.head_loss import build_loss, use_all_processes, use_loss
from sar.modeling.heads import SemanticHead, auxiliary_loss, build_auxiliary_head
from sar.modeling.regularizer_registry import build_regularizers
from sar.regularizers.embedding_tap import embedding_channels, find_classifier, tap_embeddings
from sar.regularizers.labels import match_labels

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, PanopticFPN, SemanticSegmentor


class RegularizedModel:
    """Base class that adds regularizers to the semantic head of a model in training.

    List it before the meta-architecture among the bases of a class. Any registered semantic head
    works if it ends in a linear layer or a 1x1 convolution. In evaluation, or without regularizers,
    the model equals the plain model and costs the same.
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
                return a dict of losses. Embeddings are (N, C, H, W), and labels (N, H, W) have the
                same size.
            classifier: dotted path of the head's last layer, such as "sem_seg_head.predictor"; not
                needed without regularizers.
            loss: called as `loss(predictions, targets)`, instead of the semantic head's method
                `losses`. By default the head keeps its own loss, which must be a mean over the
                valid pixels of its process.
            auxiliary_head: second semantic head. Its "loss_sem_seg" joins the training losses as
                "loss_sem_seg_aux".
            kwargs: further arguments of the meta-architecture.
        """
        super().__init__(**kwargs)
        self.regularizers = nn.ModuleDict(regularizers)
        self._classifier = classifier
        self.loss = loss
        self.auxiliary_head = auxiliary_head
        if loss is not None:
            use_loss(self.sem_seg_head, loss)
        elif not isinstance(self.sem_seg_head, SemanticHead):
            use_all_processes(self.sem_seg_head)

    @classmethod
    def from_config(cls, cfg):
        plain_cfg = cfg
        if cfg.MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING:
            plain_cfg = cfg.clone()
            plain_cfg.defrost()
            # With this key, DeepLab's heads would pool over windows of the crop's size.
            plain_cfg.INPUT.CROP.ENABLED = False
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
        """Run the meta-architecture; in training, add the losses of the regularizers.

        The semantic losses are means over the valid pixels of all processes. They are 0 if no pixel
        is valid; detectron2's own losses would be NaN and end the training.
        """
        if not self.training:
            return super().forward(batched_inputs)
        head = self.sem_seg_head
        classifier = self.get_submodule(self._classifier) if self.regularizers else None
        with auxiliary_loss(head, self.auxiliary_head), tap_embeddings(head, classifier) as step:
            losses = super().forward(batched_inputs)
        if self.regularizers:
            labels = match_labels(step.embeddings, step.labels)
            for regularizer in self.regularizers.values():
                losses.update(regularizer(step.embeddings, labels, classifier))
        return losses


@META_ARCH_REGISTRY.register()
class RegularizedSemanticSegmentor(RegularizedModel, SemanticSegmentor):
    """detectron2's SemanticSegmentor with a regularizing branch."""


@META_ARCH_REGISTRY.register()
class RegularizedPanopticFPN(RegularizedModel, PanopticFPN):
    """detectron2's PanopticFPN, with a regularizing branch on its semantic head."""
