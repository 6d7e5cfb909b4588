"""A small model that classifies masks instead of pixels, like MaskFormer.

Cheng et al., "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS
2021.
A transformer decoder turns each of Q learned queries into a class and a mask. In training, the
queries are matched to the masks of the classes in the image. It has one pixel decoder, no deep
supervision and few parameters: for tests, and to try regularizers on queries.

Shape shorthands: N images, K classes, Q queries, D channels, T masks of an image, h x w the
resolution of the finest feature, H x W the resolution of the padded images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sar.errors import InputError
from sar.modeling.heads.base import conv_norm, select_features
from sar.ops.over_processes import mean_over_processes

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.structures import ImageList


@META_ARCH_REGISTRY.register()
class MaskClassifier(nn.Module):
    """Semantic segmentation by the classification of masks.

    It takes the samples of `SemanticSegmentor`, with labels, and needs no instances.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        sem_seg_head: "QueryHead",
        criterion: "MaskCriterion",
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
    ):
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.criterion = criterion
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings, options = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_CLASSIFIER
        backbone = build_backbone(cfg)
        key = "MODEL.SEM_SEG_HEAD.IN_FEATURES"
        head = QueryHead(
            select_features(backbone.output_shape(), settings.IN_FEATURES, key),
            num_classes=settings.NUM_CLASSES,
            dim=settings.CONVS_DIM,
            norm=settings.NORM,
            num_queries=options.NUM_QUERIES,
            num_layers=options.NUM_LAYERS,
        )
        return {
            "backbone": backbone,
            "sem_seg_head": head,
            "criterion": MaskCriterion(
                settings.NUM_CLASSES,
                ignore_value=settings.IGNORE_VALUE,
                no_object_weight=options.NO_OBJECT_WEIGHT,
            ),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Return losses in training, and [{"sem_seg": (K, H, W)}] in evaluation.

        A value of "sem_seg" is the sum over queries of class probability times mask probability.
        """
        images = [
            (x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        images = ImageList.from_tensors(images, self.backbone.size_divisibility)
        outputs = self.sem_seg_head(self.backbone(images.tensor))
        if self.training:
            labels = [x["sem_seg"].to(self.device) for x in batched_inputs]
            labels = ImageList.from_tensors(
                labels, self.backbone.size_divisibility, self.criterion.ignore_value
            )
            return self.criterion(outputs, self.criterion.targets(labels.tensor, outputs))
        probabilities = torch.einsum(
            "nqk,nqhw->nkhw",
            outputs["pred_logits"].softmax(-1)[..., :-1],
            outputs["pred_masks"].sigmoid(),
        )
        size = images.tensor.shape[-2:]
        probabilities = F.interpolate(probabilities, size, mode="bilinear", align_corners=False)
        results = []
        for one, sample, image_size in zip(
            probabilities, batched_inputs, images.image_sizes, strict=True
        ):
            height, width = sample.get("height", image_size[0]), sample.get("width", image_size[1])
            results.append({"sem_seg": sem_seg_postprocess(one, image_size, height, width)})
        return results


class QueryHead(nn.Module):
    """Pixel decoder and `predictor`, as the head of MaskFormer calls them.

    Args:
        input_shape: channels and stride of the features, by name.
        num_classes: K.
        dim: D.
        norm: of the pixel decoder's convolutions.
        num_queries: Q.
        num_layers: of the transformer decoder.
    """

    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        num_classes: int,
        dim: int,
        norm: str,
        num_queries: int,
        num_layers: int,
    ):
        super().__init__()
        shapes = sorted(input_shape.items(), key=lambda item: item[1].stride)
        self.in_features = [name for name, _ in shapes]
        self.lateral = nn.ModuleList(conv_norm(shape.channels, dim, 1, norm) for _, shape in shapes)
        self.mask_features = nn.Conv2d(dim, dim, 3, padding=1)
        self.predictor = QueryPredictor(num_classes, dim, num_queries, num_layers)

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return "pred_logits" (N, Q, K + 1) and "pred_masks" (N, Q, h, w), as logits."""
        maps = [
            lateral(features[name])
            for lateral, name in zip(self.lateral, self.in_features, strict=True)
        ]
        finest, *coarser = maps
        size = finest.shape[-2:]
        finest = finest + sum(
            F.interpolate(each, size, mode="bilinear", align_corners=False) for each in coarser
        )
        return self.predictor(maps[-1], self.mask_features(finest))


class QueryPredictor(nn.Module):
    """A transformer decoder with a class and a mask for each query."""

    def __init__(self, num_classes: int, dim: int, num_queries: int, num_layers: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(num_queries, dim))
        layer = nn.TransformerDecoderLayer(dim, 4, 2 * dim, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, num_layers, norm=nn.LayerNorm(dim))
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.mask_embed = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, memory: Tensor, mask_features: Tensor) -> dict[str, Tensor]:
        """Decode queries from a coarse map (N, D, ., .) and pixel features (N, D, h, w)."""
        memory = memory + positions(memory)
        queries = self.queries.expand(len(memory), -1, -1)
        queries = self.decoder(queries, memory.flatten(2).transpose(1, 2))
        masks = torch.einsum("nqd,ndhw->nqhw", self.mask_embed(queries), mask_features)
        return {"pred_logits": self.class_embed(queries), "pred_masks": masks}


class MaskCriterion(nn.Module):
    """Cross-entropy of the classes, and binary cross-entropy and Dice loss of matched masks.

    Args:
        num_classes: K; query logits have one more, "no object".
        ignore_value: label of pixels that do not count.
        no_object_weight: weight of queries without a mask in the cross-entropy.
    """

    def __init__(self, num_classes: int, *, ignore_value: int, no_object_weight: float):
        super().__init__()
        self.num_classes = num_classes
        self.ignore_value = ignore_value
        self.matcher = MaskMatcher()
        weights = torch.ones(num_classes + 1)
        weights[-1] = no_object_weight
        self.register_buffer("class_weights", weights, persistent=False)

    def targets(self, labels: Tensor, outputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the masks of the classes that each image shows, at the resolution of the outputs.

        Args:
            labels: (N, H, W) class ids.

        Returns:
            for each image "labels" (T,), "masks" (T, h, w) of 0 and 1, and "valid" (h, w).
        """
        size = outputs["pred_masks"].shape[-2:]
        labels = F.interpolate(labels[:, None].float(), size, mode="nearest")[:, 0].long()
        found = []
        for label in labels:
            valid = label != self.ignore_value
            classes = label[valid].unique()
            masks = (label == classes[:, None, None]).float()
            found.append({"labels": classes, "masks": masks, "valid": valid.float()})
        return found

    def forward(
        self, outputs: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return "loss_ce", "loss_mask" and "loss_dice"."""
        indices = self.matcher(outputs, targets)
        logits = outputs["pred_logits"].float()
        classes = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        entropy, dice = [], []
        for n, (target, (queries, chosen)) in enumerate(zip(targets, indices, strict=True)):
            classes[n, queries] = target["labels"][chosen]
            found = mask_losses(
                outputs["pred_masks"][n][queries], target["masks"][chosen], target["valid"]
            )
            entropy.append(found[0])
            dice.append(found[1])
        weight = self.class_weights[classes].sum()
        loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), self.class_weights)
        losses = {"loss_ce": mean_over_processes(loss, weight)}
        for name, parts in (("loss_mask", entropy), ("loss_dice", dice)):
            values = torch.cat(parts)
            number = torch.tensor(len(values), device=values.device)
            mean = values.sum() / number.clamp(min=1)
            losses[name] = mean_over_processes(mean, number)
        return losses


class MaskMatcher(nn.Module):
    """Match queries to masks one to one, at the smallest total cost (Hungarian algorithm)."""

    @torch.no_grad()
    def forward(
        self, outputs: dict[str, Tensor], targets: list[dict[str, Tensor]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the indices of matched queries and masks of each image."""
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            raise InputError(
                f"MaskClassifier needs SciPy ({error}): pip install -e .[queries]"
            ) from error
        indices = []
        for logits, masks, target in zip(
            outputs["pred_logits"], outputs["pred_masks"], targets, strict=True
        ):
            cost = -logits.float().softmax(-1)[:, target["labels"]]  # (Q, T)
            for t, mask in enumerate(target["masks"]):
                cost[:, t] += sum(mask_losses(masks, mask.expand_as(masks), target["valid"]))
            # SciPy takes no NaN. The losses stay NaN, and the trainer reports them.
            cost = cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)
            queries, chosen = linear_sum_assignment(cost.cpu().numpy())
            indices.append((torch.as_tensor(queries), torch.as_tensor(chosen)))
        return [(q.to(masks.device), t.to(masks.device)) for q, t in indices]


def mask_losses(logits: Tensor, masks: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return the binary cross-entropy and the Dice loss of masks, over the valid pixels.

    Args:
        logits, masks: (M, h, w).
        valid: (h, w) of 0 and 1.

    Returns:
        two tensors of (M,).
    """
    logits = logits.float()
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none") * valid
    entropy = entropy.sum((1, 2)) / valid.sum().clamp(min=1)
    found = logits.sigmoid() * valid
    overlap = 2 * (found * masks).sum((1, 2)) + 1
    dice = 1 - overlap / (found.sum((1, 2)) + (masks * valid).sum((1, 2)) + 1)
    return entropy, dice


def positions(features: Tensor) -> Tensor:
    """Return sines and cosines (1, D, ., .) of the rows and columns of a map (N, D, ., .)."""
    dim, height, width = features.shape[1:]
    count = dim // 4
    rates = 100.0 ** (-torch.arange(count, device=features.device) / count)
    rows, columns = (
        torch.arange(size, device=features.device)[:, None] * rates for size in (height, width)
    )
    rows = torch.cat([rows.sin(), rows.cos()], 1)[:, None].expand(-1, width, -1)
    columns = torch.cat([columns.sin(), columns.cos()], 1)[None].expand(height, -1, -1)
    code = torch.cat([rows, columns], 2).permute(2, 0, 1)
    return F.pad(code, (0, 0, 0, 0, 0, dim - len(code)))[None].to(features.dtype)
