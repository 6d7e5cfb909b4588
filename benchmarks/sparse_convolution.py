"""Measure sparse convolutions of point clouds, forward and backward, and their maps.

The clouds are parts of a generated room of `longtail_rooms`, in voxels of 2 cm. Kernels have 27
offsets. The first peer gathers the neighbours of each site into a matrix (V, 27 C), with zeros for
empty voxels, and multiplies it by the weight. The second peer adds the products of each offset to
the output, without blocks of sites. The third is torch's dense conv3d; its grid has the size of the
cloud's bounding box, so only a small cloud is compared. The fourth is the forward pass of spconv on
the CPU, if spconv is installed; spconv has no backward pass there.

The floor of the time is the time for the operations plus the time for the bytes. With V sites, P
pairs, and C = D channels, the operations are 6 P C^2, at the rate of a product of two matrices
(2^16, C) and (C, C). The bytes are 12 P C + 20 V C: both passes read the rows of each pair (the
backward pass reads two), and all features and gradients are read or written. The rate is the
bandwidth of a copy. On paper, the time grows with P C^2 in the operations and P C in the bytes.

The maps are the sites of the voxels, their pairs for both passes, and the coarser level. The last
table has a training step of `Base-SparseUNetSmall` on 50,000 voxels, maps included. Its peer is the
same network with the convolutions of the second peer.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from harness import Growth, Measurement, bandwidth, chosen, main, time_alternately

from sar.config import load_config
from sar.ops.sparse_convolution import SitePairs, sparse_convolution
from sar.points.layers import SparseTensor
from sar.points.rooms import furnish, scan
from sar.points.sites import Sites
from sar.points.sparse_unet import SparseUNet

try:
    import spconv.pytorch as spconv
except ImportError:
    spconv = None

CONFIG = Path(__file__).parents[1] / "configs" / "Base-SparseUNetSmall.yaml"
VOXEL_SIZE, KERNEL_SIZE, OFFSETS = 0.02, 3, 27  # metres, voxels
SIZES = [(48_000, 32), (48_000, 96)]  # sites and channels
DENSE_SIZES = [(4_000, 32)]
POINTS = [(num_sites, 32) for num_sites in (3_000, 12_000, 48_000)]
CHANNELS = [(12_000, channels) for channels in (16, 32, 64, 128)]
MAP_SIZES = [12_000, 48_000]
STEP_SIZES = [50_000]
SMALLEST = (500, 8)


def measure(device: torch.device) -> Iterator[Measurement]:
    for size in chosen(SIZES, smallest=SMALLEST):
        yield compare_with_gather(size, device)
    for size in chosen(SIZES, smallest=SMALLEST):
        yield compare_with_scatter(size, device)
    for size in chosen(DENSE_SIZES, smallest=SMALLEST):
        yield compare_with_dense(size, device)
    if spconv is None:
        print("spconv is not installed (pip install spconv), so it is not compared.")
    elif device.type == "cpu":
        for size in chosen(SIZES, smallest=SMALLEST):
            yield compare_with_spconv(size)
    for axis, sizes in (("points", POINTS), ("channels", CHANNELS)):
        for size in chosen(sizes, smallest=SMALLEST):
            yield compare_with_gather(size, device, axis)
    for num_sites in chosen(MAP_SIZES, float, smallest=SMALLEST[0]):
        yield from measure_maps(num_sites, device)
    for num_sites in chosen(STEP_SIZES, float, smallest=SMALLEST[0]):
        yield measure_step(num_sites, device)


def draw_voxels(num_sites: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clouds (V,) and coordinates (V, 3) of the voxels of a room nearest to its corner."""
    voxels = torch.from_numpy(voxels_of_room()[:num_sites]).to(device)
    return torch.zeros_like(voxels[:, 0]), voxels


@cache
def voxels_of_room() -> np.ndarray:
    """Return the voxels (V, 3) of a whole room, from the ones nearest to its corner."""
    generator = np.random.default_rng(0)
    positions = scan(furnish(generator), 500_000, generator).positions
    voxels = np.unique(np.floor(positions / VOXEL_SIZE).astype(np.int64), axis=0)
    distances = np.square(voxels[:, :2] - voxels[:, :2].min(axis=0)).sum(axis=1)
    return voxels[np.argsort(distances, kind="stable")]


def draw(size: tuple[int, int], device: torch.device) -> tuple[Sites, torch.Tensor, torch.Tensor]:
    """Return sites, features (V, C) and a weight (C, 27, C)."""
    num_sites, channels = size
    sites, _ = Sites.of_voxels(*draw_voxels(num_sites, device))
    features = torch.randn(len(sites), channels, device=device)
    weight = torch.randn(channels, OFFSETS, channels, device=device) / OFFSETS
    return sites, features, weight


def step(
    convolution: Callable[..., torch.Tensor], features: torch.Tensor, weight: torch.Tensor
) -> Callable[[], object]:
    """Return a function that computes a convolution and both gradients."""
    inputs = (features.clone().requires_grad_(), weight.clone().requires_grad_())
    direction = torch.ones_like(convolution(features, weight))

    def run():
        return torch.autograd.grad(convolution(*inputs), inputs, direction)

    return run


def compare_with_gather(
    size: tuple[int, int], device: torch.device, axis: str | None = None
) -> Measurement:
    sites, features, weight = draw(size, device)
    pairs = sites.neighbours(KERNEL_SIZE)
    rows = neighbour_rows(pairs, device)

    def gather(features, weight):
        padded = torch.cat([features, features.new_zeros(1, features.shape[1])])
        return padded[rows].flatten(1) @ weight.flatten(1).T

    ours = step(lambda *inputs: sparse_convolution(*inputs, pairs), features, weight)
    verify(ours, step(gather, features, weight))
    seconds = time_alternately({"ours": ours, "peer": step(gather, features, weight)}, seconds=10)
    growth = None
    if axis:
        grown = {"points": len(sites), "channels": size[1]}[axis]
        growth = Growth(axis, grown, predicted=pairs.num_pairs * size[1] ** 2)
    return Measurement(
        f"Sparse convolution against a padded gather{f', {axis} growing' if axis else ''}",
        name(sites, size[1]),
        *(1e3 * value for value in seconds.values()),
        floor=1e3 * floor(pairs, size[1], device),
        growth=growth,
    )


def neighbour_rows(pairs: SitePairs, device: torch.device) -> torch.Tensor:
    """Return the input site (V, 27) of each site and offset; V, the padding, if there is none."""
    number = pairs.num_outputs
    rows = torch.full((number, len(pairs.inputs)), number, device=device)
    for offset, (inputs, outputs) in enumerate(zip(pairs.inputs, pairs.outputs, strict=True)):
        if inputs is None:
            rows[:, offset] = torch.arange(number, device=device)
        else:
            rows[outputs, offset] = inputs
    return rows


class Scatter(torch.autograd.Function):
    """The convolution that adds the products of each offset to the output."""

    @staticmethod
    def forward(ctx, features, weight, pairs):
        ctx.save_for_backward(features, weight)
        ctx.pairs = pairs
        result = features.new_zeros(pairs.num_outputs, len(weight))
        for i, j, kernel in offsets(pairs, weight.permute(1, 2, 0)):
            add_rows(result, j, rows_of(features, i) @ kernel)
        return result

    @staticmethod
    def backward(ctx, grad_output):
        features, weight = ctx.saved_tensors
        grad_features, grads = torch.zeros_like(features), []
        for i, j, kernel in offsets(ctx.pairs, weight.transpose(0, 1)):
            grad_rows = rows_of(grad_output, j)
            add_rows(grad_features, i, grad_rows @ kernel)
            grads.append(grad_rows.T @ rows_of(features, i))
        return grad_features, torch.stack(grads, dim=1), None


def offsets(pairs: SitePairs, kernels: torch.Tensor) -> Iterator[tuple]:
    """Yield the input sites, the output sites and the kernel of each offset."""
    return zip(pairs.inputs, pairs.outputs, kernels.contiguous(), strict=True)


def rows_of(tensor: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    return tensor if index is None else tensor[index]


def add_rows(tensor: torch.Tensor, index: torch.Tensor | None, rows: torch.Tensor) -> None:
    if index is None:
        tensor += rows
    else:
        tensor.index_add_(0, index, rows)


def compare_with_scatter(size: tuple[int, int], device: torch.device) -> Measurement:
    sites, features, weight = draw(size, device)
    pairs = sites.neighbours(KERNEL_SIZE)
    steps = {
        "ours": step(lambda *inputs: sparse_convolution(*inputs, pairs), features, weight),
        "peer": step(lambda *inputs: Scatter.apply(*inputs, pairs), features, weight),
    }
    verify(*steps.values())
    seconds = time_alternately(steps, seconds=10)
    return Measurement(
        "Sparse convolution against sums of offsets",
        name(sites, size[1]),
        *(1e3 * value for value in seconds.values()),
    )


def compare_with_dense(size: tuple[int, int], device: torch.device) -> Measurement:
    sites, features, weight = draw(size, device)
    pairs = sites.neighbours(KERNEL_SIZE)
    x, y, z = sites.coordinates[:, 1:].T
    grid = tuple((sites.coordinates[:, 1:].amax(dim=0) + 1).tolist())

    def dense(features, weight):
        image = features.new_zeros(*grid, features.shape[1]).index_put((x, y, z), features)
        kernel = weight.unflatten(1, (KERNEL_SIZE,) * 3).permute(0, 4, 1, 2, 3)
        result = F.conv3d(image.permute(3, 0, 1, 2)[None], kernel, padding=KERNEL_SIZE // 2)
        return result[0, :, x, y, z].T

    steps = {
        "ours": step(lambda *inputs: sparse_convolution(*inputs, pairs), features, weight),
        "peer": step(dense, features, weight),
    }
    verify(*steps.values())
    seconds = time_alternately(steps, seconds=10)
    where = f"{name(sites, size[1])}, grid of {'x'.join(map(str, grid))}"
    return Measurement(
        "Sparse convolution against conv3d", where, *(1e3 * value for value in seconds.values())
    )


def compare_with_spconv(size: tuple[int, int]) -> Measurement:
    sites, features, weight = draw(size, torch.device("cpu"))
    pairs = sites.neighbours(KERNEL_SIZE)
    grid = (sites.coordinates[:, 1:].amax(dim=0) + 1).tolist()
    # Layers with the same key and algorithm share their map, so the first call computes it.
    layer = spconv.SubMConv3d(
        *weight.shape[::2], KERNEL_SIZE, bias=False, indice_key="map", algo=spconv.ConvAlgo.Native
    )
    layer.weight.data = weight.unflatten(1, (KERNEL_SIZE,) * 3)
    tensor = spconv.SparseConvTensor(features, sites.coordinates.int(), grid, batch_size=1)

    @torch.no_grad()
    def ours():
        return sparse_convolution(features, weight, pairs)

    @torch.no_grad()
    def peer():
        result = layer(tensor)
        tensor.indice_dict = result.indice_dict
        return result.features

    torch.testing.assert_close(peer(), ours(), rtol=1e-3, atol=1e-3)
    seconds = time_alternately({"ours": ours, "peer": peer}, seconds=10)
    return Measurement(
        "Sparse convolution against spconv, forward only",
        name(sites, size[1]),
        *(1e3 * value for value in seconds.values()),
    )


def verify(ours: Callable[[], object], peer: Callable[[], object]) -> None:
    """Check that both compute the same gradients."""
    for one, other in zip(ours(), peer(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def floor(pairs: SitePairs, channels: int, device: torch.device) -> float:
    """Return a lower bound of the seconds for both passes."""
    rows, matrix = (torch.randn(n, channels, device=device) for n in (2**16, channels))
    product = torch.empty_like(rows)
    seconds = time_alternately({"mm": lambda: torch.mm(rows, matrix, out=product)}, seconds=0.5)
    operations = 6 * pairs.num_pairs * channels**2
    moved = rows.element_size() * channels * (3 * pairs.num_pairs + 5 * pairs.num_outputs)
    rate = 2 * rows.numel() * channels / seconds["mm"]
    return operations / rate + moved / bandwidth(device)


def measure_maps(num_sites: int, device: torch.device) -> Iterator[Measurement]:
    clouds, coordinates = draw_voxels(num_sites, device)
    sites, _ = Sites.of_voxels(clouds, coordinates)

    def blocks(pairs):
        return pairs.blocks(device), pairs.reversed().blocks(device)

    functions = {
        "sites": lambda: Sites.of_voxels(clouds, coordinates),
        "pairs of kernel 3": lambda: blocks(Sites(sites.coordinates).neighbours(3)),
        "pairs of kernel 5": lambda: blocks(Sites(sites.coordinates).neighbours(5)),
        "coarser level": lambda: blocks(Sites(sites.coordinates).to_coarser),
    }
    seconds = time_alternately(functions, seconds=10)
    for what, value in seconds.items():
        yield Measurement("Maps of sparse convolutions", f"{what}, V = {len(sites)}", 1e3 * value)


def measure_step(num_sites: int, device: torch.device) -> Measurement:
    cfg = load_config(str(CONFIG), [])
    settings = cfg.MODEL.SPARSE_UNET
    clouds, coordinates = draw_voxels(num_sites, device)
    features = torch.randn(len(clouds), 6, device=device)

    def network(convolution: Callable[..., torch.Tensor]) -> SparseUNet:
        torch.manual_seed(0)
        model = SparseUNet(
            6, stem=settings.STEM, channels=settings.CHANNELS, blocks=settings.BLOCKS
        )
        for module in model.modules():
            if hasattr(module, "compute"):
                module.compute = convolution
        return model.to(device)

    def trainer(model: SparseUNet) -> Callable[[], float]:
        optimizer = torch.optim.AdamW(model.parameters())

        def train():
            sites, _ = Sites.of_voxels(clouds, coordinates)
            loss = model(SparseTensor(features, sites)).features.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return train

    model = network(sparse_convolution)
    steps = {"ours": trainer(model), "peer": trainer(network(Scatter.apply))}
    ours, peer = (train() for train in steps.values())
    torch.testing.assert_close(ours, peer, rtol=1e-3, atol=0)
    seconds = time_alternately(steps, seconds=40)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    where = f"{CONFIG.stem}, {millions:.2f} M parameters, V = {len(clouds)}"
    return Measurement(
        "Training step of a sparse U-Net", where, *(1e3 * value for value in seconds.values())
    )


def name(sites: Sites, channels: int) -> str:
    number = len(sites)
    share = sites.neighbours(KERNEL_SIZE).num_pairs / number
    return f"V = {number}, P = {share:.1f} V, C = {channels}"


if __name__ == "__main__":
    main(__doc__, measure)
