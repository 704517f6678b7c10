"""Questions to the scheduler. None of them starts a job."""

from collections.abc import Iterator
from itertools import chain

from slurm.checks.ask import NO_CLUSTER, join, parse_rows, parse_version
from slurm.checks.site import CheckResult, Site
from slurm.grammar import gres_of, hours_of
from slurm.notes import short_limits

REQUIRED = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")

_OLDEST = (20, 11)
"""From here on a step has its CPUs for itself unless it asks to share them."""


def commands(site: Site) -> CheckResult:
    """Slurm's commands, and which version they are."""
    missing = [name for name in REQUIRED if not site.which(name)]
    if missing:
        return CheckResult("fail", f"not in PATH: {join(missing)}", "load Slurm's module, or log in to a submit node")
    text = site.ask("sbatch", "--version").out.strip()
    version = parse_version(text)
    if version is None or version < _OLDEST:
        return CheckResult("warn", f"{text or 'no version'} is older than 20.11", "try a small run before a large one")
    return CheckResult("ok", f"{text}; {', '.join(REQUIRED)} are there")


def controller(site: Site) -> CheckResult:
    """Whether slurmctld answers."""
    answer = site.controller
    if answer.ok:
        return CheckResult("ok", answer.out.strip().splitlines()[0])
    if NO_CLUSTER in answer.err:
        names = site.ask("sacctmgr", "-n", "-P", "show", "clusters", "format=cluster").out.split()
        return CheckResult("fail", answer.reason, f"set `clusters:` in the profile to one of: {join(names)}")
    told = next(iter(answer.out.splitlines()), "")
    reason = "; ".join(part for part in (told, answer.reason if answer.err.strip() else "") if part)
    hint = "munged must run here" if "munge" in answer.err.lower() else "wait and try again; if it lasts"
    return CheckResult(
        "fail", f"the controller does not answer: {reason or answer.reason}", f"{hint}: ask your administrators"
    )


def munge(site: Site) -> CheckResult:
    """Whether this machine can prove to the scheduler who you are."""
    if site.config.get("AuthType") != "auth/munge":
        return CheckResult("ok", f"not used (AuthType={site.config.get('AuthType')})")
    if not site.which("munge"):
        return CheckResult("ok", "no munge command here; the controller accepts what Slurm's commands send")
    info = dict(word.partition("=")[::2] for word in site.config.get("AuthInfo", "").split(","))
    answer = site.ask("munge", "--no-input", *(["--socket", info["socket"]] if info.get("socket") else []))
    if answer.ok:
        return CheckResult("ok", "a credential was made")
    return CheckResult(
        "fail", f"no credential: {answer.reason}", "munged must run on this machine: ask your administrators"
    )


def partition(site: Site) -> Iterator[CheckResult]:
    """Whether sbatch would take a task of each kind, by `sbatch --test-only`."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for kind in (None, *site.profile.stages):
        kinds.setdefault(tuple(site.words(kind)), []).append(kind or "any stage")
    refused: dict[str, list[str]] = {}
    for words, names in kinds.items():
        answer = site.ask("sbatch", "--test-only", "--nodes=1", *words, "--wrap=true")
        about = f"{join(names)} ({' '.join(words) or 'no options'})"
        if answer.ok:
            yield CheckResult("ok", f"sbatch would take a task of {about}")
        else:
            refused.setdefault(answer.reason, []).append(about)
    for reason, tasks in refused.items():
        yield CheckResult("fail", f"sbatch refuses a task of {'; '.join(tasks)}: {reason}", _hint_refusal(site, reason))


def _hint_refusal(site: Site, reason: str) -> str:
    said = reason.lower()
    if "account" in said:
        rows = parse_rows(site.ask("sacctmgr", "-n", "-P", "show", "assoc", *_who(site), "format=account").out)
        yours = sorted({row[0] for row in rows})
        return f"set `account:` in the profile to one of yours: {join(yours) or 'none is known, ask for one'}"
    if "partition" in said:
        return f"set `partition:` in the profile to one of: {join(sorted(site.partitions))}"
    if "qos" in said:
        return "set `qos:` in the profile to one that `sacctmgr show qos` lists"
    if "configuration" in said:
        return f"ask for what one node has; there are {join(_nodes_on_offer(site))}"
    if "node name" in said and (unknown := _unknown_nodes(site)):
        return f"correct `exclude:` in the profile: the cluster has no {join(unknown)}"
    return "correct the profile: `cxr plan CONFIG --cluster NAME` shows the script"


def _nodes_on_offer(site: Site) -> list[str]:
    rows = parse_rows(site.ask_cluster("sinfo", "-h", "-o", "%R|%c|%m|%G").out)
    return sorted({f"{name}: {cpus} CPUs, {mb} MB, {_gres(gres)}" for name, cpus, mb, gres in rows})


def _gres(text: str) -> str:
    """Without on which sockets they are."""
    return ", ".join(map(str, gres_of(text))) if text.strip("()") != "null" else "no GPU"


def _unknown_nodes(site: Site) -> list[str]:
    """Nodes that the profile excludes and the cluster does not have, as a slip of the pen in a list of them leaves."""
    lists = {site.profile.resources(kind).exclude for kind in (None, *site.profile.stages)} - {None}
    wanted = site.ask("scontrol", "show", "hostnames", ",".join(map(str, lists))).out.split()
    there = site.ask_cluster("sinfo", "-h", "-N", "-o", "%N").out.split()
    return sorted(set(wanted) - set(there))


def limits(site: Site) -> Iterator[CheckResult]:
    """Array size, tasks in the queue and time limits, against those of the profile."""
    yield _array_size(site)
    yield _submit_limit(site)
    yield from _time_limits(site)
    yield from (CheckResult("warn", *note) for note in short_limits(site.profile))


def _array_size(site: Site) -> CheckResult:
    allowed = int(site.config.get("MaxArraySize", "0"))
    if site.profile.max_array_size > allowed:
        return CheckResult(
            "fail",
            f"MaxArraySize is {allowed}, and the profile has max_array_size: {site.profile.max_array_size}",
            f"set `max_array_size: {allowed}` in the profile",
        )
    return CheckResult("ok", f"arrays: MaxArraySize {allowed}, profile {site.profile.max_array_size}")


def _submit_limit(site: Site) -> CheckResult:
    words = ("-n", "-P", "show", "assoc", *_who(site), "format=account,maxsubmit,grpsubmit")
    rows = parse_rows(site.ask("sacctmgr", *words).out)
    mine = [row[1:] for row in rows if site.profile.account in (None, row[0])]
    queue = site.profile.resources(None).qos or "normal"
    qos = parse_rows(site.ask("sacctmgr", "-n", "-P", "show", "qos", queue, "format=maxsubmitpu,maxsubmitpa").out)
    given = [int(value) for value in chain(*mine, *qos) if value.isdigit()]
    allowed = min([*given, int(site.config.get("MaxJobCount", "10000"))])
    if site.profile.max_submit > allowed:
        return CheckResult(
            "fail",
            f"{allowed} tasks may be in the queue, and the profile has max_submit: {site.profile.max_submit}",
            f"set `max_submit: {allowed}` in the profile",
        )
    return CheckResult("ok", f"queue: {allowed:,} tasks allowed, profile {site.profile.max_submit:,}")


def _time_limits(site: Site) -> Iterator[CheckResult]:
    """`sbatch --test-only` takes a job that is longer than its partition allows, and then it pends for ever."""
    kinds: dict[tuple[str, str, str, str], list[str]] = {}
    for kind in (None, *site.profile.stages):
        part, wanted = site.partition(kind), site.profile.resources(kind)
        longest = part.get("MaxTime", "UNLIMITED")
        for key in ("time", "max_time"):
            value = getattr(wanted, key)
            if value is not None and hours_of(value) > hours_of(longest):
                kinds.setdefault((key, value, part["PartitionName"], longest), []).append(kind or "any stage")
    for (key, time, name, longest), names in kinds.items():
        yield CheckResult(
            "fail",
            f"{key}: {time} of {join(names)} is more than partition {name} allows ({longest})",
            f'set `{key}: "{longest}"` or less in the profile; work that is longer is resumed',
        )


def accounting(site: Site) -> CheckResult:
    """Whether sacct answers; without it only what our own files tell is known of a job's end."""
    kind = site.config.get("AccountingStorageType", "")
    fix = "nothing to do: status and resume work without it, and the causes of ends come from the run folder"
    if kind in ("", "(null)", "accounting_storage/none"):
        return CheckResult("warn", "no accounting on this cluster: sacct refuses", fix)
    answer = site.ask_cluster("sacct", "-n", "-X", "-P", "-o", "jobid")
    if not answer.ok:
        return CheckResult("warn", f"accounting is configured, but sacct says: {answer.reason}", fix)
    return CheckResult("ok", f"sacct answers ({kind.partition('/')[2]})")


def preemption(site: Site) -> CheckResult:
    """What happens to a task when a job of higher priority wants its node."""
    part = site.partition()
    mode, grace = part.get("PreemptMode", "OFF"), part.get("GraceTime", "0")
    if site.config.get("PreemptType", "") in ("", "(null)", "preempt/none") or mode == "OFF":
        return CheckResult("ok", f"tasks in {part['PartitionName']} are not preempted")
    fact = f"tasks in {part['PartitionName']} may be preempted: {mode} after {grace} s"
    if "REQUEUE" not in mode:
        what = "are cancelled, not requeued" if "CANCEL" in mode else "are stopped with what they hold in memory"
        return CheckResult(
            "warn", f"{fact}, so they {what}", "send with --auto-resume N, or call `cxr resume RUN` when it is over"
        )
    if "preempt_send_user_signal" not in site.config.get("SlurmctldParameters", ""):
        return CheckResult(
            "warn",
            f"{fact}, without the warning signal that a task asks for",
            "a shard in work is lost at each preemption: keep shards small (`shard_size`, `checkpoint_every`)",
        )
    return CheckResult("ok", f"{fact}, with a warning signal")


def requeue(site: Site) -> CheckResult:
    """Whether a task may come back, and how long that takes at least."""
    info = dict(word.partition("=")[::2] for word in site.config.get("AuthInfo", "").split(","))
    # Slurm holds a requeued job until its old credential has expired.
    wait = int(info.get("cred_expire", "120") or 120)
    default = "by default" if site.config.get("JobRequeue") == "1" else "only where asked, as our scripts do"
    return CheckResult("ok", f"jobs are requeued {default}; one comes back after {wait} s or more")


def dependencies(site: Site) -> CheckResult:
    """Whether a job whose dependency can no longer hold goes away by itself."""
    if "kill_invalid_depend" in site.config.get("DependencyParameters", ""):
        return CheckResult("ok", "jobs whose dependency failed are removed (kill_invalid_depend)")
    return CheckResult(
        "ok", "jobs whose dependency failed pend for ever unless sent with --kill-on-invalid-dep=yes, as ours are"
    )


_PORTS_A_STEP = 4
"""TCP ports on which one srun listens: for messages and for the output of a few nodes."""


def ports(site: Site) -> CheckResult:
    """Whether the ports on which srun may listen are enough for as many tasks as fit on a node."""
    given = site.config.get("SrunPortRange", "")
    first, _, last = given.partition("-")
    if not (first.isdigit() and last.isdigit()) or int(last) == 0:
        return CheckResult(
            "ok", "srun takes any free port (no SrunPortRange): nodes must reach each other on all of them"
        )
    number = int(last) - int(first) + 1
    part = site.partition()
    cpus, num_nodes = (int(part.get(key, "1")) for key in ("TotalCPUs", "TotalNodes"))
    needed = _PORTS_A_STEP * max(1, cpus // max(1, num_nodes))
    fact = f"srun has {number:,} ports ({given}), and tasks of one CPU that fill a node need {needed:,}"
    if number < needed:
        return CheckResult("warn", fact, "give tasks more CPUs (cpus_per_task), or ask for a wider SrunPortRange")
    return CheckResult("ok", fact)


def _who(site: Site) -> list[str]:
    """Whose limits these are: of the user by the number, whatever the environment says, in the cluster asked for."""
    cluster = [f"cluster={site.profile.clusters}"] if site.profile.clusters else []
    return [f"user={site.ask('id', '-un').out.strip()}", *cluster]
