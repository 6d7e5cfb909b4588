"""Center loss, Wen et al., ECCV 2016 (A Discriminative Feature Learning Approach for Deep Face
Recognition).

Shape shorthands: N samples, C embedding channels, K classes.
"""

import torch
from torch import nn

from sar.ops.squared_distance import mean_squared_distance
from sar.regularizers.arguments import check_share
from sar.regularizers.class_means import class_means
from sar.regularizers.labels import as_points, check_channels, match_labels


class CenterLossRegularizer(nn.Module):
    """Pulls each pixel embedding to the centre of its class, which follows the embeddings.

    * `loss_class_center` = weight * 1/2 * mean over the valid pixels i of |e_i - c_{y_i}|^2
      (equation 2, a mean instead of a sum). It trains the embeddings only;
    * then c_k = c_k - alpha * sum_{i of class k} (c_k - e_i) / (1 + n_k), where the batch has n_k
      pixels of class k (equation 4). All centres start at 0.

    Args:
        num_classes: K.
        embed_dim: C, channels of the embedding.
        weight: of the loss; lambda in the paper.
        alpha: step size of the centres, in [0, 1].
        ignore_value: label of pixels that do not count.

    Raises:
        ValueError: alpha out of range.

    Example::

        >>> regularizer = CenterLossRegularizer(num_classes=5, embed_dim=64)
        >>> embeddings, labels = torch.randn(2, 64, 16, 16), torch.randint(5, (2, 64, 64))
        >>> sorted(regularizer(embeddings, labels))
        ['loss_class_center']
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        *,
        weight: float = 0.003,
        alpha: float = 0.5,
        ignore_value: int = 255,
    ):
        super().__init__()
        check_share("alpha", alpha)
        self.num_classes = num_classes
        self.embed_dim = embed_dim
        self.weight = weight
        self.alpha = alpha
        self.ignore_value = ignore_value
        self.register_buffer("centres", torch.zeros(num_classes, embed_dim))

    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        classifier: nn.Module | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the loss of this step. In training mode, update the centres afterwards.

        Args:
            embeddings: (N, C), (N, C, L) or (N, C, H, W): the input of the classifier.
            labels: (N,), (N, L0) or (N, H0, W0) class ids; resized to the embeddings by nearest
                neighbour.
            classifier: not used; all regularizers are called with one.

        Returns:
            {"loss_class_center": scalar}.

        Raises:
            ValueError: shapes that do not go together.
        """
        check_channels(embeddings, self.embed_dim)
        labels = match_labels(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            weight = self.weight * self.embed_dim / 2
            loss = mean_squared_distance(
                embeddings, labels, self.centres, self.ignore_value, weight
            )
            if self.training:
                self._update_centres(*as_points(embeddings.detach(), labels))
            return {"loss_class_center": loss}

    def _update_centres(self, vectors: torch.Tensor, labels: torch.Tensor) -> None:
        vectors = vectors.to(self.centres.dtype)
        means, counts = class_means(vectors, labels, self.num_classes, self.ignore_value)
        shares = (counts / (1 + counts))[:, None]
        self.centres.sub_(self.alpha * shares * (self.centres - means))
