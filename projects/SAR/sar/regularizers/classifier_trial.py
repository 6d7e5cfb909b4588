"""Find out with random embeddings whether a classifier is a linear map of one embedding.

It works for any callable, such as a subclass, a scripted module or a function, whose code tells
nothing.

Shape shorthands: C embedding channels, K classes.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from sar.regularizers.classify import classify, module_of, weight_of

# Side of the map, by its number of dimensions: neighbours up to 32 pixels (8 in 3-D) away are seen.
_SIDES = {1: 33, 2: 33, 3: 9}
_MAGNITUDE = 100.0  # of the embeddings, so that no bias hides a ReLU
_TOLERANCE = 0.02  # far above the rounding of half precision and TF32
# K and C of the classifiers that passed, and what `_used_by` tells of a function.
_passed: WeakKeyDictionary[object, tuple] = WeakKeyDictionary()


def try_once(
    classifier: Callable[[Tensor], Tensor], num_classes: int, embed_dim: int, device: torch.device
) -> str | None:
    """Say why a classifier is not a linear map of one embedding.

    The trial waits for the device, so each classifier has one trial only. It leaves gradients,
    batch statistics and the random numbers of the training alone. Dropout is off.

    Args:
        classifier: as `classify` takes it.
        num_classes: K.
        embed_dim: C.
        device: of the embeddings, for a callable without tensors of its own.

    Returns:
        the end of a sentence whose subject is the classifier, or None if it passes.
    """
    module = module_of(classifier)
    key, passed = module, (num_classes, embed_dim)
    if module is None:
        # A function that is written inside a training step is a new object in each step.
        key = getattr(classifier, "__code__", classifier)
        passed += _used_by(classifier)
    if _passed.get(key) == passed:
        return None
    tensors = [] if module is None else [*module.parameters(), *module.buffers()]
    device = tensors[0].device if tensors else device
    if device.type == "meta" or embed_dim == 0:
        return None  # there is nothing to compute
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _in_evaluation(module):
        problem = _try(classifier, num_classes, embed_dim, device)
    if problem is None:
        _passed[key] = passed
    return problem


class _Identity:
    """Equal to that of the same object only: a later object can have the address of one that is
    gone.
    """

    def __init__(self, value: object) -> None:
        self.address = id(value)
        try:
            self.reference = ref(value)
        except TypeError:  # such as a number
            self.reference = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Identity) or self.address != other.address:
            return False
        references = (self.reference, other.reference)
        return all(reference is None or reference() is not None for reference in references)


def _used_by(classifier: Callable) -> tuple[_Identity, ...]:
    """The identities of the objects that a function or a method works with."""
    if not inspect.isroutine(classifier) or inspect.isbuiltin(classifier):
        return ()
    found = inspect.getclosurevars(classifier)
    values = [getattr(classifier, "__self__", None), *(classifier.__defaults__ or ())]
    return tuple(map(_Identity, [*values, *found.nonlocals.values(), *found.globals.values()]))


@contextmanager
def _in_evaluation(module: nn.Module | None) -> Iterator[None]:
    modes = [] if module is None else [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _try(
    classifier: Callable[[Tensor], Tensor], num_classes: int, embed_dim: int, device: torch.device
) -> str | None:
    weight = weight_of(classifier)
    dtype = torch.get_default_dtype() if weight is None else weight.dtype
    num_dims = 0 if weight is None else max(weight.dim() - 2, 0)
    sizes = (_SIDES[num_dims or 2],) * (num_dims or 2)
    num_embeddings = torch.Size(sizes).numel()
    generator = torch.Generator().manual_seed(0)
    number = num_embeddings // 3
    a, b = _MAGNITUDE * torch.randn(2, number, embed_dim, generator=generator, device="cpu")
    zeros = a.new_zeros(num_embeddings - 3 * number + 1, embed_dim)
    vectors = torch.cat([a, b, a + b, zeros]).to(device, dtype)
    try:
        logits = classify(classifier, vectors)
    except Exception as error:  # the code of others raises anything
        return f"cannot be called with {embed_dim} channels: {_first_line(error)}"
    if logits.shape != (len(vectors), num_classes):
        return (
            f"gives logits of shape {tuple(logits.shape)} for {len(vectors)} embeddings, not "
            f"{(len(vectors), num_classes)}"
        )
    changes = logits - logits[-1]  # the bias is gone
    rounding = 4 * torch.finfo(dtype).eps * logits.abs().max()
    tolerance = _TOLERANCE * changes.abs().max() + rounding
    of_a, of_b, of_sum = changes[: 3 * number].split(number)
    # With NaN, as in a training that diverges, neither comparison holds: the trial says nothing.
    if (of_a + of_b - of_sum).abs().max() > tolerance:
        return "is not linear in the embedding (an activation, a norm or a scaling in it?)"

    as_map = vectors[:num_embeddings].T.reshape(1, embed_dim, *sizes)
    try:
        map_logits = classifier(as_map)
        fits = map_logits.shape == (1, num_classes, *sizes)
    except Exception as error:
        fits, map_logits = False, _first_line(error)
    if fits:
        mixed = map_logits.flatten(2)[0].T - logits[:num_embeddings]
        if mixed.abs().max() > tolerance:
            return "mixes an embedding with its neighbours (a pooling or a kernel in it?)"
    elif num_dims:  # without spatial dimensions it is fed vectors alone
        found = map_logits if isinstance(map_logits, str) else tuple(map_logits.shape)
        return f"does not keep the size of a map of {'x'.join(map(str, sizes))} pixels ({found})"
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
