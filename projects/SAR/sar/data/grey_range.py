"""Which values of 16-bit images become black and white."""

from dataclasses import dataclass

import numpy as np

from sar.errors import InputError

from detectron2.config import CfgNode

MAX_VALUE = 65535


@dataclass(frozen=True)
class GreyRange:
    """The values of 16-bit grey images that become 0 (black) and 255 (white).

    Values between them are scaled linearly, values outside are clipped. By default, the whole
    range of 16 bits is kept: 65535 becomes 255.

    Raises:
        InputError: not 0 <= black < white <= 65535.
    """

    black: int = 0
    white: int = MAX_VALUE

    def __post_init__(self) -> None:
        if not 0 <= self.black < self.white <= MAX_VALUE:
            raise InputError(
                f"INPUT.BLACK_POINT is {self.black} and INPUT.WHITE_POINT {self.white}, expected 0 "
                f"<= BLACK_POINT < WHITE_POINT <= {MAX_VALUE}."
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "GreyRange":
        return cls(cfg.INPUT.BLACK_POINT, cfg.INPUT.WHITE_POINT)

    def to_8_bits(self, values: np.ndarray) -> np.ndarray:
        """Scale values of 16 bits, uint16 of any shape, to uint8 of the same shape."""
        width = np.uint32(self.white - self.black)
        above_black = np.clip(values, self.black, self.white).astype(np.uint32) - self.black
        return ((above_black * 255 + width // 2) // width).astype(np.uint8)
