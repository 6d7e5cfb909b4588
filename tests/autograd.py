"""What autograd recorded of a computation, and how large its tensors were."""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


def graph(loss: Tensor) -> list[str]:
    """The names of all operations that a backward pass goes through, sorted."""
    nodes, stack = [], [loss.grad_fn]
    while stack:
        node = stack.pop()
        nodes.append(type(node).__name__)
        stack += [following for following, _ in node.next_functions if following]
    return sorted(nodes)


class LargestTensor(TorchDispatchMode):
    """Numbers in the largest tensor that anything gives."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor):
            self.numbers = max(self.numbers, output.untyped_storage().nbytes() // 4)
        return output
