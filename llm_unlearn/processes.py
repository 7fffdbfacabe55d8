"""Work shared between the processes of a job: who does what, and everybody's results for all."""

import atexit
import gc
import os
import time
from typing import Any

import torch


def place() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) outside a process group."""
    group = torch.distributed
    return (group.get_rank(), group.get_world_size()) if group.is_available() and group.is_initialized() else (0, 1)


@atexit.register
def leave() -> None:
    """Leave the process group, where there is or was one, and let its threads finish.

    A thread of gloo lets go of the last exchange's tensors after those who waited for it have gone on, and needs the
    interpreter to do so. One that asks for it while the interpreter takes itself apart ends the process ("terminate called
    without an active exception"), and the launcher calls a job that was done failed. So what awaits collection, and may hold
    the group, is collected, which joins the threads; where a data-parallel wrapper still holds them, they are given a moment.
    Also where the group is gone already: others leave it at exit without waiting.
    """
    group = torch.distributed
    if not group.is_available() or os.environ.get("WORLD_SIZE", "1") == "1":
        return
    if group.is_initialized():
        group.destroy_process_group()
    gc.collect()
    time.sleep(0.2)


def gathered(mine: dict[int, Any]) -> list[dict[int, Any]]:
    """Return what every process gave, this one's own alone outside a process group."""
    world = place()[1]
    if world == 1:
        return [mine]
    out: list[Any] = [None] * world
    torch.distributed.all_gather_object(out, mine)
    return out


def bar(turns: range, title: str | None) -> Any:
    """Return the turns with a progress bar on the main process; without a title there is none."""
    from tqdm import tqdm

    return tqdm(turns, desc=title, leave=False, disable=title is None or place()[0] > 0)
