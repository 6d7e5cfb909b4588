"""Scale grey images of 16 bits to 8 bits."""

from dataclasses import dataclass

import numpy as np

from sar.errors import InputError

from detectron2.config import CfgNode

MAX_VALUE = 65535


@dataclass(frozen=True)
class GreyRange:
    """Values of 16-bit grey images that become 0 (black) and 255 (white).

    Values between them are scaled linearly, and values outside are clipped. By default, 0 stays 0
    and 65535 becomes 255.

    Raises:
        InputError: unless 0 <= black < white <= 65535.
    """

    black: int = 0
    white: int = MAX_VALUE

    def __post_init__(self) -> None:
        if not 0 <= self.black < self.white <= MAX_VALUE:
            raise InputError(
                f"INPUT.BLACK_POINT is {self.black} and INPUT.WHITE_POINT {self.white}. Expected 0 "
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
