"""Attachments in a bucket: written by a worker, read through the gateway."""

from __future__ import annotations

from tests.e2e.stack import Stack, client
from tests.support.buckets import BUCKET, BucketServer


async def test_a_task_leaves_a_file_in_a_bucket(product: Stack) -> None:
    with BucketServer() as server:
        product.extra.update({**server.env, "GATEWAY_ATTACHMENTS_URL": f"s3://{BUCKET}/files"})
        product.worker()
        _, url = product.gateway()
        async with client(url) as http:
            wanted = {"type": "image.thumbnails", "input": {"sample": True, "sizes": [64]}}
            job = (await http.post("/v1/jobs", json=wanted, headers={"Prefer": "wait=30"})).json()
            assert job["status"] == "succeeded", job
            file = job["result"]["thumbnails"][0]
            whole = await http.get(file["url"])
            assert (whole.status_code, len(whole.content)) == (200, int(whole.headers["content-length"]))
            assert whole.headers["content-type"].startswith("image/")
            part = await http.get(file["url"], headers={"Range": "bytes=5-9"})
            assert (part.status_code, part.content) == (206, whole.content[5:10])
            assert (await http.get(file["url"] + "x")).status_code == 404
        assert not (product.folder / "attachments").exists()
