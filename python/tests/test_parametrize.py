"""The tests that `parametrize` makes, run by pytest itself."""

from pathlib import Path

pytest_plugins = ["pytester"]

GOOD = """
import sys; sys.path.insert(0, {tests!r})
from dif_sr import parametrize
from ports.glue import PORTS

@parametrize(PORTS["recbole"], cases=["gate", "gate_token"])
def test_is_dif_sr(check):
    check()
"""

FAULTY = """
import sys; sys.path.insert(0, {tests!r})
from dif_sr import parametrize
from ports.glue import fused_port
from torch import nn

runs = []

def build(case):
    runs.append(case.name)
    model, loss = fused_port(case)
    model.blocks[1].mlp[1] = nn.GELU("tanh")
    return model, loss

@parametrize(build, cases="gate")
def test_is_dif_sr(check):
    check(show=None)

def test_each_case_is_computed_once():
    assert runs == ["gate"]
"""


def run(pytester, source, *arguments):
    pytester.makepyfile(source.format(tests=str(Path(__file__).parent)))
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_there_is_one_test_for_each_case_and_stage(pytester):
    result = run(pytester, GOOD, "-v")
    result.stdout.fnmatch_lines(["*test_is_dif_sr?gate-embedding? PASSED*", "*?gate-layer.1.output? PASSED*"])
    result.stdout.fnmatch_lines(["*?gate-verdict? PASSED*", "*?gate_token-optimizer_steps? PASSED*"])
    assert result.parseoutcomes().keys() <= {"passed", "skipped"}


def test_a_failure_shows_the_report_and_no_traceback(pytester):
    result = run(pytester, FAULTY, "-v")
    result.stdout.fnmatch_lines(["*?gate-layer.1.attention_output? PASSED*", "*?gate-layer.1.output? FAILED*"])
    result.stdout.fnmatch_lines(["*departs first at layer 1: output (`out.layer.1.output` at*"])
    result.stdout.fnmatch_lines(["*test_each_case_is_computed_once PASSED*"])
    text = result.stdout.str()
    assert "Traceback" not in text and "checking.py" not in text and "parametrized.py" not in text


def test_one_stage_can_be_chosen(pytester):
    result = run(pytester, FAULTY, "-k", "fused_scores")
    result.assert_outcomes(passed=2, deselected=result.parseoutcomes()["deselected"])
