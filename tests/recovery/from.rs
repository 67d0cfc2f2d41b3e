//! New runs that begin from the state of another, which stays as it was.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use crate::common::place::{Place, content, ended, events, interrupted, signal, tensors, text, wait_until};

/// The lines behind the header, and those of `metrics.jsonl` without their seconds, from this epoch on.
fn lines_from(place: &Place, run: &str, epoch: usize) -> (Vec<String>, Vec<Value>) {
    let of_epoch = |line: &&str| line.split('\t').next().is_some_and(|n| n.parse().is_ok_and(|n: usize| n >= epoch));
    let losses = text(&place.path(run).join("losses.tsv"));
    let metrics = text(&place.path(run).join("metrics.jsonl"));
    let metrics = metrics.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).expect("JSON");
        line.as_object_mut().expect("an object").remove("seconds");
        line
    });
    (
        losses.lines().filter(of_epoch).map(str::to_owned).collect(),
        metrics.filter(|line| line["epoch"].as_u64().is_some_and(|n| n as usize >= epoch)).collect(),
    )
}

/// That `run`, which began from another one, ends as `whole` does.
fn assert_ends_as(place: &Place, run: &str, whole: &str, epoch: usize) {
    let (losses, metrics) = lines_from(place, run, 0);
    let (expected_losses, expected_metrics) = lines_from(place, whole, epoch);
    assert!(!losses.is_empty());
    assert_eq!(losses, expected_losses, "{run}");
    assert_eq!(metrics, expected_metrics, "{run}");
    let shown: Vec<_> = events(&place.path(whole)).into_iter().filter(|(step, ..)| *step >= epoch as i64).collect();
    assert_eq!(events(&place.path(run)), shown, "{run}");
    let read = |run: &str, name: &str| text(&place.path(run).join(name));
    assert_eq!(read(run, "ranks.tsv"), read(whole, "ranks.tsv"), "{run}");
    let result = |run: &str| {
        let mut result: Value = serde_json::from_str(&read(run, "result.json")).expect("JSON");
        ["train_seconds", "from"].iter().for_each(|key| drop(result.as_object_mut().expect("an object").remove(*key)));
        result
    };
    assert_eq!(result(run), result(whole), "{run}");
    for name in ["best.safetensors", "last.safetensors"] {
        assert!(tensors(&place.path(run).join(name)) == tensors(&place.path(whole).join(name)), "{name} of {run}");
    }
}

#[test]
fn two_epochs_and_two_more_from_them_are_four_to_the_bit() {
    for keys in [&["--epochs=4"][..], &["--epochs=4", "--compute_path=fast", "--precision=bf16"]] {
        let place = Place::new(keys);
        place.train("four");
        let two = [&["train", "--out=two"], &place.keys[..], &["--epochs=2"]].concat();
        place.good(&two);
        let before = content(&place.path("two"));
        place.good(&["train", "--from=two", "--epochs=4", "--out=more", "--checkpoint_interval=0"]);
        assert_ends_as(&place, "more", "four", 2);
        assert!(before == content(&place.path("two")), "the evidence of the first run stays");

        let seal = dif_sr::tensors::TensorFile::read(&place.path("two/last.safetensors")).expect("a state").seal;
        let seal = seal.expect("it is sealed");
        for name in ["environment.json", "result.json"] {
            let json: Value = serde_json::from_str(&text(&place.path("more").join(name))).expect("JSON");
            let from = serde_json::json!({ "run": "two", "sha256": seal, "epoch": 2, "batch": 0 });
            assert_eq!(json["from"], from, "{name}");
        }
        let words = format!("Begun from two, after epoch 1 (last.safetensors {seal})");
        assert!(text(&place.path("more/config.yaml")).starts_with(&format!("# {words}.\n")));
        assert!(text(&place.path("more/log.txt")).contains(&words));
        // The folder is one as any other: its configuration is read, its run judged.
        place.good(&["evaluate", "more", "--json"]);
    }
}

#[test]
fn a_run_from_an_interrupted_one_goes_on_in_its_epoch_and_can_be_interrupted_itself() {
    let place = Place::new(&[]);
    place.train("whole");
    interrupted(&place);
    let before = content(&place.path("run"));
    let mut command = place.command(&["train", "--from=run", "--out=more", "--checkpoint_interval=0"]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    // What it began from is saved before the first batch.
    wait_until("training", || place.path("more/last.safetensors").exists());
    // From then on others may work in the run that it began from.
    let lock = fs::File::open(place.path("run/lock")).expect("a lock");
    wait_until("at rest", || lock.try_lock().is_ok());
    drop(lock);
    signal(&child, "KILL");
    ended(child);
    place.resume("more");
    let environment: Value = serde_json::from_str(&text(&place.path("more/environment.json"))).expect("JSON");
    let from = &environment["from"];
    assert_eq!(environment["resumed"].as_array().map(Vec::len), Some(1));
    let result: Value = serde_json::from_str(&text(&place.path("more/result.json"))).expect("JSON");
    assert_eq!(&result["from"], from);
    let (losses, metrics) = lines_from(&place, "more", 0);
    let (whole, all) = lines_from(&place, "whole", 0);
    let first = (19 * from["epoch"].as_u64().expect("a number") + from["batch"].as_u64().expect("a number")) as usize;
    assert!(first >= 19 && first < whole.len(), "{from}");
    assert_eq!(losses, whole[first..]);
    assert_eq!(metrics, all[all.len() - metrics.len()..]);
    assert!(tensors(&place.path("more/best.safetensors")) == tensors(&place.path("whole/best.safetensors")));
    assert!(before == content(&place.path("run")));

    // Killed before that, it has no state to go on from, and must not begin at the beginning.
    let more = |name: &str| place.path("more").join(name);
    let refused = || place.refusal(2, &["train", "--resume=more"]);
    ["result.json", "last.safetensors"].iter().for_each(|name| fs::remove_file(more(name)).expect("removed"));
    assert!(refused().starts_with("more/last.safetensors: expected the training that was saved, found no such file"));
    fs::write(more("metrics.jsonl"), "").expect("written");
    let header = text(&more("losses.tsv")).lines().next().expect("a header").to_owned() + "\n";
    fs::write(more("losses.tsv"), header).expect("written");
    assert_eq!(
        refused(),
        "more: the run ended before it had taken over the state that it begins from; remove the folder, and give `dif-sr \
         train --from=run` again"
    );
}

#[test]
fn what_a_run_cannot_begin_from_is_told_before_a_folder_is_made() {
    let place = Place::new(&["--epochs=1000", "--stopping_step=1", "--learning_rate=1e-9"]);
    place.train("stopped");
    let epochs = lines_from(&place, "stopped", 0).1.last().and_then(|line| line["epoch"].as_u64()).expect("epochs") + 1;
    let from = |keys: &[&str]| place.refusal(2, &[&["train", "--from=stopped", "--out=new"], keys].concat());
    assert_eq!(
        from(&["--epochs=2000"]),
        "stopped: the run has stopped early, as its last 2 evaluations were no better than its best; give --stopping_step=2 \
         or more, of which these evaluations are a part"
    );
    assert_eq!(
        from(&["--epochs=1"]),
        format!(
            "stopped: expected more epochs than the {epochs} that the run has trained, found 1; give --epochs={} or more",
            epochs + 1
        )
    );
    for key in ["hidden_size", "seed", "train_batch_size", "valid_metric", "compute_path", "dataset"] {
        let told = from(&[&format!("--{key}=64")]);
        let head =
            format!("stopped: `{key}` is part of what the run has trained, and cannot change; only checkpoint_dir, ");
        assert!(told.starts_with(&head), "{told}");
    }
    assert_eq!(
        place.refusal(2, &["train", "--from=stopped", "--out=stopped", "--epochs=2000"]),
        "stopped: expected --out to be a new folder, found that of --from; name another one: a run that another begins from \
         stays as it is"
    );
    assert!(from(&["--config_files", "stopped/config.yaml"]).contains("--config_files cannot be given"));
    assert!(
        place.refusal(2, &["train", "--from=nowhere"]).starts_with("nowhere: expected the folder of a run, found no")
    );
    let more = ["--epochs=2000", "--stopping_step=9"];
    let data = place.path("toy/toy.inter");
    let rows = text(&data);
    fs::write(&data, rows.replacen("i7\t", "i8\t", 1)).expect("written");
    assert!(
        from(&more).starts_with("stopped/last.safetensors: the data set is not the one that this run was begun on")
    );
    fs::write(&data, rows).expect("written");
    let last = place.path("stopped/last.safetensors");
    let state = fs::read(&last).expect("a state");
    let mut flipped = state.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    fs::write(&last, flipped).expect("written");
    assert!(from(&more).starts_with("stopped/last.safetensors: expected the content whose SHA-256 the file records"));
    fs::remove_file(&last).expect("removed");
    assert!(
        from(&more).starts_with("stopped/last.safetensors: expected the training that the run saved, found no such")
    );
    fs::write(&last, state).expect("written");
    let best = fs::read(place.path("stopped/best.safetensors")).expect("a model");
    fs::write(place.path("stopped/best.safetensors"), &best[1..]).expect("written");
    assert!(from(&more).starts_with("stopped/best.safetensors: expected the best model of the saved training"));
    fs::write(place.path("stopped/best.safetensors"), best).expect("written");
    assert!(!place.path("new").exists(), "nothing was made");

    let place = Place::new(&["--epochs=1000", "--stopping_step=1000"]);
    let mut child = place.spawn("run");
    wait_until("a checkpoint", || place.path("run/last.safetensors").exists());
    let told = place.refusal(2, &["train", "--from=run", "--epochs=2000"]);
    assert!(told.starts_with("run: expected a run at rest, found another process at work in it"), "{told}");
    child.kill().expect("killed");
    child.wait().expect("a child");
}
