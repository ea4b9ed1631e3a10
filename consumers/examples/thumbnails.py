"""`image.thumbnails`: scales a picture down to several sizes, each attached to the job."""

from __future__ import annotations

import base64
import io
from typing import Annotated, Any, Literal

import msgspec

from consumers import Context, GiveUp, task
from consumers.examples.fetch import fetch
from consumers.examples.inputs import one_of, parse

try:
    from PIL import Image, ImageOps, UnidentifiedImageError

    from consumers.examples.picture import landscape
except ModuleNotFoundError as _missing:  # an optional dependency; the task says so when it is called
    if _missing.name != "PIL":
        raise
    _pillow = False
else:
    _pillow = True

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 40_000_000  # 160 MB as RGBA; a few kilobytes of PNG can claim far more
# The formats browsers show. Fewer decoders, less to attack: Pillow would even start Ghostscript for EPS.
_READ = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_QUALITY = 85

Format = Literal["jpeg", "png", "webp"]
Size = Annotated[int, msgspec.Meta(ge=1, le=2048)]


class ThumbnailsInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `image.thumbnails`: exactly one of `image`, `url` and `sample`.

    Attributes:
        image: a JPEG, PNG, WebP, GIF or BMP file in base64.
        url: where to download it, at most 20 MiB.
        sample: true for a picture painted on the spot.
        sizes: pixels of the longer side, 1 to 2048; a smaller picture is not made larger.
        format: of the thumbnails; by default JPEG, or PNG for pictures with transparency.
    """

    image: str | None = None
    url: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    sample: bool = False
    sizes: Annotated[tuple[Size, ...], msgspec.Meta(min_length=1, max_length=8)] = (64, 128, 256, 512)
    format: Format | None = None


# A process of its own: decoders are C code fed with strangers' files, and a crash must end one attempt only.
@task("image.thumbnails", timeout=180, max_attempts=3, processes=True)
def thumbnails(ctx: Context, job_input: object) -> dict[str, Any]:
    """Make thumbnails; see `ThumbnailsInput`.

    Returns:
        `source` {format, width, height, bytes} and `thumbnails`, a list of
        {name, type, size (bytes), url, width, height, fits (the asked size)}.

    Raises:
        GiveUp: the input is not valid, the picture cannot be had or read, or Pillow is missing.
        Retry: the download may work later.
    """
    if not _pillow:
        raise GiveUp("image.thumbnails needs Pillow: pip install 'notification-gateway[examples]'")
    wanted = parse(job_input, ThumbnailsInput)
    data = _source(ctx, wanted)
    picture, original = open_picture(data)
    sizes = sorted(set(wanted.sizes))
    made = []
    for number, size in enumerate(sizes, 1):
        made.append(_attach(ctx, picture, size, wanted.format))
        ctx.progress(number, len(sizes), f"{size} pixels: {number} of {len(sizes)}")
    return {"source": original, "thumbnails": made}


def _source(ctx: Context, wanted: ThumbnailsInput) -> bytes:
    one_of(image=wanted.image, url=wanted.url, sample=wanted.sample)
    if wanted.url is not None:
        with fetch(ctx, wanted.url, limit=MAX_BYTES) as file:
            return file.read()
    if wanted.image is not None:
        try:
            return base64.b64decode(wanted.image, validate=True)
        except ValueError as error:  # binascii.Error is one
            raise GiveUp(f"input.image is not base64: {error}") from None
    painted = io.BytesIO()
    landscape().save(painted, "JPEG", quality=92)
    return painted.getvalue()


def open_picture(data: bytes) -> tuple[Image.Image, dict[str, Any]]:
    """Decode a picture, turned as its EXIF orientation says, to mode RGB or RGBA; of an animation the first.

    Returns:
        The picture, and {format, width, height, bytes} of the file.

    Raises:
        GiveUp: it is no picture, damaged, or has over 40 million pixels.
    """
    try:
        opened = Image.open(io.BytesIO(data), formats=_READ)
    except UnidentifiedImageError:
        raise GiveUp(f"this is none of the pictures known here ({', '.join(_READ)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise GiveUp("the picture has far too many pixels to decode") from None
    with opened:
        # Before any pixel is decoded: the size stands in the header.
        if opened.width * opened.height > MAX_PIXELS:
            raise GiveUp(f"the picture has {opened.width} x {opened.height} pixels, too many to decode")
        facts = {"format": opened.format, "width": opened.width, "height": opened.height, "bytes": len(data)}
        try:
            return _decode(opened), facts
        except Exception as error:  # noqa: BLE001 - on damaged files Pillow's decoders raise whatever they trip over
            raise GiveUp(f"the picture is damaged: {error}") from None


def _decode(opened: Image.Image) -> Image.Image:
    transparent = opened.has_transparency_data
    picture = ImageOps.exif_transpose(opened).convert("RGBA" if transparent else "RGB")
    picture.info = {}  # where it was taken and by whom is nobody's business in a thumbnail
    return picture


def scaled(picture: Image.Image, size: int) -> Image.Image:
    """Return a copy that fits into `size` by `size` pixels, never larger than the picture."""
    small = picture.copy()
    small.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return small


def encode(picture: Image.Image, kind: Format) -> bytes:
    """Write a picture as a file; transparency becomes white in a JPEG."""
    if kind == "jpeg" and picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    options: dict[str, Any] = {"optimize": True} if kind == "png" else {"quality": _QUALITY}
    written = io.BytesIO()
    picture.save(written, kind.upper(), **options)
    return written.getvalue()


def _attach(ctx: Context, picture: Image.Image, size: int, wanted: Format | None) -> dict[str, Any]:
    kind: Format = wanted or ("png" if picture.mode == "RGBA" else "jpeg")
    small = scaled(picture, size)
    ending = "jpg" if kind == "jpeg" else kind
    attached = ctx.attach_sync(f"thumbnail-{size}.{ending}", encode(small, kind), f"image/{kind}")
    return {**attached, "width": small.width, "height": small.height, "fits": size}
