"""Vocabularies of one's own: names that read alike, names within names, and the alias that is NIH's alone."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from cxr_core.data.boxfile import read_boxes
from cxr_core.data.findings import NIH, Findings
from cxr_core.data.positions.phrases import PlacedFinding, parse, unplaced
from cxr_core.data.positions.regions import GRID
from cxr_core.data.prompts import PromptWriter
from cxr_core.data.settings import BoxFile, PromptSettings
from cxr_core.data.sources import plan_source
from cxr_core.errors import UserError
from cxr_core.generation.requests import combination
from tests.radiographs import stage, table_stage

TABLE = {"kind": "table", "csv": "a.csv", "images": ["."]}


@pytest.mark.parametrize("findings", [["Infiltrate"], ["Infiltrate", "Infiltration"]])
def test_infiltrate_of_ones_own_is_no_infiltration(findings: list[str], tmp_path: Path) -> None:
    text = "image,patient,labels,view\na.png,1,Infiltrate,PA\n"
    plan = plan_source(table_stage(tmp_path, text, ["a.png"], data={"findings": findings}))
    assert plan.findings.text(plan.rows["labels"][0]) == "Infiltrate"
    assert plan.rows["prompt"][0].endswith(", infiltrate")
    with pytest.raises(UserError, match="unknown finding 'Infiltrate'"):
        NIH.encode(["Infiltrate"])


def test_in_a_box_list_of_nihs_form_infiltrate_is_infiltration_where_the_vocabulary_has_no_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\na.png,Infiltrate,1,2,3,4\n")
    found = [read_boxes(BoxFile(path=path), one)["finding"].item() for one in (NIH, Findings(("Infiltrate",)))]
    assert found == ["Infiltration", "Infiltrate"]
    path.write_text("image,finding,x,y,w,h\na.png,Infiltrate,1,2,3,4\n")
    with pytest.raises(UserError, match="row 2: a box of an unknown finding: 'Infiltrate'"):
        read_boxes(BoxFile(path=path), NIH)


@pytest.mark.parametrize(
    ("findings", "separator", "named"),
    [
        (["Mass", "mass"], "|", "'Mass' and 'mass' read alike"),
        (["Pleural_Thickening", "Pleural Thickening"], "|", "read alike"),
        (["No finding"], "|", "leave it out"),
        (["no_finding"], "|", "leave it out"),
        (["a|b"], ";", "holds '|'"),
        (["a;b"], ";", "holds ';'"),
        (["Pleural Effusion"], " ", "holds ' '"),
        (["Fracture, rib"], ";", "holds ','"),
        (['"Mass"'], "|", "holds '\"'"),
        ([""], "|", "is empty"),
        ([" Mass"], "|", "odd blanks"),
        (["Mass\n"], "|", "odd blanks"),
    ],
)
def test_names_that_cannot_be_told_apart_or_written_are_refused_with_the_config(
    findings: list[str], separator: str, named: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        stage(TABLE | {"findings": findings, "label_separator": separator})
    assert named in str(caught.value)
    assert "->" in str(caught.value)


def test_names_of_other_alphabets_and_with_slashes_are_taken(tmp_path: Path) -> None:
    decomposed = "Ergu\u0308ss"
    text = f"image,patient,labels,view\na.png,1,{decomposed},PA\nb.png,2,Nodule/Mass,PA\nc.png,3,no finding,PA\n"
    data = {"findings": ["Ergüss", "Nodule/Mass"]}
    plan = plan_source(table_stage(tmp_path, text, ["a.png", "b.png", "c.png"], data=data))
    assert list(plan.rows["labels"]) == [1, 2, 0]


TWINS = [("Effusion", "Pleural Effusion"), ("Edema", "pulmonary_edema"), ("nodule", "small nodule")]
TWINS += [("Mass", "Mass lesion"), ("Fibrosis", "Pulmonary Fibrosis")]


@pytest.mark.parametrize("style", [{"style": "study"}, {}, {"style": "template", "template": "{findings}"}])
@pytest.mark.parametrize("names", TWINS)
def test_two_findings_never_have_one_prompt(names: tuple[str, ...], style: dict[str, str]) -> None:
    findings = Findings(names)
    write = PromptWriter(PromptSettings.model_validate(style), findings)
    assert len({write(bits, "PA") for bits in range(4)}) == 4


def test_a_finding_whose_name_is_part_of_anothers_is_read_as_what_it_is() -> None:
    names = ("nodule", "small nodule", "Effusion", "Pleural Effusion")
    write = PromptWriter(PromptSettings.model_validate({"positions": {}}), Findings(names))
    region = GRID[0]
    for number, name in enumerate(names):
        prompt = write(1 << number, "PA", placed=[PlacedFinding(name, region)])
        assert [one.said for one in parse(prompt, names)] == [(name, region, "")]
        assert unplaced(prompt, names) == write(1 << number, "PA")
    asked = combination("small nodule in the upper left", Findings(names), where="request")
    assert asked.labels == 2
    assert [one.finding for one in asked.placed] == ["small nodule"]
    assert combination("small nodule", Findings(names), where="request") == (2, ())
    assert combination("large nodule", Findings(names), where="request").placed[0].said == ("nodule", None, "large")


@pytest.mark.parametrize(
    ("findings", "prompts", "named"),
    [
        (["nodule", "small nodule"], {"positions": {"sizes": True}}, "'small nodule' reads like a size or place"),
        (["mass", "mass in the upper left"], {"positions": {}}, "reads like a size or place of 'mass'"),
        (["Mass", "lesion", "Mass lesion"], {"style": "study"}, "'Mass lesion' reads like 'Mass' and 'lesion'"),
    ],
)
def test_a_prompt_that_would_say_two_things_is_refused_with_the_config(
    findings: list[str], prompts: dict, named: str
) -> None:
    with pytest.raises(ValidationError, match=named):
        stage(TABLE | {"findings": findings}, prompts=prompts)
    stage(TABLE | {"findings": findings})
