"""Gives a value of a config the type of its key, if it can mean only one thing."""

import ast
import math

from sar.errors import InputError

# Empty by default, so that the default does not show what lists hold.
_LISTS_OF_NAMES = (
    "MODEL.REGULARIZERS",
    "MODEL.FPN.IN_FEATURES",
    "DATASETS.TRAIN",
    "DATASETS.TEST",
    "DATASETS.PROPOSAL_FILES_TRAIN",
    "DATASETS.PROPOSAL_FILES_TEST",
)
_NUMBER = (int, float)
_KINDS = (int, float, str, tuple, list, type(None))
_LISTS_OF_NUMBERS = ("MODEL.LOSS.OWN_CLASS_WEIGHTS",)
_NUMBERS_OR_NONE = ("SOLVER.WEIGHT_DECAY_BIAS",)
# (height, width): one number is both.
_PAIRS = ("INPUT.CROP.SIZE", "TEST.CROP_SIZE", "TEST.CROP_STRIDE")
# Lists of any length whose default has several numbers.
_LISTS_OF_ANY_LENGTH = ("TEST.AUG.MIN_SIZES", "TEST.AUG.ANGLES")
_MOST_CHARACTERS = 10_000
_LARGEST_INT = 2**63 - 1


def typed_value(key: str, value: object, default: object, place: str) -> object:
    """Return a value of a YAML file, or a word of the command line, with the type of its key.

    Texts are read as Python or YAML writes them: 1e-4, true, (64, 64), 64,64, a,b. One value for a
    key that holds a list becomes a list, and both numbers of a pair.

    Args:
        key: dotted, such as "SOLVER.STEPS".
        default: value of the key in the project's config, which has the type.
        place: where the value comes from, for messages.

    Raises:
        InputError: another type, nan, null, or a value that is too long.
    """
    if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
        raise InputError(
            f"{place}: {key} is a text of {len(value)} characters, expected at most "
            f"{_MOST_CHARACTERS}"
        )
    literal = _literal(value)
    _check_numbers(key, literal, place)
    if default is None:
        if key in _NUMBERS_OR_NONE:
            is_taken, expected = literal is None or _is_number(literal), "a number or None"
        else:  # the default does not show the type, so any is taken, as yacs does
            is_taken, expected = isinstance(literal, _KINDS), "a text, a number, a list or None"
        if is_taken:
            return literal
        raise InputError(f"{place}: {key} is {_shown(value)}, expected {expected}")
    if value is None or literal is None and not isinstance(default, str):
        raise InputError(f"{place}: {key} is null. Give it a value, or leave it out")
    if isinstance(default, (tuple, list)):
        return _typed_list(key, literal, default, place)
    try:
        return _typed_scalar(value, literal, default)
    except ValueError as error:
        raise InputError(f"{place}: {key} is {_shown(value)}, expected {error}") from None


def _literal(value: object) -> object:
    """What a text means to Python, or the text itself; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        literal = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value
    return literal if isinstance(literal, _KINDS) else value


def _check_numbers(key: str, value: object, place: str) -> None:
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(item, (tuple, list)):
            _check_numbers(key, item, place)
        elif isinstance(item, int) and abs(item) > _LARGEST_INT:
            raise InputError(f"{place}: {key} has a whole number of more than 64 bits")
        elif isinstance(item, float) and math.isnan(item):
            raise InputError(f"{place}: {key} is {_shown(value)}, but nan is no number")


def _typed_scalar(value: object, literal: object, default: object) -> object:
    """Raises ValueError, with what is expected, for another type."""
    if isinstance(default, bool):
        if isinstance(literal, bool):
            return literal
        words = {"true": True, "false": False}
        if isinstance(literal, str) and literal.strip().lower() in words:
            return words[literal.strip().lower()]
        raise ValueError("True or False")
    if isinstance(default, str):
        if not isinstance(value, str):
            raise ValueError("a text: write it in quotes")
        return literal if isinstance(literal, str) else value
    if isinstance(default, float):
        if _is_number(literal):
            return float(literal)
        raise ValueError("a number")
    if _is_number(literal) and math.isfinite(literal) and literal == int(literal):  # also 4e4
        return int(literal)
    raise ValueError("a whole number")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _typed_list(key: str, value: object, default: tuple | list, place: str) -> tuple | list:
    holds_names = key in _LISTS_OF_NAMES or bool(default) and isinstance(default[0], str)
    holds_numbers = key in _LISTS_OF_NUMBERS or bool(default) and isinstance(default[0], _NUMBER)
    example = _shown(default)[1:-1].rstrip(",")
    if not default:
        example = "'a', 'b'" if holds_names else "0.5, 2.0" if holds_numbers else ""
    expected = f"{'names' if holds_names else 'numbers'}, such as [{example}]"
    error = InputError(f"{place}: {key} is {_shown(value)}, expected {expected}")
    if isinstance(value, str):
        items = _names(value) if holds_names or not (default or holds_numbers) else None
        if items is None:
            raise error
    elif isinstance(value, (tuple, list)):
        items = list(value)
    elif holds_names or isinstance(value, dict):
        raise error
    elif key in _PAIRS:
        items = [value, value]
    elif len(default) < 2 or key in _LISTS_OF_ANY_LENGTH:
        items = [value]
    else:
        raise InputError(f"{place}: {key} is {_shown(value)}, expected {len(default)} {expected}")
    if holds_names:
        if not all(isinstance(item, str) for item in items):
            raise error
    elif holds_numbers:
        # YAML takes 1e-4 for a text.
        items = [_literal(item) for item in items]
        if not all(isinstance(item, _NUMBER) for item in items):
            raise error
    return type(default)(items)


def _names(text: str) -> list[str] | None:
    """The names of "a", "a,b" or "[a, b]", whose quotes a shell has removed."""
    text = text.strip()
    if text[:1] + text[-1:] in ("()", "[]"):
        text = text[1:-1]
    if any(bracket in text for bracket in "()[]"):
        return None
    names = [name.strip() for name in text.split(",")]
    return names[:-1] if names[-1] == "" else names


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
