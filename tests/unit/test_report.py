"""The report: one page that is a function of the run folder, whatever of it is finished."""

import json
import logging
import re
import shutil
from collections import Counter
from html import unescape
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cxr_core.data.findings import NIH, Findings
from cxr_core.data.sheet import contact_sheet
from cxr_core.errors import UserError
from cxr_core.evaluation.metrics import FILE, Metrics
from cxr_core.log import json_lines
from cxr_core.report.faithfulness import number
from cxr_core.report.read import read_run
from cxr_core.report.sections import sections
from cxr_core.report.write import write_report
from cxr_core.runs.files import read_json, write_json
from tests.unit import report_run

CITATION = "https://arxiv.org/abs/2305.18927"
HOSTILE = "<script>alert('1')</script> & \"x\" $y$"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The page as a browser would read it: tags with attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def says(text: str, *facts: str) -> bool:
    """Whether these words and numbers stand in `text` near one another, in this order: how they are put is free."""
    return re.search(".{0,60}?".join(map(re.escape, facts)), text, re.DOTALL) is not None


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run's folder and its page."""
    root = report_run.full_run(tmp_path_factory.mktemp("runs") / "tiny", NIH).root
    page = write_report(root).read_text()
    assert "Not shown. " not in page  # which would hide a mistake of a section's own
    return root, page


def test_given_an_empty_run_when_reported_then_every_stage_is_named_as_not_run(tmp_path: Path) -> None:
    run = report_run.empty_run(tmp_path / "tiny")
    page = Page(write_report(run.root).read_text())
    for stage in run.config["stages"]:
        assert says(page.text, f"“{stage['name']}”", str(stage["kind"]), "not run")
    assert "0 of 4 stages" in page.text
    assert not page.all("img")


def test_given_only_preprocess_when_reported_then_its_numbers_stand_there_and_the_rest_is_not_run(
    tmp_path: Path,
) -> None:
    run = report_run.empty_run(tmp_path / "tiny")
    report_run.add_real(run, NIH)
    page = Page(write_report(run.root).read_text())
    assert says(page.text, "“real”", "36 real images", "12 patients", "32 × 32")
    assert says(page.text, "patient", "two splits")
    assert says(page.text, "“fine”", "train", "not run")
    assert len(page.all("img")) == len(NIH.names) + 1, "one example a class that occurs, with No Finding"
    box = {"x": "4.0", "y": "6.0", "width": "10.0", "height": "12.0"}
    assert page.all("rect").count(box) == 1


def test_given_phantoms_when_reported_then_the_page_does_not_call_them_real_images(tmp_path: Path) -> None:
    stages = [{"name": "drawings", "kind": "preprocess", "data": {"kind": "phantom"}}]
    run = report_run.empty_run(tmp_path / "tiny", stages=stages)
    report_run.add_real(run, NIH, stage="drawings")
    text = Page(write_report(run.root).read_text()).text
    assert says(text, "“drawings”", "36 phantom images", "12 patients")
    assert "Phantoms are drawn by a procedure" in text
    assert "n = 15 of 36 phantom images" in text


def test_given_many_problems_of_a_kind_when_reported_then_all_are_counted_and_twenty_are_shown(
    full: tuple[Path, str],
) -> None:
    text = Page(full[1]).text
    assert "rgba: 23 cases" in text
    assert "The first 20 of 23 cases" in text
    assert text.count("alpha 255 everywhere") == 20


def test_given_findings_shown_oftener_when_reported_then_both_shares_are_there(tmp_path: Path) -> None:
    asked = {"sampling": {"repeat_threshold": None, "frequency_exponent": 0.5, "max_repeats": 20}}
    stages = [stage | asked if stage["name"] == "fine" else stage for stage in report_run.CONFIG["stages"]]
    run = report_run.empty_run(tmp_path / "tiny", stages=stages)
    pair, none = {"images": 30, "shown": 480}, {"images": 0, "shown": 0}
    about = {"format": 1, "steps": 40, "images": 300, "shown": 1600, "never_shown": 2, "combinations": {"Edema": pair}}
    plan = run.root / "fine" / "plan"
    plan.mkdir(parents=True)
    write_json(plan / "sampling.json", about | {"findings": {"Edema": pair, "Hernia": none}})
    html = write_report(run.root).read_text()
    words = (
        "What training shows (frequency_exponent: 0.5): 1,600 images in 40 steps, out of 300 training images in "
        "1 combination"
    )
    assert words in Page(html).text
    assert "2 images never" in Page(html).text
    assert "Edema 10.0 % of images, 30.0 % as shown" in html


def test_given_a_validation_loss_that_rises_when_reported_then_an_alarm_states_its_rule(tmp_path: Path) -> None:
    for rising in (False, True):
        run = report_run.empty_run(tmp_path / f"tiny{rising:d}")
        report_run.add_training(run, rising=rising)
        text = Page(write_report(run.root).read_text()).text
        rule = "at each of the last 3 checkpoints more than 2 % above its lowest value, which it had at step 10"
        assert (rule in text) == rising


def test_given_training_in_progress_when_reported_then_its_curve_and_previews_so_far_are_there(tmp_path: Path) -> None:
    run = report_run.empty_run(tmp_path / "tiny")
    report_run.add_training(run, num_done=2)
    page = Page(write_report(run.root).read_text())
    assert says(page.text, "“fine”", "train", "not finished", "2 of 4 shards")
    assert says(page.text, "20 steps", "4 images")
    assert "step 10" in page.text
    assert "step 20" in page.text
    assert "step 30" not in page.text


def test_given_a_finished_run_when_reported_then_its_headline_numbers_are_there(full: tuple[Path, str]) -> None:
    text = Page(full[1]).text
    for expected in (
        "4 of 4 stages are finished",
        "“drawn” holds 12 synthetic images",
        "0.78 (0.73–0.83)",  # accuracy of the real arm with its interval
        "0.50 (0.50–0.50)",  # of the view alone, where views are matched
        "0.65 (0.60–0.70)",  # of the view alone, where they are not
        "That half shown twice: the interval of its AUROC reaches down to that of the view alone",
        "Real alone, not run: 49 of 500.",
        "changed accuracy by +0.060 (−0.040 to +0.160) and AUROC by +0.060 (−0.040 to +0.160). The latter interval "
        "includes 0: no effect is shown.",
        "they changed accuracy by +0.080 (+0.060 to +0.100)",
        "The latter interval excludes 0: they helped.",
        "1,240 images of 530 patients; before that, from another Dataset, 1 image of 1 patient",
        "AP and PA test images apart",
        "AP: accuracy (n = 88)",
        "0.79 (0.74–0.84)",  # of the real arm on AP images
        "not computed: n = 12",
        "No picture for Hernia",
        "in full colour a running mean",
    ):
        assert expected in text
    assert text.count("0.81") >= 2, "the study's accuracy stands in each table"
    assert "validation loss" in full[1]


def test_given_a_judge_when_reported_then_its_trial_comes_first_and_refusals_stand_in_the_numbers_place(
    full: tuple[Path, str],
) -> None:
    result = report_run.faithfulness(NIH.names[0])
    html, text = full[1], Page(full[1]).text
    assert html.index("The judge</h2>") < html.index("Is the finding there?</h2>")
    assert "600 real images of 600 patients of the test split" in text
    clear, ignored, rare, _ = result.findings
    assert number(clear.trial[0].auroc) in text
    assert number(clear.synthetic[0].auroc) in text
    assert number(clear.synthetic[0].chance) in text
    assert "exaggerated: clearer than in real images" in text
    assert f"<td>{ignored.trial[2].refused}</td>" in html, "the verdict of the trial"
    assert f"<td>{ignored.synthetic[0].refused}</td><td>–</td>" in html, "in the place of the synthetic AUROC"
    assert f"<td>{rare.synthetic[1].refused}</td><td>–</td>" in html
    assert says(text, "unknown to the judge", "Nodule")
    assert says(text, "no synthetic image", "Fibrosis")
    assert "Combinations of labels and view that real images lack" in text


def test_given_a_judge_when_reported_then_its_chart_holds_given_numbers_only(full: tuple[Path, str]) -> None:
    labels = [str(attributes.get("aria-label")) for attributes in Page(full[1]).all("div")]
    chart = next(label for label in labels if label.startswith("AUROC. "))
    assert "Atelectasis: synthetic: " in chart
    assert "Mass, AP: synthetic: " in chart
    assert "Hernia" not in chart
    assert any(label.startswith("Hernia, all views: shares of images") and "synthetic" not in label for label in labels)


def test_given_no_judge_when_reported_then_both_sections_say_so(tmp_path: Path) -> None:
    run = report_run.empty_run(tmp_path / "tiny")
    report_run.add_study(run)
    path = run.stage("study").path / FILE
    path.write_text(
        Metrics.model_validate_json(path.read_text()).model_copy(update={"faithfulness": None}).model_dump_json()
    )
    text = Page(write_report(run.root).read_text()).text
    assert text.count("Stage “study” was asked for no judgement of synthetic images.") == 2


def test_given_fidelity_when_reported_then_each_distance_stands_beside_its_n_and_the_floor(
    full: tuple[Path, str],
) -> None:
    text = Page(full[1]).text
    for expected in (
        "31.5 (29.5 to 33.5)",
        "0.050 (−0.010 to 0.110)",
        "900 – 1,800 (900 patients)",
        "Not comparable with other papers: the features are those of our own judge",
        "It saw 32 pixels a side; real images are stored with 32, synthetic ones with 64 (resized: area).",
        "the synthetic images have 3 times the floor: FID 36 beside 12. The intervals do not overlap",
        "“copying: synthetic – held-out” and “copying: synthetic – training”: not computed: n = 0 effective training",
        "covers 93 % of the request; lacks Edema PA.",
        "The copying alarm was not computed: n = 0 effective training images",
    ):
        assert expected in text


def test_given_no_floor_or_an_alarm_when_reported_then_each_is_said_in_words(tmp_path: Path) -> None:
    given = report_run.fidelity()
    lacking, far, near = given["to_train"], given["beside_floor"], given["floor"]
    changed = report_run.fidelity(floor=lacking)
    run = report_run.full_run(tmp_path / "tiny", NIH)
    path = run.root / "study" / FILE
    write_json(path, read_json(path) | {"fidelity": changed})
    text = Page(write_report(run.root).read_text()).text
    assert "Without a floor the headline cannot be judged" in text
    copied = report_run.fidelity(to_held_out=far, to_train=near, alarm=True)
    write_json(path, read_json(path) | {"fidelity": copied})
    text = Page(write_report(run.root).read_text()).text
    assert "Alarm:" in text
    assert "FID to training patients is 12, to held-out ones 36" in text
    write_json(path, read_json(path) | {"fidelity": None})
    assert "Stage “study” was not asked for fidelity." in Page(write_report(run.root).read_text()).text


def test_given_a_leaky_experiment_when_reported_then_it_is_called_so_wherever_it_is_shown(
    full: tuple[Path, str],
) -> None:
    text = Page(full[1]).text
    name = "from No Finding, n = 128 of each class (as the study’s code did it: leaky)"
    assert text.count(name) == 3, "in the summary, as heading, in the table's caption"
    leaky = text[text.rindex(name) : text.index("n = 1,000 (repaired)", text.rindex(name))]
    assert "real alone (leaky)" in leaky
    assert "0.91" in leaky
    assert not re.findall(r"(?:real alone|half synthetic)(?! \(leaky\))", leaky), "no row without the word"
    for expected in (
        "Leaky: 7 of the 61 test patients are in training too",
        "Leaky: What the synthetic images were worth",
        "excludes 0: they harmed.",
        "unknown: the synthetic Dataset does not say",
        "study, Edema: real alone (leaky)",
    ):
        assert expected in text
    repaired = text[text.index("n = 128 (repaired)") : text.index(name)]
    assert "study, Edema" not in repaired, "the study's rows stand beside the protocol that they were made with"


def test_given_a_finished_run_when_reported_then_nothing_in_it_is_fetched(full: tuple[Path, str]) -> None:
    page = Page(full[1])
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            value = attributes.get(name)
            if value is not None:
                assert value.startswith(("data:image/png;base64,", "#")) or (tag, value) == ("a", CITATION)
    assert not re.findall(r"url\((?!#)", full[1]), "CSS and SVG refer only to parts of the page"
    assert "@import" not in full[1]
    assert not page.all("script")
    assert page.all("meta")[2]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_given_a_finished_run_when_reported_then_it_can_be_read_without_seeing_it(full: tuple[Path, str]) -> None:
    page = Page(full[1])
    assert page.open == []
    assert all(image["alt"] for image in page.all("img"))
    charts = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert charts
    assert all(chart["aria-label"] for chart in charts)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_given_a_finished_run_when_reported_then_every_link_of_the_contents_has_its_one_target(
    full: tuple[Path, str],
) -> None:
    page = Page(full[1])
    ids = Counter(str(attributes["id"]) for _, attributes in page.tags if "id" in attributes)
    assert max(ids.values()) == 1
    links = [str(attributes["href"]) for _, attributes in page.tags if "href" in attributes]
    wanted = {link[1:] for link in links if link.startswith("#")}
    assert wanted <= set(ids)
    assert {section.id for section in sections(read_run(full[0]))} <= wanted


def test_given_charts_when_reported_then_their_colours_are_those_of_the_theme(full: tuple[Path, str]) -> None:
    drawings = re.findall(r"<svg aria-hidden.*?</svg>", full[1], re.DOTALL)
    coloured = [drawing for drawing in drawings if "var(--" in drawing]
    assert len(coloured) >= 5
    assert not [found for drawing in coloured for found in re.findall(r"#[0-9a-f]{6}\b", drawing)]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_given_a_theme_when_its_text_is_measured_then_the_contrast_is_that_of_wcag_aa(theme: str) -> None:
    css = (files("cxr_core.report") / "page.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", blocks[0 if theme == "light" else 1]))
    for name in ("ink", "muted", "link"):
        for paper in ("paper", "panel"):
            assert _contrast(colours[name], colours[paper]) >= 4.5, (name, paper)
    for name in ("real", "synthetic", "held-out"):
        assert _contrast(colours[name], colours["paper"]) >= 3, name


def _contrast(first: str, second: str) -> float:
    """Contrast ratio of two sRGB colours (WCAG 2.2, 1.4.3)."""
    bright, dim = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_given_hostile_names_when_reported_then_they_are_text_and_never_markup(tmp_path: Path) -> None:
    findings = Findings((HOSTILE, "Edema"))
    run = report_run.empty_run(tmp_path / "tiny")
    report_run.add_real(run, findings, file=f"images/{HOSTILE}.png")
    report_run.add_synthetic(run, findings)
    report_run.add_study(run, finding=HOSTILE)
    html = write_report(run.root).read_text()
    page = Page(html)
    assert "<script" not in html
    assert page.open == []
    assert f"images/{HOSTILE}.png" in page.text
    assert f"Telling {HOSTILE} from No Finding" in page.text


def test_given_the_same_folder_elsewhere_when_reported_again_then_the_bytes_are_equal(
    full: tuple[Path, str], tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(full[0], copy)
    assert write_report(full[0]).read_bytes() == write_report(copy).read_bytes()


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (f"study/{FILE}", '{"format": 1, "utility": 3}', "not the metrics of an evaluate stage"),
        (f"study/{FILE}", "not json", "not the metrics of an evaluate stage"),
        ("study/shards/grid.png", "not a picture", "is no picture"),
        ("real/stage.json", "{", "Invalid JSON"),
        ("real/problems.csv", "kind,file\nrgba,a.png\n", "lacks the columns image_id, detail, action"),
        ("run.json", "[]", "should be an object"),
    ],
)
def test_given_a_damaged_file_when_reported_then_it_is_named_and_the_rest_of_the_page_is_there(
    full: tuple[Path, str], tmp_path: Path, file: str, text: str, message: str
) -> None:
    root = tmp_path / "tiny"
    shutil.copytree(full[0], root)
    (root / file).write_text(text)
    page = unescape(write_report(root).read_text())
    assert f"{file}: " in page or f"{file}</th>" in page
    assert message in page
    assert all(f'id="{name}"' in page for name in ("summary", "cost", "provenance"))
    assert not list(root.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("before", "after", "section"),
    [("size: 32", "data: 5", "dataset"), ("model: diffusion", "sampling: 5", "training")],
)
def test_given_a_section_that_cannot_be_made_when_reported_then_a_warning_names_it_and_why_as_the_page_does(
    tmp_path: Path, before: str, after: str, section: str
) -> None:
    root = report_run.empty_run(tmp_path / "tiny").root
    config = (root / "config.yaml").read_text()
    (root / "config.yaml").write_text(config.replace(before, after))
    lines: list[str] = []
    with json_lines(lines.append, dict, level=logging.WARNING):
        page = write_report(root).read_text()
    (said,) = map(json.loads, lines)
    assert (said["level"], said["logger"]) == ("WARNING", "cxr_core.report")
    assert f"section '{section}'" in said["message"]
    assert "AttributeError: 'int' object has no attribute 'get'" in said["message"]
    assert page.count("Not shown. ") == 1


def test_given_a_damaged_config_when_reported_then_it_is_named_and_the_page_before_stays(
    full: tuple[Path, str], tmp_path: Path
) -> None:
    root = tmp_path / "tiny"
    shutil.copytree(full[0], root)
    (root / "config.yaml").write_text("name: tiny\n")
    before = (root / "report.html").read_bytes()
    with pytest.raises(UserError, match=r"config\.yaml: .*stages: Field required"):
        write_report(root)
    assert (root / "report.html").read_bytes() == before


def test_given_a_damaged_line_of_metrics_when_reported_then_file_and_line_are_named(
    full: tuple[Path, str], tmp_path: Path
) -> None:
    root = tmp_path / "tiny"
    shutil.copytree(full[0], root)
    path = sorted((root / "fine" / "shards").glob("*.jsonl"))[0]
    path.write_text(path.read_text().replace('{"step": 3,', '{"step": 3'))
    assert f"{path.relative_to(root)}: damaged: line 3: Invalid JSON" in write_report(root).read_text()


def test_given_a_preview_without_its_prompts_when_reported_then_it_is_named(
    full: tuple[Path, str], tmp_path: Path
) -> None:
    root = tmp_path / "tiny"
    shutil.copytree(full[0], root)
    path = sorted((root / "fine" / "shards").glob("*/preview.json"))[0]
    path.write_text('{"step": 10}')
    named = f"{path.relative_to(root)}: lacks step or prompts ('prompts')"
    assert named in unescape(write_report(root).read_text())


def test_given_a_folder_that_is_no_run_when_reported_then_the_user_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        write_report(tmp_path)


def test_given_images_when_laid_on_a_sheet_then_each_stands_in_its_place_enlarged_by_whole_pixels() -> None:
    images = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3) * 4
    sheet = contact_sheet(images, [], columns=2, scale=3)
    assert sheet.shape == (3 * (4 * 3 + 6) + 6, 2 * (3 * 3 + 6) + 6)
    x, y = 6 + 9 + 6, 6 + 12 + 6
    assert np.array_equal(sheet[y : y + 12 : 3, x : x + 9 : 3], images[3])
    assert np.array_equal(sheet[y : y + 12, x : x + 9], np.kron(images[3], np.ones((3, 3), np.uint8)))


def test_given_labels_when_laid_on_a_sheet_then_long_ones_stay_under_their_image() -> None:
    images = np.zeros((2, 64, 64), np.uint8)
    sheet = contact_sheet(images, ["Pleural Thickening, Emphysema and Infiltration", ""], columns=2)
    assert sheet[6 + 64 :, : 6 + 64].max() > 150, "there is a label"
    assert len(np.unique(sheet[6 + 64 :, 6 + 64 :])) == 1, "it does not reach under the second image"


@pytest.mark.parametrize(
    ("images", "labels", "columns", "message"),
    [
        (np.zeros((0, 4, 4), np.uint8), [], 1, "uint8 images"),
        (np.zeros((2, 4, 4)), [], 1, "uint8 images"),
        (np.zeros((2, 4, 4), np.uint8), ["one"], 1, "1 labels for 2 images"),
        (np.zeros((2, 4, 4), np.uint8), [], 0, "at least 1"),
    ],
)
def test_given_no_sheet_to_make_when_asked_for_one_then_the_user_is_told_why(
    images: np.ndarray, labels: list[str], columns: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        contact_sheet(images, labels, columns)


def test_given_a_benefit_experiment_when_reported_then_the_primary_comparison_comes_first_and_labels_are_named(
    full: tuple[Path, str],
) -> None:
    text = Page(full[1]).text
    finding = "Atelectasis"
    section = text[text.index("Classifiers of the same steps") :]
    assert says(section, "primary comparison", "replace-50", "real-50", "+0.040 (−0.010 to +0.090)")
    assert section.index("the primary comparison") < section.index("AUROC by arm")
    assert says(section, "ChestX-ray14", "text-mined")
    assert says(section, "Hernia", "not computed", "2 test images", "20")
    assert says(section, "synthetic", "not run", "12 of 128")
    assert says(section, "first", "worse")
    assert "0.40 (0.10 to ≥ 0.70)" in section
    assert says(section, "not computed", "learning curve", "flat")
    assert says(section, "not computed", f"4 test images with {finding}")
    assert says(section, "learnt from", "their real images")
    assert says(text, "“study”", finding, "Hernia", "replace-50", "real-50")


def test_given_a_judge_when_reported_then_its_calibration_on_synthetic_images_stands_beside_that_on_real_ones(
    full: tuple[Path, str],
) -> None:
    text = Page(full[1]).text
    section = text[text.index("Are the judge’s scores probabilities?") :]
    assert "0.100 (0.050–0.150)" in section
    assert "0.300 (0.250–0.350)" in section
    assert "that is taken back here" in section
    assert "0.80, of 1 finding" in section
    assert "not computed: refused" in section
    assert "sex F" in section
    assert "not computed: 3 images" in section
