"""KID of two samples that were brought to one mix, without bias.

Sum over cells c and d of share_c * share_d * <m_c, m_d>, where m_c is the difference of both sides' mean embeddings in
cell c, in which each patient counts once, with the mean of his images. Each product is estimated by means of the kernel
over pairs of patients, one in c and one in d, never one with himself. Were images counted, a patient of many would
decide what a small cell is, on one side alone.

Weights alone would not do: in a weighted mean without an image's pair with itself, pairs within a cell, which are the
more alike, weigh less on each side than across, and KID falls below what it estimates by as much as a real difference
may be; pairs of one patient raise it.
"""

import numpy as np
import scipy.sparse

from cxr_core.evaluation.distances import blocks, cubic_kernel
from cxr_core.evaluation.mix import Sample


def kid_in_mix(a: Sample, b: Sample) -> float:
    """Squared maximum mean discrepancy (Binkowski et al. 2018, arXiv 1801.01401); it may be below 0.

    Pairs of cells of which a side has no two images of different groups are left out on both sides. NaN if all are.
    """
    within = [_means(side, side, are_one_side=True) for side in (a, b)]
    across = _means(a, b, are_one_side=False)
    products = within[0] + within[1] - across - across.T
    known = np.isfinite(products)
    weights = np.outer(a.shares, b.shares)[known]
    return float(products[known] @ weights / weights.sum()) if known.any() else float("nan")


def _means(x: Sample, y: Sample, *, are_one_side: bool) -> np.ndarray:
    """Mean kernel of all pairs of a group in a cell of `x` and one in a cell of `y`: (cells, cells), NaN of none.

    Of one side, only of different groups.
    """
    (of_x, there_x, group_of), (of_y, there_y, _) = (_belongs(side) for side in (x, y))
    sums = np.zeros((len(x.shares), len(y.shares)))
    for rows in blocks(len(x)):
        for columns in blocks(len(y)):
            kernel = cubic_kernel(x.features[rows], y.features[columns])
            if are_one_side:
                kernel *= group_of[rows, None] != group_of[columns]
            sums += (of_x[:, rows] @ kernel) @ of_y[:, columns].T
    num_pairs = np.outer(there_x.sum(axis=1), there_y.sum(axis=1))
    if are_one_side:
        num_pairs = num_pairs - (there_x @ there_x.T).toarray()
    return np.where(num_pairs > 0, sums / np.maximum(num_pairs, 1), np.nan)


def _belongs(side: Sample) -> tuple[scipy.sparse.csr_array, scipy.sparse.csr_array, np.ndarray]:
    """What images weigh in their cells (cells, images), which groups are in them (cells, groups), and whose images are.

    A group weighs 1 in each cell that it is in.
    """
    groups, group_of = np.unique(side.groups, return_inverse=True)
    num, shape = len(side), (len(side.shares), len(groups))
    counts = scipy.sparse.csr_array((np.ones(num), (side.cells, group_of)), shape=shape)
    shares = 1 / counts[side.cells, group_of]
    of = scipy.sparse.csr_array((shares, (side.cells, np.arange(num))), shape=(shape[0], num))
    return of, counts.minimum(1), group_of
