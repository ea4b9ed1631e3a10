from __future__ import annotations

import asyncio
import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from consumers import GiveUp
from consumers.examples import thumbnails as module
from consumers.examples.thumbnails import thumbnails
from tests.consumers.examples.support import FakeContext, Files

ORIENTATION = 0x0112  # EXIF tag


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    written = io.BytesIO()
    picture.save(written, kind, **options)
    return written.getvalue()


def as_input(data: bytes, **more: object) -> dict[str, object]:
    return {"image": base64.b64encode(data).decode(), **more}


def attached(ctx: FakeContext, name: str) -> Image.Image:
    return Image.open(io.BytesIO(ctx.files[name][0]))


def claiming(width: int, height: int) -> bytes:
    """Build a tiny PNG whose header claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_the_sample_in_every_default_size(ctx: FakeContext) -> None:
    result = thumbnails(ctx, {"sample": True})
    assert (result["source"]["width"], result["source"]["height"]) == (1600, 1000)
    assert [made["fits"] for made in result["thumbnails"]] == [64, 128, 256, 512]
    for made in result["thumbnails"]:
        picture = attached(ctx, made["name"])
        assert picture.format == "JPEG"
        assert picture.size == (made["width"], made["height"]) == (made["fits"], round(made["fits"] / 1.6))
        assert made["size"] == len(ctx.files[made["name"]][0])
        assert (made["type"], made["url"]) == ("image/jpeg", f"/{made['name']}")
    assert list(ctx.reports[-1]) == [4, 4, "512 pixels: 4 of 4"]
    assert len(attached(ctx, "thumbnail-512.jpg").getcolors(512 * 512) or []) > 500  # it shows something


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_formats(ctx: FakeContext, kind: str) -> None:
    picture = Image.new("RGBA", (300, 600), (200, 0, 0, 128))
    result = thumbnails(ctx, as_input(encoded(picture), sizes=[100], format=kind))
    (made,) = result["thumbnails"]
    found = attached(ctx, made["name"])
    assert (found.format, found.size, made["type"]) == (kind.upper(), (50, 100), f"image/{kind}")
    assert found.has_transparency_data is (kind != "jpeg")
    if kind == "jpeg":
        red, green, blue = found.convert("RGB").getpixel((25, 50))  # type: ignore[misc] # three bands
        assert red > 200
        assert 100 < green < 150
        assert 100 < blue < 150


def test_transparency_makes_a_png_and_small_pictures_stay_small(ctx: FakeContext) -> None:
    result = thumbnails(ctx, as_input(encoded(Image.new("LA", (20, 10))), sizes=[64, 64]))
    (made,) = result["thumbnails"]
    assert (made["name"], made["width"], made["height"]) == ("thumbnail-64.png", 20, 10)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "I;16", "RGB"])
def test_every_mode_of_a_picture(ctx: FakeContext, mode: str) -> None:
    data = encoded(Image.new(mode, (40, 40)), "JPEG" if mode == "CMYK" else "PNG")
    assert thumbnails(ctx, as_input(data, sizes=[16]))["thumbnails"][0]["width"] == 16


def test_the_orientation_is_applied_and_the_rest_of_the_metadata_dropped(ctx: FakeContext) -> None:
    picture = Image.new("RGB", (80, 40), "blue")
    picture.paste("red", (0, 0, 40, 40))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was held upright: to be turned clockwise
    exif[0x013B] = "the photographer"
    thumbnails(ctx, as_input(encoded(picture, "JPEG", exif=exif), sizes=[40]))
    found = attached(ctx, "thumbnail-40.jpg").convert("RGB")
    assert found.size == (20, 40)
    red, _, blue = found.getpixel((10, 5))  # type: ignore[misc] # three bands
    assert red > 200 > blue
    assert b"photographer" not in ctx.files["thumbnail-40.jpg"][0]


@pytest.mark.parametrize("size", [(7000, 7000), (12_000, 12_000), (60_000, 60_000)])
def test_bombs_are_refused_before_decoding(ctx: FakeContext, size: tuple[int, int]) -> None:
    with pytest.raises(GiveUp, match="pixels"):
        thumbnails(ctx, as_input(claiming(*size)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "none of the pictures"),
        (b"GIF89a", "none of the pictures|damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "none of the pictures"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of the pictures"),
        (claiming(100, 100), "damaged"),
        (encoded(Image.effect_noise((200, 200), 50))[:5000], "damaged"),
        (encoded(Image.effect_noise((200, 200), 50), "JPEG")[:5000], "damaged"),
    ],
)
def test_garbage_is_refused(ctx: FakeContext, data: bytes, reason: str) -> None:
    with pytest.raises(GiveUp, match=reason):
        thumbnails(ctx, as_input(data))
    assert ctx.files == {}


@pytest.mark.parametrize(
    ("job_input", "reason"),
    [
        ({}, 'one of "image", "url" and "sample"'),
        ({"image": "#", "sample": False}, "not base64"),
        ({"image": "ünicode"}, "not base64"),
        ({"sample": True, "sizes": []}, r"input\.sizes"),
        ({"sample": True, "sizes": [1] * 9}, r"input\.sizes"),
        ({"sample": True, "sizes": [2049]}, r"input\.sizes\[0\] is not valid: expected `int` <= 2048"),
        ({"sample": True, "format": "bmp"}, r"input\.format"),
    ],
)
def test_a_wrong_input_names_the_field(ctx: FakeContext, job_input: object, reason: str) -> None:
    with pytest.raises(GiveUp, match=reason):
        thumbnails(ctx, job_input)


def test_without_pillow_it_says_what_to_install(ctx: FakeContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_pillow", value=False)
    with pytest.raises(GiveUp, match=r"needs Pillow: pip install"):
        thumbnails(ctx, {"sample": True})


async def test_a_picture_is_downloaded_through_the_guard(
    ctx: FakeContext, ctx_local: FakeContext, files: Files
) -> None:
    files.bodies["/a.png"] = encoded(Image.new("RGB", (30, 30)))
    job_input = {"url": f"{files.url}/a.png", "sizes": [10]}
    result = await asyncio.to_thread(thumbnails, ctx_local, job_input)
    assert result["thumbnails"][0]["width"] == 10
    with pytest.raises(GiveUp, match="not allowed"):
        await asyncio.to_thread(thumbnails, ctx, job_input)
