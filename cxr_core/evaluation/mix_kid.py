"""KID of two samples that were brought to one mix, without bias.

Sum over cells c and d of share_c * share_d * <m_c, m_d>, where m_c is the difference of both sides' mean embeddings in
cell c. Each product is estimated by means of the kernel over pairs of images, one of c and one of d: never an image
with itself, nor two of one patient. Weights alone would not do: in a weighted mean without an image's pair with itself,
pairs within a cell, which are the more alike, weigh less on each side than across, and KID falls below what it
estimates by as much as a real difference may be; pairs of one patient raise it.
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
    """Mean kernel of all pairs of an image of a cell of `x` and one of a cell of `y`: (cells, cells), NaN of none.

    Of one side, only of images of different groups.
    """
    groups, group_of = np.unique(x.groups, return_inverse=True) if are_one_side else (np.empty(0), np.empty(0, int))
    of_x, of_y = (_belongs(side.cells, len(side.shares)) for side in (x, y))
    sums = np.zeros((len(x.shares), len(y.shares)))
    for rows in blocks(len(x)):
        for columns in blocks(len(y)):
            kernel = cubic_kernel(x.features[rows], y.features[columns])
            if are_one_side:
                kernel *= group_of[rows, None] != group_of[columns]
            sums += (of_x[:, rows] @ kernel) @ of_y[:, columns].T
    num_pairs = np.outer(*(np.bincount(side.cells, minlength=len(side.shares)) for side in (x, y))).astype(float)
    if are_one_side:
        together = of_x @ _belongs(group_of, len(groups)).T
        num_pairs -= (together @ together.T).toarray()
    return np.where(num_pairs > 0, sums / np.maximum(num_pairs, 1), np.nan)


def _belongs(which: np.ndarray, num: int) -> scipy.sparse.csr_array:
    """1 where image j is of cell or group i: (num, images)."""
    return scipy.sparse.csr_array((np.ones(len(which)), (which, np.arange(len(which)))), shape=(num, len(which)))
