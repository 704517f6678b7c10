"""`cxr doctor`: what `slurm` asks of the cluster and, where a profile names an image, what `containers` asks of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

from containers import checks as containers_checks
from containers.binds import Bind, bind_of
from containers.checks import ImageCheckResult
from containers.store import Image
from cxr_core.errors import UserError
from jobs.container import image_of, prefix
from slurm.checks.site import Check, CheckResult, Site
from slurm.doctor import CHECKS


def checks_of(site: Site, bases: Sequence[Path] = ()) -> Sequence[Check]:
    """All checks that have a meaning here; `bases` are Stable Diffusion folders that a run is to start from."""
    return (*_of_the_site(site), *(_of_base(base) for base in bases))


def _of_base(path: Path) -> Check:
    return Check("base", lambda site: _looked_at(path))


def _looked_at(path: Path) -> CheckResult:
    """As plan and freeze look at it."""
    from cxr_core.models.base import inspect_base
    from cxr_core.models.checkpoints import final_checkpoint

    try:
        return CheckResult("ok", inspect_base(final_checkpoint(path)).words)
    except UserError as error:
        return CheckResult("fail", f"{error.where}: {error.what}", error.hint or "give another folder")


def _of_the_site(site: Site) -> Sequence[Check]:
    try:
        image = image_of(site.profile)
    except UserError as error:
        return (*CHECKS, _broken(error))
    if image is None:
        return CHECKS
    ours = [_about(name, ask, image) for name, ask in containers_checks.CHECKS.items()]
    ours += [Check("image owner", lambda site: _owner(site, image)), Check("site binds", _site_binds)]
    on_node = Check("node image", lambda site: _on_a_node(site, image), where=lambda site: site.visited)
    return (*CHECKS, *ours, on_node)


def _about(name: str, ask: Callable[[Image], ImageCheckResult], image: Image) -> Check:
    return Check(name, lambda site: _finding(ask(image)))


def _owner(site: Site, image: Image) -> CheckResult:
    return _finding(containers_checks.owner(image, is_copied=bool(site.profile.image_scratch) and image.path.is_file()))


def _site_binds(site: Site) -> CheckResult:
    folders = [*map(bind_of, site.profile.binds), Bind.at_its_place(site.runs.absolute())]
    return _finding(containers_checks.site_binds(folders))


def _finding(answer: ImageCheckResult) -> CheckResult:
    return CheckResult(answer.level, answer.fact, answer.fix)


def _broken(error: UserError) -> Check:
    finding = CheckResult("fail", f"{error.where}: {error.what}", error.hint or "correct `container:` in the profile")
    return Check("image", lambda site: finding)


def _on_a_node(site: Site, image: Image) -> CheckResult:
    """How long a node takes to run `true` in the image, where it lies now."""
    words = prefix(image, site.profile, site.existing_runs, Path("/"))
    setup = "\n".join([*site.profile.setup, "TIMEFORMAT=%R", 'time "$@"'])
    said = site.ask(
        "srun", "--ntasks=1", *site.words("control"), "bash", "-c", setup, "doctor", *words, "true", seconds=site.wait
    )
    if not said.ok:
        return CheckResult(
            "fail", f"`true` does not run in the image on a node: {said.reason}", "see `engine` and `setup:`"
        )
    return CheckResult("ok", f"`true` takes {said.err.split()[-1]} s in the image on a node")
