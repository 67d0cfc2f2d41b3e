//! What is published follows from the records.

use std::fs;
use std::path::Path;

use dif_sr::verdict::Record;
use serde_json::{Value, json};

use crate::common::process::{code, dif_sr, refusal, stderr, stdout};
use crate::common::root;
use crate::{recorded, temporary};

#[test]
fn what_is_committed_is_what_the_records_say() {
    let output = dif_sr(root(), &["publish", "--check"]);
    assert_eq!(code(&output), 0, "run `dif-sr publish`: {}{}", stdout(&output), stderr(&output));
}

/// A folder `records` with the short runs of seeds 1 and 2 in it, and a README that has room for their tables.
fn records(folder: &Path) {
    let place = folder.join("records/ml-100k/small_reference_float32");
    for seed in [2, 1] {
        recorded(seed).write(&place).unwrap_or_else(|e| panic!("{e}"));
    }
    let page = "# Mine\n\n<!-- written by `dif-sr publish`, never by hand -->\nold\n<!-- end -->\nkept\n";
    fs::write(folder.join("records/README.md"), page).expect("written");
}

#[test]
fn the_tables_have_a_row_for_each_run_and_the_mean_over_seeds() {
    let folder = temporary();
    records(folder.path());
    let check = || dif_sr(folder.path(), &["publish", "--check", "--json"]);
    assert_eq!(code(&check()), 1, "the old text is not the records'");
    let said: Value = serde_json::from_str(&stdout(&check())).expect("JSON");
    assert_eq!(said["changed"], json!(["records/README.md"]));
    assert_eq!(code(&dif_sr(folder.path(), &["publish"])), 0);
    assert_eq!(code(&check()), 0);

    let page = fs::read_to_string(folder.path().join("records/README.md")).expect("the page");
    assert!(page.starts_with("# Mine\n\n") && page.ends_with("<!-- end -->\nkept\n"), "{page}");
    let [one, two] =
        [1, 2].map(|seed| recorded(seed).test.get("recall@20".parse().expect("a name")).expect("a metric"));
    // Of two values the deviation is their distance by √2.
    let (mean, deviation) = (0.5 * (one + two), (one - two).abs() / 2.0_f64.sqrt());
    let row = page.lines().find(|line| line.starts_with("| small | reference | float32 | 2 | ")).expect("a mean");
    let cell = row.split(" | ").nth(5).expect("recall@20");
    let (found, spread) = cell.split_once(" ± ").expect("a spread");
    let near = |text: &str, value: f64| (text.parse::<f64>().expect("a number") - value).abs() <= 1.5e-4;
    assert!(near(found, mean) && near(spread, deviation), "{cell}: {mean} {deviation}");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| [")).collect();
    let [first, second] = rows[..] else { panic!("two runs: {page}") };
    assert!(
        first.starts_with("| [1](ml-100k/small_reference_float32/1.json) | small | reference | float32 | AMD EPYC")
    );
    assert!(second.contains(&format!(" | {two:.4} | ")), "{second}");
}

#[test]
fn a_link_leads_to_a_folder_of_any_name() {
    let folder = temporary();
    records(folder.path());
    let mut record = recorded(3);
    record.dataset = "my (data)".to_owned();
    record.write(&folder.path().join("records/my (data)/a_reference_float32")).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(code(&dif_sr(folder.path(), &["publish"])), 0);
    let page = fs::read_to_string(folder.path().join("records/README.md")).expect("the page");
    assert!(page.contains("| [3](my%20%28data%29/a_reference_float32/3.json) | a |"), "{page}");
}

#[test]
fn a_record_in_a_place_that_is_not_its_own_is_refused() {
    let folder = temporary();
    records(folder.path());
    let place = folder.path().join("records/ml-100k/small_reference_float32");
    let page = folder.path().join("records/README.md");
    let publish = || refusal(&dif_sr(folder.path(), &["publish"]));
    let with = |name: &str, change: &dyn Fn(&mut Record)| {
        let mut record = recorded(3);
        change(&mut record);
        fs::write(place.join(name), serde_json::to_string(&record).expect("JSON")).expect("written");
        let said = publish();
        fs::remove_file(place.join(name)).expect("removed");
        said
    };
    let before = fs::read_to_string(&page).expect("the page");
    for (said, expected) in [
        (with("3.json", &|record| record.dataset = "toy".to_owned()), "data set `ml-100k`, found one of `toy`"),
        (with("3.json", &|r| r.config["compute_path"] = json!("fast")), "path `reference`, found one of `fast`"),
        (with("3.json", &|r| r.config["precision"] = json!("bf16")), "precision `float32`, found one of `bf16`"),
        (with("4.json", &|_| ()), "seed `4`, found one of `3`"),
    ] {
        assert!(said.contains(&format!(".json: expected a record of {expected}")), "{said}");
    }
    let said = with("3.json", &|record| record.config["learning_rate"] = json!(0.9));
    assert!(said.contains("expected records of one configuration, found some that differ in learning_rate"), "{said}");
    fs::create_dir(folder.path().join("records/ml-100k/other")).expect("a folder");
    assert!(publish().contains("other: expected a folder <model>_<path>_<precision>, found `other`"));
    fs::remove_dir(folder.path().join("records/ml-100k/other")).expect("removed");
    assert_eq!(fs::read_to_string(&page).expect("the page"), before, "nothing is written on an error");

    fs::write(&page, "mine").expect("written");
    assert!(publish().starts_with("records/README.md: expected the lines `<!-- written by `dif-sr publish`"));
    assert_eq!(fs::read_to_string(&page).expect("the page"), "mine");
    fs::create_dir(folder.path().join("empty")).expect("a folder");
    assert!(refusal(&dif_sr(folder.path(), &["publish", "empty"])).starts_with("empty/README.md: cannot read"));
}

/// The bars are the ratios in the tables of docs/performance.md.
#[test]
fn the_measured_speeds_are_those_of_the_page() {
    let page = fs::read_to_string(root().join("docs/performance.md")).expect("the page");
    let text = fs::read_to_string(root().join("records/speed.yaml")).expect("the measurements");
    let data: Value = serde_yaml::from_str(&text).expect("YAML");
    let machines = data["machines"].as_array().expect("machines").iter();
    let works: Vec<&Value> = machines.flat_map(|machine| machine["work"].as_array().expect("work")).collect();
    let is_bar =
        |line: &&str| line.starts_with("| four training steps, ") || line.starts_with("| evaluation of 22,363 ");
    assert_eq!([works.len(), page.lines().filter(is_bar).count()], [16, 16], "bars, and rows of the page");
    for work in works {
        let [ratio, least, most] = ["ratio", "least", "most"].map(|key| work[key].as_f64().expect("a number"));
        // Some ratios are printed in bold.
        let cell = format!("{ratio:.2}× ({least:.2} to {most:.2}) |");
        assert!(page.replace("**", "").contains(&cell), "{cell}");
    }
}

#[test]
fn a_figure_shows_what_its_records_say_and_replaces_no_other_file() {
    let folder = temporary();
    records(folder.path());
    let spec = "curves:\n  - {file: figures/valid.svg, title: Mine & yours, runs: ml-100k/small_reference_float32, \
                expect: expect.yaml, published: a paper}\n";
    let at = |path: &str| folder.path().join("records").join(path);
    fs::write(at("figures.yaml"), spec).expect("written");
    let expect = "figures: {source: s, margin: {metric: 1}, valid: {recall@10: 0.125}}\n";
    fs::write(at("expect.yaml"), expect).expect("written");
    let publish = || dif_sr(folder.path(), &["publish"]);
    assert_eq!(code(&publish()), 0, "{}", stderr(&publish()));
    let svg = fs::read_to_string(at("figures/valid.svg")).expect("a figure");
    assert!(svg.contains("<title id=\"title\">Mine &amp; yours</title>"), "{svg}");
    let best =
        [1, 2].map(|seed| recorded(seed).best_valid.get("recall@10".parse().expect("a metric")).expect("a value"));
    let words = format!(
        "recall@10 of the validation by epoch, 2 seeds. The mean goes from {:.4} in epoch 0 to ",
        0.5 * (recorded(1).valid[0] + recorded(2).valid[0])
    );
    assert!(svg.contains(&words), "{words}: {svg}");
    let words = format!("The best epochs have {:.4} in the mean; a paper has 0.1250.", 0.5 * (best[0] + best[1]));
    assert!(svg.contains(&words), "{words}: {svg}");
    assert_eq!(svg.matches("<path class=\"one\" d=\"M72.0 ").count(), 2, "a curve for each seed");
    assert!(!svg.contains("http://www.w3.org/1999") && !svg.contains("url("), "nothing is fetched");

    fs::write(at("figures/valid.svg"), "mine").expect("written");
    let told = refusal(&publish());
    assert!(told.starts_with("records/figures/valid.svg: expected no file or a former figure"), "{told}");
    assert_eq!(fs::read_to_string(at("figures/valid.svg")).expect("mine"), "mine");
    fs::remove_file(at("figures/valid.svg")).expect("removed");
    fs::write(at("expect.yaml"), expect.replace("recall@10", "ndcg@10")).expect("written");
    assert!(refusal(&publish()).contains("expected a published `recall@10` of the validation in records/expect.yaml"));
    fs::write(at("figures.yaml"), "bars:\n  - {file: a.svg, title: t, data: speed.yaml}\n").expect("written");
    let bars = |ratio: &str| {
        let work = format!("{{name: w, precision: float32, ratio: {ratio}, least: 1, most: 3}}");
        let text = format!("unit: u\ncommand: c\nmachines: [{{machine: m, rounds: 5, work: [{work}]}}]\n");
        fs::write(at("speed.yaml"), text).expect("written");
        refusal(&publish())
    };
    assert!(bars("4").starts_with("records/speed.yaml: `w`: expected 0 < least ≤ ratio ≤ most, found 1, 4, 3"));
    assert!(bars("many").starts_with("records/speed.yaml: expected what is drawn, found "));
}

#[test]
fn an_expectation_takes_the_seeds_that_it_names() {
    let folder = temporary();
    let expect = |seeds: &str| {
        let records = root().join("fixtures/verdict/ml-100k_short");
        let text = format!(
            "runs: {{source: s, folder: {}, seeds: {seeds}, metrics: [recall@20], margin: 0.1, error: 0.05}}\n",
            records.display()
        );
        fs::write(folder.path().join("expect.yaml"), text).expect("written");
        let run = records.join("9.json").display().to_string();
        dif_sr(folder.path(), &["gate", &run, "--expect=expect.yaml", "--json"])
    };
    let output = expect("[3, 1, 2, 4]");
    assert!(stdout(&output).contains(" 4 recorded runs"), "{}{}", stdout(&output), stderr(&output));
    assert!(refusal(&expect("[1, 2]")).contains("expected at least three recorded runs, found 2"));
    assert!(refusal(&expect("[1, 2, 1]")).contains("expected runs of different seeds, found seed 1 twice"));
    assert!(refusal(&expect("[1, 2, 77]")).contains("77.json: cannot read the run"));
}

/// Every link of a page of this project to a file of it.
#[test]
fn no_page_links_to_a_file_that_is_not_there() {
    const FOLDERS: [&str; 11] = [
        "",
        "docs",
        "records",
        "golden",
        "judge",
        "judge/causes",
        "judge/cases",
        "python",
        "python/peer",
        "python/train",
        "fuzz",
    ];
    let files =
        |folder| fs::read_dir(root().join(folder)).expect("a folder").map(|entry| entry.expect("a file").path());
    let pages = FOLDERS.into_iter().flat_map(files);
    let mut links = 0;
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&page).expect("a page");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        for target in targets.filter(|target| !target.starts_with("http") && !target.starts_with('#')) {
            let file = target.split('#').next().expect("a path");
            assert!(page.with_file_name(file).exists(), "{}: {target}", page.display());
            links += 1;
        }
    }
    assert!(links > 30, "{links} links were found");
}
