"""Conformance suites: what every plugin of a hook must keep, as tests that a third party runs by subclassing in two lines.

    from bitclass3_core.testing import SolverConformance

    class TestMine(SolverConformance):
        plugin = "mine"            # a module, an installed plugin's name, or a .py file

Class attributes are switches (``options``, ``exact``): what a plugin can do, or is not meant to. Fixtures (``model``, ``corpus``) may be
overridden to test with a model of one's own. Tests may not, but with ``@pytest.mark.xfail(reason=...)``. Needs pytest.
"""

from pkgutil import iter_modules

import pytest

# before they are imported: else a failing suite says "AssertionError" and nothing else
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in iter_modules(__path__)))

from bitclass3_core.testing.architecture import ArchitectureConformance  # noqa: E402
from bitclass3_core.testing.base import Conformance, Recorded  # noqa: E402
from bitclass3_core.testing.budget import BudgetConformance  # noqa: E402
from bitclass3_core.testing.estimator import EstimatorConformance  # noqa: E402
from bitclass3_core.testing.evaluator import EvaluatorConformance  # noqa: E402
from bitclass3_core.testing.exporter import ExporterConformance  # noqa: E402
from bitclass3_core.testing.metric import MetricConformance  # noqa: E402
from bitclass3_core.testing.report import ReportConformance  # noqa: E402
from bitclass3_core.testing.solver import SolverConformance  # noqa: E402
from bitclass3_core.testing.wrapper import WrapperConformance  # noqa: E402

SUITES: dict[str, type[Conformance]] = {
    suite.stage: suite
    for suite in (
        ArchitectureConformance,
        EstimatorConformance,
        MetricConformance,
        BudgetConformance,
        SolverConformance,
        ExporterConformance,
        EvaluatorConformance,
        ReportConformance,
    )
}

__all__ = [
    "SUITES",
    "ArchitectureConformance",
    "BudgetConformance",
    "Conformance",
    "EstimatorConformance",
    "EvaluatorConformance",
    "ExporterConformance",
    "MetricConformance",
    "Recorded",
    "ReportConformance",
    "SolverConformance",
    "WrapperConformance",
]
