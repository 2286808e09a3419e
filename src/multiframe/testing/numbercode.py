"""The number in the picture: a block code that survives scaling and encoding, and its reader.

NumPy is imported on use.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NUMBER_CODE", "NumberCode", "read_number"]


class NumberCode(NamedTuple):
    """Where the block code of the frame number lies in a picture of any size.

    Lay a grid of `grid_columns` x `grid_rows` over the whole picture. The code is the cells from (`left`, `top`),
    `columns` wide and `rows` high; white is 1, black is 0. Read row by row, highest bit first, they are 32 bits:
    4 of `mark`, 20 of the number, 8 of the number modulo `modulus`. Judge a cell by the mean of its inner half.

    Examples
    --------
    >>> NUMBER_CODE._asdict()  # what a browser test needs, as JSON
    {'grid_columns': 64, 'grid_rows': 48, 'left': 55, 'top': 1, 'columns': 8, 'rows': 4, 'mark': 10, 'modulus': 251}
    """

    grid_columns: int = 64
    grid_rows: int = 48
    left: int = 55
    top: int = 1
    columns: int = 8
    rows: int = 4
    mark: int = 0b1010
    modulus: int = 251

    def bits(self, number: int) -> list[int]:
        """Give the cells of a number, row by row."""
        if not 0 < number < 1 << 20:
            raise ValueError(f"frame number {number} is not in 1 to {(1 << 20) - 1}")
        word = self.mark << 28 | number << 8 | number % self.modulus
        return [word >> i & 1 for i in reversed(range(32))]

    def number(self, bits: Iterable[int]) -> int | None:
        """Give the number of cells, or None where mark or check do not fit.

        Examples
        --------
        >>> NUMBER_CODE.number(NUMBER_CODE.bits(8090))
        8090
        """
        word = int("".join(str(int(bit)) for bit in bits), 2)
        number = word >> 8 & 0xFFFFF
        fits = word >> 28 == self.mark and number % self.modulus == word & 0xFF and number > 0
        return number if fits else None


NUMBER_CODE = NumberCode()


def read_number(picture: NDArray[Any]) -> int | None:
    """Read the 1-based frame number out of a picture of `cine`.

    Parameters
    ----------
    picture : ndarray
        Grey ``(rows, columns)`` or RGB(A) ``(rows, columns, samples)``, at any scale; of a screenshot, the part
        that is the picture, for the code is found by its place alone (see `NumberCode`).

    Returns
    -------
    int or None
        None: no number can be read with certainty.

    Examples
    --------
    >>> import numpy as np
    >>> read_number(np.zeros((768, 1024), np.uint8)) is None
    True
    """
    import numpy as np

    code = NUMBER_CODE
    height = picture.shape[0] / code.grid_rows
    width = picture.shape[1] / code.grid_columns
    cells = np.empty((code.rows, code.columns))
    for row in range(code.rows):
        for column in range(code.columns):
            y, x = (code.top + row) * height, (code.left + column) * width
            # The inner half, and at least the pixel in the middle.
            y0, y1 = round(y + height / 4), round(y + height * 3 / 4)
            x0, x1 = round(x + width / 4), round(x + width * 3 / 4)
            inner = picture[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
            cells[row, column] = np.mean(inner[..., :3]) if picture.ndim == 3 else np.mean(inner)
    low, high = cells.min(), cells.max()
    if not high - low >= 64:  # a picture without the code is no number, whatever its noise says
        return None
    return code.number((cells > (low + high) / 2).ravel().tolist())
