"""What `make mutation` makes of mutmut's answers."""

from tests.mutation import MODULES, ROOT, Survivor, change_of, is_wording, settled

DIFFERENCE = """\
--- cxr_core/a.py
+++ cxr_core/a.py
@@ -1,4 +1,4 @@
 def f(x):
-    return x + 1
+    return x - 1
"""


def test_given_a_difference_then_its_change_is_both_lines_without_indents() -> None:
    assert change_of(DIFFERENCE) == "-return x + 1\n+return x - 1"


def test_given_a_reason_for_one_of_two_that_live_then_the_score_leaves_it_out() -> None:
    living = [Survivor("a", "-x\n+y"), Survivor("b", "-x\n+z")]
    result = settled("m.py", 10, living, {"the same for all x": ["-x\n+y"]})
    assert result.explained == {"the same for all x": [living[0]]}
    assert result.unexplained == [living[1]]
    assert (result.num_found, result.score) == (8, 8 / 9)


def test_each_module_and_its_tests_are_there() -> None:
    for module, tests in MODULES.values():
        assert [name for name in (module, *tests) if not (ROOT / name).is_file()] == []


def test_given_a_message_between_marks_then_only_its_wording_changed() -> None:
    assert is_wording('-mend="remove it"\n+mend="XXremove itXX"')
    assert is_wording('-mend="remove it"\n+mend="REMOVE IT"')
    assert not is_wording('-mend="remove it"\n+mend=None')
    assert not is_wording('-errors="replace"\n+errors="XXreplaceXX"')
    assert not is_wording("-x < 3\n+x <= 3")
