"""All of diversity, from committed features and MS-SSIM of groups."""

from collections.abc import Mapping

import pandas as pd

from cxr_core.data.findings import Findings
from cxr_core.evaluation.diversity.alike import measure_alike
from cxr_core.evaluation.diversity.msssim import scales_of
from cxr_core.evaluation.diversity.results import DiversityResult, FindingDiversity
from cxr_core.evaluation.diversity.settings import Diversity
from cxr_core.evaluation.diversity.spread import beside_floor, matched, spread
from cxr_core.evaluation.featured import FeatureRows
from cxr_core.evaluation.fidelity import findings_of, with_finding
from cxr_core.evaluation.pools import has_finding


def measure_diversity(
    held_out: FeatureRows,
    synthetic: FeatureRows,
    alike: Mapping[str, pd.DataFrame],
    settings: Diversity,
    *,
    size: int,
    seed: int,
    findings: Findings | None = None,
    withheld: str | None = None,
) -> DiversityResult:
    """Of held-out real and synthetic features; `alike` has the groups of "real" and "synthetic" at `size` pixels.

    With `findings` each finding by itself, too. `withheld` says why the extractor's numbers are not to be given.
    """
    beside, floor = beside_floor(held_out, synthetic, settings, seed, withheld)
    each = (
        (
            _of_finding(name, held_out, synthetic, alike, settings, seed, findings, withheld)
            for name in findings_of(synthetic, findings)
        )
        if findings
        else ()
    )
    return DiversityResult(
        neighbours=settings.neighbours,
        headline=spread(matched([held_out, synthetic], seed), settings, seed, withheld),
        beside_floor=beside,
        floor=floor,
        num_scales=scales_of(size),
        size=size,
        **{side: measure_alike(table, settings.num_resamples, seed) for side, table in alike.items()},
        by_finding=tuple(each),
    )


def _of_finding(
    name: str,
    held_out: FeatureRows,
    synthetic: FeatureRows,
    alike: Mapping[str, pd.DataFrame],
    settings: Diversity,
    seed: int,
    findings: Findings,
    withheld: str | None,
) -> FindingDiversity:
    sides = [with_finding(side, name, findings) for side in (held_out, synthetic)]
    groups = {side: table[has_finding(table["labels"], name, "any", findings)] for side, table in alike.items()}
    return FindingDiversity(
        finding=name,
        spread=spread(matched(sides, seed), settings, seed, withheld),
        **{side: measure_alike(table, settings.num_resamples, seed) for side, table in groups.items()},
    )
