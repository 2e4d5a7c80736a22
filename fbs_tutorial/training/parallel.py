"""Training in several processes, as ``torchrun`` starts them; alone, everything here does nothing.

Each process computes its share of every batch; the gradients are averaged. The first process
alone reads and writes the run folder, and tells the others.
"""

import gc
import importlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")
CPU = torch.device("cpu")
PATIENCE = timedelta(hours=2)  # the others wait while the first measures a network


@dataclass(frozen=True)
class Team:
    """The processes that train together, seen from one of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, batch: Tensor) -> Tensor:
        """This process's rows of ``batch``, every ``size``-th."""
        return batch[self.rank :: self.size]

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            dist.barrier()

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make()`` returns, or raises, in the first process: in all of them."""
        if self.size == 1:
            return make()
        answer: list = [None, None]
        if self.first:
            try:
                answer[0] = make()
            except Exception as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0, device=CPU)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def sum(self, value: float) -> float:
        """The sum of ``value`` over the processes."""
        if self.size == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return total.item()

    def averaging(self, network: nn.Module) -> nn.Module:
        """``network``, its gradients averaged over the processes after every backward."""
        if self.size == 1:
            return network
        return DistributedDataParallel(network)


def rank_in(variable: str) -> int:
    """This process's rank in ``torchrun``'s ``RANK`` or ``LOCAL_RANK``; 0 for one that is alone."""
    return int(os.environ[variable]) if started_by_torchrun() else 0


def started_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def join_team() -> Iterator[Team]:
    """The team this process belongs to: alone, or one of those that ``torchrun`` started.

    Raises:
        ValueError: more processes than GPUs. ConnectionError: another process has ended.
    """
    if not started_by_torchrun():
        yield Team(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        return
    # DDP would import it later, and its default arguments would keep the group, and with it running
    # threads, to the end of the interpreter
    importlib.import_module("torch.distributed.nn")

    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")  # harmless
    local_rank = rank_in("LOCAL_RANK")
    device, backend = CPU, "gloo"
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        if int(os.environ["LOCAL_WORLD_SIZE"]) > gpus:
            raise ValueError(f"--nproc-per-node must be at most the number of GPUs here, {gpus}")
        device, backend = torch.device("cuda", local_rank), "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(device)
    store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
    if size == int(os.environ["LOCAL_WORLD_SIZE"]):
        # restarted processes get the store of those that died, and would look for them where they
        # were (pytorch issue 135712); on several machines the count of restarts is not the same
        store = dist.PrefixStore(f"restart {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Team(rank, size, local_rank, device)
    except RuntimeError as error:
        if re.search("closed by peer|reset by peer|Broken pipe", str(error)):
            raise ConnectionError("another process has ended; the same command goes on") from error
        raise
    finally:
        gc.collect()  # wrapped networks would hold on to the group until the interpreter is gone
        dist.destroy_process_group()
