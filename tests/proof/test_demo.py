"""What `make demo` must show, on the demo itself; `make proof TARGET=demo`, minutes.

CXR_PROOF_RUNS names a folder for the run, to look at it afterwards; a run that is there is gone on with.
"""

import os
from pathlib import Path

import pytest

from cxr_core.evaluation.metrics import FILE, JudgedFinding, Metrics
from cxr_core.report.verdicts import copying_alarm
from tests.pipeline import cxr

pytestmark = pytest.mark.proof


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Metrics:
    runs = Path(os.environ.get("CXR_PROOF_RUNS", tmp_path_factory.mktemp("runs")))
    done = cxr("demo", "--runs", runs, timeout=3600)
    assert done.returncode == 0, done.stderr
    print(f"\n{done.stdout}")
    return Metrics.model_validate_json((runs / "demo" / "study" / FILE).read_text())


def test_the_judge_knows_five_findings_of_phantoms_that_it_never_saw(metrics: Metrics) -> None:
    assert metrics.faithfulness is not None
    aurocs = {each.finding: each.trial[0].auroc for each in metrics.faithfulness.findings}
    for finding, auroc in aurocs.items():
        print(f"{finding}: judge on held-out phantoms {auroc}")
    assert sum(auroc is not None and auroc.value >= 0.85 for auroc in aurocs.values()) >= 5


def test_the_findings_asked_for_are_there_and_shuffled_prompts_give_chance(metrics: Metrics) -> None:
    assert metrics.faithfulness is not None
    asked = [each for each in metrics.faithfulness.findings if each.synthetic]
    assert len(asked) == 7
    for each in asked:
        for contrast in each.synthetic:
            print(f"{each.finding}, {contrast.within}: {contrast.verdict}")
    assert [each.finding for each in asked if not _obeys(each)] == []


def _obeys(judged: JudgedFinding) -> bool:
    """AUROC of at least 0.75 pooled, or within a view where the judge says nothing of the other."""
    known = [contrast for contrast in judged.synthetic if contrast.auroc is not None and contrast.chance is not None]
    if not known:
        return False
    return known[0].auroc.value >= 0.75 and known[0].chance.low < 0.5 < known[0].chance.high


def test_the_synthetic_images_have_a_distance_beside_the_floor(metrics: Metrics) -> None:
    assert metrics.fidelity is not None
    for name in ("headline", "beside_floor", "floor", "to_held_out", "to_train"):
        print(f"{name}: {getattr(metrics.fidelity, name).model_dump_json(exclude={'coverage'})}")
    print(copying_alarm(metrics.fidelity))
    assert metrics.fidelity.headline.fid is not None
