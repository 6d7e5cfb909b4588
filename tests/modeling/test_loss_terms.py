"""The criterion that MODEL.LOSS describes."""

import pytest
import torch

from sar.config import load_config
from sar.data.class_frequency import ClassFrequency
from sar.errors import InputError
from sar.losses import CLASS_WEIGHTS, Focal, LogitAdjustment, Seesaw, effective_number_weights
from sar.modeling.loss_terms import (
    LOSSES,
    WEIGHTED_LOSSES,
    build_criterion,
    check_loss,
    loss_terms,
)

IGNORE = 254


@pytest.fixture
def config(frequency_file):
    """Builds a config from keys of MODEL.LOSS, with the counts of five classes."""

    def build(**settings):
        words = [word for key, value in settings.items() for word in (f"MODEL.LOSS.{key}", value)]
        words += ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "5", "DATASETS.CLASS_FREQUENCY", frequency_file]
        return load_config("", words)

    return build


@pytest.mark.parametrize(
    "text, terms",
    [
        ("", {}),
        ("  ", {}),
        ("dice", {"dice": 1.0}),
        ("2 * dice", {"dice": 2.0}),
        ("cross_entropy + 0.5 * dice", {"cross_entropy": 1.0, "dice": 0.5}),
        ("1e-1*lovasz+focal", {"lovasz": 0.1, "focal": 1.0}),
    ],
)
def test_terms(text, terms, config):
    found = loss_terms(config(NAME=text))
    assert found == terms and list(found) == list(terms)


def test_every_loss_is_built_alone_and_in_a_sum(config):
    alone = [build_criterion(config(NAME=name), IGNORE) for name in LOSSES]
    together = build_criterion(config(NAME=" + ".join(LOSSES)), IGNORE)
    assert list(together.criteria) == list(LOSSES)
    assert list(map(type, alone)) == list(map(type, together.criteria.values()))
    assert len(set(map(type, alone))) == len(LOSSES)
    for criterion in (*alone, together):
        ignored = [m.ignore_value for m in criterion.modules() if hasattr(m, "ignore_value")]
        assert ignored and set(ignored) == {IGNORE}


@pytest.mark.parametrize("name", WEIGHTED_LOSSES)
@pytest.mark.parametrize("weights", CLASS_WEIGHTS)
def test_class_weights_follow_the_counts(name, weights, config, frequency_file):
    criterion = build_criterion(config(NAME=name, CLASS_WEIGHTS=weights, TOP_K="0.25"), IGNORE)
    counts = ClassFrequency.load(frequency_file)
    expected = CLASS_WEIGHTS[weights](counts.pixels, counts.images).float()
    assert torch.equal(criterion.weights, expected)
    assert getattr(criterion, "top_k", 0.25) == 0.25


@pytest.mark.parametrize("name", WEIGHTED_LOSSES)
def test_class_weights_of_ones_own(name, config):
    cfg = config(NAME=f"{name} + dice", OWN_CLASS_WEIGHTS="[0, 0.5, 1, 2, 4e1]")
    criterion = build_criterion(cfg, IGNORE).criteria[name]
    assert criterion.weights.tolist() == [0, 0.5, 1, 2, 40]


def test_the_numbers_of_the_config_reach_the_losses(config, frequency_file):
    keys = {"TAU": "0.5", "SEESAW_P": "0.3", "SEESAW_Q": "1.5", "GAMMA": "3", "BETA": "0.9"}
    cfg = config(NAME="logit_adjustment + seesaw + focal", CLASS_WEIGHTS="effective_number", **keys)
    adjusted, seesaw, focal = build_criterion(cfg, IGNORE).criteria.values()
    counts = ClassFrequency.load(frequency_file)
    expected = LogitAdjustment(torch.tensor(counts.pixels), IGNORE, 0.5).adjustment
    assert torch.equal(adjusted.adjustment, expected)
    assert isinstance(seesaw, Seesaw) and (seesaw.p, seesaw.q) == (0.3, 1.5)
    expected = effective_number_weights(counts.pixels, counts.images, 0.9).float()
    assert isinstance(focal, Focal) and focal.gamma == 3 and torch.equal(focal.weights, expected)


@pytest.mark.parametrize(
    "path, message",
    [("nowhere.json", "nowhere.json"), (None, r"expected 3 classes .*NUM_CLASSES\), found 5")],
)
def test_class_frequencies_that_do_not_fit_the_model(path, message, config):
    cfg = config(NAME="cross_entropy", CLASS_WEIGHTS="enet")
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 3
    cfg.DATASETS.CLASS_FREQUENCY = path or cfg.DATASETS.CLASS_FREQUENCY
    with pytest.raises(InputError, match=message):
        build_criterion(cfg, IGNORE)


def test_class_weights_that_do_not_fit_the_model(config):
    cfg = config(NAME="cross_entropy", OWN_CLASS_WEIGHTS="[1, 2]")
    with pytest.raises(InputError, match="OWN_CLASS_WEIGHTS has 2 numbers, expected 5"):
        build_criterion(cfg, IGNORE)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"NAME": "seasaw"}, 'NAME "seasaw": unknown loss "seasaw". Did you mean "seesaw"'),
        ({"NAME": "focal + dise"}, 'NAME "focal . dise": unknown loss "dise". Did you mean "dice"'),
        ({"NAME": "focal +"}, 'NAME "focal .": unknown loss "". Known are cross_entropy, '),
        ({"NAME": "focal, dice"}, 'unknown loss "focal, dice".*such as "cross_entropy . 0.5'),
        ({"NAME": "dice * 0.5"}, 'unknown loss "0.5"'),
        ({"NAME": "a * dice"}, 'the factor is "a", expected a positive number, as in'),
        ({"NAME": "* dice"}, 'the factor is "", expected a positive number'),
        ({"NAME": "-1 * dice"}, 'the factor is "-1", expected a positive number'),
        ({"NAME": "1e999 * dice"}, 'the factor is "1e999", expected a positive number'),
        ({"NAME": "dice + 2 * dice"}, "has dice twice: name it once"),
        ({"NAME": "cross_entropy", "CLASS_WEIGHTS": "e-net"}, 'CLASS_WEIGHTS.*mean "enet"'),
        ({"CLASS_WEIGHTS": "enet"}, "set MODEL.LOSS.NAME to cross_entropy or hard_pixel_mining"),
        ({"NAME": "seesaw", "CLASS_WEIGHTS": "enet"}, 'no effect with MODEL.LOSS.NAME "seesaw"'),
        (
            {"NAME": "dice + lovasz", "OWN_CLASS_WEIGHTS": "[1, 2]"},
            r'OWN_CLASS_WEIGHTS \[1, 2\] has no effect with MODEL.LOSS.NAME "dice . lovasz"',
        ),
        (
            {"NAME": "focal", "CLASS_WEIGHTS": "enet", "OWN_CLASS_WEIGHTS": "[1, 2]"},
            'CLASS_WEIGHTS is "enet", but MODEL.LOSS.OWN_CLASS_WEIGHTS also has weights',
        ),
        ({"NAME": "focal", "OWN_CLASS_WEIGHTS": "[1, -2]"}, r"\(1, -2\), expected numbers, 0 or m"),
        ({"NAME": "focal", "OWN_CLASS_WEIGHTS": "[1, 1e999]"}, "expected numbers, 0 or more"),
        (
            {"NAME": "focal", "OWN_CLASS_WEIGHTS": "[0, 0]"},
            r"is \(0, 0\), expected a number above 0",
        ),
        ({"NAME": "focal", "GAMMA": "-0.5"}, "GAMMA is -0.5, expected 0 or more"),
        ({"NAME": "focal", "BETA": "1.0"}, "BETA is 1.0, expected 0 or more, below 1"),
        ({"NAME": "logit_adjustment", "TAU": "-1.0"}, "TAU is -1.0, expected 0 or more"),
        ({"NAME": "hard_pixel_mining", "TOP_K": "20.0"}, "TOP_K is 20.0, expected above 0"),
        ({"NAME": "seesaw", "SEESAW_P": "1e999"}, "SEESAW_P is inf"),
        ({"NAME": "seesaw", "SEESAW_Q": "-2.0"}, "SEESAW_Q is -2.0"),
    ],
)
def test_settings_that_are_refused(settings, message, config):
    with pytest.raises(InputError, match=message):
        check_loss(config(**settings))
