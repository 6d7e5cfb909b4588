"""Whether what torchrun starts again goes on, or has yet to begin.

What ends a first start may come before OUTPUT_DIR is the run's own, and may have left there the
checkpoints of an earlier one. So a training says when it has begun, in the store of torchrun's
agent, which lives as long as the launch.
"""

import os

from torch import distributed

_BEGUN = "sar/begun"


def note_begun() -> None:
    """From now on, what can be resumed in OUTPUT_DIR is this run. Does nothing without torchrun."""
    if store := _launch_store():
        store.set(_BEGUN, "yes")


def goes_on() -> bool:
    """Whether an earlier start of this launch has begun its run."""
    if store := _launch_store():
        return store.check([_BEGUN])
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # all that can be known


def _launch_store() -> distributed.Store | None:
    """None where the agent has none: without torchrun, and with some releases of torch."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return distributed.TCPStore(address, port, is_master=False)
