"""Extend a module that is already built: its class becomes a subclass, and can still be pickled."""

import inspect
from functools import cache

from torch import nn


class Extension:
    """Base of classes that `extend` puts in front of a module's own class."""

    def __reduce_ex__(self, protocol):
        return _new, type(self).__bases__, vars(self)


def extend(module: nn.Module, base: type[Extension]) -> None:
    """Make a module an instance of `base`, too. The methods of `base` come first."""
    module.__class__ = _extended(base, type(module))


def own_class(module: nn.Module) -> type:
    """Return the class that a module had before it was extended."""
    return next(kind for kind in type(module).__mro__ if not issubclass(kind, Extension))


def bound_call(module: nn.Module, args: tuple, kwargs: dict) -> inspect.BoundArguments:
    """Return the arguments of a module's call by their names, in the order of its own `forward`."""
    return inspect.signature(own_class(module).forward).bind_partial(module, *args, **kwargs)


@cache
def _extended(base: type, kind: type) -> type:
    return type(kind.__name__, (base, kind), {"__module__": kind.__module__})


def _new(base: type, kind: type) -> nn.Module:
    return object.__new__(_extended(base, kind))
