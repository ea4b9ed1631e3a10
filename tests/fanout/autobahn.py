"""Runs the Autobahn cases against an echo on loopback and prints what came of each as JSON: `autobahn.py PORT`.

A program of its own: importing the cases changes `sys.path` and `binascii`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import kosoku

COMPRESSION = ["12.*", "13.*"]  # permessage-deflate is not offered
TOGETHER = 16


async def results(port: int) -> list[Any]:
    try:
        return list(await kosoku.run_fuzzingclient(f"127.0.0.1:{port}", None, COMPRESSION, concurrency=TOGETHER))
    except kosoku.FailureError as failure:
        return failure.results


async def main() -> None:
    verdicts = {
        case.case_id: (case.behavior.value, case.behavior_close.value, case.remote_close_code)
        for case in await results(int(sys.argv[1]))
    }
    sys.stdout.write(json.dumps(verdicts))


if __name__ == "__main__":
    asyncio.run(main())
