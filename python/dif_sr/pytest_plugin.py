"""For pytest: a departure is shown as the judge's report, without a traceback."""

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    # Nothing of the package is imported for tests that have nothing to do with it.
    if call.excinfo is not None and type(call.excinfo.value).__module__ in ("dif_sr.judging", "dif_sr"):
        outcome.get_result().longrepr = str(call.excinfo.value)
