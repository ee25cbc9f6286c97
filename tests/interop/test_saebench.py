"""``export --format saebench`` against the schema that SAEBench 0.6.0 ships (MIT)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support.taken_out import published, sae_of

from deconstruct.interop.export import export
from deconstruct.interop.formats import saebench

SCHEMA = json.loads((Path(__file__).parents[1] / "fixtures/saebench_core_schema.json").read_text())


@pytest.fixture(params=["topk", "gated", "jumprelu"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    published(tmp_path / "home", sae_of(request.param))
    folder = export(tmp_path / "home", "demo", tmp_path / "out", "saebench").folder
    found: dict[str, Any] = json.loads((folder / saebench.FILE).read_text())
    return found


def test_it_has_every_field_and_no_other(written: dict[str, Any]) -> None:
    definitions = SCHEMA["$defs"]
    groups = definitions["CoreMetricCategories"]["properties"]
    assert written["eval_result_metrics"].keys() == groups.keys()
    for group, told in groups.items():
        fields = definitions[told["allOf"][0]["$ref"].split("/")[-1] if "allOf" in told
                             else told["$ref"].split("/")[-1]]["properties"]  # fmt: skip
        assert written["eval_result_metrics"][group].keys() == fields.keys()
    assert set(SCHEMA["required"]) <= written.keys()
    assert written.keys() <= SCHEMA["properties"].keys()
    detail = definitions["CoreFeatureMetric"]["properties"].keys()
    assert all(one.keys() == detail for one in written["eval_result_details"])


def test_what_is_not_null_fits_the_schema(written: dict[str, Any]) -> None:
    faults = list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(written))
    assert {fault.instance for fault in faults} <= {None}


def test_what_their_code_gets_wrong_is_null_and_the_reason_stands_there(
    written: dict[str, Any],
) -> None:
    metrics = written["eval_result_metrics"]
    reasons = written["eval_result_unstructured"]["null"]
    for name in ("explained_variance", "explained_variance_legacy", "mse"):
        assert metrics["reconstruction_quality"][name] is None
        assert reasons[name]
    assert metrics["shrinkage"]["l2_ratio"] is None
    assert reasons["l2_ratio"]
