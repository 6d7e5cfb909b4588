"""The meta-architecture: detectron2's own, with a regularizing branch in training."""

from torch import nn

from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, SemanticSegmentor

from .embedding_tap import embedding_channels, find_classifier, tap_embeddings
from .regularizers import build_regularizers


@META_ARCH_REGISTRY.register()
class RegularizedSemanticSegmentor(SemanticSegmentor):
    """detectron2's SemanticSegmentor, whose head feeds regularizers in training.

    Takes any registered semantic head that ends in a linear layer or 1x1 convolution. In
    evaluation, and where there are no regularizers, it is the plain model at the plain cost.
    """

    @configurable
    def __init__(
        self, *, regularizers: dict[str, nn.Module], classifier: str | None = None, **kwargs
    ):
        """
        Args:
            regularizers: modules called as `regularizer(embeddings, labels, classifier)` that
                return a dict of losses.
            classifier: dotted path of the head's last layer, such as "sem_seg_head.predictor";
                not needed without regularizers.
            kwargs: what SemanticSegmentor takes.
        """
        super().__init__(**kwargs)
        self.regularizers = nn.ModuleDict(regularizers)
        self._classifier = classifier

    @classmethod
    def from_config(cls, cfg):
        plain_cfg = cfg
        if cfg.MODEL.SEM_SEG_HEAD.ASPP_GLOBAL_POOLING:
            plain_cfg = cfg.clone()
            plain_cfg.defrost()
            plain_cfg.INPUT.CROP.ENABLED = False  # DeepLab's heads pool over its size
        arguments = super().from_config(plain_cfg)
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
        """As SemanticSegmentor; in training, the regularizers' losses join the head's."""
        if not (self.training and self.regularizers):
            return super().forward(batched_inputs)
        classifier = self.get_submodule(self._classifier)
        with tap_embeddings(self.sem_seg_head, classifier) as step:
            losses = super().forward(batched_inputs)
        for regularizer in self.regularizers.values():
            losses.update(regularizer(step.embeddings, step.labels, classifier))
        return losses
