"""The words of NIH's files of ChestX-ray14, for who writes such files (phantoms, exports); `chestxray14` reads them."""

from collections.abc import Iterable

from cxr_core.data.findings import JOIN

DATA_ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
"""Of Data_Entry_2017.csv. Some columns have commas in their names, so that these are two each."""
BBOX_LIST, BBOX_HEADER = "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h],,,"
NIH_ALIASES = {"Infiltrate": "Infiltration"}
"""BBox_List_2017.csv writes "Infiltrate" for what Data_Entry calls "Infiltration"."""
_BOX_NAMES = {name: alias for alias, name in NIH_ALIASES.items()}


def labels_field(names: Iterable[str]) -> str:
    """Findings as Data_Entry_2017.csv writes them: `Effusion|Mass`, by name."""
    return JOIN.join(sorted(names))


def box_name(finding: str) -> str:
    """A finding as BBox_List_2017.csv calls it."""
    return _BOX_NAMES.get(finding, finding)
