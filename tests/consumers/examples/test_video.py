"""`video.transcode` with the real ffmpeg."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from consumers import GiveUp
from consumers.examples.video import video
from gateway.settings import Settings
from tests.consumers.examples.support import FakeContext, Files
from tests.support.waiting import eventually


@dataclass
class Films(FakeContext):
    async def attach(self, name: str, data: bytes | AsyncIterator[bytes], content_type: str) -> dict[str, Any]:
        if not isinstance(data, bytes):
            data = b"".join([block async for block in data])
        return self.attach_sync(name, data, content_type)


@pytest.fixture
def ctx() -> Films:
    return Films()


def facts(film: bytes, folder: Path) -> dict[str, Any]:
    path = folder / "film.mp4"
    path.write_bytes(film)
    shown = ["-show_entries", "stream=codec_name,height:format=format_name,duration", "-of", "json", str(path)]
    said: dict[str, Any] = json.loads(subprocess.check_output(["ffprobe", "-v", "error", *shown]))
    return said


async def test_a_film_is_transcoded_with_progress_and_pictures(ctx: Films, tmp_path: Path) -> None:
    result = await video(ctx, {"sample": 1.5, "height": 240, "thumbnails": 2})
    assert result["source"] == {"seconds": pytest.approx(1.5, abs=0.1), "width": 640, "height": 360}
    said = facts(ctx.files["video.mp4"][0], tmp_path)
    assert [stream["codec_name"] for stream in said["streams"]] == ["h264", "aac"]
    assert said["streams"][0]["height"] == 240
    assert float(said["format"]["duration"]) == pytest.approx(1.5, abs=0.2)
    assert [picture["name"] for picture in result["thumbnails"]] == ["thumbnail-1.jpg", "thumbnail-2.jpg"]
    assert ctx.files["thumbnail-1.jpg"][0].startswith(b"\xff\xd8\xff")
    done, total, message = ctx.reports[-1]
    assert total is not None
    assert 0 < done <= total == result["source"]["seconds"]
    assert message is not None


async def test_a_small_film_is_not_made_larger(ctx: Films, tmp_path: Path) -> None:
    await video(ctx, {"sample": 0.4, "height": 1080, "thumbnails": 0})
    assert facts(ctx.files["video.mp4"][0], tmp_path)["streams"][0]["height"] == 360
    assert list(ctx.files) == ["video.mp4"]


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({}, "give one of"),
        ({"sample": 1, "url": "https://example.com/a.mp4"}, "give one of"),
        ({"sample": 100}, "input.sample is not valid"),
        ({"sample": 1, "height": 241}, "input.height is not valid"),
        ({"sample": 1, "thumbnails": 11}, "input.thumbnails is not valid"),
    ],
)
async def test_an_input_that_breaks_a_rule(ctx: Films, given: dict[str, Any], rule: str) -> None:
    with pytest.raises(GiveUp, match=rule):
        await video(ctx, given)


async def test_without_ffmpeg_it_says_what_to_install(ctx: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(GiveUp, match="apt-get install ffmpeg"):
        await video(ctx, {"sample": 1})


@pytest.mark.parametrize(
    "body", [b"no film", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n"]
)
async def test_what_is_no_film_is_refused(files: Files, body: bytes) -> None:
    ctx = Films(settings=Settings(webhook_allow=("127.0.0.0/8",)))
    files.bodies["/a.mp4"] = body
    with pytest.raises(GiveUp, match=r"ffprobe: Invalid"):
        await video(ctx, {"url": f"{files.url}/a.mp4"})
    assert files.asked == ["/a.mp4"]
    assert ctx.files == {}


async def test_a_cancelled_task_takes_ffmpeg_along(ctx: Films) -> None:
    running = asyncio.create_task(video(ctx, {"sample": 60, "height": 360, "thumbnails": 0}))
    await eventually(lambda: bool(children()))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not children()


def children() -> list[str]:
    found = subprocess.run(
        ["ps", "-o", "comm=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    )
    return [name for name in found.stdout.split() if name.startswith("ff")]
