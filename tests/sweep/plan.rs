//! What `sweep plan` reads, refuses and writes.

use std::fs;
use std::process::Stdio;

use dif_sr::config::RunConfig;
use serde_json::{Value, json};

use crate::common::place::{Place, content, sentence, text, wait_until};
use crate::common::process::code;
use crate::{SWEEP, good, place, planned, states};

fn plan(place: &Place, keys: &[&str]) -> String {
    good(place, &[&["sweep", "plan", "sweep.yaml", "--out=out"], keys].concat())
}

fn replan(place: &Place, sweep: &str) -> String {
    fs::write(place.path("sweep.yaml"), sweep).expect("written");
    plan(place, &[])
}

fn tasks(place: &Place) -> Vec<Value> {
    text(&place.path("out/tasks.jsonl")).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn config(place: &Place, group: &str) -> RunConfig {
    RunConfig::load(&[place.path("out").join(group).join("config.yaml")], &[]).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_plan_is_a_line_for_each_run_and_a_complete_configuration_for_each_group() {
    let place = planned(SWEEP);
    let expected = [("toy/gate", 1), ("toy/gate", 2), ("toy/sum", 1), ("toy/sum", 2)];
    let expected =
        (0..).zip(expected).map(|(task, (group, seed))| json!({ "task": task, "group": group, "seed": seed }));
    assert_eq!(tasks(&place), expected.collect::<Vec<_>>());
    let [gate, sum] = ["toy/gate", "toy/sum"].map(|group| config(&place, group));
    assert_eq!(gate.data.data_path, place.folder.path(), "a task may run anywhere");
    let only_the_fusion = RunConfig {
        model: dif_sr::config::ModelConfig { fusion_type: gate.model.fusion_type, ..sum.model.clone() },
        ..sum
    };
    assert_eq!(gate, only_the_fusion);
    let told = plan(&place, &[]);
    assert_eq!(
        told,
        "group     seeds  expected\ntoy/gate      2   nothing\ntoy/sum       2   nothing\n\n4 runs in out: as before\n\
         run them with `dif-sr sweep run out`\n"
    );
    let told: Value = serde_json::from_str(&plan(&place, &["--json"])).expect("JSON");
    assert_eq!(
        told,
        json!({ "sweep": "out", "runs": 4, "new": 0, "dropped": 0, "restated": 0, "groups": ["toy/gate", "toy/sum"] })
    );
}

#[test]
fn data_sets_configurations_and_the_grid_multiply_and_the_nearer_key_wins() {
    let place = place(
        "config_files: [toy.yaml]
keys: {epochs: 5, learning_rate: 0.5}
datasets:
  toy: {expect: {small/n_layers=1: expect.yaml}}
  other: {config_files: [other.yaml], keys: {learning_rate: 0.25}}
configurations:
  small: {keys: {hidden_size: 8}}
  plain: {keys: {learning_rate: 0.125, fusion_type: sum}}
grid:
  n_layers: [1, 2]
seeds: [7]
",
    );
    fs::create_dir(place.path("other")).expect("a folder");
    for file in ["inter", "item"] {
        fs::copy(place.path(&format!("toy/toy.{file}")), place.path(&format!("other/other.{file}"))).expect("copied");
    }
    fs::write(place.path("other.yaml"), "epochs: 9\nstopping_step: 3\nseed: 5\n").expect("written");
    plan(&place, &["--eval_step=2"]);
    let groups: Vec<String> =
        tasks(&place).iter().map(|task| task["group"].as_str().expect("a name").to_owned()).collect();
    let of = |dataset: &str| {
        ["small", "plain"]
            .into_iter()
            .flat_map(move |name| [1, 2].map(|n| format!("{dataset}/{name}/n_layers={n}")))
            .collect()
    };
    assert_eq!(groups, ["toy", "other"].map(of as fn(&str) -> Vec<String>).concat());
    let rates = groups.iter().map(|group| {
        let config = config(&place, group);
        assert_eq!((config.train.epochs, config.train.eval_step), (5, 2), "keys win over files: {group}");
        assert_eq!(config.train.stopping_step, if group.starts_with("other") { 3 } else { 10 }, "{group}");
        assert_eq!(config.model.n_layers, if group.ends_with('1') { 1 } else { 2 }, "{group}");
        config.train.learning_rate
    });
    assert_eq!(rates.collect::<Vec<f64>>(), [0.5, 0.5, 0.125, 0.125, 0.25, 0.25, 0.125, 0.125]);
    let held = groups.iter().map(|group| place.path("out").join(group).join("expectation.yaml").exists());
    assert_eq!(held.collect::<Vec<bool>>(), [true, false, false, false, false, false, false, false]);
}

#[test]
fn another_plan_adds_and_drops_runs_and_touches_none_that_has_begun() {
    let place = planned(SWEEP);
    good(&place, &["sweep", "run", "out", "--task=0"]);
    let run = place.path("out/toy/gate/seed-1");
    let before = content(&run);
    // A third seed, and no `sum` any more.
    let told = replan(&place, "config_files: [toy.yaml]\nconfigurations: {gate: }\nseeds: [3, 1, 2]\n");
    assert!(told.contains("3 runs in out: 1 new, 2 dropped, which stay as they are\n"), "{told}");
    let line = |task: usize, group: &str, seed: i64| json!({ "task": task, "group": group, "seed": seed });
    let dropped = |mut line: Value| {
        line["dropped"] = true.into();
        line
    };
    let expected = [
        line(0, "toy/gate", 1),
        line(1, "toy/gate", 2),
        dropped(line(2, "toy/sum", 1)),
        dropped(line(3, "toy/sum", 2)),
        line(4, "toy/gate", 3),
    ];
    assert_eq!(tasks(&place), expected, "numbers are kept");
    assert_eq!(states(&place), ["done", "waiting", "waiting"]);
    good(&place, &["sweep", "run", "out", "--task=2"]);
    assert!(!place.path("out/toy/sum/seed-1").exists(), "a dropped task does nothing");
    // Back again, under the old numbers.
    let told = replan(&place, SWEEP);
    assert!(told.contains("4 runs in out: 2 new, 1 dropped"), "{told}");
    assert_eq!(tasks(&place)[2], line(2, "toy/sum", 1));
    assert_eq!(content(&run), before);

    // A group with a run keeps its configuration, one without takes another.
    let tasks_before = text(&place.path("out/tasks.jsonl"));
    fs::write(place.path("sweep.yaml"), format!("keys: {{learning_rate: 0.5, n_layers: 1}}\n{SWEEP}"))
        .expect("written");
    let told = sentence(2, &place.run(&["sweep", "plan", "sweep.yaml", "--out=out"]));
    assert_eq!(
        told,
        "out/toy/gate/config.yaml: expected the configuration of task 0, toy/gate with seed 1, found another learning_rate, \
         n_layers; runs of it have begun: plan the other one under another name or --out"
    );
    assert_eq!((text(&place.path("out/tasks.jsonl")), content(&run)), (tasks_before, before), "nothing has changed");
    replan(&place, &SWEEP.replace("fusion_type: sum", "fusion_type: sum, n_layers: 1"));
    assert_eq!(config(&place, "toy/sum").model.n_layers, 1);
    // Where the data are, and on how many threads, says nothing of what is computed.
    plan(&place, &["--threads=2"]);
}

/// One sentence each, with file and place; nothing is planned.
#[test]
fn every_mistake_in_a_sweep_gets_its_sentence() {
    let base = "config_files: [toy.yaml]\n";
    let seeds = "seeds: [1]\n";
    let cases = [
        ("nothing", String::new()),
        ("no YAML", "seeds: [1".to_owned()),
        ("a list", "- seeds\n".to_owned()),
        ("no seeds", base.to_owned()),
        ("seeds that are none", format!("{base}seeds: []\n")),
        ("a seed twice", format!("{base}seeds: [1, 2, 1]\n")),
        ("a seed that is text", format!("{base}seeds: [one]\n")),
        ("a seed below 0", format!("{base}seeds: [1, -1]\n")),
        ("seeds as a number", format!("{base}seeds: 4\n")),
        ("a word that is none", format!("{base}{seeds}seed: 1\n")),
        ("a file that is missing", format!("config_files: [missing.yaml]\n{seeds}")),
        ("a file as text", format!("config_files: toy.yaml\n{seeds}")),
        ("an INI file", format!("config_files: [toy.ini]\n{seeds}")),
        ("no data set", seeds.to_owned()),
        ("data that are missing", format!("{base}keys: {{data_path: elsewhere}}\n{seeds}")),
        ("a data set that is missing", format!("{base}datasets: {{tiy: }}\n{seeds}")),
        ("data filtered away", format!("{base}keys: {{user_inter_num_interval: '[900,inf)'}}\n{seeds}")),
        ("data sets as a list", format!("{base}datasets: [toy]\n{seeds}")),
        ("a key that is none", format!("{base}keys: {{hiden_size: 8}}\n{seeds}")),
        ("a value that is none", format!("{base}configurations: {{a: {{keys: {{epochs: many}}}}}}\n{seeds}")),
        ("a value of a grid that is none", format!("{base}grid: {{epochs: [1, many]}}\n{seeds}")),
        ("values that do not fit together", format!("{base}grid: {{hidden_size: [16, 15]}}\n{seeds}")),
        ("a key of a data set that is none", format!("{base}datasets: {{toy: {{keys: {{epochs: 0}}}}}}\n{seeds}")),
        ("a key that is a number", format!("{base}keys: {{1: 2}}\n{seeds}")),
        ("a tag", format!("{base}keys: {{epochs: !much 2}}\n{seeds}")),
        ("seed among the keys", format!("{base}keys: {{seed: 1}}\n{seeds}")),
        ("seed in the grid", format!("{base}grid: {{seed: [1, 2]}}\n{seeds}")),
        (
            "dataset twice",
            format!("{base}datasets: {{toy: }}\nconfigurations: {{a: {{keys: {{dataset: toy}}}}}}\n{seeds}"),
        ),
        ("a grid without a list", format!("{base}grid: {{epochs: 2}}\n{seeds}")),
        ("a grid without values", format!("{base}grid: {{epochs: []}}\n{seeds}")),
        ("a value twice", format!("{base}grid: {{epochs: [2, 3, 2]}}\n{seeds}")),
        (
            "a grid's key that a configuration sets",
            format!("{base}configurations: {{a: {{keys: {{epochs: 1}}}}}}\ngrid: {{epochs: [2, 3]}}\n{seeds}"),
        ),
        ("values that share a name", format!("{base}grid: {{data_path: ['.', '[.]']}}\n{seeds}")),
        (
            "two configurations that are one",
            format!("{base}configurations: {{a: , b: {{keys: {{fusion_type: gate}}}}}}\n{seeds}"),
        ),
        ("a name with a slash", format!("{base}configurations: {{a/b: }}\n{seeds}")),
        ("a name of a file", format!("{base}configurations: {{records: }}\n{seeds}")),
        (
            "a configuration with a word that is none",
            format!("{base}configurations: {{a: {{key: {{epochs: 1}}}}}}\n{seeds}"),
        ),
        ("a configuration as text", format!("{base}configurations: {{a: small.yaml}}\n{seeds}")),
        ("expect at a configuration", format!("{base}configurations: {{a: {{expect: expect.yaml}}}}\n{seeds}")),
        ("an expectation that is missing", format!("{base}expect: missing.yaml\n{seeds}")),
        ("an expectation of something else", format!("{base}expect: toy.yaml\n{seeds}")),
        ("an expectation of other runs", format!("{base}expect: of_others.yaml\n{seeds}")),
        (
            "an expectation of a metric that is not computed",
            format!("{base}keys: {{metrics: [Recall]}}\nexpect: expect.yaml\n{seeds}"),
        ),
        (
            "an expectation of a configuration that is none",
            format!("{base}configurations: {{a: }}\nexpect: {{b: expect.yaml}}\n{seeds}"),
        ),
        ("an expectation by name of one configuration", format!("{base}expect: {{b: expect.yaml}}\n{seeds}")),
        ("an expectation that is a number", format!("{base}expect: 0.3\n{seeds}")),
        (
            "too many runs",
            format!(
                "{base}grid: {{epochs: [{0}], stopping_step: [{0}], eval_step: [{0}]}}\n{seeds}",
                (1..60).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
            ),
        ),
    ];
    let place = place("");
    let of_others = "figures: {source: s, margin: {metric: 1}, of: {hidden_size: 64}, test: {recall@10: 0.5}}\n";
    fs::write(place.path("of_others.yaml"), of_others).expect("written");
    let mut told = String::new();
    for (what, sweep) in cases {
        fs::write(place.path("sweep.yaml"), sweep).expect("written");
        told += &format!("# {what}\n{}\n\n", place.refusal(2, &["sweep", "plan", "sweep.yaml", "--out=out"]));
        assert!(!place.path("out").exists(), "{what}");
    }
    let here = place.folder.path().display().to_string();
    insta::assert_snapshot!(told.replace(&here, "[place]"));
}

#[test]
fn anchors_and_merges_of_yaml_are_read() {
    let place = planned(
        "config_files: [toy.yaml]
configurations:
  a: &a {keys: &keys {epochs: 4, n_layers: 1}}
  b: {keys: {<<: *keys, epochs: 6}}
seeds: [1]
",
    );
    let epochs = ["toy/a", "toy/b"]
        .map(|group| config(&place, group))
        .map(|config| (config.train.epochs, config.model.n_layers));
    assert_eq!(epochs, [(4, 1), (6, 1)]);
}

#[test]
fn a_damaged_list_of_tasks_is_told_and_made_once_more() {
    let place = planned(SWEEP);
    let tasks = place.path("out/tasks.jsonl");
    let whole = text(&tasks);
    for (damaged, sentence) in [
        ("", "out/tasks.jsonl: expected at least one task"),
        ("{\n", "remove it, and plan the sweep"),
        (r#"{"task":0,"group":"../other","seed":1}"#, "expected a task, found a group outside of the sweep"),
    ] {
        fs::write(&tasks, damaged).expect("written");
        for command in ["run", "status", "gather"] {
            let told = place.refusal(2, &["sweep", command, "out"]);
            assert!(told.contains(sentence), "{command}: {told}");
        }
    }
    fs::remove_file(&tasks).expect("removed");
    good(&place, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    assert_eq!(text(&tasks), whole);

    // A run that has begun is found in its folder.
    let run = place.path("out/toy/gate/seed-1");
    fs::create_dir(&run).expect("a folder");
    fs::copy(place.path("out/toy/gate/config.yaml"), run.join("config.yaml")).expect("copied");
    fs::remove_file(&tasks).expect("removed");
    fs::write(place.path("sweep.yaml"), format!("keys: {{learning_rate: 0.5}}\n{SWEEP}")).expect("written");
    let told = place.refusal(2, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    assert!(told.contains("found another learning_rate; runs of it have begun"), "{told}");

    // What is expected may change then, and is told.
    fs::write(place.path("expect.yaml"), "figures: {source: s, margin: {metric: 1}, valid: {recall@10: 0.1}}\n")
        .expect("written");
    let told = replan(&place, &format!("{SWEEP}expect: expect.yaml\n"));
    assert!(told.contains("1 group with runs held to another expectation than before, or to none"), "{told}");
}

/// Each process either plans or is told that another one does, and what is left is a sweep with all numbers of its own.
#[test]
fn processes_that_plan_into_one_folder_at_once_lose_nothing() {
    let place = place(SWEEP);
    for seeds in 0..6 {
        fs::write(place.path(&format!("{seeds}.yaml")), SWEEP.replace("[1, 2]", &format!("[{seeds}]")))
            .expect("written");
    }
    let start = |seeds: i32| {
        let mut command = place.command(&["sweep", "plan", &format!("{seeds}.yaml"), "--out=out"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    };
    let children: Vec<_> = (0..6).map(start).collect();
    let mut planned = 0;
    for child in children {
        let output = child.wait_with_output().expect("a child");
        match code(&output) {
            0 => planned += 1,
            _ => assert!(sentence(2, &output).contains("found another process that plans or gathers it"), "{output:?}"),
        }
    }
    assert!(planned > 0);
    let tasks = tasks(&place);
    let numbers: Vec<_> = tasks.iter().map(|task| task["task"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, (0..2 * planned).collect::<Vec<u64>>(), "two groups of one seed for each that has planned");
}

#[test]
fn a_folder_in_which_a_sweep_is_planned_right_now_is_no_folder_of_other_files() {
    let place = place(SWEEP);
    fs::create_dir_all(place.path("out/toy/gate")).expect("a folder");
    let lock = fs::File::create(place.path("out/lock")).expect("a file");
    lock.lock().expect("locked");
    let told = place.refusal(2, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    assert_eq!(told, "out: expected a sweep at rest, found another process that plans or gathers it; wait for its end");
    drop(lock);
    // A process that another test is starting may hold the lock for a moment.
    let told = || place.refusal(2, &["sweep", "plan", "sweep.yaml", "--out=out"]);
    wait_until("the lock", || told().contains("found other files"));
}

#[test]
fn what_is_wrong_is_named_by_its_own_place() {
    let long = "x".repeat(201);
    for (sweep, expected) in [
        (SWEEP.replace("gate:", &format!("{long}:")), "sweep.yaml, `configurations`: expected a folder of its own"),
        (
            format!("config_files: [toy.yaml]\nkeys: {{dataset: {long}}}\nseeds: [1]\n"),
            "sweep.yaml: expected a folder of its own",
        ),
        (
            SWEEP.replace("[1, 2]", &format!("{:?}", (0..60_000).collect::<Vec<_>>())),
            "sweep.yaml: expected at most 100000 runs, found 120000;",
        ),
    ] {
        let place = place(&sweep);
        let told = place.refusal(2, &["sweep", "plan", "sweep.yaml", "--out=out"]);
        assert!(told.starts_with(expected), "{told}");
        assert!(!told.contains("grid"), "there is none: {told}");
    }
}

#[test]
fn what_is_of_runs_says_which_folders_of_a_sweep_to_give() {
    let place = planned(SWEEP);
    for arguments in
        [&["gate", "out", "--expect=expect.yaml"][..], &["compare", "out", "--with=out"], &["report", "out"]]
    {
        let told = place.refusal(2, arguments);
        let expected = "out: expected the folder of a run, found that of a sweep; give the runs of one group, out/GROUP/seed-*, \
                        or judge all by `dif-sr sweep gather out`";
        assert_eq!(told, expected, "{arguments:?}");
    }
}
