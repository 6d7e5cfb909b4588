"""Choose the device of a run and the number of its processes."""

import logging
from argparse import Namespace

import torch

from sar.config import leaves, lookup
from sar.errors import InputError

from detectron2.config import CfgNode

logger = logging.getLogger(__name__)


def check_processes(args: Namespace) -> None:
    """Raise InputError for options of the command line that name impossible numbers of processes.

    Args:
        args: from `argument_parser`.
    """
    for name, least in (("num_gpus", 0), ("num_processes", 1), ("num_machines", 1)):
        number = getattr(args, name)
        if number is not None and number < least:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is {number}, expected {least} or more")
    if not 0 <= args.machine_rank < args.num_machines:
        raise InputError(
            f"--machine-rank is {args.machine_rank}, but of --num-machines {args.num_machines} "
            f"the ranks are 0 to {args.num_machines - 1}"
        )
    if args.num_machines > 1 and args.dist_url == "auto":
        raise InputError(
            f"--num-machines {args.num_machines} without --dist-url: give all of them the address "
            "of machine 0, such as tcp://10.0.0.1:29500"
        )


def choose_device(
    cfg: CfgNode, num_gpus: int | None = None, num_processes: int = 1, num_machines: int = 1
) -> tuple[int, int]:
    """Set MODEL.DEVICE, to the CPU without a GPU, and the keys that depend on the device.

    Args:
        num_gpus: GPUs on each machine; None means one if there is one.
        num_processes: processes on each machine, for the CPU.

    Returns:
        the number of GPUs, 0 for the CPU, and of processes on each machine.

    Raises:
        InputError: MODEL.DEVICE or the numbers are not possible.
    """
    try:
        device = torch.device(cfg.MODEL.DEVICE)
    except RuntimeError as error:
        raise InputError(f'MODEL.DEVICE "{cfg.MODEL.DEVICE}" is not a device of torch') from error
    is_asked_for = num_gpus is not None
    num_gpus = num_gpus if is_asked_for else 1
    num_found = torch.cuda.device_count()
    if device.type == "cuda" and num_gpus == 0:
        cfg.MODEL.DEVICE = "cpu"
    elif device.type == "cuda" and num_found == 0:
        if is_asked_for:
            raise InputError(
                f"--num-gpus {num_gpus}, but PyTorch finds no GPU on this machine. Leave the "
                "option out to run on the CPU, or check the driver with nvidia-smi."
            )
        if num_machines > 1:
            raise InputError(
                f"--num-machines {num_machines}, but this one has no GPU: add --num-gpus 0 on "
                "all machines to train on their CPUs"
            )
        logger.warning(
            f"No GPU found: running on the CPU, in {num_processes} process(es) (MODEL.DEVICE cpu)"
        )
        cfg.MODEL.DEVICE = "cpu"
    elif device.type != "cuda" and num_gpus > 1:
        raise InputError(
            f'MODEL.DEVICE is "{cfg.MODEL.DEVICE}", but --num-gpus {num_gpus}: set it to '
            f"cuda, or say --num-gpus 0 --num-processes {num_gpus}"
        )
    if cfg.MODEL.DEVICE.startswith("cuda"):
        num_processes = _check_gpus(device, num_gpus, num_found, num_processes, num_machines)
    else:
        num_gpus = 0
        if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16":
            logger.warning(
                "SOLVER.AMP.ENABLED is turned off: on the CPU, SOLVER.AMP.DTYPE has to be bfloat16"
            )
            cfg.SOLVER.AMP.ENABLED = False
    if num_processes * num_machines == 1:
        _replace_sync_bn(cfg, "One process")
    elif num_gpus == 0:
        # PyTorch's SyncBN needs GPUs. detectron2's naiveSyncBN computes the variance as a
        # difference of means. Rounding can make it negative, and the loss NaN.
        _replace_sync_bn(cfg, "On the CPU, each process on its own")
    return num_gpus, num_processes


def _check_gpus(
    device: torch.device, num_gpus: int, num_found: int, num_processes: int, num_machines: int
) -> int:
    """Return the number of processes: one for each GPU."""
    if num_gpus > num_found:
        raise InputError(f"--num-gpus {num_gpus}, but this machine has {num_found}")
    if num_processes not in (1, num_gpus):
        raise InputError(
            f"--num-processes {num_processes} is for the CPU: add --num-gpus 0, or say "
            f"--num-gpus {num_processes} to use as many GPUs"
        )
    if device.index is not None and num_gpus * num_machines > 1:
        raise InputError(
            f'MODEL.DEVICE "{device}" is one GPU, which {num_gpus * num_machines} processes would '
            "share: set it to cuda, so that each has its own"
        )
    return num_gpus


def _replace_sync_bn(cfg: CfgNode, why: str) -> None:
    synchronized = ("SyncBN", "nnSyncBN", "naiveSyncBN")
    replaced = [key for key in leaves(cfg) if lookup(cfg, key) in synchronized]
    for key in replaced:
        group, _, last = key.rpartition(".")
        lookup(cfg, group)[last] = "BN"
    if replaced:
        logger.warning(f"{why}: SyncBN becomes BN in {', '.join(replaced)}")
