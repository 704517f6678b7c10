"""The ranks that train together: how they find each other, and how fast they can talk."""

import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cxr_core.errors import UserError
from cxr_core.runs.files import read_json, write_json
from cxr_core.training.ranks_settings import DiffusionRanks, Ranks
from cxr_core.training.rendezvous import ADDRESS, PREFLIGHT, RankPlace, wait_for

_PORTS = range(29500, 30500)
"""Ports on which rank 0 listens: below those from which the kernel draws for outgoing connections."""

_MIB = 2**20


@dataclass(frozen=True)
class World:
    """One rank's view of all of them, which have joined. `note` tells the others which step this one is at."""

    rank: int
    size: int
    note: Callable[[int], None]

    def broadcast(self, value: Any) -> Any:
        """`value` of rank 0, which each rank gets. Over the CPU, also between GPUs."""
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


def join(place: RankPlace, ranks: Ranks, note: Callable[[int], None]) -> World:
    """Meet the other ranks. Rank 0 listens on the first free port, and says so in the folder that all of them see."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        os.environ.setdefault("NCCL_DEBUG", "INFO")
        os.environ.setdefault("NCCL_DEBUG_FILE", str(place.folder / f"nccl-{place.rank}.log"))
    else:
        # DeepSpeed takes a GPU's tools that are installed for a GPU.
        os.environ["DS_ACCELERATOR"] = "cpu"
    patience = timedelta(minutes=ranks.collective_minutes)
    store = _listen(place, patience) if place.rank == 0 else _call(place, patience)
    # What accelerate and DeepSpeed take for the sign that there are ranks at all.
    os.environ |= {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.num_local),
        "MASTER_ADDR": store.host,
        "MASTER_PORT": str(store.port),
    }
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=patience)
    return World(place.rank, place.size, note)


def _listen(place: RankPlace, patience: timedelta) -> dist.TCPStore:
    host, taken = address_of(place), ""
    for i in range(len(_PORTS)):
        port = _PORTS[(place.first_port + i) % len(_PORTS)]
        try:
            store = dist.TCPStore(host, port, place.size, is_master=True, timeout=patience, wait_for_workers=False)
        except RuntimeError as error:  # torch names a port that is taken in words alone
            taken = str(error)
            continue
        write_json(place.folder / ADDRESS, {"host": host, "port": port})
        return store
    raise UserError(
        f"rank 0 can listen on no port from {_PORTS.start} to {_PORTS.stop - 1} ({taken})",
        where=host,
        mend="end what listens there, or take another node",
    )


def address_of(place: RankPlace) -> str:
    """What other ranks call this node. Raises UserError if its name has no address: torch would try for minutes."""
    if place.size == place.num_local:
        return "127.0.0.1"
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except socket.gaierror as error:
        raise UserError(
            f"this node's own name has no address ({error})",
            where=name,
            mend="other nodes find it by its name: ask the site for an entry in its DNS or in /etc/hosts",
        ) from error
    return name


def _call(place: RankPlace, patience: timedelta) -> dist.TCPStore:
    address = read_json(wait_for(place.folder / ADDRESS, patience.total_seconds()))
    return dist.TCPStore(address["host"], address["port"], place.size, is_master=False, timeout=patience)


def preflight(place: RankPlace, ranks: Ranks) -> None:
    """Refuse ranks that do not see their GPUs, and measure a sum over all ranks. Rank 0 writes what came out.

    Raises UserError naming the rank, its node and the counts.
    """
    seen: list[Any] = [None] * place.size
    dist.all_gather_object(seen, (socket.gethostname(), torch.cuda.device_count()))
    check_gpus(seen, given=place.gpus, num_local=place.num_local)
    on_gpu = torch.cuda.is_available()
    numbers = torch.full((ranks.all_reduce_mib * _MIB // 4,), float(place.rank + 1), device="cuda" if on_gpu else "cpu")
    dist.all_reduce(numbers[: _MIB // 4].clone())  # the first one also opens the connections
    start = _moment(on_gpu)
    dist.all_reduce(numbers)
    seconds = _moment(on_gpu) - start
    expected = place.size * (place.size + 1) / 2
    if not bool((numbers == expected).all()):
        raise UserError(
            "the ranks' sum of their numbers is wrong", where=seen[place.rank][0], mend="see the nodes' log"
        )
    if place.rank == 0:
        # What each rank sends and receives, whatever the number of ranks (NCCL tests' "bus bandwidth").
        sent = 2 * (place.size - 1) / place.size * ranks.all_reduce_mib
        record = {
            "format": 1,
            "ranks": place.size,
            "nodes": len({host for host, _ in seen}),
            **({"zero": ranks.zero} if isinstance(ranks, DiffusionRanks) else {}),
            "mib": ranks.all_reduce_mib,
            "seconds": round(seconds, 4),
            "gib_per_second": round(sent / 1024 / seconds, 3),
            "transport": _transport(place.folder) if on_gpu else "gloo, TCP",
        }
        write_json(place.folder / PREFLIGHT, record)


def check_gpus(seen: Sequence[tuple[str, int]], *, given: int | None, num_local: int) -> None:
    """`seen` are host and number of GPUs of each rank, `given` how many the scheduler gave each node, if there is one.

    Raises UserError if a rank sees fewer than there must be: NCCL needs ranks of a node to see each other's GPUs.
    """
    wanted = given if given is not None else num_local if any(num for _, num in seen) else 0
    for rank, (host, num) in enumerate(seen):
        if num < wanted:
            raise UserError(
                f"rank {rank} on {host} sees {num} GPUs, but {wanted} are given to {num_local} ranks of its node",
                where="ranks",
                mend="each rank must see all of its node's GPUs: no --gpu-bind, --gpus-per-task or "
                "CUDA_VISIBLE_DEVICES of its own; or lower ranks.per_node",
            )


def _moment(on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    return time.monotonic()


def _transport(folder: Path) -> str:
    """How NCCL says that its channels go, e.g. "NET/IB, P2P/CUMEM"."""
    texts = (path.read_text(errors="replace") for path in folder.glob("nccl-*.log"))
    return ", ".join(sorted({way for text in texts for way in re.findall(r"\bvia (\S+)", text)})) or "NCCL"


def no_compiled_operators() -> None:
    """Keep DeepSpeed from compiling in a job: every node would wait minutes for it, or lacks the compiler.

    The one operator that it would use by itself, within a CPU node, it does without. Whatever else asks for one that
    was not built ahead gets a UserError.
    """
    import deepspeed
    from deepspeed.ops.op_builder.builder import OpBuilder

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    OpBuilder.jit_load = _refuse_to_compile


def _refuse_to_compile(builder: Any, verbose: bool = True) -> Any:
    raise UserError(
        f"DeepSpeed would compile its operator {builder.name} in this job",
        where=socket.gethostname(),
        mend="take an image of `cxr image build --target cuda`, which has its operators built ahead",
    )
