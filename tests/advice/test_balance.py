"""Advice on rare classes: one set of counts for each rule and each side of its limit."""

import pytest

from sar.advice.balance import LOVASZ, REPEAT, advise_on_balance, has_rare_classes
from sar.config import load_config
from sar.data.class_frequency import ClassFrequency

SAR = [
    "MODEL.REGULARIZERS", "SemanticAnchorRegularizer",
    "MODEL.SEMANTIC_ANCHOR.PULL_OVER", "classes",
]  # fmt: skip
WEIGHTS = {"MODEL.LOSS.NAME": "cross_entropy", "MODEL.LOSS.CLASS_WEIGHTS": "median_frequency"}
PULL = "MODEL.SEMANTIC_ANCHOR.PULL_WEIGHT"


def counts(images, pixels, num_images=100):
    names = ("road", "car", "pole\n", "sign")[: len(images)]
    return ClassFrequency(names, num_images, images, pixels, 0)


NEITHER = counts((100, 80, 25), (6000, 3000, 1000))
BY_IMAGE = counts((100, 80, 24), (6000, 3000, 1000))
BY_PIXEL = counts((100, 97, 93), (9000, 2900, 90))
BOTH = counts((100, 80, 4), (9000, 2990, 10))


def advice(frequency, *overrides):
    items = advise_on_balance(frequency, load_config("", overrides))
    return {item.topic: item for item in items}


def test_the_length_of_both_tails_is_told_with_counts():
    found = advice(BOTH)
    assert found["tail by image"].text == (
        r"Long, 25:1. road is on 100 of 100 images, pole\n on 4 (4%)."
    )
    assert found["tail by pixel"].text.startswith(
        r"Long, 900:1. road has 75% of the labelled pixels, pole\n 0.083%."
    )
    assert r"For each pixel of pole\n, the loss sums over 900 of road" in (
        found["tail by pixel"].text
    )
    assert advice(BY_PIXEL)["tail by image"].text.startswith("Short, 1.1:1.")


def test_rare_in_which_sense():
    frequency = counts((100, 10, 10, 90), (20000, 2000, 10, 10))
    text = advice(frequency)["rare classes"].text
    assert r"Rare by image and by pixel (on less than 25%" in text and r"pixels): pole\n." in text
    assert "Rare by image only (on less than 25% of the images, but large): car." in text
    assert "Rare by pixel only (less than 10%" in text and "on many images): sign." in text
    assert advice(NEITHER)["rare classes"].text.startswith("None: no class is")


def test_repeating_cannot_help_a_class_that_most_images_show():
    text = advice(BY_PIXEL)["repeat images"].text
    assert text.startswith(r"Cannot help: even pole\n, on the fewest images, is on 93% of them, so")
    text = advice(NEITHER)["repeat images"].text
    assert "is on 25% of them. An epoch would show them 2.0 times instead of once" in text
    assert r"Can help: repeat-factor sampling shows the images of pole\n 5.0 times" in (
        advice(BOTH)["repeat images"].text
    )


def test_class_weights_by_median_frequency():
    # 900 times the pixels, on 25 times the images of the same size.
    assert "counts 36 times as much as a pixel of road" in advice(BOTH)["class weights"].text
    assert advice(BY_IMAGE)["class weights"].text == "Not needed: no class is rare by pixel."


@pytest.mark.parametrize(("pixels", "expected"), [(100, "median_frequency"), (99, "enet")])
def test_weights_that_differ_too_much_are_replaced(pixels, expected):
    """With equal numbers of images, the weights differ as the pixels, up to 100 times."""
    frequency = counts((100, 100, 100), (10_000, 5_000, pixels))
    found = advice(frequency)
    key = "MODEL.LOSS.CLASS_WEIGHTS"
    assert found["recipe"].recipe[key] == expected
    assert f"with MODEL.LOSS.CLASS_WEIGHTS {expected}, a pixel" in found["class weights"].text
    assert ("would differ 101 times" in found["class weights"].text) == (expected == "enet")
    for present in ("median_frequency", "enet"):  # of the config
        recipe = advice(frequency, "MODEL.LOSS.NAME", "cross_entropy", key, present)[
            "recipe"
        ].recipe
        is_too_much = (present, expected) == ("median_frequency", "enet")
        assert recipe == ({key: "enet"} if is_too_much else {})


@pytest.mark.parametrize(
    ("frequency", "keys", "words"),
    [
        (NEITHER, {}, "The plain model"),
        (BY_IMAGE, REPEAT, "Repeat-factor sampling. Train"),
        (BY_PIXEL, WEIGHTS, "Class weights. Train"),
        (BOTH, REPEAT, "Repeat-factor sampling. Class weights may raise mIoU@r further"),
    ],
)
def test_recipe_of_a_plain_config(frequency, keys, words):
    recipe = advice(frequency)["recipe"]
    assert recipe.recipe == keys and recipe.keys == {}
    assert recipe.text.startswith(words)
    assert has_rare_classes(frequency) == bool(keys)


@pytest.mark.parametrize(
    ("frequency", "keys", "words", "with_lovasz"),
    [
        (NEITHER, {}, "The plain model", "The plain model"),
        (BY_IMAGE, REPEAT, "Repeat-factor sampling. Train", "Repeat-factor sampling with LOSS."),
        (BY_PIXEL, WEIGHTS, "Class weights. Train", "LOSS with class weights."),
        (
            BOTH,
            REPEAT | WEIGHTS,
            "Repeat-factor sampling with class weights. Train",
            "Repeat-factor sampling with LOSS and class weights.",
        ),
    ],
)
def test_recipe_of_point_clouds(frequency, keys, words, with_lovasz):
    clouds = ("INPUT.POINTS.VOXEL_SIZE", "0.05")
    recipe = advice(frequency, *clouds)["recipe"]
    assert recipe.recipe == keys
    assert recipe.text.startswith(words)
    # The loss of a config stays, and class weights are added to it.
    ((key, name),) = LOVASZ.items()
    recipe = advice(frequency, *clouds, key, name)["recipe"]
    assert recipe.recipe == {other: keys[other] for other in keys if other != key}
    text = with_lovasz.replace("LOSS", f"the loss {name}")
    assert recipe.text.startswith(text[0].upper() + text[1:])
    load_config(
        "", [*clouds, key, name, *(word for pair in recipe.recipe.items() for word in pair)]
    )


@pytest.mark.parametrize(
    "pretrained",
    [
        ("MODEL.WEIGHTS", "weights.pth"),
        ("MODEL.TIMM.PRETRAINED", "True"),
        ("MODEL.TIMM.CHECKPOINT", "weights.pth"),
    ],
)
def test_recipe_of_a_pretrained_model(pretrained):
    recipe = advice(BY_PIXEL, *pretrained)["recipe"]
    assert recipe.recipe == LOVASZ
    assert recipe.text.startswith(
        "The loss cross_entropy + 0.5 * lovasz. Class weights may raise mIoU@r_pixel, too,"
    )
    advised = [word for pair in LOVASZ.items() for word in pair]
    assert advice(BY_PIXEL, *pretrained, *advised)["recipe"].recipe == {}
    load_config("", [*pretrained, *advised])
    # Losses and weights of a config stay, and nothing is known of clouds.
    for words in (
        ("MODEL.LOSS.NAME", "focal"),
        ("MODEL.LOSS.NAME", "cross_entropy", "MODEL.LOSS.CLASS_WEIGHTS", "median_frequency"),
        ("INPUT.POINTS.VOXEL_SIZE", "0.05"),
    ):
        assert advice(BY_PIXEL, *pretrained, *words)["recipe"].text.startswith("Class weights.")
    recipe = advice(BOTH, *pretrained)["recipe"]
    assert recipe.recipe == REPEAT | LOVASZ
    assert recipe.text.startswith(
        "Repeat-factor sampling with the loss cross_entropy + 0.5 * lovasz. Class weights may"
    )
    assert advice(BY_IMAGE, *pretrained)["recipe"].recipe == REPEAT
    for words in (("MODEL.LOSS.NAME", "focal"), ("MODEL.LOSS.NAME", "dice")):
        assert advice(BOTH, *pretrained, *words)["recipe"].recipe == REPEAT
    recipe = advice(BOTH, *pretrained, *advised)["recipe"]
    assert recipe.recipe == REPEAT and "with the loss cross_entropy + 0.5 * lovasz" in recipe.text


def test_models_that_cannot_take_the_loss():
    pretrained = ["MODEL.WEIGHTS", "weights.pth"]
    weighted = ["MODEL.SEM_SEG_HEAD.NAME", "PanopticDeepLabSemSegHead"]
    assert advice(BY_PIXEL, *pretrained, *weighted)["recipe"].recipe == WEIGHTS
    queries = [*pretrained, "MODEL.TAP.MATCHER", "criterion.matcher"]
    recipe = advice(BY_PIXEL, *queries)["recipe"]
    assert recipe.recipe == {} and "a criterion of its own" in recipe.text
    assert advice(BOTH, *queries)["recipe"].recipe == REPEAT


def test_the_recipe_says_which_metric_shows_the_rare_classes():
    assert "compare mIoU@r_pixel." in advice(BY_PIXEL)["recipe"].text
    assert "compare mIoU@r." in advice(BOTH)["recipe"].text


@pytest.mark.parametrize(
    ("frequency", "expected"),
    [(BY_IMAGE, {}), (BOTH, {})]
    + [(each, {"DATALOADER.SAMPLER_TRAIN": "TrainingSampler"}) for each in (NEITHER, BY_PIXEL)],
)
def test_only_the_keys_that_a_config_lacks(frequency, expected):
    pairs = [word for pair in (REPEAT | WEIGHTS).items() for word in pair]
    recipe = advice(frequency, *pairs)["recipe"].recipe
    assert recipe == expected
    load_config("", [*pairs, *(word for pair in recipe.items() for word in pair)])


@pytest.mark.parametrize(
    ("loss", "expected", "words"),
    [
        ("hard_pixel_mining", {"MODEL.LOSS.CLASS_WEIGHTS": "median_frequency"}, "Class weights."),
        ("focal + dice", {"MODEL.LOSS.CLASS_WEIGHTS": "median_frequency"}, "Class weights."),
        ("dice", {}, "The loss dice."),
        ("cross_entropy + lovasz", {}, "The loss cross_entropy + lovasz."),
        ("seesaw", {}, "The loss seesaw."),
        ("logit_adjustment", {}, "The loss logit_adjustment."),
    ],
)
def test_the_loss_of_a_config_stays(loss, expected, words):
    recipe = advice(BY_PIXEL, "MODEL.LOSS.NAME", loss)["recipe"]
    assert recipe.recipe == expected and recipe.text.startswith(words)


def test_weights_of_the_users_own_stay():
    own = ("MODEL.LOSS.NAME", "focal", "MODEL.LOSS.OWN_CLASS_WEIGHTS", "[1, 2, 3]")
    for frequency in (BY_PIXEL, BY_IMAGE):
        recipe = advice(frequency, *own)["recipe"]
        assert "MODEL.LOSS.CLASS_WEIGHTS" not in recipe.recipe
        assert "lass weights." in recipe.text


@pytest.mark.parametrize("present", [{}, WEIGHTS])
@pytest.mark.parametrize("frequency", [BY_IMAGE, BY_PIXEL, BOTH])
def test_the_pull_of_sar_is_smaller_next_to_reweighting(frequency, present):
    weight = 0.03 if present and frequency is not BY_PIXEL else 0.1
    pairs = [word for pair in present.items() for word in pair]
    assert float(advice(frequency, *SAR, *pairs, PULL, "0.7")["recipe"].recipe[PULL]) == weight
    # Smaller weights stay, and other configs have no pull over classes.
    for words in ((*SAR, PULL, str(weight)), (*SAR, PULL, "0.01"), (PULL, "0.7")):
        assert PULL not in advice(frequency, *words, *pairs)["recipe"].recipe


def test_a_loss_without_class_weights_is_one_reweighting():
    recipe = advice(BY_PIXEL, *SAR, "MODEL.LOSS.NAME", "dice", PULL, "0.7")["recipe"]
    assert recipe.recipe == {PULL: "0.1"}
