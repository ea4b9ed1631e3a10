"""Paints the sample picture: mountains at dusk, the same for the same size. Needs Pillow."""

from __future__ import annotations

import math

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

_SKY: tuple[Colour, Colour] = ((24, 30, 78), (250, 158, 106))
_RIDGES: tuple[tuple[float, float, Colour], ...] = (  # (height of the ridge, roughness, colour), far to near
    (0.55, 0.9, (126, 92, 128)),
    (0.65, 1.3, (90, 66, 110)),
    (0.76, 1.8, (56, 44, 84)),
    (0.88, 2.6, (24, 22, 48)),
)


def landscape(width: int = 1600, height: int = 1000) -> Image.Image:
    """Paint the picture, `width` by `height` pixels, RGB."""
    picture = _gradient(width, height)
    picture = ImageChops.screen(picture, _sun(width, height))
    for number, (level, roughness, colour) in enumerate(_RIDGES):
        ridge = _ridge(width, height, level, roughness, phase=number * 1.7)
        ImageDraw.Draw(picture).polygon([(0, height), *ridge, (width, height)], fill=colour)
    return picture


def _gradient(width: int, height: int) -> Image.Image:
    shade = Image.linear_gradient("L").resize((width, height))
    top, bottom = (Image.new("RGB", (width, height), colour) for colour in _SKY)
    return Image.composite(bottom, top, shade)


def _sun(width: int, height: int) -> Image.Image:
    radius, x, y = height // 12, int(width * 0.68), int(height * 0.42)
    light = Image.new("RGB", (width, height))
    box = (x - radius, y - radius, x + radius, y + radius)
    ImageDraw.Draw(light).ellipse(box, fill=(255, 214, 150))
    glow = light.filter(ImageFilter.GaussianBlur(radius))
    return ImageChops.add(glow, light)


def _ridge(width: int, height: int, level: float, roughness: float, phase: float) -> list[tuple[int, int]]:
    step = max(1, width // 400)
    points = []
    for x in range(0, width + step, step):
        at = x / width * math.tau * roughness + phase
        bump = math.sin(at) + 0.5 * math.sin(2.3 * at + phase) + 0.22 * math.sin(7.1 * at) + 0.1 * math.sin(17 * at)
        points.append((x, int(height * (level - 0.06 * bump))))
    return points
