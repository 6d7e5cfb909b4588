"""Occupied sites of a sparse grid, and which of them a kernel connects.

Shape shorthands: V sites, U sites of the next coarser level.
"""

from functools import cached_property
from itertools import product

import torch

from sar.ops.sparse_convolution import SitePairs


class Sites:
    """The occupied voxels of a batch of clouds.

    The sites are in lexicographic order of (cloud, x, y, z). The pairs of kernels and the coarser
    level are computed once, and kept for all layers.

    Args:
        coordinates: (V, 4) int64: number of the cloud, and three voxel coordinates of 0 or more.
            No row occurs twice, and the rows are in lexicographic order.
    """

    def __init__(self, coordinates: torch.Tensor) -> None:
        self.coordinates = coordinates
        self._pairs: dict[int, SitePairs] = {}

    @classmethod
    def of_voxels(
        cls, clouds: torch.Tensor, coordinates: torch.Tensor
    ) -> tuple["Sites", torch.Tensor]:
        """Return the sites of voxels, and the site of each voxel.

        The coordinates of each cloud are moved so that its smallest ones are 0. So a translation
        of a cloud by whole voxels changes nothing.

        Args:
            clouds: (V,) int64, number of the cloud, 0 or more.
            coordinates: (V, 3) int64, of any sign. Rows may occur twice.

        Returns:
            the sites; int64 (V,), indices into them.

        Raises:
            ValueError: no voxel, or a grid that is too large for 63 bits.
        """
        if not len(clouds):
            raise ValueError("expected at least one voxel, found none")
        num_clouds = int(clouds.max()) + 1
        smallest = coordinates.new_full((num_clouds, 3), torch.iinfo(coordinates.dtype).max)
        index = clouds[:, None].expand(-1, 3)
        smallest = smallest.scatter_reduce(0, index, coordinates, "amin")
        rows = torch.cat([clouds[:, None], coordinates - smallest[clouds]], dim=1)
        rows, site_of = _unique_rows(rows)
        return cls(rows), site_of

    def __len__(self) -> int:
        return len(self.coordinates)

    def neighbours(self, kernel_size: int) -> SitePairs:
        """Return the pairs of a kernel whose output sites are these sites.

        The offsets are in the order of `itertools.product`, the last coordinate fastest. An input
        site lies at output site + offset, as in a cross-correlation.

        Args:
            kernel_size: odd.
        """
        if kernel_size not in self._pairs:
            self._pairs[kernel_size] = self._find_neighbours(kernel_size)
        return self._pairs[kernel_size]

    def _find_neighbours(self, kernel_size: int) -> SitePairs:
        if kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel_size, got {kernel_size}")
        radius = kernel_size // 2
        keys, steps = _keys(self.coordinates, margin=radius)
        offsets = list(product(range(-radius, radius + 1), repeat=3))
        half = len(offsets) // 2  # the offset 0; offset o is the opposite of offset -1 - o
        inputs: list[torch.Tensor | None] = [None] * len(offsets)
        outputs: list[torch.Tensor | None] = [None] * len(offsets)
        for o in range(half):
            shift = sum(a * b for a, b in zip(offsets[o], steps, strict=True))
            wanted = keys + shift
            place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
            found = torch.nonzero(keys[place] == wanted)[:, 0]
            inputs[o], outputs[o] = place[found], found
            inputs[-1 - o], outputs[-1 - o] = outputs[o], inputs[o]
        return SitePairs(inputs, outputs, len(self), len(self), is_symmetric=True)

    @cached_property
    def coarser(self) -> "Sites":
        """The sites of voxels of twice the size."""
        return Sites(self._parents[0])

    @cached_property
    def to_coarser(self) -> SitePairs:
        """The pairs of a kernel of size 2 and stride 2, from these sites to the coarser ones.

        The offsets are in the order of `itertools.product(range(2), repeat=3)`.
        """
        corners = self.coordinates[:, 1:] & 1
        offset = (corners * corners.new_tensor([4, 2, 1])).sum(dim=1)
        parents = self._parents[1]
        inputs = [torch.nonzero(offset == o)[:, 0] for o in range(8)]
        outputs = [parents[i] for i in inputs]
        return SitePairs(inputs, outputs, len(self), len(self.coarser))

    @cached_property
    def _parents(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.cat([self.coordinates[:, :1], self.coordinates[:, 1:] >> 1], dim=1)
        return _unique_rows(rows)


def _keys(rows: torch.Tensor, margin: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Return a number for each row, in lexicographic order, and the steps of three coordinates.

    Args:
        rows: (V, 4), 0 or more.
        margin: number of empty voxels around the grid, so that a neighbour that is outside has the
            number of no other site.

    Raises:
        ValueError: the numbers do not fit into 63 bits.
    """
    sizes = [size + 1 + 2 * margin for size in rows.amax(dim=0).tolist()]
    steps = [sizes[2] * sizes[3], sizes[3], 1]
    if sizes[0] * sizes[1] * steps[0] >= 2**63:
        raise ValueError(
            f"expected a grid of fewer than 2^63 voxels, found {' x '.join(map(str, sizes))}: use "
            "larger voxels, or remove points that are far away"
        )
    factors = rows.new_tensor([sizes[1] * steps[0], *steps])
    return ((rows + rows.new_tensor([0, margin, margin, margin])) * factors).sum(dim=1), steps


def _unique_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the different rows in lexicographic order, and the index of each row in them."""
    keys, _ = _keys(rows)
    _, index = torch.unique(keys, sorted=True, return_inverse=True)
    first = rows.new_empty(int(index.max()) + 1, 4)
    first[index] = rows  # equal rows, so the order of writing does not matter
    return first, index
