"""One step, on models small enough to be followed by hand."""

import json
import math
import traceback

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from sar.config import load_config
from sar.errors import InputError
from sar.solver import build_optimizer
from sar.training.step import TrainingStep

from detectron2.modeling import build_model

from ..distributed import run_processes


class Regression(nn.Module):
    """A linear layer with two losses."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch):
        found = self.layer(self.dropout(torch.stack([sample["image"] for sample in batch])))
        wanted = torch.stack([sample["target"] for sample in batch])
        return {"loss_a": ((found - wanted) ** 2).mean(), "loss_b": found.abs().mean()}


def batches(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        [
            {
                "file_name": f"{i}-{j}.png",
                "image": torch.randn(3, generator=generator),
                "target": torch.randn(2, generator=generator),
            }
            for j in range(2)
        ]
        for i in range(count)
    ]


def build_step(model=None, lr=0.1, precision=None, data=None, **kwargs):
    torch.manual_seed(0)
    model = model or Regression(**kwargs)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    step = TrainingStep(model, optimizer, seed=5, precision=precision)
    step.data_loader = data or batches(6)
    return step


def test_weights_and_losses_are_those_of_gradient_descent_by_hand():
    step = build_step()
    weight = step.model.layer.weight.detach().double().requires_grad_()
    bias = step.model.layer.bias.detach().double().requires_grad_()
    velocity = [torch.zeros(2, 3).double(), torch.zeros(2).double()]
    expected = []
    for batch in batches(6):
        found = torch.stack([sample["image"] for sample in batch]).double() @ weight.T + bias
        wanted = torch.stack([sample["target"] for sample in batch]).double()
        losses = [((found - wanted) ** 2).mean(), found.abs().mean()]
        expected.append([loss.item() for loss in losses])
        gradients = torch.autograd.grad(sum(losses), (weight, bias))
        velocity = [0.9 * v + g for v, g in zip(velocity, gradients, strict=True)]
        weight, bias = (
            (value - 0.1 * v).detach().requires_grad_()
            for value, v in zip((weight, bias), velocity, strict=True)
        )
    for iteration in range(6):
        step.run(iteration)
    fetched = step.fetch_losses()
    assert [seen.iteration for (seen,) in fetched] == list(range(6))
    assert [list(seen.losses) for (seen,) in fetched] == [["loss_a", "loss_b"]] * 6
    found = [list(seen.losses.values()) for (seen,) in fetched]
    assert torch.tensor(found).double().allclose(torch.tensor(expected).double(), atol=1e-6)
    torch.testing.assert_close(step.model.layer.weight.double(), weight, atol=1e-6, rtol=0)
    assert step.fetch_losses() == []


class HostReads(TorchDispatchMode):
    """Notes who reads values, or counts that depend on values, to the host: a GPU would wait."""

    def __init__(self):
        super().__init__()
        self.places = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        reads = function in (
            aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default,
            aten._unique2.default,
        )  # fmt: skip
        if function is aten.index.Tensor:
            reads = any(index is not None and index.dtype is torch.bool for index in args[1])
        if reads:
            frames = [f for f in traceback.extract_stack() if "/torch/" not in f.filename]
            self.places.add(f"{frames[-2].filename}:{frames[-2].lineno}")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "extra",
    [
        [],
        ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"],
        ["MODEL.LOSS.NAME", "hard_pixel_mining + focal + dice"],
        ["MODEL.LOSS.NAME", "seesaw", "MODEL.AUXILIARY_HEAD.IN_FEATURE", "p4"],
    ],
)
def test_no_step_waits_for_the_device(extra):
    cfg = load_config(
        "configs/Folder/sar_ceco_sem_fpn_R_18.yaml",
        [
            "MODEL.DEVICE", "cpu", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3",
            "MODEL.RESNETS.NORM", "BN", "MODEL.FPN.NORM", "BN", "MODEL.SEM_SEG_HEAD.NORM", "BN",
            "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "16",
            *extra,
        ],
    )  # fmt: skip
    model = build_model(cfg)
    sample = {"image": torch.zeros(3, 64, 64), "sem_seg": torch.zeros(64, 64, dtype=torch.long)}
    step = TrainingStep(model, build_optimizer(cfg, model), seed=0, precision=torch.bfloat16)
    step.data_loader = [[sample, sample]] * 2
    step.run(0)
    with HostReads() as reads:
        step.run(1)
    # Sizes, which are on the host; and a look that is taken on the CPU alone.
    allowed = ("image_list.py", "squared_distance_pytorch.py")
    assert [place for place in reads.places if not any(file in place for file in allowed)] == []
    with HostReads() as reads:  # it can tell
        float(torch.ones(1))
    assert reads.places


def test_dropout_is_a_function_of_seed_and_iteration():
    def masks(seed, iterations):
        seen = []
        step = build_step(dropout=0.5, data=batches(20))
        step.seed = seed
        step.model.dropout.register_forward_hook(lambda *args: seen.append(args[2] != 0))
        for iteration in iterations:
            step.run(iteration)
        return torch.stack(seen)

    first = masks(5, range(10))
    torch.manual_seed(99)
    assert torch.equal(masks(5, range(4, 10)), first[4:])
    assert not torch.equal(masks(6, range(10)), first)
    assert len(first.flatten(1).unique(dim=0)) > 4


def test_a_loss_that_is_not_finite_names_iteration_terms_and_images():
    data = batches(5)
    data[2][1]["target"][:] = math.inf
    step = build_step(data=data)
    for iteration in range(10, 15):
        step.run(iteration)
    message = r"not finite in iteration 12: loss_a inf, loss_b 0\.\d+, in the batch of 2-0.png, 2-1"
    with pytest.raises(InputError, match=message):
        step.fetch_losses()


def test_weights_that_are_not_finite_are_found_though_the_loss_is():
    step = build_step()
    for iteration in range(3):
        step.run(iteration)
    step.fetch_losses()
    step.run(3)
    with torch.no_grad():
        step.model.layer.bias[1] = math.nan
    message = r"(?s)weights are no longer finite after iteration 3.*loss_a.*: layer.bias.*3-0.png"
    with pytest.raises(InputError, match=message):
        step.fetch_losses()


def test_arrays_that_are_never_finite_are_let_be():
    model = Regression()
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    step = build_step(model)
    step.run(0)
    assert len(step.fetch_losses()) == 1


def test_losses_may_change_from_step_to_step():
    class Changing(Regression):
        def forward(self, batch):
            losses = super().forward(batch)
            return losses if batch[0]["file_name"] == "0-0.png" else {"loss_b": losses["loss_b"]}

    step = build_step(Changing())
    step.run(0)
    step.run(1)
    names = [list(seen.losses) for (seen,) in step.fetch_losses()]
    assert names == [["loss_a", "loss_b"], ["loss_b"]]


def test_a_resumed_optimizer_is_fused_as_it_was_built():
    saved = build_step()
    saved.run(0)
    step = build_step()
    step.optimizer = torch.optim.SGD(step.model.parameters(), lr=0.1, momentum=0.9, fused=True)
    step.load_state_dict(saved.state_dict())
    assert [group["fused"] for group in step.optimizer.param_groups] == [True]
    step.run(1)


def test_precision_is_that_of_autocast():
    dtypes = []

    class Watched(Regression):
        def forward(self, batch):
            dtypes.append(self.layer(batch[0]["image"][None]).dtype)
            return super().forward(batch)

    for precision in (None, torch.bfloat16, torch.float16):
        step = build_step(Watched(), precision=precision)
        step.run(0)
        assert step.model.layer.weight.dtype is torch.float32
        assert step.scaler.is_enabled() == (precision is torch.float16)
    assert dtypes == [torch.float32, torch.bfloat16, torch.float16]


def test_an_overflow_of_half_precision_skips_the_step_and_its_scale_is_resumed():
    step = build_step(precision=torch.float16)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # gradients overflow
    before = step.model.layer.weight.clone()
    step.run(0)
    assert torch.equal(step.model.layer.weight, before)
    assert step.scaler.get_scale() == 2.0**39
    step.fetch_losses()  # the loss is finite
    resumed = build_step(precision=torch.float16)
    resumed.load_state_dict(step.state_dict())
    assert resumed.scaler.get_scale() == 2.0**39
    build_step().load_state_dict(step.state_dict())  # a run may go on in float32
    build_step(precision=torch.float16).load_state_dict(build_step().state_dict())


def train_one_of_two(rank, folder):
    data = batches(4, seed=rank)
    if rank == 1:
        data[2][0]["target"][:] = math.nan
    step = build_step(data=data)
    for iteration in range(2):
        step.run(iteration)
    fetched = [[seen.losses["loss_a"] for seen in seens] for seens in step.fetch_losses()]
    (folder / f"losses{rank}").write_text(json.dumps(fetched))
    for iteration in range(2, 4):
        step.run(iteration)
    try:
        step.fetch_losses()
    except InputError as error:
        (folder / f"error{rank}").write_text(str(error))


def test_all_processes_stop_where_one_sees_a_loss_that_is_not_finite(tmp_path):
    run_processes(train_one_of_two, 2, tmp_path)
    losses = [json.loads((tmp_path / f"losses{rank}").read_text()) for rank in range(2)]
    assert losses[0] == losses[1] and losses[0][0][0] != losses[0][0][1]
    alone = build_step(data=batches(4, seed=1))
    alone.run(0)
    assert alone.fetch_losses()[0][0].losses["loss_a"] == losses[0][0][1]
    errors = [(tmp_path / f"error{rank}").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    assert "iteration 2: loss_a nan" in errors[0] and errors[0].count("in the batch of") == 1


class WithUnused(Regression):
    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 1)


def train_what_has_no_gradient(rank, folder):
    step = build_step(DistributedDataParallel(WithUnused()))
    try:
        step.run(0)
    except InputError as error:
        (folder / f"error{rank}").write_text(str(error))
    frozen = WithUnused()
    frozen.unused.requires_grad_(False)
    step = build_step(DistributedDataParallel(frozen))
    for iteration in range(3):
        step.run(iteration)


def test_several_processes_cannot_train_what_has_no_gradient(tmp_path):
    run_processes(train_what_has_no_gradient, 2, tmp_path)
    errors = [(tmp_path / f"error{rank}").read_text() for rank in range(2)]
    assert errors[0] == errors[1]
    assert "on 2 of the model's parameters (unused.weight, unused.bias)" in errors[0]
    assert "MODEL.SEM_SEG_HEAD.IN_FEATURES" in errors[0]
    alone = build_step(WithUnused())
    for iteration in range(3):
        alone.run(iteration)
