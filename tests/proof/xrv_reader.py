"""What torchxrayvision.datasets.NIH_Dataset finds in a folder, as JSON. Run by a Python that has torchxrayvision."""

import hashlib
import json
import sys

import numpy as np
import torchxrayvision as xrv


def main(folder: str) -> None:
    data = xrv.datasets.NIH_Dataset(
        imgpath=f"{folder}/images_001/images",
        csvpath=f"{folder}/Data_Entry_2017.csv",
        bbox_list_path=f"{folder}/BBox_List_2017.csv",
        views=["*"],
        unique_patients=False,
        pathology_masks=True,
    )
    found = [one(data, i) for i in range(len(data))]
    print(json.dumps({"version": xrv.__version__, "images": found}))


def one(data: xrv.datasets.NIH_Dataset, i: int) -> dict:
    row, sample = data.csv.iloc[i], data[i]
    grey = np.rint((sample["img"][0] / 1024 + 1) / 2 * 255).astype(np.uint8)
    return {
        "name": row["Image Index"],
        "patient": row["patientid"],
        "age": None if np.isnan(row["age_years"]) else float(row["age_years"]),
        "sex": "M" * bool(row["sex_male"]) + "F" * bool(row["sex_female"]),
        "view": row["view"],
        "findings": [name for name, has in zip(data.pathologies, sample["lab"], strict=True) if has],
        "pixels": hashlib.sha256(grey.tobytes()).hexdigest(),
        "masks": {data.pathologies[k]: int(mask.sum()) for k, mask in sample["pathology_masks"].items()},
    }


main(sys.argv[1])
