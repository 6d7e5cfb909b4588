"""The two passes of `upsampled_cross_entropy` as Triton kernels.

On a GPU, the upsampled map would cost memory traffic: at 16 x 150 x 512 x 512, each of about ten
reads and writes moves 2.5 GB. Here the exponentials limit the speed. The forward pass computes one
per logit of the map, the backward pass four: 0.6 and 2.5 * 10^9 at that size. The backward pass
gathers, for each logit of the head, the gradients of the (2 * stride)^2 pixels around it. So the
order of summation never changes from run to run.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def forward(
    logits: Tensor, labels: Tensor, stride: int, ignore_value: int
) -> tuple[Tensor, Tensor]:
    """Return the losses (N, H, W) and, for `backward`, log sum_k exp(logit_k) of shape (N, H, W).

    An unknown label has an infinite loss.
    """
    num_images, num_classes, height, width = logits.shape
    _, label_height, label_width = labels.shape
    losses, log_sums = (logits.new_empty(labels.shape) for _ in range(2))
    block_pixels, block_classes = 128, 16
    grid = (label_height * triton.cdiv(label_width, block_pixels), num_images)
    with torch.cuda.device_of(logits):  # kernels start on the current device, which may differ
        _forward_kernel[grid](
            logits, labels, losses, log_sums,
            num_classes, height, width, label_height, label_width, stride, ignore_value,
            BLOCK_PIXELS=block_pixels, BLOCK_CLASSES=block_classes,
        )  # fmt: skip
    return losses, log_sums


def backward(
    logits: Tensor,
    labels: Tensor,
    log_sums: Tensor,
    grad_output: Tensor,
    stride: int,
    ignore_value: int,
) -> Tensor:
    """Return the gradient (N, K, h, w) of the logits from the gradient (N, H, W) of the losses."""
    num_images, num_classes, height, width = logits.shape
    _, label_height, label_width = labels.shape
    gradient = torch.empty_like(logits)
    block_columns, block_classes = 32, 32
    grid = (
        height * triton.cdiv(width, block_columns),
        triton.cdiv(num_classes, block_classes),
        num_images,
    )
    with torch.cuda.device_of(logits):
        _backward_kernel[grid](
            logits, labels, log_sums, grad_output.contiguous(), gradient,
            num_classes, height, width, label_height, label_width, stride, ignore_value,
            BLOCK_COLUMNS=block_columns, BLOCK_CLASSES=block_classes,
        )  # fmt: skip
    return gradient


def try_out(device: torch.device) -> None:
    """Launch each kernel."""
    logits = torch.zeros(1, 2, 2, 2, device=device)
    labels = torch.zeros(1, 8, 8, dtype=torch.int64, device=device)
    losses, log_sums = forward(logits, labels, 4, -1)
    backward(logits, labels, log_sums, losses, 4, -1)


@triton.jit
def _forward_kernel(
    logits, labels, losses, log_sums,
    num_classes, height, width, label_height, label_width, stride, ignore_value,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CLASSES: tl.constexpr,
):  # fmt: skip
    """Each program handles some pixels of a row and loops over the classes."""
    dtype = logits.dtype.element_ty
    num_blocks = tl.cdiv(label_width, BLOCK_PIXELS)
    row = tl.program_id(0) // num_blocks
    columns = (tl.program_id(0) % num_blocks) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    image = tl.program_id(1).to(tl.int64)
    inside = columns < label_width
    # Within an image, 32-bit offsets are enough.
    pixels = row * label_width + columns
    logits += image * num_classes * height * width
    labels += image * label_height * label_width
    losses += image * label_height * label_width
    log_sums += image * label_height * label_width
    label = tl.load(labels + pixels, mask=inside, other=ignore_value)

    # Pixel i lies at (2 i + 1 - stride) / (2 stride) of the logits.
    y = 2 * row + 1 - stride
    top = (y + 2 * stride) // (2 * stride) - 1
    y_weight = (y - top * 2 * stride).to(dtype) / (2 * stride)
    bottom = tl.minimum(top + 1, height - 1) * width
    top = tl.maximum(top, 0) * width
    x = 2 * columns + 1 - stride
    left = (x + 2 * stride) // (2 * stride) - 1
    x_weight = ((x - left * 2 * stride).to(dtype) / (2 * stride))[None, :]
    right = tl.minimum(left + 1, width - 1)[None, :]
    left = tl.maximum(left, 0)[None, :]

    greatest = tl.full((BLOCK_PIXELS,), float("-inf"), dtype)
    total = tl.zeros((BLOCK_PIXELS,), dtype)
    # An unknown label gives an infinite loss, and not a wrong one.
    own = tl.full((BLOCK_PIXELS,), float("-inf"), dtype)
    for first in range(0, num_classes, BLOCK_CLASSES):
        classes = first + tl.arange(0, BLOCK_CLASSES)[:, None]
        mask = (classes < num_classes) & inside[None, :]
        plane = classes * (height * width)
        top_left = tl.load(logits + (plane + top + left), mask=mask, other=0.0)
        top_right = tl.load(logits + (plane + top + right), mask=mask, other=0.0)
        bottom_left = tl.load(logits + (plane + bottom + left), mask=mask, other=0.0)
        bottom_right = tl.load(logits + (plane + bottom + right), mask=mask, other=0.0)
        at_left = top_left * (1 - y_weight) + bottom_left * y_weight
        at_right = top_right * (1 - y_weight) + bottom_right * y_weight
        logit = at_left * (1 - x_weight) + at_right * x_weight
        logit = tl.where(classes < num_classes, logit, float("-inf"))

        is_own = classes == label[None, :]
        own = tl.maximum(own, tl.max(tl.where(is_own, logit, float("-inf")), axis=0))
        new_greatest = tl.maximum(greatest, tl.max(logit, axis=0))
        total = total * tl.exp(greatest - new_greatest)
        total += tl.sum(tl.exp(logit - new_greatest[None, :]), axis=0)
        greatest = new_greatest
    log_sum = greatest + tl.log(total)
    loss = tl.where(label == ignore_value, 0.0, log_sum - own)
    tl.store(log_sums + pixels, log_sum, mask=inside)
    tl.store(losses + pixels, loss, mask=inside)


@triton.jit
def _backward_kernel(
    logits, labels, log_sums, grad_output, gradient,
    num_classes, height, width, label_height, label_width, stride, ignore_value,
    BLOCK_COLUMNS: tl.constexpr, BLOCK_CLASSES: tl.constexpr,
):  # fmt: skip
    """Each program handles some logits of a row and loops over the pixels around them."""
    dtype = logits.dtype.element_ty
    num_blocks = tl.cdiv(width, BLOCK_COLUMNS)
    row = tl.program_id(0) // num_blocks
    columns = (tl.program_id(0) % num_blocks) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    classes = (tl.program_id(1) * BLOCK_CLASSES + tl.arange(0, BLOCK_CLASSES))[:, None]
    image = tl.program_id(2).to(tl.int64)  # within an image, 32-bit offsets are enough
    mask = (classes < num_classes) & (columns < width)[None, :]
    plane = classes * (height * width)
    logits += image * num_classes * height * width
    gradient += image * num_classes * height * width
    labels += image * label_height * label_width
    log_sums += image * label_height * label_width
    grad_output += image * label_height * label_width

    left = tl.maximum(columns - 1, 0)[None, :]
    centre = columns[None, :]
    right = tl.minimum(columns + 1, width - 1)[None, :]
    own_row = plane + row * width
    row_left = tl.load(logits + (own_row + left), mask=mask, other=0.0)
    row_centre = tl.load(logits + (own_row + centre), mask=mask, other=0.0)
    row_right = tl.load(logits + (own_row + right), mask=mask, other=0.0)

    total = tl.zeros((BLOCK_CLASSES, BLOCK_COLUMNS), dtype)
    reach = stride + stride // 2  # the pixels around have offsets from -(stride // 2) up to this
    for y in range(-(stride // 2), reach):
        pixel_row = row * stride + y
        # Distance from this row of logits in strides: -1 above, 1 below.
        y_position = (2 * y + 1 - stride).to(dtype) / (2 * stride)
        y_distance = tl.abs(y_position)
        neighbour = tl.where(y_position < 0, row - 1, row + 1)
        # Beyond the border, the border logits are repeated, so their weight is 1.
        y_weight = tl.where((neighbour < 0) | (neighbour >= height), 1.0, 1 - y_distance)
        neighbour = plane + tl.minimum(tl.maximum(neighbour, 0), height - 1) * width
        at_left = tl.load(logits + (neighbour + left), mask=mask, other=0.0)
        at_centre = tl.load(logits + (neighbour + centre), mask=mask, other=0.0)
        at_right = tl.load(logits + (neighbour + right), mask=mask, other=0.0)
        at_left = row_left * (1 - y_distance) + at_left * y_distance
        at_centre = row_centre * (1 - y_distance) + at_centre * y_distance
        at_right = row_right * (1 - y_distance) + at_right * y_distance
        row_inside = (pixel_row >= 0) & (pixel_row < label_height)
        for x in range(-(stride // 2), reach):
            pixel_columns = columns * stride + x
            x_position = (2 * x + 1 - stride).to(dtype) / (2 * stride)
            x_distance = tl.abs(x_position)
            beyond = tl.where(x_position < 0, columns == 0, columns == width - 1)
            weight = y_weight * tl.where(beyond, 1.0, 1 - x_distance)
            at_neighbour = tl.where(x_position < 0, at_left, at_right)
            logit = at_centre * (1 - x_distance) + at_neighbour * x_distance

            inside = (pixel_columns >= 0) & (pixel_columns < label_width) & row_inside
            pixels = pixel_row * label_width + pixel_columns
            label = tl.load(labels + pixels, mask=inside, other=ignore_value)
            log_sum = tl.load(log_sums + pixels, mask=inside, other=float("inf"))
            factor = tl.load(grad_output + pixels, mask=inside, other=0.0)
            factor = tl.where(label == ignore_value, 0.0, factor * weight)
            probability = tl.exp(logit - log_sum[None, :])
            is_own = (classes == label[None, :]).to(probability.dtype)
            total += (probability - is_own) * factor[None, :]
    tl.store(gradient + (own_row + centre), total, mask=mask)
