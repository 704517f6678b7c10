"""What is measured of each point of a sweep, and of the recommended one on test patients."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxr_core.data.findings import Findings
from cxr_core.evaluation.diversity.measure import measure_diversity
from cxr_core.evaluation.diversity.spread import matched, spread
from cxr_core.evaluation.featured import FeatureRows
from cxr_core.evaluation.fidelity import measure
from cxr_core.evaluation.fidelity_results import Extractor, FidelityResult
from cxr_core.evaluation.metrics import FaithfulnessResult
from cxr_core.evaluation.sweep.results import Point, PointResult, TestResult
from cxr_core.evaluation.sweep.settings import EvaluateSweep
from cxr_core.evaluation.trial import POOLED


@dataclass(frozen=True)
class PointEvaluator:
    """What all points are measured against: real images of all splits looked at, and by what."""

    real: FeatureRows
    extractor: Extractor
    real_size: int
    findings: Findings
    settings: EvaluateSweep
    seed: int

    def point(
        self,
        point: Point,
        drawn: FeatureRows,
        size: int,
        alike: Mapping[str, pd.DataFrame],
        alike_size: int,
        judged: FaithfulnessResult | None,
        withheld: str | None,
    ) -> PointResult:
        """A point beside validation patients; `size` is that of its stored images, `judged` what a judge says of it."""
        held_out = self._of_split("val")
        diversity = measure_diversity(
            held_out, drawn, alike, self.settings.diversity, size=alike_size, seed=self.seed, withheld=withheld
        )
        return PointResult(
            point=point,
            fidelity=self._fidelity("val", drawn, size, withheld),
            diversity=diversity,
            faithfulness=mean_auroc(judged) if judged else None,
        )

    def on_test(self, drawn: FeatureRows, size: int) -> TestResult:
        """The recommended point beside official test patients."""
        sides = matched([self._of_split("test"), drawn], self.seed)
        return TestResult(
            fidelity=self._fidelity("test", drawn, size),
            spread=spread(sides, self.settings.diversity, self.seed),
        )

    def _of_split(self, split: str) -> FeatureRows:
        return self.real.where(self.real.rows["split"] == split)

    def _fidelity(self, split: str, drawn: FeatureRows, size: int, withheld: str | None = None) -> FidelityResult:
        return measure(
            self.real.where(self.real.rows["split"].isin([split, "train"])),
            drawn,
            self.extractor,
            (self.real_size, size),
            self.findings,
            self.settings.num_resamples,
            self.seed,
            withheld=withheld,
            each_finding=False,
        )


def mean_auroc(judged: FaithfulnessResult) -> float | None:
    """Mean over the findings whose AUROC, of all views together, was given; None where none was."""
    each = [one for finding in judged.findings for one in finding.synthetic if one.within == POOLED]
    values = [one.auroc.value for one in each if one.auroc is not None]
    return float(np.mean(values)) if values else None
