"""Settings of the preprocess stage: where radiographs come from, what is done to them, and what an oddity leads to."""

import string
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from cxr_core.data.findings import NIH_FINDINGS, vocabulary
from cxr_core.data.positions.phrases import read_two_ways
from cxr_core.data.positions.settings import PositionWords
from cxr_core.data.positions.split import MoveBoxed
from cxr_core.data.words import read_as_several
from cxr_core.settings import Absent, Formerly, LocalPath, Settings, StageSettings

Missing = Literal["fail", "subset"]
FailOrExclude = Literal["fail", "exclude"]
Convert = Literal["fail", "exclude", "convert"]
Keep = Literal["fail", "exclude", "keep"]
ConvertOrKeep = Literal["fail", "exclude", "convert", "keep"]


class Percentile(Settings):
    """A value of each file by the share of its values that are not larger."""

    percentile: float = Field(ge=0, le=100)
    """0 is the smallest value of the file, 100 the largest."""


White = Annotated[int, Field(strict=True, ge=1, le=65535)] | Literal["file"] | Percentile
Black = Annotated[int, Field(strict=True, ge=0, le=65534)] | Percentile


class BoxFile(Settings):
    """A further file of bounding boxes: a CSV like NIH's or RSNA's or with the columns image, finding, x, y, w, h, or a
    JSON list like ChestX-Det's. Its numbers are in the frame of the source's own boxes."""

    path: LocalPath
    """The file, .csv or .json."""
    finding: str | None = None
    """What every box shows, where the file does not say it (RSNA: Pneumonia)."""
    names: dict[str, str | None] = Field(default_factory=dict)
    """What the file calls a finding -> what the Dataset does, e.g. {"Diffuse Nodule": Nodule}; null leaves it out."""


class ChestXray14Data(Settings):
    """NIH ChestX-ray14 as NIH publishes it (Wang et al., CVPR 2017; https://nihcc.app.box.com/v/ChestXray-NIHCC)."""

    box_frame: ClassVar[int | None] = 1024
    """BBox_List_2017.csv is in the frame of NIH's 1024-px files, whatever the size of the copy at hand."""

    kind: Literal["chestxray14"]
    """The kind of this source."""
    metadata: LocalPath
    """Folder of Data_Entry_2017*.csv (with the header of 2017 or of v2020), the two lists and BBox_List_2017.csv."""
    images: tuple[LocalPath, ...] = ()
    """Folders that hold the images, at any depth (`images_001/images` ...); none: they lie below `metadata`."""
    missing: Missing = "fail"
    """A row without an image: an error, or `subset`: go on with the images that are there."""
    exclude_lists: tuple[LocalPath, ...] = ()
    """Lists of images to leave out, e.g. known rotated or lateral ones: pixels do not tell these. Text with a name a
    line, or CSV (see docs/tables.md)."""
    expect_size: PositiveInt | None = 1024
    """Width and height that every image file has; null: any."""
    white: Annotated[White | None, Absent(None)] = None
    """The value of 16-bit files that is white: a number (4095 where 12 bits are used), `{percentile: 99.9}` of each
    file's own values, or `file`: what its sBIT chunk says. Null: 65535, and files that it does not fit are named."""
    black: Annotated[Black, Absent(0)] = 0
    """The value of 16-bit files that is black: a number, or `{percentile: 0.1}` of each file's own values."""
    data_entry: LocalPath | None = None
    """The table, where it lies elsewhere or has another name than Data_Entry_2017*.csv."""
    train_val_list: LocalPath | None = None
    """The official list of training images, where it is not `metadata`/train_val_list.txt."""
    test_list: LocalPath | None = None
    """The official list of test images, where it is not `metadata`/test_list.txt."""
    boxes: LocalPath | None = None
    """The list of boxes, where it is not `metadata`/BBox_List_2017.csv."""
    use_boxes: bool = True
    """Read the list of boxes."""
    further_boxes: tuple[BoxFile, ...] = ()
    """More files of boxes for the same images."""


class Columns(Settings):
    """Names of the columns of a table of one's own; null: there is no such column."""

    image: str = "image"
    """File name of the image, or its path: where it has folders, the file's must agree (see docs/tables.md)."""
    patient: str = "patient"
    """Whose image it is. Splits are by patient, so every table must have it."""
    labels: str = "labels"
    """Findings joined by `label_separator`, or "No Finding"."""
    view: str | None = "view"
    """PA or AP, in any case and as whole words (POSTERO_ANTERIOR); empty: unknown. Any other: see `views`."""
    age: str | None = None
    """Years ("57", "057Y"), months ("011M"), weeks ("008W") or days ("004D"); empty: unknown."""
    sex: str | None = None
    """M, F, male or female; O, U or empty: neither, or unknown."""
    follow_up: str | None = None
    """Number of the visit."""
    split: str | None = None
    """train, val or test. Null: split by a hash of the patient, see `test_share`."""
    box: tuple[str, str, str, str, str] | None = None
    """Columns of one box: finding, x, y, width, height, in pixels of the image file. An image with several boxes has
    a row for each; rows without a box leave the five empty."""


class TableData(Settings):
    """Radiographs of one's own: one CSV and PNG files."""

    box_frame: ClassVar[int | None] = None

    kind: Literal["table"]
    """The kind of this source."""
    csv: LocalPath
    """The table, a row an image."""
    images: tuple[LocalPath, ...] = Field(min_length=1)
    """Folders that hold the images, at any depth."""
    findings: tuple[str, ...] = Field(min_length=1)
    """The label vocabulary, in the order of its bits. "No Finding" is not one of them."""
    columns: Columns = Columns()
    """Names of the columns."""
    views: Annotated[dict[str, Literal["PA", "AP", "unknown"]], Absent({})] = Field(default_factory=dict)
    """What other values of the view column mean, e.g. {AP_horizontal: AP, FRONTAL: unknown}; see policies.other_view
    for those not named."""
    label_separator: str = Field(default="|", min_length=1)
    """What stands between two findings."""
    test_share: Annotated[float, Formerly("test")] = Field(default=0.2, ge=0, lt=1)
    """Share of the patients that is test, where there is no split column."""
    further_boxes: tuple[BoxFile, ...] = ()
    """More files of boxes for the same images."""
    missing: Missing = "fail"
    """A row without an image: an error, or `subset`: go on with the images that are there."""
    exclude_lists: tuple[LocalPath, ...] = ()
    """Lists of images to leave out: text with a name a line, or CSV (see docs/tables.md)."""
    expect_size: PositiveInt | None = None
    """Width and height that every image file has; null: any."""
    white: Annotated[White | None, Absent(None)] = None
    """The value of 16-bit files that is white: a number (4095 where 12 bits are used), `{percentile: 99.9}` of each
    file's own values, or `file`: what its sBIT chunk says. Null: 65535, and files that it does not fit are named."""
    black: Annotated[Black, Absent(0)] = 0
    """The value of 16-bit files that is black: a number, or `{percentile: 0.1}` of each file's own values."""

    @field_validator("findings")
    @classmethod
    def _vocabulary(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return vocabulary(names)

    @model_validator(mode="after")
    def _separable(self) -> Self:
        vocabulary(self.findings, self.label_separator)
        return self


class PhantomData(Settings):
    """Procedural radiographs, drawn on demand: no data are needed to try everything else."""

    box_frame: ClassVar[int | None] = 1024

    kind: Literal["phantom"]
    """The kind of this source."""
    num_images: Annotated[PositiveInt, Formerly("images")]
    """How many are drawn."""
    seed: int = 0
    """Who is drawn: the same seed gives the same people, findings and pixels in every run."""
    size: int = Field(default=256, ge=32, le=2048)
    """Width and height as drawn, before `size` of the stage."""
    boxed_patients: Annotated[Literal["test", "all"], Formerly("boxes")] = "test"
    """Which images have bounding boxes: those of `test` patients, as in ChestX-ray14, or `all`."""
    findings: tuple[str, ...] = NIH_FINDINGS
    """What the sick can have: fewer findings give more images of each."""
    view_confounding: bool = True
    """Whether the sick are more often imaged lying (AP), as in ChestX-ray14."""
    exclude_lists: ClassVar[tuple[LocalPath, ...]] = ()
    further_boxes: ClassVar[tuple[BoxFile, ...]] = ()
    expect_size: ClassVar[int | None] = None
    white: ClassVar[None] = None
    black: ClassVar[int] = 0

    @field_validator("findings")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in NIH_FINDINGS]
        if unknown or not names:
            raise ValueError(f"findings {list(names)}: name at least one, and of {', '.join(NIH_FINDINGS)} alone")
        return names


Data = Annotated[ChestXray14Data | TableData | PhantomData, Field(discriminator="kind")]

TEMPLATE_FIELDS = ("findings", "names", "view", "age", "sex")


class PromptSettings(Settings):
    """How an image is put into words. CLIP reads at most 77 tokens; a longer prompt is an error of the plan."""

    style: Literal["study", "clinical", "template"] = "clinical"
    """`study`: "ChestXRay Edema Effusion", as Malik and Humair (2023) trained. `clinical`: "frontal chest x-ray,
    PA view, pulmonary edema, pleural effusion". `template`: your own."""
    template: str | None = None
    """Text with the fields {findings} ("pulmonary edema, pleural effusion"), {names} ("Edema, Effusion"),
    {view} ("PA"), {age} ("57") and {sex} ("female"); what is not known reads "unknown"."""
    findings: bool = True
    """`clinical` says the findings. Off: to pre-train a base that knows views and leaves findings to fine-tuning."""
    view: bool = True
    """`clinical` says the view, where it is known."""
    age: bool = False
    """`clinical` says the age. Off: demographics cost tokens and, in one reproduction, image quality."""
    sex: bool = False
    """`clinical` says the sex."""
    positions: PositionWords | None = None
    """`clinical` says where findings are, for images with bounding boxes. Null: never."""
    tokenizer: LocalPath | None = None
    """Folder of the tokenizer that counts tokens (tokenizer.json, or vocab.json and merges.txt). Null: a count that is
    exact for our own words and rarely too low for others."""

    @model_validator(mode="after")
    def _fits_style(self) -> Self:
        if (self.template is not None) != (self.style == "template"):
            raise ValueError("`template` and `style: template` go together: give both or neither")
        if self.style != "clinical" and (self.age or self.sex):
            raise ValueError(
                f"age and sex belong to `style: clinical`, not {self.style}: in a template use {{age}}, {{sex}}"
            )
        if self.style != "clinical" and not self.findings:
            raise ValueError(f"findings can be left unsaid in `style: clinical` only, not {self.style}")
        if self.positions is not None and (self.style != "clinical" or not self.findings):
            raise ValueError("positions are said of findings in `style: clinical` only, which must say the findings")
        if self.template is not None:
            _check_template(self.template)
        return self


def _check_template(template: str) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}; write {{{{ for a brace that is no field") from error
    fields = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    odd = [name for name, spec, conversion in fields if name not in TEMPLATE_FIELDS or spec or conversion]
    if odd:
        raise ValueError(f"template has {odd}; its fields are {', '.join(f'{{{name}}}' for name in TEMPLATE_FIELDS)}")
    if not {"findings", "names"} & {name for name, _, _ in fields}:
        raise ValueError("template says nothing of the findings: put {findings} or {names} into it")


def _check_phrases(findings: tuple[str, ...], prompts: PromptSettings) -> None:
    """Raise ValueError where a prompt can be read in two ways."""
    several = read_as_several(findings) if prompts.style == "study" else None
    if several:
        raise ValueError(
            f"in `style: study` the finding {several[0]!r} reads like {' and '.join(map(repr, several[1]))}: rename it,"
            " or take `style: clinical`"
        )
    positions = prompts.positions
    two_ways = read_two_ways(findings, sizes=positions.sizes) if positions else None
    if two_ways:
        raise ValueError(
            f"the finding {two_ways[0]!r} reads like a size or place of {two_ways[1]!r} in prompts with `positions`:"
            " rename it, or turn positions (or their sizes) off"
        )


class Policies(Settings):
    """What each kind of oddity leads to: `fail` stops, `exclude` leaves the image out, `convert` corrects it, `keep`
    only counts it. Every case is named in problems.csv."""

    unreadable: FailOrExclude = "exclude"
    """No PNG, or a damaged one."""
    truncated: FailOrExclude = "exclude"
    """A PNG whose end is missing."""
    too_large: FailOrExclude = "exclude"
    """More than 100 megapixels once padded to a square: refused before it is decompressed."""
    wrong_size: Convert = "exclude"
    """Another size than `expect_size`; converted, it is resized like any other."""
    sixteen_bit: Convert = "convert"
    """16 bits a sample: `black` to `white` of the data are scaled to 0..255, without these 0..65535."""
    unclear_white: Annotated[Convert, Absent("convert")] = "fail"
    """A 16-bit file that its white does not fit. Without a stated `white`: no value over 32767, or at most 66 grey
    levels would be left. With one: over 5 % of the values are above it, or the file does not state its own."""
    above_white: Annotated[Convert, Absent("convert")] = "convert"
    """A 16-bit file with values above the stated `white`: they become white."""
    rgba: Convert = "convert"
    """An alpha channel: laid over black."""
    rgb: Convert = "convert"
    """Three equal channels: one is taken."""
    colour: Convert = "convert"
    """Channels that differ: luminance is taken."""
    animated: Annotated[Convert, Absent("convert")] = "convert"
    """Several frames: the still image is taken."""
    turned: Annotated[ConvertOrKeep, Absent("keep")] = "convert"
    """Its EXIF (or XMP) says that it is to be turned or mirrored: that is done, to its boxes too; kept, it stays as
    it is stored."""
    inverted: Annotated[ConvertOrKeep, Absent("keep")] = "keep"
    """Looks like a negative: white where radiographs are black. Converted, black and white change places."""
    flat: Annotated[Keep, Absent("keep")] = "exclude"
    """One grey value everywhere, as an image of 1 x 1 pixel has."""
    few_grey_levels: Annotated[Keep, Absent("keep")] = "exclude"
    """At most 66 of 256 grey levels hold 99.5 % of the pixels: a mask, or an image under the wrong white."""
    enlarged: Annotated[Convert, Absent("convert")] = "convert"
    """Smaller than `size`: enlarged by interpolation."""
    mixed_sizes: Annotated[Literal["fail", "keep"], Absent("keep")] = "keep"
    """Image files of several sizes in one set, said once with the sizes."""
    nearly_black: Keep = "keep"
    """Mean below 70 of 255."""
    nearly_white: Keep = "keep"
    """Mean above 200 of 255."""
    box_outside: Convert = "convert"
    """A box that leaves its image: cut at the border, or left out if nothing remains."""
    box_without_label: Annotated[ConvertOrKeep, Absent("keep")] = "keep"
    """A box of a finding that the image's labels do not have; converted, the box is left out."""
    duplicate_pixels: Keep = "exclude"
    """Equal pixels under several names: one is kept, from the test split before val before train."""
    contradicting_duplicates: Keep = "exclude"
    """Equal pixels under several names with different labels: none is kept."""
    listed: Keep = "exclude"
    """Named in one of `exclude_lists`."""
    other_view: Keep = "exclude"
    """A view other than PA and AP, e.g. lateral; kept, its view counts as unknown."""
    not_a_file: Annotated[FailOrExclude, Absent("exclude")] = "exclude"
    """A name ending in .png that is no file: a link to nothing, a folder, a pipe. Its row counts as one without an
    image, see `missing`."""
    image_without_row: Literal["fail", "keep"] = "keep"
    """An image file that the table does not name; it is never used."""
    similar_patients: Annotated[Literal["fail", "convert", "keep"], Absent("keep")] = "convert"
    """Patients whose names differ in case, zeros or form alone (`5` and `5.0`, `4` and `0004`, `P1` and `p1`):
    converted, they count as one wherever patients are split, and a split that parts them is refused; kept, they are
    different people."""
    impossible_age: Convert = "convert"
    """Over 120 years (ChestX-ray14 of 2017 has 411): the age is removed."""


class PreprocessInputs(Settings):
    """Preprocessing starts from `data`, not from an earlier stage."""


class PreprocessStage(StageSettings):
    """Verify radiographs, make them grey, square and equal in size, write prompts, split patients: a Dataset."""

    kind: Literal["preprocess"]
    """The kind of this stage."""
    inputs: PreprocessInputs = PreprocessInputs()
    """None."""
    data: Data
    """Where the radiographs come from."""
    size: int = Field(default=512, ge=16, le=2048)
    """Width and height in pixels. Images are padded to a square with black, then resized by area averaging."""
    prompts: PromptSettings = PromptSettings()
    """How images are put into words."""
    policies: Policies = Policies()
    """What each kind of oddity leads to."""
    validation_share: Annotated[float, Formerly("validation")] = Field(default=0.1, ge=0, lt=1)
    """Share of the training patients that becomes `val`, by a hash of the patient: the same patients in every run."""
    move_boxed: MoveBoxed | None = None
    """Move test patients with a bounding box to train and val, so that places can be learnt. Whoever is moved is named
    in the Dataset and in every model that learns from it, and no evaluation tests utility on them."""
    num_images: PositiveInt | None = None
    """At most so many images, whole patients by a hash of the patient (at least one patient): for quick runs."""
    shard_size: PositiveInt = 1000
    """Images per shard."""

    @model_validator(mode="after")
    def _one_prompt_a_finding(self) -> Self:
        if isinstance(self.data, TableData):
            _check_phrases(self.data.findings, self.prompts)
        return self
