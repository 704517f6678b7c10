"""Settings: what a key that was added or renamed means in a file of before, and in a user's file."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import pytest
from pydantic import ValidationError

from cxr_core.settings import (
    OF_A_RUN,
    Absent,
    Formerly,
    Settings,
    as_before,
    former_names,
    in_current_names,
    in_former_names,
)
from jobs.config import RunConfig
from slurm.profile import ClusterProfile


class Part(Settings):
    num_steps: Annotated[int, Formerly("steps")] = 3


class Whole(Settings):
    part: Annotated[Part, Formerly("piece")] = Part()
    parts: tuple[Part, ...] = ()
    by_size: Mapping[int, Part] = {}
    white: Annotated[int | None, Absent(None)] = None


OLD: dict[str, Any] = {"piece": {"steps": 5}, "parts": [{"steps": 6}], "by_size": {8: {"steps": 7}}}


def test_given_settings_of_a_run_then_former_names_are_read_at_every_depth() -> None:
    whole = Whole.model_validate(OLD, context=OF_A_RUN)
    assert (whole.part.num_steps, whole.parts[0].num_steps, whole.by_size[8].num_steps) == (5, 6, 7)
    assert Whole.model_validate(whole.model_dump(), context=OF_A_RUN) == whole, "names of now are read as well"


def test_given_a_users_settings_then_each_former_name_is_an_error_that_gives_the_name_of_now() -> None:
    with pytest.raises(ValidationError) as error:
        Whole.model_validate({"parts": [{"steps": 1}], "by_size": {8: {"steps": 2}}})
    told = {each["loc"]: each["msg"] for each in error.value.errors()}
    assert set(told) == {("parts", 0, "steps"), ("by_size", 8, "steps")}
    assert all("num_steps" in text for text in told.values())


def test_settings_are_spelled_as_before_for_what_covers_their_json() -> None:
    whole = Whole.model_validate(OLD, context=OF_A_RUN)
    assert as_before(whole, whole.model_dump(mode="python")) == OLD
    assert in_former_names(whole, whole.model_dump(mode="python")) == OLD | {"white": None}


def test_what_a_run_recorded_is_given_the_names_of_now_at_every_depth_and_no_key_that_it_lacks() -> None:
    now = {"part": {"num_steps": 5}, "parts": [{"num_steps": 6}], "by_size": {8: {"num_steps": 7}}}
    assert in_current_names(Whole.model_validate(OLD, context=OF_A_RUN), OLD) == now
    assert in_current_names(Whole.model_validate(now), now) == now


def settings_classes(of: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for each in of.__subclasses__():
        yield each
        yield from settings_classes(each)


def test_a_former_name_is_never_a_key_again_and_belongs_to_one_key() -> None:
    assert {RunConfig, ClusterProfile} <= set(settings_classes())
    for each in settings_classes():
        former = former_names(each)
        assert not former.keys() & each.model_fields.keys(), each
        marks = [mark for field in each.model_fields.values() for mark in field.metadata if isinstance(mark, Formerly)]
        assert len(former) == len(marks), each
