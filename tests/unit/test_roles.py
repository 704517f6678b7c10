"""Places of a stage's inputs: one name each, read and written in one way."""

from cxr_core.runs.roles import by_place, in_roles, place, places_in, role_of
from jobs.inputs import flat_inputs


def test_given_a_list_in_a_role_then_each_input_has_a_place_and_the_first_is_the_role() -> None:
    found = by_place({"real": "nih", "synthetic": ("a", "b", "c")})
    assert found == {"real": "nih", "synthetic": "a", "synthetic.1": "b", "synthetic.2": "c"}
    assert [role_of(name) for name in found] == ["real", "synthetic", "synthetic", "synthetic"]
    assert [place("synthetic", i) for i in range(3)] == places_in(found, "synthetic")


def test_given_places_then_a_role_is_a_list_again_in_the_order_of_the_config() -> None:
    given = {"synthetic": 1, "real": 2, "judge": 3, "synthetic.1": 4}
    assert in_roles(given, "synthetic") == [1, 4]
    assert in_roles(given, "real", "synthetic") == [1, 2, 4]
    assert in_roles(given, "gate") == []


def test_given_inputs_of_a_config_then_roles_left_out_have_no_place() -> None:
    assert flat_inputs({"model": ["a", "b"], "gate": None, "like": "real"}) == {
        "model": "a",
        "model.1": "b",
        "like": "real",
    }
