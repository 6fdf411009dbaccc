"""A picture to draw on with NumPy alone: boxes and text."""

from __future__ import annotations

import base64
import struct
import zlib
from functools import cache

import numpy as np

Color = tuple[int, int, int]

GLYPH = (13, 6)
"""Height and width of a character, in pixels."""

# The printable characters of ASCII in X11's misc-fixed 6x13: "Public domain font. Share and enjoy."
_FONT = (
    "c-"
    "l=;F>ljA6uvqpeho!ART&r}ba7m2LZwh9hN_B<f@l{=e*t1Z(5YoYOwP$tn+uc0gep`Wkx)GH3#y7CLi~t|iLuQTGV$J>3$ZNw%gg8YefPb`"
    "*uM*e1d#xuUiZ3oqxR?7$L9!~JNl?{{~XckID%+*glMS}#)HvoL=p;q43Wz_(q%3PL@{(2^S`#lwM6q5{1-"
    "gu=C#chJRBs9iIk^Yl4wnZdJt3nC3=&@d>cxhiWy_2i?nej2WRNR-"
    "RuUlh+4^;4<S4;G%*eJfuV89=}*sB>v$uotMId>F{du9sChm}5u^>^qC+KCO-dK^?mI5T97{_R4Kc99blcCrd5B;y)bmgy?JCF)gY1%Mr|6f"
    "wRabX{Y^QC!!IlI%!W_gDleV;FO*GJ|tyPG%I!!^=k@g4!jDi>FF&urV1WFVml2xSn!~I+t(cwm(ztP9W8^uMUzG@3I6FjL_trLWp#&qBt+G"
    "*eBRy{WDkmeK31cIQ~1wo=(<@vZn-g<FukG%PVF4(@ahTCvy3Ww+sZ;!l1j?3{_o-"
    "Mf;e&cDv7B6((U-;=c@9%vw>$8Qrm!^h;BX3MD|JG{VeD3*kAa9!izryV*X!;!*Mms-kZcLPm+*oG?)w3te0g-"
    "(OGdxV$1b1Y<yw%EcZP3P#kaDx#j3_Hj^l(C>VIHbW3Ib_nSVX()8XAB6okvZ(uv(cTP=;$YyXUH9a>ESQphy5|uT17_+ive|2~G6ZPspX6!"
    "U{gih>^8BE)x0+(QUtw"
)


@cache
def _font() -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(zlib.decompress(base64.b85decode(_FONT)), np.uint8))
    return bits[: 95 * GLYPH[0] * GLYPH[1]].reshape(95, *GLYPH).astype(bool)


def color(text: str) -> Color:
    """Return a colour written as "#rrggbb"."""
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


class Canvas:
    """An RGB picture; parts outside of it are not drawn.

    Attributes:
        pixels: shape (height, width, 3), uint8; x counts to the right, y down.
    """

    def __init__(self, width: int, height: int, background: Color = (255, 255, 255)) -> None:
        """Make a picture of one colour."""
        self.pixels = np.full((height, width, 3), background, np.uint8)

    def box(self, x: float, y: float, width: float, height: float, fill: Color) -> None:
        """Fill a rectangle."""
        left, top = max(0, round(x)), max(0, round(y))
        self.pixels[top : max(0, round(y + height)), left : max(0, round(x + width))] = fill

    def frame(self, x: int, y: int, width: int, height: int, ink: Color) -> None:
        """Draw the outline of a rectangle, one pixel wide."""
        for left, top, w, h in ((x, y, width, 1), (x, y + height - 1, width, 1), (x, y, 1, height),
                                (x + width - 1, y, 1, height)):  # fmt: skip
            self.box(left, top, w, h, ink)

    def text(self, x: float, y: float, text: str, ink: Color = (40, 40, 40), align: str = "left",
             bold: bool = False) -> None:  # fmt: skip
        """Write a line whose upper left corner is (x, y), or its upper right one, or the middle of its upper edge.

        Args:
            x: pixels from the left.
            y: pixels from the top.
            text: ASCII; other characters appear as a question mark.
            ink: its colour.
            align: "left", "right" or "middle".
            bold: strokes one pixel wider.
        """
        codes = [ord(c) - 32 if 32 <= ord(c) < 127 else ord("?") - 32 for c in text]
        if not codes:
            return
        glyphs = np.concatenate(_font()[codes], axis=1)
        x -= {"left": 0.0, "middle": 0.5, "right": 1.0}[align] * glyphs.shape[1]
        rows, columns = np.nonzero(glyphs)
        for right in (0, 1)[: 1 + bold]:
            self._dots(columns + round(x) + right, rows + round(y), ink)

    def _dots(self, x: np.ndarray, y: np.ndarray, ink: Color) -> None:
        height, width, _ = self.pixels.shape
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        self.pixels[y[inside], x[inside]] = ink

    def png(self) -> bytes:
        """Return the picture as a PNG file (ISO/IEC 15948: RGB, 8 bits, no filter)."""
        height, width, _ = self.pixels.shape
        rows = np.zeros((height, 1 + 3 * width), np.uint8)
        rows[:, 1:] = self.pixels.reshape(height, -1)
        header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
