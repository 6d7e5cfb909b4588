"""Add a training-only branch to a model of detectron2 that is already built."""

from collections.abc import Mapping
from contextlib import ExitStack

from torch import nn

from sar.errors import InputError, listed
from sar.modeling.extension import Extension, extend
from sar.modeling.head_loss import SegmentationLoss, use_loss
from sar.modeling.heads import auxiliary_loss
from sar.modeling.heads.fcn import FCNHead
from sar.modeling.taps import PixelTap, QueryTap

_ATTRIBUTES = ("regularizers", "loss", "auxiliary_head", "tap", "tapped_classifier")


class Regularized(Extension):
    """Base of the class of a model that `regularize` has extended."""

    def forward(self, *args, **kwargs):
        """Run the model; in training, add the losses of its training-only branch.

        Raises:
            InputError: two losses have the same name.
        """
        if not self.training:
            return super().forward(*args, **kwargs)
        tap, classifier = vars(self)["tap"], vars(self)["tapped_classifier"]
        with ExitStack() as stack:
            if self.auxiliary_head is not None:
                head = self.get_submodule(tap.head)
                stack.enter_context(auxiliary_loss(head, self.auxiliary_head, tap.labels))
            samples = stack.enter_context(tap.read(self)) if self.regularizers else None
            losses = super().forward(*args, **kwargs)
        for name, regularizer in self.regularizers.items():
            added = regularizer(samples.embeddings, samples.labels, classifier)
            if shared := losses.keys() & added.keys():
                raise InputError(
                    f"{name} returns {listed(sorted(shared))}, but the model or another "
                    "regularizer has a loss of this name: rename one of them"
                )
            losses.update(added)
        return losses


def regularize(
    model: nn.Module,
    regularizers: Mapping[str, nn.Module],
    tap: PixelTap | QueryTap,
    *,
    loss: SegmentationLoss | None = None,
    auxiliary_head: FCNHead | None = None,
) -> nn.Module:
    """Make a model return the losses of regularizers, too, in training.

    The class of the model becomes a subclass of its class. In evaluation, in exported models and in
    copies of its state, the model is the plain model at the same cost. The names in its state_dict
    stay; `regularizers.*`, `loss.*` and `auxiliary_head.*` are added.

    Args:
        model: of any meta-architecture. In training, `model(batched_inputs)` returns a dict of
            losses. Call this function before DistributedDataParallel wraps the model.
        regularizers: by name. Each is called as `regularizer(embeddings, labels, classifier)` and
            returns a dict of losses, the same keys in every step.
        tap: says where the model has its embedding, labels and classifier.
        loss: replaces the method `losses` of the head of a `PixelTap`. Not used, like
            `auxiliary_head`, for a model that had this branch without regularizers.
        auxiliary_head: second semantic head for a `PixelTap`. Its "loss_sem_seg" becomes
            "loss_sem_seg_aux" of the model.

    Returns:
        `model` itself.

    Raises:
        InputError: a path of the tap leads nowhere, the model is regularized already, or it has an
            attribute of a name that the branch needs.

    Example::

        model = build_model(cfg)  # of detectron2
        sar = SemanticAnchorRegularizer(num_classes=19, embed_dim=256).to(model.device)
        regularize(model, {"sar": sar}, PixelTap(classifier="sem_seg_head.predictor"))
    """
    is_extended = isinstance(model, Regularized)
    if is_extended and model.regularizers:
        raise InputError(f"this {type(model).__name__} is regularized already")
    taken = [name for name in _ATTRIBUTES if hasattr(model, name) and not is_extended]
    if taken:
        raise InputError(
            f"{type(model).__name__} has the attribute {listed(taken)}, a name that the "
            "training-only branch needs: rename it in your model"
        )
    if regularizers:
        tap.check(model)
    model.regularizers = nn.ModuleDict(regularizers)
    vars(model)["tap"] = tap
    # Not a submodule a second time, which would add names to the state_dict.
    vars(model)["tapped_classifier"] = tap.classifier_of(model) if regularizers else None
    if not is_extended:
        model.loss = loss
        model.auxiliary_head = auxiliary_head
        if loss is not None:
            use_loss(model.get_submodule(tap.head), loss)
        extend(model, Regularized)
    return model
