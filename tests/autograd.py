"""What autograd recorded of a computation."""

from torch import Tensor


def graph(loss: Tensor) -> list[str]:
    """The names of all operations that a backward pass goes through, sorted."""
    nodes, stack = [], [loss.grad_fn]
    while stack:
        node = stack.pop()
        nodes.append(type(node).__name__)
        stack += [following for following, _ in node.next_functions if following]
    return sorted(nodes)
