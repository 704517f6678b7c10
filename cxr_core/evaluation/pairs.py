"""Squared distances of all pairs of features, a block at a time, in float64: by numpy, or on a GPU if there is one."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from cxr_core.data.neighbours import on_gpu
from cxr_core.evaluation.distances import blocks


@dataclass(frozen=True)
class Rows:
    """Features float64 (n, width) of images, where they are computed with: numpy's, or torch's on a GPU."""

    features: Any

    @classmethod
    def of(cls, features: np.ndarray) -> "Rows":
        wide = features.astype(np.float64)
        return cls(torch.from_numpy(wide).cuda() if on_gpu() else wide)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def squares(self) -> Any:
        return (self.features**2).sum(axis=1)

    def blocks(self) -> Iterator[slice]:
        """As many images as are compared with as many others at once."""
        return blocks(len(self), 1024 if isinstance(self.features, np.ndarray) else 8192)

    def distances(self, rows: slice, others: "Rows", columns: slice) -> "Distances":
        """Of some images to some others."""
        found = self.features[rows] @ others.features[columns].T
        found *= -2
        found += self.squares[rows, None]
        found += others.squares[columns]
        return Distances(found.clip(0, out=found) if isinstance(found, np.ndarray) else found.clamp_(min=0))


@dataclass(frozen=True)
class Distances:
    """Squared Euclidean distances (n, m), where they were computed; what is found in them is numpy's."""

    values: Any

    @property
    def shape(self) -> tuple[int, int]:
        return tuple(self.values.shape)

    def leave_out_itself(self) -> None:
        """Of images to the same images: none is its own neighbour."""
        self.values.ravel()[:: len(self.values) + 1] = np.inf

    def smallest(self, num: int) -> tuple[np.ndarray, np.ndarray]:
        """The `num` smallest of each row in any order, or all of it, and where they are."""
        num = min(num, self.shape[1])
        if not isinstance(self.values, np.ndarray):
            found, places = self.values.topk(num, largest=False, sorted=False)
            return found.cpu().numpy(), places.cpu().numpy()
        places = np.argpartition(self.values, num - 1, axis=1)[:, :num]
        return np.take_along_axis(self.values, places, axis=1), places

    def below(self, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places (i, j) of the distances below the bounds (n, 1) of their rows or (m,) of their columns, and these."""
        if isinstance(self.values, np.ndarray):
            i, j = np.nonzero(self.values < bounds)
            return i, j, self.values[i, j]
        places = torch.nonzero(self.values < torch.from_numpy(bounds).cuda(), as_tuple=True)
        i, j = (each.cpu().numpy() for each in places)
        return i, j, self.values[places].cpu().numpy()
