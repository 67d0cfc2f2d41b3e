//! A verdict as JUnit XML, which CI systems show: a suite for each claim, a case for each value.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{Finding, Outcome, Row, Verdict};
use crate::Error;

impl Verdict {
    /// By this a report of this program is known.
    pub const JUNIT_GENERATOR: &str = "name=\"dif-sr gate\"";

    /// The XML text. An undecided value counts as skipped: it is neither a success nor a failure.
    pub fn junit(&self) -> String {
        let mut suites: Vec<TestSuite> = self.findings.iter().map(suite).collect();
        if suites.is_empty() {
            suites.push(suite_of(case("gate", "something was judged", self.outcome, &self.sentence)));
        }
        report_of(suites)
    }

    /// The XML text of a verdict that there is not, with the reason.
    pub fn junit_of(refusal: &Error) -> String {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(refusal.to_string());
        report_of(vec![suite_of(TestCase::new("could be judged", status))])
    }
}

fn report_of(suites: Vec<TestSuite>) -> String {
    let mut report = Report::new("dif-sr gate");
    report.add_test_suites(suites);
    report.to_string().expect("names and sentences are text")
}

fn suite_of(case: TestCase) -> TestSuite {
    let mut suite = TestSuite::new("gate");
    suite.add_test_case(case);
    suite
}

fn suite(finding: &Finding) -> TestSuite {
    let mut suite = TestSuite::new(finding.claim);
    suite.add_property(("source", finding.source.as_str()));
    suite.add_test_case(case(finding.claim, finding.claim, finding.outcome, &finding.sentence));
    suite.add_test_cases(finding.rows.iter().map(|row| case(finding.claim, &row.name, row.outcome, &row.in_words())));
    suite
}

fn case(claim: &str, name: &str, outcome: Outcome, message: &str) -> TestCase {
    let mut status = match outcome {
        Outcome::Pass => TestCaseStatus::success(),
        Outcome::Undecided => TestCaseStatus::skipped(),
        Outcome::Fail => TestCaseStatus::non_success(NonSuccessKind::Failure),
    };
    if outcome != Outcome::Pass {
        status.set_message(message);
    }
    let mut case = TestCase::new(name, status);
    case.set_classname(claim);
    if outcome == Outcome::Pass {
        case.set_system_out(message);
    }
    case
}

impl Row {
    /// The row in one line.
    pub fn in_words(&self) -> String {
        let number = |x: f64| format!("{x:.*}", self.decimals);
        let mut words =
            format!("{} expected, {} found", number(self.expected), self.ours.map_or("none".into(), number));
        if let Some([low, high]) = self.interval {
            words += &format!(", difference between {low:+.*} and {high:+.*}", self.decimals, self.decimals);
        }
        words + &format!(", {} allowed", self.allowed_in_words())
    }
}
