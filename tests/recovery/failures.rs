//! Runs that cannot go on, or not yet: damaged files, full disks, folders that are read-only, losses that are no number.

use std::fs;
use std::process::{Command, Output};

use dif_sr::tensors::TensorFile;

use crate::common::place::{Evidence, Place, content, interrupted, interrupted_at, text};
use crate::common::{left_out, required};

#[test]
fn what_a_run_cannot_go_on_from_is_told_and_nothing_of_the_run_is_changed() {
    let place = Place::new(&[]);
    place.train("whole");
    interrupted(&place);
    // A part of a line, as a full disk leaves it.
    let calibrations = place.path("run/calibration.jsonl");
    fs::write(&calibrations, text(&calibrations) + "{\"product").expect("written");
    let before = content(&place.path("run"));
    let (data, last, best) =
        (place.path("toy/toy.inter"), place.path("run/last.safetensors"), place.path("run/best.safetensors"));
    let mut told = String::new();
    let mut refuse = |what: &str, arguments: &[&str]| {
        told += &format!("{what}\n{}\n\n", place.refusal(2, arguments));
    };
    let resume = ["train", "--resume=run"];
    refuse("no run", &["train", "--resume=nowhere"]);
    refuse("a finished run", &["train", "--resume=whole"]);
    refuse("another key", &["train", "--resume=run", "--epochs=9"]);
    refuse("a configuration", &["train", "--resume=run", "--config_files", "run/config.yaml"]);
    refuse("nothing expected", &["reproduce", "--resume=run"]);

    let hidden = place.path("toy.hidden");
    fs::rename(&data, &hidden).expect("moved");
    refuse("vanished data", &resume);
    let items = text(&hidden);
    fs::write(&data, items.replacen("i7\t", "i8\t", 1)).expect("written");
    refuse("other data", &resume);
    fs::write(&data, items.replace("u7\t", "u77\t")).expect("written");
    refuse("renamed users", &resume);
    fs::rename(&hidden, &data).expect("moved");

    // Bytes of every part of the file: length, seal, names, metadata, tensors.
    let whole = fs::read(&last).expect("a checkpoint");
    for (at, what) in
        [(0, "length"), (20, "seal's name"), (60, "seal"), (400, "metadata"), (whole.len() - 9, "tensors")]
    {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write(&last, flipped).expect("written");
        refuse(&format!("a flipped bit in the {what}"), &resume);
    }
    fs::write(&last, &whole[..whole.len() / 2]).expect("written");
    refuse("half a checkpoint", &resume);
    fs::copy(&best, &last).expect("copied");
    refuse("another checkpoint", &resume);
    fs::write(&last, &whole).expect("written");

    fs::remove_file(&last).expect("removed");
    refuse("a lost checkpoint", &resume);
    fs::write(&last, &whole).expect("written");
    let environment = fs::read(place.path("run/environment.json")).expect("an environment");
    fs::remove_file(place.path("run/environment.json")).expect("removed");
    refuse("a folder with a config.yaml that is no run", &resume);
    fs::write(place.path("run/environment.json"), environment).expect("written");

    let model = fs::read(&best).expect("a checkpoint");
    fs::write(&best, &model[..model.len() - 1]).expect("written");
    refuse("a truncated best model", &resume);
    fs::write(&best, &model).expect("written");
    // The best model under the name that a kill can leave it: to settle it is part of going on.
    let next = place.path("run/best.safetensors.next");
    fs::rename(&best, &next).expect("moved");
    for name in ["log.txt", "losses.tsv", "metrics.jsonl", "calibration.jsonl"] {
        let file = place.path("run").join(name);
        let lines = fs::read(&file).expect("lines");
        if name != "calibration.jsonl" {
            fs::write(&file, &lines[..40]).expect("written");
            refuse(&format!("lost lines of {name}"), &resume);
        }
        fs::remove_file(&file).expect("removed");
        refuse(&format!("a lost {name}"), &resume);
        assert!(!file.exists() && next.exists() && !best.exists(), "{name}");
        fs::write(&file, lines).expect("written");
    }
    fs::rename(&next, &best).expect("moved");
    let config = text(&place.path("run/config.yaml"));
    fs::write(place.path("run/config.yaml"), config.replace("seed: 2020", "seed: 2021")).expect("written");
    refuse("another configuration", &resume);
    fs::write(place.path("run/config.yaml"), "").expect("written");
    refuse("an empty configuration", &resume);
    fs::write(place.path("run/config.yaml"), config).expect("written");

    // How far the run was is different every time.
    insta::with_settings!({ filters => vec![(r"at least \d+ bytes", "at least [N] bytes"), (r"column \d+", "column [N]")] }, {
        insta::assert_snapshot!(told);
    });
    assert!(before == content(&place.path("run")), "nothing has changed");
    place.resume("run");
    Evidence::of(&place.path("run")).assert_equal(&Evidence::of(&place.path("whole")), "after all");
    for line in text(&calibrations).lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{line}: {e}"));
    }
}

/// `/dev/full` stands for a full disk: every write to it fails as there.
#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_last_good_one() {
    let place = Place::new(&["--checkpoint_interval=0"]);
    place.train("whole");
    for name in ["last.safetensors.part", "best.safetensors.next.part", "ranks.tsv.part"] {
        // Before the first evaluation, which is the best so far whatever it gives.
        interrupted_at(&place, "Trainable parameters");
        let run = place.path("run");
        std::os::unix::fs::symlink("/dev/full", run.join(name)).expect("a link");
        let before = fs::read(run.join("last.safetensors")).expect("a checkpoint");
        let told = place.refusal(2, &["train", "--resume=run"]);
        assert!(told.contains("cannot write the file: No space left on device"), "{name}: {told}");
        assert!(told.contains("; the last good checkpoint is run/last.safetensors, after "), "{name}: {told}");
        let after = fs::read(run.join("last.safetensors")).expect("a checkpoint");
        assert!(before == after || name != "last.safetensors.part");
        place.resume("run");
        Evidence::of(&run).assert_equal(&Evidence::of(&place.path("whole")), name);
        fs::remove_dir_all(&run).expect("removed");
    }
}

/// Runs a script of the shell in which `runs` is a file system of its own, of 1 MB. `None`, with a word to the reader, where
/// this system lets nobody mount one.
fn on_a_small_disk(place: &Place, script: &str) -> Option<Output> {
    const MOUNT: &str = "mount -t tmpfs -o size=1m none runs";
    fs::create_dir(place.path("runs")).expect("a folder");
    let unshared = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]);
        command.arg(assert_cmd::cargo::cargo_bin!("dif-sr")).args(&place.keys).current_dir(place.folder.path());
        command.output()
    };
    if !unshared(MOUNT).is_ok_and(|probe| probe.status.success()) {
        assert!(!required("DIF_SR_MOUNT"), "no file system can be mounted here");
        left_out("no file system can be mounted here");
        return None;
    }
    Some(unshared(&format!("set -u; {MOUNT} || exit\n{script}")).expect("the shell runs"))
}

#[test]
fn a_full_disk_and_a_read_only_folder_end_the_run_which_goes_on_when_they_are_cured() {
    let place = Place::new(&["--checkpoint_interval=0", "--epochs=12"]);
    place.train("whole");
    let script = r#"
        dif_sr=$1; shift
        "$dif_sr" train --out=runs/run "$@" >/dev/null 2>full &
        until grep -qs 'epoch 0 evaluating' runs/run/log.txt; do kill -0 $! || exit; sleep 0.01; done
        # Again, because a checkpoint that takes an older one's place leaves room.
        for i in 1 2 3; do dd if=/dev/zero of=runs/filler$i bs=1k >/dev/null 2>&1; done
        wait $!; echo "full: $?"
        # A checkpoint of which a part had been written has left its room.
        dd if=/dev/zero of=runs/filler_too bs=1k >/dev/null 2>&1
        "$dif_sr" train --resume=runs/run >/dev/null 2>still_full; echo "still full: $?"
        "$dif_sr" train --out=runs/new "$@" >/dev/null 2>full_new; echo "full, new: $?"
        ls -A runs/new
        rm runs/filler*
        "$dif_sr" train --out=runs/new "$@" --epochs=1 >/dev/null 2>&1; echo "new: $?"
        rm -r runs/new
        mount -o remount,ro runs
        "$dif_sr" train --resume=runs/run >/dev/null 2>read_only; echo "read-only: $?"
        "$dif_sr" train --out=runs/other "$@" >/dev/null 2>read_only_new; echo "read-only, new: $?"
        mount -o remount,rw runs
        "$dif_sr" train --resume=runs/run >/dev/null 2>&1; echo "cured: $?"
        cp -r runs/run run
    "#;
    let Some(output) = on_a_small_disk(&place, script) else { return };
    let codes = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = |name: &str| text(&place.path(name)).lines().last().unwrap_or_default().to_owned();
    let expected = "full: 2\nstill full: 2\nfull, new: 2\nnew: 0\nread-only: 2\nread-only, new: 2\ncured: 0\n";
    assert_eq!(codes, expected, "{}{}", told("full"), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["full", "still_full", "full_new"] {
        assert!(told(name).contains("No space left on device"), "{name}: {}", told(name));
    }
    assert!(
        told("full").contains("; the last good checkpoint is runs/run/last.safetensors, after "),
        "{}",
        told("full")
    );
    for name in ["read_only", "read_only_new"] {
        assert!(told(name).contains("Read-only file system"), "{name}: {}", told(name));
    }
    Evidence::of(&place.path("run")).assert_equal(&Evidence::of(&place.path("whole")), "after all");
}

#[test]
fn a_loss_that_is_no_number_names_the_batch_the_norms_and_the_last_good_checkpoint() {
    let place = Place::new(&["--learning_rate=1e25"]);
    let told = place.refusal(2, &[&["train", "--out=run"], &place.keys[..]].concat());
    let head =
        "the loss of epoch 0, batch 2 of 19 is NaN, expected a finite number; the largest norms of parameters are ";
    assert!(told.starts_with(head), "{told}");
    assert!(told.contains("; no checkpoint had been written yet; lower learning_rate"), "{told}");
    let log = text(&place.path("run/log.txt"));
    assert!(log.contains("norms of parameters: \n") && log.contains(" position_embedding.weight\n"), "{log}");
    assert!(log.lines().last().unwrap_or_default().contains("stopped: the loss of epoch 0, batch 2"), "{log}");

    let place = Place::new(&["--learning_rate=1e25", "--checkpoint_interval=0"]);
    let told = place.refusal(2, &[&["train", "--out=run"], &place.keys[..]].concat());
    assert!(
        told.contains("the last good checkpoint is run/last.safetensors, after batch 1 of 19 in epoch 0"),
        "{told}"
    );
    assert!(TensorFile::read(&place.path("run/last.safetensors")).is_ok());

    // A step from finite gradients to infinite parameters is no checkpoint.
    let place = Place::new(&["--learning_rate=1e39", "--checkpoint_interval=0"]);
    let told = place.refusal(2, &[&["train", "--out=run"], &place.keys[..]].concat());
    assert!(told.contains("` is not finite after batch 1 of epoch 0; no checkpoint had been written yet"), "{told}");
    assert!(!place.path("run/last.safetensors").exists());
}
