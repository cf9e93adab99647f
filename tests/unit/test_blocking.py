"""The watch over the event loop sees what it is there to see."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from blockbuster import BlockingError

from bus.config import read_variable


async def test_a_blocking_call_from_a_callback_of_ours_is_an_error(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # What the loop calls is ours, without a frame of this test around it.
    task = asyncio.get_running_loop().run_in_executor(
        None, read_variable, {"A_FILE": str(secret)}, "A"
    )
    assert await task == "x"
    asyncio.get_running_loop().call_soon(read_variable, {"A_FILE": str(secret)}, "A")
    asyncio.get_running_loop().set_exception_handler(
        lambda _loop, context: outcome.set_exception(context["exception"])
    )
    with pytest.raises(BlockingError):
        await asyncio.wait_for(outcome, 5)


async def test_a_test_may_block_itself(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    assert read_variable({"A_FILE": str(secret)}, "A") == "x"
