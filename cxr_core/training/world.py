"""The ranks that train together: how they find each other, and how fast they can talk."""

import itertools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from cxr_core.errors import UserError
from cxr_core.training.ranks_settings import DiffusionRanks, Ranks
from cxr_core.training.rendezvous import ADDRESS, PREFLIGHT, Address, Preflight, RankPlace
from cxr_core.training.store import KeyValueTable, RankStore, Server, bind_address, connect

_MIB = 2**20
_LEAVE_SECONDS = 10.0


@dataclass(frozen=True)
class World:
    """One rank's view of all of them, which have joined. `note` tells the others which step this one is at.

    What ranks say to each other here is JSON, by way of the store; only tensors go over gloo's and NCCL's own sockets.
    """

    rank: int
    size: int
    note: Callable[[int], None]
    store: RankStore
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def broadcast(self, value: Any) -> Any:
        """`value` of rank 0, which each rank gets."""
        key = f"broadcast/{next(self._numbers)}"
        if self.rank == 0:
            if self.size > 1:
                self.store.set(key, json.dumps(value))
            return value
        return json.loads(self.store.share(key, self.size - 1))

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, which each rank gets."""
        key = f"gather/{next(self._numbers)}"
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        return [json.loads(self.store.get(f"{key}/{rank}")) for rank in range(self.size)]

    def leave(self) -> None:
        """End together: the store goes with rank 0, so it waits until the others have read all that they will."""
        with suppress(dist.DistError):
            self.store.set(f"left/{self.rank}", "")
            if self.rank == 0:
                self.store.wait([f"left/{rank}" for rank in range(self.size)], timedelta(seconds=_LEAVE_SECONDS))


def join(
    place: RankPlace,
    ranks: Ranks,
    note: Callable[[int], None],
    strangers: Callable[[int, str], None] = lambda num, last: None,
) -> World:
    """Meet the other ranks. Rank 0 listens, says where in the folder that all of them see, and calls `strangers` with
    the number of those who connected and are none, and the address of the last one."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
        os.environ.setdefault("NCCL_DEBUG", "INFO")
        os.environ.setdefault("NCCL_DEBUG_FILE", str(place.folder / f"nccl-{place.rank}.log"))
        # Else its traces go by names that anybody can guess to a folder that all share.
        os.environ.setdefault("TORCH_FR_DUMP_TEMP_FILE", str(place.folder / "nccl-trace-"))
        os.environ.setdefault("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", str(place.folder / "nccl-trace-"))
    else:
        # DeepSpeed takes a GPU's tools that are installed for a GPU.
        os.environ["DS_ACCELERATOR"] = "cpu"
    if _is_one_node(place):  # gloo and NCCL listen without asking who is there: not to other machines
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "=lo")
    no_pickles()
    patience = timedelta(minutes=ranks.collective_minutes)
    store = _listen(place, patience, strangers) if place.rank == 0 else _call(place, patience)
    # What accelerate and DeepSpeed take for the sign that there are ranks at all; nobody connects to this address.
    os.environ |= {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.num_local),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": "0",
    }
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=patience)
    return World(place.rank, place.size, note, store)


def _listen(place: RankPlace, patience: timedelta, strangers: Callable[[int, str], None]) -> RankStore:
    name, table = address_of(place), KeyValueTable()
    server = Server(table, place.meeting.secret, bind_address(name), strangers)
    hosts = list(dict.fromkeys([name, server.host] if server.host != "0.0.0.0" else [name]))
    place.meeting.put(ADDRESS, Address(hosts, server.port))
    return RankStore(patience, table=table)


def address_of(place: RankPlace) -> str:
    """What other ranks call this node. Raises UserError if its name has no address: torch would try for minutes."""
    if _is_one_node(place):
        return _LOOPBACK
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except socket.gaierror as error:
        raise UserError(
            f"this node's own name has no address ({error})",
            where=name,
            hint="other nodes find it by its name: ask the site for an entry in its DNS or in /etc/hosts",
        ) from error
    return name


_LOOPBACK = "127.0.0.1"


def _is_one_node(place: RankPlace) -> bool:
    return place.size == place.num_local


def _call(place: RankPlace, patience: timedelta) -> RankStore:
    seconds, secret = patience.total_seconds(), place.meeting.secret
    address = place.meeting.wait_for(ADDRESS, Address, seconds)
    store = RankStore(patience, dial=lambda: connect(address.hosts, address.port, secret, seconds))
    store.num_keys()  # so that who reaches nobody says so in these words, not in those of torch
    return store


def no_pickles() -> None:
    """Keep any library from sending Python objects from rank to rank: to read one is to run what its sender likes,
    and gloo and NCCL do not know who that is."""
    for name in ("_object_to_tensor", "_tensor_to_object"):
        assert hasattr(distributed_c10d, name), name
        setattr(distributed_c10d, name, _refuse_pickle)


def _refuse_pickle(*given: Any) -> Any:
    raise UserError(
        "a library would send a Python object from one rank to another",
        where=socket.gethostname(),
        hint="it is a mistake of this program: ranks exchange tensors and JSON alone",
    )


def preflight(place: RankPlace, ranks: Ranks, world: World) -> None:
    """Refuse ranks that do not see their GPUs, and measure a sum over all ranks. Rank 0 writes what came out.

    Raises UserError naming the rank, its node and the counts.
    """
    seen = world.gather([socket.gethostname(), torch.cuda.device_count()])
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
            "the ranks' sum of their numbers is wrong", where=seen[place.rank][0], hint="see the nodes' log"
        )
    if place.rank == 0:
        # What each rank sends and receives, whatever the number of ranks (NCCL tests' "bus bandwidth").
        sent = 2 * (place.size - 1) / place.size * ranks.all_reduce_mib
        record = Preflight(
            ranks=place.size,
            nodes=len({host for host, _ in seen}),
            mib=ranks.all_reduce_mib,
            seconds=round(seconds, 4),
            gib_per_second=round(sent / 1024 / seconds, 3),
            transport=_transport(place.folder) if on_gpu else "gloo, TCP",
            zero=ranks.zero if isinstance(ranks, DiffusionRanks) else None,
        )
        place.meeting.put(PREFLIGHT, record.as_facts)


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
                hint="each rank must see all of its node's GPUs: no --gpu-bind, --gpus-per-task or "
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
        hint="take an image of `cxr image build --target cuda`, which has its operators built ahead",
    )
