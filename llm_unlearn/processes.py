"""Work shared between the processes of a job: who does what, and everybody's results for all."""

import atexit
import time
from typing import Any

import torch

LETTING_GO = 0.5  # seconds; the thread needs microseconds and, on a busy machine, its turn


def place() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) outside a process group."""
    group = torch.distributed
    return (group.get_rank(), group.get_world_size()) if group.is_available() and group.is_initialized() else (0, 1)


@atexit.register
def leave() -> None:
    """Leave the process group, where there is one, when its threads have let go of what was exchanged last.

    A thread of gloo drops the last exchange's tensors after those who waited for it have gone on, and needs the interpreter
    to do so. Asking for it while the interpreter takes itself apart ends the process ("terminate called without an active
    exception"), and the launcher calls a job that was done failed; while the group is destroyed, which holds the interpreter
    and waits for the thread, neither comes to an end. Nothing tells when a thread is done, so it is given a moment.
    """
    group = torch.distributed
    if group.is_available() and group.is_initialized():
        time.sleep(LETTING_GO)
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
