"""Work shared between the processes of a job: who does what, and everybody's results for all."""

import atexit
from typing import Any

import torch


def place() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) outside a process group."""
    group = torch.distributed
    return (group.get_rank(), group.get_world_size()) if group.is_available() and group.is_initialized() else (0, 1)


@atexit.register
def leave() -> None:
    """Leave the process group, where there is one.

    Its threads must have ended before the interpreter takes its objects apart: a job that was done was seen to abort in its
    last moment ("terminate called without an active exception"), and the launcher called it failed.
    """
    group = torch.distributed
    if group.is_available() and group.is_initialized():
        group.destroy_process_group()


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
