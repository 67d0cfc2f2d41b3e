//! The page of runs, as a browser shows it.
//!
//! The browser is Debian's package `chromium`, or what `DIF_SR_CHROMIUM` names. Where there is none, what needs it is left
//! out and says so (docs/verdict.md).

mod common;

use std::fs;
use std::process::Command;

use common::process::{dif_sr, good, good_json, refusal, stdout};
use common::{TOY, left_out, write_toy};
use once_cell::sync::Lazy;
use serde_json::json;
use tempfile::TempDir;

/// Runs of the toy data, of which the second has another configuration, and an expectation with a figure for each chart.
static RUNS: Lazy<TempDir> = Lazy::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_toy(folder.path());
    for (out, keys) in [
        ("--out=one", ["--seed=1", "--epochs=6"]),
        ("--out=two", ["--seed=2", "--epochs=4"]),
        ("--out=three", ["--seed=3", "--epochs=6"]),
    ] {
        let train = ["train", out, "--metrics=[Recall,NDCG]", "--topk=[10,20]"];
        good(folder.path(), &[&train[..], &keys, &TOY].concat());
    }
    good(folder.path(), &["train", "--out=la<t>er one", "--from=one", "--epochs=8"]);
    let text = "figures: {source: by <hand> & head, margin: {metric: 1}, valid: {recall@10: 0.5, recall@20: 0.7}, test: {recall@20: 0.6}}\n";
    fs::write(folder.path().join("expect.yaml"), text).expect("written");
    folder
});

fn report(arguments: &[&str]) -> String {
    let output = good(RUNS.path(), &[&["report"], arguments].concat());
    let out = arguments.iter().find_map(|a| a.strip_prefix("--out=")).expect("a page");
    assert_eq!(stdout(&output), format!("report: {out}\n"));
    fs::read_to_string(RUNS.path().join(out)).expect("a page")
}

/// The browser, or a word that it is missing.
static CHROMIUM: Lazy<Option<String>> = Lazy::new(|| {
    let named = std::env::var("DIF_SR_CHROMIUM").ok();
    let program = named.clone().unwrap_or_else(|| "chromium".to_owned());
    let there = Command::new(&program).arg("--version").output().is_ok_and(|output| output.status.success());
    assert!(there || named.is_none(), "DIF_SR_CHROMIUM is {program}, which does not run");
    if !there {
        left_out("no chromium; install it or set DIF_SR_CHROMIUM");
    }
    there.then_some(program)
});

/// A page in the browser: what it logged, and how often each colour occurs.
struct Shown {
    log: String,
    width: u32,
    pixels: Vec<[u8; 3]>,
}

impl Shown {
    /// Opens a page of [`RUNS`]. `None` without a browser.
    fn open(page: &str, width: u32, dark: bool) -> Option<Self> {
        let program = CHROMIUM.as_ref()?;
        let profile = tempfile::tempdir().expect("a temporary folder");
        let image = profile.path().join("shown.png");
        // A browser that hangs fails the test, not the machine.
        let mut command = assert_cmd::Command::new(program);
        command.timeout(std::time::Duration::from_secs(180));
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]);
        command.arg(format!("--user-data-dir={}", profile.path().join("profile").display()));
        command.arg(format!("--window-size={width},2600")).arg(format!("--screenshot={}", image.display()));
        if dark {
            command.arg("--force-dark-mode");
        }
        let output =
            command.arg(format!("file://{}", RUNS.path().join(page).display())).output().expect("the browser runs");
        let bytes = fs::read(&image).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
        let header = minipng::decode_png_header(&bytes).expect("a PNG");
        let mut buffer = vec![0; header.required_bytes_rgba8bpc()];
        let mut decoded = minipng::decode_png(&bytes, &mut buffer).expect("a PNG");
        decoded.convert_to_rgba8bpc().expect("room for RGBA");
        let pixels = decoded.pixels().chunks_exact(4).map(|p| [p[0], p[1], p[2]]).collect();
        Some(Self { log: String::from_utf8_lossy(&output.stderr).into_owned(), width: header.width(), pixels })
    }

    fn count(&self, colour: [u8; 3]) -> usize {
        self.pixels.iter().filter(|&&pixel| pixel == colour).count()
    }

    /// Whether the browser's console said anything.
    fn complaints(&self) -> Vec<&str> {
        self.log.lines().filter(|line| line.contains("CONSOLE")).collect()
    }

    /// In how many rows of pixels a colour occurs.
    fn rows_with(&self, colour: [u8; 3]) -> usize {
        self.pixels.chunks(self.width as usize).filter(|row| row.contains(&colour)).count()
    }
}

#[test]
fn the_page_shows_verdict_curves_and_figures_in_light_and_dark() {
    let page = report(&["one", "three", "--expect=expect.yaml", "--out=page.html"]);
    assert!(page.contains("pass: all 3 values are within their margin"), "the verdict");
    assert!(page.contains("by &lt;hand&gt; &amp; head"), "text is text, whatever it holds");
    for title in
        ["Training loss", "Validation recall@10", "Validation recall@20", "Validation ndcg@20", "Seconds of an epoch"]
    {
        assert!(page.contains(title), "{title}");
    }
    let (light, dark) = ([0x1F, 0x6F, 0xB4], [0x60, 0xA5, 0xFA]);
    let Some(shown) = Shown::open("page.html", 1100, false) else { return };
    assert_eq!(shown.complaints(), Vec::<&str>::new());
    assert!(shown.count([255, 255, 255]) > shown.pixels.len() / 2, "paper is white");
    // Five charts and the legend, each with both curves.
    assert!(
        shown.count(light) > 300 && shown.rows_with(light) > 100,
        "{} {}",
        shown.count(light),
        shown.rows_with(light)
    );
    assert!(shown.count([0xC2, 0x41, 0x0C]) > 200, "the second run");
    assert!(shown.count([0x77, 0x77, 0x78]) > 100, "the figures' lines");

    let shown = Shown::open("page.html", 1100, true).expect("a browser");
    assert!(shown.count([0x18, 0x18, 0x1B]) > shown.pixels.len() / 2, "paper is dark");
    assert!(shown.count(dark) > 300 && shown.count(light) == 0, "curves are light on dark");
    assert_eq!(shown.complaints(), Vec::<&str>::new());
}

#[test]
fn a_narrow_screen_shows_the_whole_width() {
    report(&["one", "--out=narrow.html"]);
    let Some(shown) = Shown::open("narrow.html", 500, false) else { return };
    let width = shown.width as usize;
    // Nothing but paper in the last columns: no chart or text is cut off.
    let margin =
        shown.pixels.chunks(width).flat_map(|row| &row[width - 8..]).filter(|&&p| p != [255, 255, 255]).count();
    assert_eq!(margin, 0);
    assert!(shown.count([0x1F, 0x6F, 0xB4]) > 300);
}

#[test]
fn runs_that_cannot_be_judged_together_are_shown_all_the_same() {
    for (other, why) in [
        ("one", "undecided: one: expected runs of different seeds, found seed 1 twice"),
        ("two", "undecided: two: expected the configuration of one, found another epochs"),
    ] {
        let page = report(&["one", other, "--expect=expect.yaml", "--out=open.html"]);
        assert_eq!(page.matches(why).count(), 1, "the verdict says why it is open: {why}");
        assert!(page.contains("<svg"), "the curves are there");
    }
}

#[test]
fn the_page_is_self_contained_and_speaks_without_sight() {
    let page = report(&["one", "two", "--out=alone.html"]);
    for reference in ["http://", "https://", "src=", "@import", "<script"] {
        let found = page.replace("http://www.w3.org/2000/svg", "").contains(reference);
        assert!(!found, "{reference}: nothing is fetched");
    }
    let images = page.matches("<svg role=\"img\" aria-label=\"").count();
    assert_eq!(images, 5, "every chart says in words what it shows");
    assert!(page.contains("aria-label=\"Validation recall@10: one from 0."), "with names and numbers");
    assert_eq!(page.matches("<summary>Numbers</summary>").count(), images, "and has its numbers");
    assert!(page.contains("<html lang=\"en\">") && page.contains("<title>SASRecD on toy</title>"));
    assert!(!page.contains("deviation, n = "), "there is no mean over configurations");
    assert!(report(&["one", "three", "--out=seeds.html"]).contains("deviation, n = 2"), "of two seeds there is");
    assert!(
        page.contains("Differences between the runs")
            && page.contains("<th scope=\"row\">epochs</th><td>6</td><td>4</td>")
    );
}

#[test]
fn a_report_replaces_a_report_and_nothing_else() {
    report(&["one", "--out=again.html"]);
    report(&["two", "--out=again.html"]);
    fs::write(RUNS.path().join("notes.html"), "my notes").expect("written");
    let sentence = refusal(&dif_sr(RUNS.path(), &["report", "one", "--out=notes.html"]));
    assert!(sentence.starts_with("notes.html: expected no file or a former report, found another file"), "{sentence}");
    assert_eq!(fs::read_to_string(RUNS.path().join("notes.html")).expect("readable"), "my notes");
    let sentence = refusal(&dif_sr(RUNS.path(), &["report", "expect.yaml"]));
    assert!(sentence.starts_with("expect.yaml: expected the folder of a finished run"), "{sentence}");
    assert!(!RUNS.path().join("report.html").exists(), "nothing is written on an error");
}

#[test]
fn runs_of_several_configurations_are_told_apart_by_what_differs() {
    good(RUNS.path(), &["report", "one", "two", "three", "--expect=expect.yaml", "--markdown=several.md"]);
    let text = fs::read_to_string(RUNS.path().join("several.md")).expect("a page");
    let mut lines = text.lines().skip_while(|line| !line.starts_with("| test | n | best epoch | epochs | minutes | "));
    let [_, _, base, other] = [(); 4].map(|()| lines.next().expect("a header and two lines"));
    assert!(base.starts_with("| SASRecD | 2 | ") && base.contains(" ± "), "two seeds: {base}");
    assert!(other.starts_with("| SASRecD, epochs 4 | 1 | ") && !other.contains('±'), "one seed: {other}");
    assert!(!text.contains("| mean | deviation |"), "there is no mean over configurations");
    assert!(text.contains("\n**undecided: two: expected the configuration of one, found another epochs"), "{text}");
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("`dif-sr train ")).collect();
    let expected = [("one", "1, 3"), ("two", "2")];
    let expected =
        expected.map(|(run, seeds)| format!("`dif-sr train --config_files {run}/config.yaml`, with `--seed` {seeds}."));
    assert_eq!(commands, expected);
}

#[test]
fn the_notebooks_form_has_its_sections_in_order_and_says_n_and_spread() {
    good(RUNS.path(), &["report", "one", "three", "--expect=expect.yaml", "--markdown=toy.md"]);
    let text = fs::read_to_string(RUNS.path().join("toy.md")).expect("a page");
    let sections: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(sections, ["Environments", "Dataset", "Code", "Results", "Logs"]);
    assert!(text.contains("\n```text\ntoy\nThe number of users: 61\n"), "RecBole's summary: {text}");
    assert!(text.contains("| test, n = 2 | mean | deviation | published |"), "{text}");
    assert!(text.contains("| recall@20 | ") && text.contains(" | 0.6000 |\n"), "{text}");
    assert_eq!(text.matches("epoch 0 training [time: ").count(), 2, "both logs");
    assert!(text.contains("\n| one | 1 | ") && text.contains("\n| three | 3 | "), "where each figure comes from");
    assert!(text.contains("\n| cuda | none |\n"), "{text}");
    fs::write(RUNS.path().join("mine.md"), "mine").expect("written");
    let sentence = refusal(&dif_sr(RUNS.path(), &["report", "one", "--markdown=mine.md"]));
    assert!(sentence.starts_with("mine.md: expected no file or a former report"), "{sentence}");
}

#[test]
fn a_run_that_is_named_twice_is_one_draw() {
    good(RUNS.path(), &["report", "one", "one", "three", "--markdown=twice.md"]);
    let text = fs::read_to_string(RUNS.path().join("twice.md")).expect("a page");
    assert!(text.contains("\n# SASRecD on toy\n"), "{text}");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| SASRecD | ")).collect();
    assert!(
        rows.len() == 2 && rows[0].starts_with("| SASRecD | 2 | ") && rows[1].starts_with("| SASRecD | 1 | "),
        "{text}"
    );
}

/// Another run's epochs went before its first, and its folder has a name that HTML, Markdown and shells would read otherwise.
#[test]
fn a_run_from_another_begins_where_that_ended_and_keeps_its_name() {
    let page = report(&["la<t>er one", "--out=later.html"]);
    let words = page.split("aria-label=\"Seconds of an epoch: la&lt;t&gt;er one from ").nth(1).expect("the chart");
    assert!(words.contains(" in epoch 6 to ") && words.contains(" in epoch 7\""), "{words:.120}");
    good(RUNS.path(), &["report", "la<t>er one", "--markdown=later.md"]);
    let text = fs::read_to_string(RUNS.path().join("later.md")).expect("a page");
    assert!(text.contains("`dif-sr train --config_files 'la<t>er one/config.yaml'`"), "{text}");
    assert!(text.contains("<details><summary>la&lt;t&gt;er one</summary>"), "{text}");
}

/// Three targets of each of twenty users in place of one of each of sixty.
#[test]
fn targets_of_one_user_are_one_observation() {
    let ranks = |run: &str| fs::read_to_string(RUNS.path().join(run).join("ranks.tsv")).expect("ranks");
    for run in ["one", "three"] {
        let folder = RUNS.path().join(format!("grouped-{run}"));
        fs::create_dir(&folder).expect("a folder");
        for entry in fs::read_dir(RUNS.path().join(run)).expect("a run") {
            let path = entry.expect("a file").path();
            fs::copy(&path, folder.join(path.file_name().expect("a name"))).expect("copied");
        }
        let text = ranks(run);
        let grouped = text.lines().enumerate().map(|(i, line)| match (i, line.split_once('\t')) {
            (1.., Some((_, rest))) => format!("u{}\t{rest}\n", (i - 1) % 20),
            _ => format!("{line}\n"),
        });
        fs::write(folder.join("ranks.tsv"), grouped.collect::<String>()).expect("written");
    }
    let compared = |runs: [&str; 2]| {
        good_json(RUNS.path(), &["compare", runs[0], "--with", runs[1], "--json"])["comparison"].take()
    };
    let (alone, grouped) = (compared(["one", "three"]), compared(["grouped-one", "grouped-three"]));
    assert_eq!((&alone["users"], &grouped["users"]), (&json!(60), &json!(20)));
    let recall = |run: &str| -> Vec<f64> {
        let place = |line: &str| line.split('\t').nth(2).and_then(|rank| rank.parse::<usize>().ok()).expect("a rank");
        ranks(run).lines().skip(1).map(|line| f64::from(u8::from(place(line) < 10))).collect()
    };
    let (one, three) = (recall("one"), recall("three"));
    let apart: Vec<f64> =
        (0..20).map(|u| (0..3).map(|i| one[u + 20 * i] - three[u + 20 * i]).sum::<f64>() / 3.0).collect();
    let mean = apart.iter().sum::<f64>() / 20.0;
    let error = (apart.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 19.0 / 20.0).sqrt();
    let row =
        grouped["rows"].as_array().expect("rows").iter().find(|row| row["metric"] == "recall@10").expect("recall@10");
    for (key, expected) in [("difference", mean), ("standard_error", error)] {
        assert!(row[key].as_f64().is_some_and(|found| (found - expected).abs() < 1e-12), "{key} {expected}: {row:#}");
    }
    // As a record, too.
    good(RUNS.path(), &["record", "grouped-one", "--into=grouped-records"]);
    assert_eq!(compared(["grouped-records/1.json", "grouped-three"]), grouped);
    let plain = refusal(&dif_sr(RUNS.path(), &["compare", "one", "--with", "grouped-three"]));
    assert!(plain.starts_with("grouped-three: expected the 60 targets of one"), "{plain}");
}
