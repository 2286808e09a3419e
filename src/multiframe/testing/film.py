"""The pictures of a cine: a beating heart, drawn and encoded fast. Private to the package.

NumPy and Pillow are imported on use.
"""

from __future__ import annotations

import io
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from multiframe.syntaxes import TransferSyntax
from multiframe.testing.numbercode import NUMBER_CODE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import ImageFont
    from PIL.Image import Image

    type Floats = NDArray[np.floating[Any]]

__all__ = ["PHASES", "Film"]

PHASES = 32
"""Frames of one heartbeat: 56 beats a minute."""


class Film:
    """Frames, made fast: a heartbeat of pictures encoded once, and above each a band of its own with the number.

    The JPEG of every picture has a restart marker after each row of MCUs, where all prediction begins anew
    (ISO/IEC 10918-1 E.1.4, F.1.1.5.1). So the rows of the band, encoded apart with the same tables, take the place
    of the picture's own first rows: a fraction of the work of encoding a frame, and to decoders a JPEG like any.
    """

    def __init__(self, rows: int, columns: int, seed: int, phases: int, transfer: TransferSyntax) -> None:
        self.rows, self.columns = rows, columns
        self._native = not transfer.encapsulated
        # The code is 4 cells high with one above and one below it; MCUs of 4:2:2 are 8 pixels high.
        self.band = -(-rows * (NUMBER_CODE.rows + 2) // NUMBER_CODE.grid_rows // 8) * 8
        heart = _Heart(rows, columns, self.band, seed)
        self.depth = heart.depth
        self._title = _title(self.band, columns, rows)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of the GIL
            self._around = list(pool.map(lambda phase: self._split(heart.picture(phase)), range(phases)))

    def mean_size(self, frames: int) -> float:
        """Estimate the mean size of so many frames, to a few bytes."""
        around = sum(len(head) + len(tail) for head, tail in self._around) / len(self._around)
        some = range(1, frames + 1, max(1, frames // 64))
        return around + sum(len(self._numbered(n, frames)) for n in some) / len(some)

    def frame(self, number: int, total: int) -> bytes:
        """Give the frame of a 1-based number, without pad byte."""
        head, tail = self._around[(number - 1) % len(self._around)]
        return b"".join((head, self._numbered(number, total), tail))

    def _numbered(self, number: int, total: int) -> bytes:
        return self._encode(_numbered(self._title, self.rows, number, total))[1]

    def _split(self, picture: Image) -> tuple[bytes, bytes]:
        """Encode a picture and give what comes before the band's bytes, and what after them."""
        head, scan = self._encode(picture)
        if self._native:
            return head, scan[self.band * self.columns * 3 :]
        restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", scan)]
        return head, scan[restarts[self.band // 8 - 1] :] + b"\xff\xd9"

    def _encode(self, picture: Image) -> tuple[bytes, bytes]:
        """Give headers and entropy-coded data; End of Image belongs to neither."""
        if self._native:
            return b"", picture.tobytes()
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY, subsampling="4:2:2", restart_marker_rows=1)
        jpeg = file.getvalue()
        start = jpeg.rindex(b"\xff\xda")  # Start of Scan: cannot occur in entropy-coded data
        start += 2 + int.from_bytes(jpeg[start + 2 : start + 4])
        return jpeg[:start], jpeg[start:-2]


_QUALITY = 97
"""185 KB a frame of 1024 x 768, as the cines have that made this project necessary."""


def _title(height: int, columns: int, rows: int) -> Image:
    """Draw what all bands share."""
    from PIL import Image, ImageDraw, ImageFont

    band = Image.new("RGB", (columns, height))
    draw = ImageDraw.Draw(band)
    em = rows / 40
    draw.text((em, 0.75 * em), "multiframe", "#7fd1e8", ImageFont.load_default(1.2 * em))
    draw.text((em, 2.6 * em), "synthetic, no patient", "#7a8a90", ImageFont.load_default(0.8 * em))
    return band


def _numbered(title: Image, rows: int, number: int, total: int) -> Image:
    """Draw a frame's number into a copy of the band, as digits and as block code."""
    from PIL import ImageDraw

    band = title.copy()
    draw = ImageDraw.Draw(band)
    big, small = _fonts(rows)
    em = rows / 40
    digits = f"{number}"
    draw.text((band.width / 2, 4.3 * em), digits, "white", big, "ms")
    draw.text((band.width / 2 + big.getlength(digits) / 2 + em, 4.3 * em), f"of {total}", "#7a8a90", small, "ls")
    code = NUMBER_CODE
    height, width = rows / code.grid_rows, band.width / code.grid_columns
    for i, bit in enumerate(code.bits(number)):
        row, column = divmod(i, code.columns)
        x, y = (code.left + column) * width, (code.top + row) * height
        if bit:
            draw.rectangle((round(x), round(y), round(x + width) - 1, round(y + height) - 1), "white")
    return band


@lru_cache(maxsize=4)
def _fonts(rows: int) -> tuple[ImageFont.FreeTypeFont, ImageFont.FreeTypeFont]:
    from PIL import ImageFont

    return ImageFont.load_default(rows / 10), ImageFont.load_default(rows / 40)  # type: ignore[return-value]


class _Heart:
    """A beating heart as a sector scan: four chambers, speckle that moves with the wall, flow through a valve.

    One still picture is made in polar coordinates, as a scanner sees it; a phase of the beat only says where in it
    each pixel of the sector looks. Lengths are in units of the sector's depth.
    """

    # Left and right ventricle, left and right atrium: centre, half axes, tilt; how far and how much they contract.
    CHAMBERS = (
        (0.09, 0.43, 0.125, 0.24, -0.15, 0.24, 0.30),
        (-0.20, 0.46, 0.095, 0.20, 0.22, 0.19, 0.22),
        (0.115, 0.80, 0.135, 0.125, 0.0, 0.17, -0.16),
        (-0.20, 0.78, 0.12, 0.115, 0.0, 0.15, -0.14),
    )
    SHAPE = (720, 360)
    OPENING = 0.7156  # radians to either side: 41 degrees

    def __init__(self, rows: int, columns: int, band: int, seed: int) -> None:
        import numpy as np

        self.rows, self.columns, self.band = rows, columns, band
        self.depth = 0.93 * min(rows - band, columns / 1.35)
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        x = (x - columns / 2) / self.depth
        y = (y - band) / self.depth - 0.01
        r = np.hypot(x, y)
        self._inside = np.flatnonzero((y > 0) & (r > 0.03) & (r < 1) & (np.abs(np.arctan2(x, y)) < self.OPENING))
        self._x, self._y = x.ravel()[self._inside], y.ravel()[self._inside]

        rng = np.random.default_rng(seed)
        radius = np.linspace(0, 1.1, self.SHAPE[0])[:, None]
        angle = np.linspace(-1.15, 1.15, self.SHAPE[1])[None] * self.OPENING
        echo = self._echo(radius * np.sin(angle), radius * np.cos(angle))
        # Fully developed speckle: the magnitude of blurred complex noise. The beam widens with depth by itself.
        fy, fx = np.fft.fftfreq(self.SHAPE[0])[:, None], np.fft.fftfreq(self.SHAPE[1])
        beam = np.exp(-2 * np.pi**2 * ((1.5 * fy) ** 2 + (1.6 * fx) ** 2))
        noise = rng.standard_normal(self.SHAPE) + 1j * rng.standard_normal(self.SHAPE)
        speckle = np.abs(np.fft.ifft2(np.fft.fft2(noise) * beam))
        decibels = 20 * np.log10(speckle / speckle.mean() * echo + 1e-4) - 14 * (radius - 0.45)
        self._still = np.clip((decibels + 42) / 52 * 255, 0, 255).astype(np.float32).ravel()

    def _echo(self, x: Floats, y: Floats) -> Floats:
        """Say how strongly tissue answers."""
        import numpy as np

        def below(distance: Floats, soft: float) -> Floats:
            answer: Floats = 1 / (1 + np.exp(np.clip(distance / soft, -40, 40)))
            return answer

        def ellipse(cx: float, cy: float, rx: float, ry: float, tilt: float) -> Floats:
            c, s = np.cos(tilt), np.sin(tilt)
            along, across = ((x - cx) * c + (y - cy) * s) / rx, ((y - cy) * c - (x - cx) * s) / ry
            distance: Floats = np.hypot(along, across) + uneven
            return distance

        uneven: Floats = 0.03 * np.sin(9 * x + 4 * y) + 0.03 * np.sin(7 * y - 3 * x)
        echo: Floats = 0.12 + 0.08 * np.sin(5 * x + 11 * y) ** 2
        heart = ellipse(-0.03, 0.58, 0.36, 0.40, 0.02)
        echo = echo + (0.42 - echo) * below(heart - 1, 0.02)
        echo += 1.6 * np.exp(-(((heart - 1.02) / 0.03) ** 2)) * (0.4 + 0.6 * below(0.5 - y, 0.1))
        for cx, cy, rx, ry, tilt, _, _ in self.CHAMBERS:
            wall = ellipse(cx, cy, rx, ry, tilt)
            echo = echo * (1 - 0.985 * below(wall - 1, 0.05)) + 0.25 * np.exp(-(((wall - 1.06) / 0.04) ** 2))
        for cx, cy, half in ((0.10, 0.665, 0.11), (-0.195, 0.655, 0.085)):  # the valves between them
            leaflet = np.abs(y - cy + 0.25 * np.abs(x - cx) - 0.02)
            echo += 0.9 * np.exp(-((leaflet / 0.01) ** 2)) * below(np.abs(x - cx) - half, 0.01)
        echo += 0.8 * np.exp(-np.hypot(x, y) / 0.05)
        return echo

    def picture(self, phase: int) -> Image:
        """Draw one phase of the beat; the band above stays black."""
        import numpy as np
        from PIL import Image

        turn = 2 * np.pi * phase / PHASES
        squeeze = 0.5 - 0.5 * np.cos(turn)
        x, y = self._x, self._y
        # Where the tissue seen at (x, y) lies when the heart is at rest.
        rest_x = x.copy()
        rest_y = y + 0.05 * squeeze * np.exp(-(((y - 0.66) / 0.2) ** 2))
        for cx, cy, _, _, _, reach, strength in self.CHAMBERS:
            dx, dy = x - cx, y - cy
            pull = strength * squeeze * np.exp(-(dx * dx + 0.5 * dy * dy) / reach**2)
            rest_x += dx * pull
            rest_y += 0.5 * dy * pull
        grey = self._look(np.hypot(rest_x, rest_y), np.arctan2(rest_x, rest_y))
        rgb = np.repeat(grey[:, None], 3, 1)
        # Colour Doppler where blood is: towards the probe while the ventricle fills, away while it empties.
        flow = -np.sin(turn)
        jet = np.exp(-(((x - 0.07 - 0.2 * (y - 0.6)) / 0.055) ** 2) - ((y - 0.60) / 0.12) ** 2) * abs(flow)
        jet = (np.clip(2.2 * jet - 0.5, 0, 1) * np.clip((110 - grey) / 60, 0, 1))[:, None]
        ramp = [200 + 55 * jet, 60 + 150 * jet**3, 20 + 0 * jet]
        rgb += (np.hstack(ramp if flow > 0 else ramp[::-1]) - rgb) * jet
        canvas = np.zeros((self.rows * self.columns, 3), np.uint8)
        canvas[self._inside] = rgb
        picture = Image.fromarray(canvas.reshape(self.rows, self.columns, 3))
        self._annotate(picture, phase)
        return picture

    def _look(self, radius: Floats, angle: Floats) -> Floats:
        """Interpolate the still picture."""
        import numpy as np

        height, width = self.SHAPE
        i = np.clip(radius * ((height - 1) / 1.1), 0, height - 1.001)
        j = np.clip((angle / self.OPENING / 1.15 + 1) * ((width - 1) / 2), 0, width - 1.001)
        i0, j0 = i.astype(np.int32), j.astype(np.int32)
        i, j = i - i0, j - j0
        at = i0 * width + j0
        still = self._still
        upper = still.take(at) * (1 - j) + still.take(at + 1) * j
        lower = still.take(at + width) * (1 - j) + still.take(at + width + 1) * j
        return upper * (1 - i) + lower * i  # type: ignore[no-any-return]

    def _annotate(self, picture: Image, phase: int) -> None:
        """Draw a grey wedge, a depth scale, and the ECG with the moment of this picture."""
        from math import exp

        from PIL import ImageDraw

        draw = ImageDraw.Draw(picture)
        top, em = self.band, self.rows / 40
        for step in range(64):
            shade = 255 - 4 * step
            y = top + (2 + 8 * step / 64) * em
            draw.rectangle((em, y, 1.6 * em, y + em / 8), (shade, shade, shade))
        for centimetre in range(17):
            y = top + self.depth * (0.01 + centimetre / 16)
            length = em * (0.7 if centimetre % 5 == 0 else 0.35)
            draw.line((self.columns - em - length, y, self.columns - em, y), "#7a8a90", max(1, round(em / 10)))

        def ecg(beat: float) -> float:
            p, q = (0.86, 0.4, 0.03), (0.985, -0.4, 0.01)
            r, s, t = (0.02, 3.0, 0.014), (0.055, -0.8, 0.012), (0.32, 0.7, 0.05)
            return sum(height * exp(-(((beat - at) / width) ** 2)) for at, height, width in (p, q, r, s, t))

        left, base, length = em, self.rows - 2 * em, self.columns * 0.2
        trace = [(left + length * i / 200, base - em * ecg(i / 200)) for i in range(201)]
        draw.line(trace, "#4fbf6f", max(1, round(em / 10)))
        x, y = trace[200 * phase // PHASES]
        draw.ellipse((x - em / 4, y - em / 4, x + em / 4, y + em / 4), "#ffd75f")
