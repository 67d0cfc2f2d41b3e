"""`parametrize`: a test for each case and stage."""

from .judging import Case, Departs, Error, Report


def parametrize(build, cases, **options):
    """Makes of a test function one test for each case and stage; each is given `check`, to be called.

    @parametrize(build, cases=["gate", "concat"])
    def test_is_dif_sr(check):
        check()

    `build(case)` gives a new model of the case's sizes and its loss, `(model, loss)`, or `(model, loss, options)`;
    `recbole(MyModel)` is such a function. Options are those of `dif_sr.check`; those of a call come last:
    `check(accept={…})`.
    """
    import pytest

    cases = [cases] if isinstance(cases, (str, Case)) else list(cases)
    if not callable(build):
        raise Error(f"parametrize: expected a function that builds a model of a case, found a {type(build).__name__}")
    parameters = []
    for case in cases:
        held = Held(build, case if isinstance(case, Case) else Case(case), options)
        parameters += [pytest.param(Stage(held, *stage), id=f"{held.case.name}-{stage[0]}") for stage in held.stages()]
    return pytest.mark.parametrize("check", parameters)


class Held:
    """One case, computed once for all of its stages."""

    def __init__(self, build, case, options):
        self.build, self.case, self.options, self.reports = build, case, options, {}

    def stages(self):
        return [*self.case.stages, ("verdict", None)]

    def report(self, options) -> Report:
        from .checking import examine

        options = {**self.options, **options}
        key = repr(sorted(options.items()))
        if key not in self.reports:
            built = self.build(self.case)
            if not isinstance(built, tuple) or len(built) not in (2, 3):
                raise Error(f"build: expected (model, loss) or (model, loss, options), found a {type(built).__name__}")
            model, loss, *more = built
            self.reports[key] = examine(model, loss, self.case, **{**(more[0] if more else {}), **options})
        return self.reports[key]


class Stage:
    """Holds one stage of a case; the last, `verdict`, holds all that is required."""

    def __init__(self, held, stage, title):
        self.held, self.stage, self.title = held, stage, title

    def __repr__(self):
        return f"<{self.held.case.name}: {self.title or self.stage}>"

    def __call__(self, **options):
        __tracebackhide__ = True
        report = self.held.report(options)
        if self.stage == "verdict":
            if not report.holds:
                raise Departs(report)
            return report
        verdicts = {group["name"]: group for group in report.data["stages"]}
        group = verdicts.get(self.title)
        missing = any(lacking["stage"] == self.stage for lacking in report.data["missing"])
        if missing or (group is not None and not within(group)):
            raise Departs(report)
        if group is None:
            import pytest

            pytest.skip(f"{self.title}: the model computes it in no form that can be compared")
        return report


def within(group):
    """Whether every tensor of a stage is within tolerance, or accepted. One that is neither would be its `worst`."""
    compared = group["worst"].get("compared")
    holds = compared is not None and compared["error"] is not None and compared["error"] <= compared["bound"]
    return holds or group.get("accepted", 0) == group["tensors"]
