//! What happens to the others when something happens to one rank: all end, in bounded time, with an exit code that says so,
//! and the run goes on to the bit.

use std::fs;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

use super::common::place::{Place, signal, text, wait_until};
use super::launch::{Bits, TIMEOUT, outputs, rank, resume, spawn, told, train};

/// Several epochs of 19 batches, saved so often that a fault finds something saved, and not always the last batch.
pub const KEYS: [&str; 4] =
    ["--compute_path=fast", "--epochs=6", "--checkpoint_interval=0.02", "--train_batch_size=16"];

/// What every run below must come to: three threads.
static WHOLE: Lazy<Bits> = Lazy::new(|| {
    let place = Place::new(&KEYS);
    train(&place, "whole", 1, 3);
    Bits::of(&place.path("whole"))
});

/// Three ranks in training, in the folder `run`, with more keys.
pub fn in_training(place: &Place, timeout: u64, more: &[&str]) -> Vec<Child> {
    let children = spawn(place, 3, timeout, &[&place.keys[..], &["--out=run"], more].concat());
    let log = || fs::read_to_string(place.path("run/log.txt")).unwrap_or_default();
    wait_until("training", || log().contains("epoch 1 training") && place.path("run/last.safetensors").exists());
    children
}

/// The end of all, which must come in so many seconds.
pub fn ended(children: Vec<Child>, begin: Instant, seconds: u64, what: &str) -> Vec<Output> {
    let outputs = outputs(children);
    let took = begin.elapsed();
    let codes: Vec<Option<i32>> = outputs.iter().map(|output| output.status.code()).collect();
    println!("{what}: {codes:?} after {:.1} s; rank 0: {}", took.as_secs_f64(), told(&outputs[0]));
    assert!(took < Duration::from_secs(seconds), "{what}: {took:?}");
    assert!(!codes.contains(&Some(0)), "{what}: {codes:?}");
    outputs
}

/// Goes on as another number of ranks of the same number of threads.
fn goes_on(place: &Place, ranks: usize, threads: usize, what: &str) {
    goes_on_from(place, ranks, threads, &[], what);
}

/// The same with other values of keys that may change.
pub fn goes_on_from(place: &Place, ranks: usize, threads: usize, keys: &[&str], what: &str) {
    resume(place, "run", ranks, threads, keys);
    Bits::of(&place.path("run")).assert_equal(&WHOLE, what);
}

#[test]
fn whichever_rank_is_killed_the_others_end_and_the_run_goes_on_to_the_bit() {
    for (killed, (ranks, threads)) in [(0, (3, 1)), (1, (1, 3)), (2, (3, 1))] {
        let place = Place::new(&KEYS);
        let mut children = in_training(&place, TIMEOUT, &[]);
        let begin = Instant::now();
        children[killed].kill().expect("killed");
        let what = format!("kill -9 of rank {killed}");
        for (rank, output) in ended(children, begin, 20, &what).iter().enumerate().filter(|(rank, _)| *rank != killed) {
            assert_eq!(output.status.code(), Some(2), "{what}, rank {rank}: {}", told(output));
            assert!(told(output).contains("another rank has ended or does not answer"), "{}", told(output));
        }
        goes_on(&place, ranks, threads, &what);
    }
}

#[test]
fn a_rank_that_stands_still_ends_the_others_after_their_timeout() {
    const SECONDS: u64 = 4;
    for still in [0, 1] {
        let place = Place::new(&KEYS);
        let mut children = in_training(&place, SECONDS, &[]);
        let begin = Instant::now();
        signal(&children[still], "STOP");
        let what = format!("SIGSTOP of rank {still}");
        let stopped = children.remove(still);
        for output in ended(children, begin, SECONDS + 20, &what) {
            assert_eq!(output.status.code(), Some(2), "{what}: {}", told(&output));
        }
        assert!(begin.elapsed() > Duration::from_secs(SECONDS - 1), "{what}: it was waited for");
        signal(&stopped, "CONT");
        let output = &ended(vec![stopped], Instant::now(), 20, &format!("{what}, which goes on"))[0];
        assert_eq!(output.status.code(), Some(2), "{what}: {}", told(output));
        goes_on(&place, 3, 1, &what);
    }
}

#[test]
fn a_signal_to_one_rank_stops_all_at_the_same_step() {
    for asked in [0, 2] {
        let place = Place::new(&KEYS);
        let children = in_training(&place, TIMEOUT, &[]);
        let begin = Instant::now();
        signal(&children[asked], "TERM");
        let what = format!("SIGTERM to rank {asked}");
        for (rank, output) in ended(children, begin, 20, &what).iter().enumerate() {
            assert_eq!(output.status.code(), Some(4), "{what}, rank {rank}: {}", told(output));
        }
        let log = text(&place.path("run/log.txt"));
        assert!(log.lines().last().unwrap_or_default().contains("stopped: interrupted "), "{what}: {log}");
        goes_on(&place, 1, 3, &what);
    }
}

/// `/dev/full` stands for a full disk: every write to it fails as there.
#[test]
fn a_full_disk_at_rank_0_ends_all() {
    full_disk(&[], "a full disk");
}

/// Ranks in training, with these keys, find the disk full.
pub fn full_disk(more: &[&str], what: &str) {
    let place = Place::new(&KEYS);
    let children = in_training(&place, TIMEOUT, more);
    let begin = Instant::now();
    let part = place.path("run/last.safetensors.part");
    wait_until("the link", || {
        _ = fs::remove_file(&part);
        std::os::unix::fs::symlink("/dev/full", &part).is_ok()
    });
    let outputs = ended(children, begin, 20, what);
    assert!(outputs.iter().all(|output| output.status.code() == Some(2)), "{outputs:?}");
    assert!(told(&outputs[0]).contains("No space left on device"), "{}", told(&outputs[0]));
    _ = fs::remove_file(&part);
    goes_on(&place, 3, 1, what);
}

#[test]
fn a_rank_that_never_comes_is_not_waited_for_without_end() {
    let place = Place::new(&KEYS);
    let begin = Instant::now();
    let arguments = [&place.keys[..], &["--out=run", "--ranks_file=nobody", "--ranks_timeout=2"]].concat();
    let output = rank(&place, 0, 2, &arguments).output().expect("the binary runs");
    println!(
        "a rank that never comes: {:?} after {:.1} s: {}",
        output.status.code(),
        begin.elapsed().as_secs_f64(),
        told(&output)
    );
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("rank 0 waited 2 s at nobody for the 2 ranks"), "{}", told(&output));
    assert!(!place.path("run").exists(), "no run has begun");
}
