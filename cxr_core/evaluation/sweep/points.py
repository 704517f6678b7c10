"""The points of a sweep: the series of its synthetic Datasets."""

from collections.abc import Callable, Iterator, Mapping

import pandas as pd

from cxr_core.data.dataset import Dataset
from cxr_core.evaluation.sweep.results import Point
from cxr_core.generation.series import made_series
from cxr_core.runs.roles import places_in

SYNTHETIC = "synthetic"
"""The role of the Datasets whose series are points."""


LastStep = Callable[[Dataset, str], int | None]
"""The last training step of the model that stands in a role of the stage which drew a Dataset; None where unknown."""


def points_of(datasets: Mapping[str, Dataset], last_step: LastStep) -> list[tuple[str, Point]]:
    """(place of the Dataset, point) of every series. Raises UserError where a Dataset is no synthetic one."""
    found: list[tuple[str, Point]] = []
    for place in places_in(datasets, SYNTHETIC):
        found += [(place, point) for point in _of_dataset(datasets[place], last_step, len(found))]
    return found


def rows_of(dataset: Dataset, point: Point) -> pd.DataFrame:
    """The rows of a point's images."""
    return dataset.rows[dataset.rows["request"] == point.series]


def _of_dataset(dataset: Dataset, last_step: LastStep, first: int) -> Iterator[Point]:
    known = {one.name: one for one in made_series(dataset.given_as(SYNTHETIC))}
    numbers = dataset.rows["request"].value_counts()
    names = [*(name for name in known if name in numbers), *sorted(set(numbers.index) - set(known))]
    for i, name in enumerate(names):
        made = known.get(name)
        yield Point(
            id=f"p{first + i:02d}",
            stage=dataset.folder.name,
            series=name,
            num_images=int(numbers[name]),
            model=made.model if made else "",
            step=(made.checkpoint or last_step(dataset, made.role)) if made else None,
            guidance=made.guidance if made else None,
            steps=made.steps if made else None,
            scheduler=made.scheduler if made else "",
        )
