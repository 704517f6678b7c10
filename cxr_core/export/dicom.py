"""DICOM Secondary Capture objects of synthetic images: one patient each, who never was.

PS3.3 A.8.1 (Secondary Capture Image IOD). Everything is a function of the Dataset: no times, no random UIDs.
"""

import io
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import cxr_core
from cxr_core.data.dataset import Dataset
from cxr_core.data.generation_record import made_of
from cxr_core.errors import UserError
from cxr_core.export.layout import FILES_A_FOLDER, file_stem, typed_table

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_LEAF = uuid.UUID("8b2c7c3e-5d0f-5b0e-9c77-3f2c1f4f9a61")
"""The name space of our UIDs: 2.25 and a UUID (PS3.5 B.2), made of the Dataset's digest and the image's id."""


def refuse_real(dataset: Dataset) -> None:
    """Raise UserError for a Dataset of real images."""
    if not dataset.info.synthetic:
        raise UserError(
            "only synthetic images are exported as DICOM: a patient's belong into their archive",
            where=str(dataset.folder),
            hint="take --internal with --as imagefolder or --as nih",
        )


class Dicom:
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._paths: list[str] = []

    def path(self, number: int, row: Any) -> str:
        path = f"{number // FILES_A_FOLDER:03d}/{file_stem(row.image_id)}.dcm"
        self._paths.append(path)
        return path

    def content(self, row: Any) -> bytes:
        from pydicom import dcmwrite

        file = io.BytesIO()
        dcmwrite(file, self._object(row), enforce_file_format=True)
        return file.getvalue()

    def finish(self, folder: Path) -> None:
        pq.write_table(typed_table(self.dataset, self._paths), folder / "metadata.parquet")

    def uid(self, kind: str, image_id: str = "") -> str:
        return f"2.25.{uuid.uuid5(_LEAF, f'{self.dataset.info.digest}/{kind}/{image_id}').int}"

    def _object(self, row: Any) -> Any:
        from pydicom.dataset import Dataset as DicomDataset
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian

        it = DicomDataset()
        it.file_meta = FileMetaDataset()
        it.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        it.file_meta.ImplementationVersionName = f"CXR_SUITE_{cxr_core.__version__}"[:16]
        for keyword, value in (self._whose(row) | self._what(row) | _pixels(self.dataset.image(row))).items():
            setattr(it, keyword, value)
        return it

    def _whose(self, row: Any) -> dict[str, Any]:
        """Patient, study, series, equipment: nobody's, and it says so in each place that a person looks at."""
        return {
            "SpecificCharacterSet": "ISO_IR 192",
            "PatientName": "SYNTHETIC^NOT A PATIENT",
            "PatientID": row.image_id,
            "PatientBirthDate": "",
            "PatientSex": "",
            "StudyInstanceUID": self.uid("study", row.image_id),
            "StudyDate": "",
            "StudyTime": "",
            "ReferringPhysicianName": "",
            "StudyID": "",
            "AccessionNumber": "",
            "StudyDescription": "SYNTHETIC CHEST X-RAY",
            "Modality": "OT",
            "SeriesInstanceUID": self.uid("series", row.image_id),
            "SeriesNumber": 1,
            "SeriesDescription": f"SYNTHETIC {row.view}".strip(),
            "BodyPartExamined": "CHEST",
            "Manufacturer": "cxr-suite",
            "SoftwareVersions": cxr_core.__version__,
            # Synthetic image, by PS3.3 C.8.6.1.
            "ConversionType": "SYN",
        }

    def _what(self, row: Any) -> dict[str, Any]:
        """The image: what was asked for, and what made it."""
        made = made_of(row.generation, row.image_id, self.dataset.folder)
        findings = ", ".join(self.dataset.findings.decode(row.labels))
        return {
            "SOPClassUID": SECONDARY_CAPTURE,
            "SOPInstanceUID": self.uid("image", row.image_id),
            "InstanceNumber": 1,
            "ImageType": ["DERIVED", "SECONDARY"],
            # PS3.3 C.12.1: the content was made artificially.
            "SyntheticData": "YES",
            # As PA and AP are looked at: the patient's left is on the right.
            "PatientOrientation": ["L", "F"],
            "BurnedInAnnotation": "NO",
            "LossyImageCompression": "00",
            "ImageComments": f"Synthetic. Asked for: {findings}. Prompt: {row.prompt}",
            "DerivationDescription": f"model {made['model']}, seed {row.seed}"[:1024],
        }


def _pixels(image: Any) -> dict[str, Any]:
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": image.shape[0],
        "Columns": image.shape[1],
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
        # An even number of bytes, by PS3.5 8.1.1.
        "PixelData": image.tobytes() + b"\0" * (image.size % 2),
    }
