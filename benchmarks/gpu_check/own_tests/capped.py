"""A pytest plugin, ``-p benchmarks.gpu_check.own_tests.capped``: fewer hypothesis examples a test.

Nearly every example has sizes of its own, for which a dozen kernels are compiled anew: the hundred
that the tests ask for on a GPU take a quarter of an hour and more.
"""

from __future__ import annotations

import pytest
from hypothesis import is_hypothesis_test, settings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--most-examples", type=int, default=10, help="of each hypothesis test")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    most = config.getoption("--most-examples")
    for item in items:
        test = getattr(item, "obj", None)
        if test is None or not is_hypothesis_test(test):
            continue
        own = test._hypothesis_internal_use_settings
        fewer = settings(own, max_examples=min(most, own.max_examples))
        test._hypothesis_internal_use_settings = fewer
