"""`video.transcode`: a film for browsers and pictures from it, with ffmpeg's own progress."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from consumers import Context, GiveUp, task
from consumers.examples.fetch import fetch
from consumers.examples.ffmpeg import Failed, Film, grab, probe, sample, transcode
from consumers.examples.inputs import one_of, parse

MAX_BYTES: Final = 500 * 1024 * 1024
MAX_SECONDS: Final = 2 * 3600.0
_BLOCK: Final = 256 * 1024


class VideoInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The input of `video.transcode`: one of `url` and `sample`.

    Attributes:
        url: where to download it, at most 500 MiB and two hours.
        sample: seconds of a test film made on the spot.
        height: pixels of the result, even; a smaller film is not made larger.
        thumbnails: pictures at equal distances, 0 to 10.
    """

    url: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    sample: Annotated[float, msgspec.Meta(ge=0.2, le=60)] | None = None
    height: Annotated[int, msgspec.Meta(ge=120, le=1080, multiple_of=2)] = 480
    thumbnails: Annotated[int, msgspec.Meta(ge=0, le=10)] = 3


@task("video.transcode", timeout=3600, max_attempts=2)
async def video(ctx: Context, job_input: object) -> dict[str, Any]:
    """Transcode a film to MP4 (H.264, AAC, playable while it loads); see `VideoInput`.

    Returns:
        `source` {seconds, width, height}, `video` {name, type, size, url} and `thumbnails`, a list of the same with
        `at` (seconds).

    Raises:
        GiveUp: ffmpeg is not installed, the input is not valid, or no film.
        Retry: the download may work later.
    """
    if not (shutil.which("ffmpeg") and shutil.which("ffprobe")):
        raise GiveUp(
            "video.transcode needs ffmpeg and ffprobe on the PATH: apt-get install ffmpeg, or brew install ffmpeg"
        )
    wanted = parse(job_input, VideoInput)
    one_of(url=wanted.url, sample=wanted.sample)
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="video-"))
    try:
        return await _work(ctx, wanted, folder)
    except Failed as error:
        raise GiveUp(str(error)) from None
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _work(ctx: Context, wanted: VideoInput, folder: Path) -> dict[str, Any]:
    source, made = folder / "source", folder / "video.mp4"
    if wanted.url is not None:
        await asyncio.to_thread(_download, ctx, wanted.url, source)
    else:
        await sample(source, wanted.sample or 0)
    film = await probe(source)
    if film.seconds > MAX_SECONDS:
        raise GiveUp(f"the film has {film.seconds:.0f} seconds, more than {MAX_SECONDS:.0f}")
    await transcode(source, made, min(wanted.height, film.height), partial(_report, ctx, film))
    video = await ctx.attach("video.mp4", _blocks(made), "video/mp4")
    pictures = [await _picture(ctx, film, made, number, wanted.thumbnails) for number in range(wanted.thumbnails)]
    return {"source": film._asdict(), "video": dict(video), "thumbnails": pictures}


def _report(ctx: Context, film: Film, done: float) -> None:
    ctx.progress(round(min(done, film.seconds), 2), film.seconds, f"{done:.1f} of {film.seconds:.1f} seconds")


async def _picture(ctx: Context, film: Film, made: Path, number: int, count: int) -> dict[str, Any]:
    at = film.seconds * (number + 0.5) / count
    attached = await ctx.attach(f"thumbnail-{number + 1}.jpg", await grab(made, at), "image/jpeg")
    return {**attached, "at": round(at, 2)}


def _download(ctx: Context, url: str, into: Path) -> None:
    with fetch(ctx, url, limit=MAX_BYTES, total=600) as file, into.open("wb") as copy:
        shutil.copyfileobj(file, copy)


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while block := await asyncio.to_thread(file.read, _BLOCK):
            yield block
