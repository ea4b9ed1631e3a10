"""ffmpeg and ffprobe as child processes: bounded, killed with their task, fed with films only."""

from __future__ import annotations

import asyncio
import os
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

# Containers of films. Without the list a "film" could be a playlist that names other files of this machine.
_FORMATS: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,ogg,flv"
_QUIET: Final = ("-nostdin", "-hide_banner", "-loglevel", "error", "-y")
_READ: Final = ("-protocol_whitelist", "file", "-format_whitelist", _FORMATS)
_KEPT: Final = 300  # bytes of what ffmpeg says
_PICTURE_LIMIT: Final = 10 * 1024 * 1024


class Failed(Exception):
    """ffmpeg could not do it; what it said last."""


class Film(NamedTuple):
    """What is known of a film: its length in seconds, and its size in pixels."""

    seconds: float
    width: int
    height: int


class _Probed(msgspec.Struct):
    streams: list[dict[str, Any]] = []
    format: dict[str, Any] = {}


async def probe(path: Path) -> Film:
    """Read what a film is.

    Raises:
        Failed: it is none, or has no pictures.
    """
    shown = "format=duration:stream=width,height"
    arguments = ("-v", "error", *_READ, "-select_streams", "v:0", "-show_entries", shown, "-of", "json", str(path))
    said = msgspec.json.decode(await _output("ffprobe", *arguments), type=_Probed)
    try:
        stream = said.streams[0]
        return Film(float(said.format["duration"]), int(stream["width"]), int(stream["height"]))
    except (LookupError, ValueError):
        raise Failed("this is no film: it has no pictures, or no end") from None


async def sample(into: Path, seconds: float) -> None:
    """Make a test film with a sound."""
    pictures = f"testsrc2=size=640x360:rate=25:duration={seconds}"
    sound = f"sine=frequency=440:duration={seconds}"
    inputs = ("-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", sound)
    await _output("ffmpeg", *_QUIET, *inputs, "-c:v", "mpeg4", "-c:a", "aac", "-f", "matroska", str(into))


async def transcode(source: Path, into: Path, height: int, report: Callable[[float], None]) -> None:
    """Write an MP4 of this height; `report` hears of the seconds done.

    Raises:
        Failed: ffmpeg cannot read it.
    """
    picture = ("-vf", f"scale=-2:{height // 2 * 2}", "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
    sound = ("-c:a", "aac", "-b:a", "128k")
    playable = ("-movflags", "+faststart")  # a browser can begin before it has all
    inputs = (*_READ, "-i", str(source), "-map", "0:v:0", "-map", "0:a:0?")
    arguments = (*_QUIET, "-progress", "pipe:1", *inputs, *picture, *sound, *playable, "-f", "mp4", str(into))
    async with _running("ffmpeg", *arguments) as stdout:
        async for line in stdout:
            name, _, value = line.strip().partition(b"=")
            if name == b"out_time_us" and value.isdigit():
                report(int(value) / 1_000_000)


async def grab(path: Path, at: float) -> bytes:
    """Return the picture at this second as a JPEG.

    Raises:
        Failed: there is none.
    """
    arguments = (*_QUIET, "-ss", f"{at:.3f}", *_READ, "-i", str(path), "-frames:v", "1", "-f", "mjpeg", "pipe:1")
    picture = await _output("ffmpeg", *arguments)
    if not picture:
        raise Failed(f"there is no picture at {at:.1f} seconds")
    return picture


async def _output(program: str, *arguments: str) -> bytes:
    async with _running(program, *arguments) as stdout:
        said = b""
        while block := await stdout.read(_PICTURE_LIMIT):
            said += block
            if len(said) > _PICTURE_LIMIT:
                raise Failed(f"{program} said too much")
    return said


@asynccontextmanager
async def _running(program: str, *arguments: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run a program, and give what it writes; whatever ends the block ends the program.

    Raises:
        Failed: it ended with an error.
    """
    # Not a pipe: nobody reads it meanwhile, and a damaged film makes ffmpeg say more than a pipe holds.
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(program, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=said)
        try:
            if process.stdout is None:
                raise AssertionError("stdout is a pipe")
            yield process.stdout
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        if code != 0:
            said.seek(-min(said.tell(), _KEPT), os.SEEK_END)
            words = said.read().decode("utf-8", "replace").strip().splitlines()
            why = words[-1].rpartition(": ")[2] if words else f"it ended with code {code}"  # without our file's name
            raise Failed(f"{program}: {why}")
