"""The form of a deployment's parameters, as the Prefect UI is told to draw it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from deconstruct.config import RunConfig
from flows.pipeline import DEFAULT, HERE, pipeline

FORM: dict[str, Any] = parameter_schema(pipeline.fn).model_dump_for_openapi()
GROUPS: dict[str, Any] = FORM["definitions"]


def fields() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each field of the form by its group and name."""
    for name, field in FORM["properties"].items():
        yield name, field
    for group, described in GROUPS.items():
        for name, field in described["properties"].items():
            yield f"{group}.{name}", field


def nulls(value: Any) -> bool:
    """Whether there is a null somewhere in a value."""
    if isinstance(value, dict):
        return any(map(nulls, value.values()))
    return value is None


def test_no_field_begins_as_none() -> None:
    """A kind "null" is drawn as a tab, and says `Property is type "None"` where it is open."""
    assert len(list(fields())) > 60
    for name, field in fields():
        assert not nulls(field.get("default", "")), name
        kinds = [kind.get("type") for kind in field.get("anyOf", [])]
        if name.partition(".")[2] == "source":  # a file, or several
            assert kinds == ["string", "array"]
        elif kinds:  # two fields mean something by none, and begin as something else
            assert name.partition(".")[2] in ("label_column", "max_documents")
            assert kinds[-1] == "null"
            assert [kind["title"] for kind in field["anyOf"]][-1] == "none"
            assert field["default"] is not None


def test_each_table_is_a_group_and_each_field_has_its_name_in_its_place() -> None:
    tables = GROUPS["RunConfig"]["properties"]
    assert list(tables) == list(RunConfig.model_fields)
    for name, field in fields():
        assert field["title"] == name.rpartition(".")[2]
    for group in [FORM, *GROUPS.values()]:
        places = [field["position"] for field in group["properties"].values()]
        assert places == sorted(places) == list(range(len(places)))
    for name, field in tables.items():
        if name != "name":
            group = GROUPS[field.get("items", field)["$ref"].rpartition("/")[2]]
            assert len(group["description"]) > 10
    for name, field in fields():
        assert field.get("description") or "$ref" in field, name
        assert not {"in_key", "only_of"} & set(field)


def test_descriptions_are_shown_whole() -> None:
    """The UI draws them as Markdown, which takes `<hook>` for HTML where it is not code."""
    for name, field in fields():
        bare = re.sub(r"`[^`]+`", "", field.get("description", ""))
        assert not re.search(r"<\w", bare), name


def test_what_the_form_begins_with_is_the_default_and_is_accepted() -> None:
    """By the form's own check, and by the server's when a run is asked for."""
    begun = {name: field["default"] for name, field in FORM["properties"].items()}
    assert RunConfig.model_validate(begun["config"]) == DEFAULT
    assert type(HERE).model_validate(begun["engine"]) == HERE
    assert validate(begun, FORM, preprocess=False) == []
    assert validate(begun, FORM) == []
    assert validate({}, FORM) == []


def test_a_configuration_with_all_its_fields_is_accepted_too() -> None:
    """As the pipeline sends one to another deployment, and earlier releases' forms did."""
    whole = {"config": RunConfig().model_dump(mode="json")}
    assert validate(whole, FORM, ignore_required=True) == []
    none = {"config": {"corpus": {"label_column": None}, "evaluation": {"max_documents": None}}}
    assert validate(none, FORM, ignore_required=True) == []
    wrong = {"config": {"sae": {"k": "many"}}}
    assert validate(wrong, FORM, ignore_required=True)


@pytest.mark.parametrize("home", [None, "", "/data"])
def test_a_run_of_any_release_says_its_home(home: str | None) -> None:
    checked = pipeline.validate_parameters({"home": home, "config": {}, "engine": {}})
    assert checked["home"] == home
    assert checked["config"] == DEFAULT


def test_the_flow_is_called_with_its_defaults() -> None:
    from prefect.utilities.callables import get_call_parameters

    given = get_call_parameters(pipeline.fn, (), {})
    assert (given["config"], given["engine"], given["home"]) == (DEFAULT, HERE, "")
    assert json.dumps(given["config"].model_dump(mode="json"))
