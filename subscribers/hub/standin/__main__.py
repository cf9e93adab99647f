"""``python -m subscribers.hub.standin --port 8080 --folder F``: runs the stand-in of HUB v1."""

from __future__ import annotations

import argparse
import asyncio
import signal
from pathlib import Path

from aiohttp import web

from subscribers.hub.standin.app import StandIn
from subscribers.hub.standin.models import Models

__all__ = ["main"]


def main() -> None:
    """Read the command line and serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m subscribers.hub.standin", description="a stand-in of Ultralytics HUB v1"
    )
    parser.add_argument("--port", type=int, default=0, help="0 for any free port")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--folder", type=Path, help="keep the models there, as JSON")
    parser.add_argument("--enforce-limits", action="store_true", help="answer 429 where HUB did")
    arguments = parser.parse_args()
    models = Models(arguments.folder, arguments.enforce_limits)
    models.load()
    stand_in = StandIn(models, is_recording=False)
    asyncio.run(_serve(stand_in, arguments.host, arguments.port))


async def _serve(stand_in: StandIn, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(stand_in.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        # Whoever starts it waits for this line.
        print(f"HUB stand-in on http://{host}:{runner.addresses[0][1]}", flush=True)
        await stop.wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    main()
