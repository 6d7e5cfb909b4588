import pytest
import torch
from torch import nn

from sar.config import load_config
from sar.errors import InputError
from sar.solver import build_lr_scheduler, build_optimizer

from detectron2.config import CfgNode


def config(*overrides) -> CfgNode:
    return load_config(
        "",
        [
            "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR", "SOLVER.MAX_ITER", "100",
            "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR", "0.5", *overrides,
        ],
    )  # fmt: skip


def rates(cfg, steps, state=None):
    optimizer = build_optimizer(cfg, nn.Linear(2, 2))
    scheduler = build_lr_scheduler(cfg, optimizer)
    if state:
        scheduler.load_state_dict(state)
    found = []
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        found.append(optimizer.param_groups[0]["lr"])
    return found, scheduler.state_dict()


def test_poly_schedule_is_the_formula():
    found, _ = rates(config(), 100)
    expected = [0.5 * (1 - step / 100) ** 0.9 for step in range(1, 101)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_poly_schedule_ends_at_the_constant():
    found, _ = rates(config("SOLVER.POLY_LR_CONSTANT_ENDING", "0.1"), 100)
    assert found == pytest.approx([max(0.5 * (1 - s / 100) ** 0.9, 0.05) for s in range(1, 101)])


def test_warm_up_is_linear_and_joins_the_schedule():
    cfg = config("SOLVER.WARMUP_ITERS", "10", "SOLVER.WARMUP_FACTOR", "0.1")
    found, _ = rates(cfg, 30)
    end = 0.9**0.9
    expected = [0.5 * (0.1 + (end - 0.1) * step / 10) for step in range(1, 11)]
    assert found[:10] == pytest.approx(expected)
    assert found[10:] == pytest.approx([0.5 * (1 - step / 100) ** 0.9 for step in range(11, 31)])


def test_resumes_with_a_larger_max_iter():
    _, state = rates(config(), 100)
    found, _ = rates(config("SOLVER.MAX_ITER", "200"), 50, state)
    assert found == pytest.approx([0.5 * (1 - step / 200) ** 0.9 for step in range(101, 151)])


@pytest.mark.parametrize("name, kind", [("SGD", torch.optim.SGD), ("ADAMW", torch.optim.AdamW)])
def test_optimizers_take_detectron2s_keys(name, kind):
    cfg = config(
        "SOLVER.OPTIMIZER", name, "SOLVER.WEIGHT_DECAY", "0.2", "SOLVER.WEIGHT_DECAY_NORM", "0.0",
    )  # fmt: skip
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, kind)
    decays = {p: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[model[0].weight] == 0.2 and decays[model[1].weight] == 0.0


@pytest.mark.parametrize("name", ["SGD", "ADAMW"])
def test_gradients_are_clipped_where_asked(name):
    keys = ["SOLVER.OPTIMIZER", name, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5"]
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(config(*keys, "SOLVER.CLIP_GRADIENTS.ENABLED", "True"), model)
    model.weight.grad, model.bias.grad = torch.full((2, 2), 7.0), torch.full((2,), -7.0)
    optimizer.step()
    assert (model.weight.grad == 0.5).all() and (model.bias.grad == -0.5).all()


def test_unknown_names():
    with pytest.raises(InputError, match='Did you mean "ADAMW"'):
        build_optimizer(config("SOLVER.OPTIMIZER", "ADAM"), nn.Linear(2, 2))
    with pytest.raises(InputError, match='Did you mean "WarmupPolyLR"'):
        cfg = config("SOLVER.LR_SCHEDULER_NAME", "WarmupPoly")
        build_lr_scheduler(cfg, build_optimizer(cfg, nn.Linear(2, 2)))


def test_momentum_starts_at_zero_and_changes_no_step():
    """Fused SGD on a GPU creates it in the first step, and not at all if that step overflows."""
    layer, plain = nn.Linear(3, 2), nn.Linear(3, 2)
    plain.load_state_dict(layer.state_dict())
    optimizer = build_optimizer(config("SOLVER.WEIGHT_DECAY", "0.1"), layer)
    for parameter in layer.parameters():
        assert not optimizer.state[parameter]["momentum_buffer"].any()
    optimizers = {
        layer: optimizer,
        plain: torch.optim.SGD(plain.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1),
    }
    for step in range(3):
        for module, its_optimizer in optimizers.items():
            its_optimizer.zero_grad()
            module(torch.full((1, 3), 1.0 + step)).square().sum().backward()
            its_optimizer.step()
        assert torch.equal(layer.weight, plain.weight) and torch.equal(layer.bias, plain.bias)


class Pyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.bottom_up = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.lateral = nn.Conv2d(2, 2, 1)


class Segmentor(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(2, 2, 1)


@pytest.mark.parametrize("optimizer", ["SGD", "ADAMW"])
@pytest.mark.parametrize("has_pyramid", [True, False])
def test_the_rate_of_the_backbone(optimizer, has_pyramid):
    pyramid = Pyramid()
    model = Segmentor(pyramid if has_pyramid else pyramid.bottom_up)
    cfg = config(
        "SOLVER.OPTIMIZER", optimizer, "SOLVER.BACKBONE_MULTIPLIER", "0.1",
        "SOLVER.WEIGHT_DECAY", "0.01", "SOLVER.WEIGHT_DECAY_NORM", "0.0",
    )  # fmt: skip
    built = build_optimizer(cfg, model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["lr"], group["weight_decay"])
        for group in built.param_groups
        for parameter in group["params"]
    }
    prefix = "backbone.bottom_up" if has_pyramid else "backbone"
    expected = {name: (0.5, 0.01) for name in names.values()}
    expected |= {f"{prefix}.0.{name}": (0.05, 0.01) for name in ("weight", "bias")}
    expected |= {f"{prefix}.1.{name}": (0.05, 0.0) for name in ("weight", "bias")}
    assert found == {name: pytest.approx(pair) for name, pair in expected.items()}
    scheduler = build_lr_scheduler(cfg, built)
    built.step()
    scheduler.step()
    factor = (1 - 1 / 100) ** 0.9
    assert {round(group["lr"] / factor, 9) for group in built.param_groups} == {0.5, 0.05}


def test_the_rate_of_a_backbone_that_the_model_lacks():
    with pytest.raises(InputError, match="BACKBONE_MULTIPLIER is 0.1, but Linear has no attribute"):
        build_optimizer(config("SOLVER.BACKBONE_MULTIPLIER", "0.1"), nn.Linear(2, 2))
