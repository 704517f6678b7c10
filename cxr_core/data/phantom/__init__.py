"""Procedural frontal chest radiographs with known findings: a stand-in for ChestX-ray14 where the truth is exact.

Every pixel follows from (seed, image id): `population` tells who is X-rayed and what they have, `draw` makes one image,
`write_layout` writes it all as NIH publishes its data. Teaching material for the pipeline, not for physicians.
"""

from cxr_core.data.phantom.case import Case, Sign
from cxr_core.data.phantom.layout import write_layout
from cxr_core.data.phantom.population import population
from cxr_core.data.phantom.render import draw, read_bytes

__all__ = ["Case", "Sign", "draw", "population", "read_bytes", "write_layout"]
