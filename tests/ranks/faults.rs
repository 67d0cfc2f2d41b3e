//! What happens to the others when something happens to one rank: all end, in bounded time, with an exit code that says so,
//! and the run goes on to the bit.

use std::fs;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

use super::common::place::{Place, signal, text, wait_until};
use super::launch::{Bits, TIMEOUT, outputs, rank, resume, spawn, told, train};
use super::{SHARED, WHOLE};

/// Several epochs of 19 batches, saved so often that a fault finds something saved, and not always the last batch.
pub const KEYS: [&str; 4] =
    ["--compute_path=fast", "--epochs=6", "--checkpoint_interval=0.02", "--train_batch_size=16"];

/// Seconds in which all end when one has: far fewer than they wait for each other, and enough for a busy machine.
pub const SOON: u64 = 120;

/// What every run below must come to: three threads.
static ALONE: Lazy<Bits> = Lazy::new(|| {
    let place = Place::new(&KEYS);
    train(&place, "alone", 1, 3);
    Bits::of(&place.path("alone"))
});

/// Ranks in training, in the folder `run`, with more keys.
pub fn in_training(place: &Place, ranks: usize, timeout: u64, more: &[&str]) -> Vec<Child> {
    let children = spawn(place, ranks, timeout, &[&place.keys[..], &["--out=run"], more].concat());
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

/// How a run goes on: as so many ranks of so many threads, of the same product.
type Further = (usize, usize, &'static str);

pub fn goes_on(place: &Place, (ranks, threads, items): Further, what: &str) {
    resume(place, "run", ranks, threads, &[items]);
    Bits::of(&place.path("run")).assert_equal(&ALONE, what);
}

#[test]
fn whichever_rank_is_killed_the_others_end_and_the_run_goes_on_to_the_bit() {
    for (killed, items, further) in [
        (0, WHOLE, (1, 3, WHOLE)),
        (1, WHOLE, (3, 1, SHARED)),
        (0, SHARED, (3, 1, SHARED)),
        (1, SHARED, (1, 3, WHOLE)),
        (2, SHARED, (3, 1, WHOLE)),
    ] {
        let place = Place::new(&KEYS);
        let mut children = in_training(&place, 3, TIMEOUT, &[items]);
        let begin = Instant::now();
        children[killed].kill().expect("killed");
        let what = format!("kill -9 of rank {killed}, {items}");
        for (rank, output) in ended(children, begin, SOON, &what).iter().enumerate().filter(|(rank, _)| *rank != killed)
        {
            assert_eq!(output.status.code(), Some(2), "{what}, rank {rank}: {}", told(output));
            assert!(told(output).contains("another rank has ended or does not answer"), "{}", told(output));
        }
        goes_on(&place, further, &what);
    }
}

/// Rank 0; `reference` has another one.
#[test]
fn a_rank_that_stands_still_ends_the_others_after_their_timeout() {
    const SECONDS: u64 = 20;
    let place = Place::new(&KEYS);
    let mut children = in_training(&place, 3, SECONDS, &[]);
    let begin = Instant::now();
    signal(&children[0], "STOP");
    let stopped = children.remove(0);
    for output in ended(children, begin, SECONDS + SOON, "SIGSTOP of rank 0") {
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    }
    assert!(begin.elapsed() > Duration::from_secs(SECONDS - 1), "it was waited for");
    signal(&stopped, "CONT");
    let output = &ended(vec![stopped], Instant::now(), SOON, "SIGSTOP of rank 0, which goes on")[0];
    assert_eq!(output.status.code(), Some(2), "{}", told(output));
    goes_on(&place, (1, 3, WHOLE), "SIGSTOP of rank 0");
}

#[test]
fn a_signal_to_one_rank_stops_all_at_the_same_step() {
    for (asked, items, further) in [(0, WHOLE, (1, 3, WHOLE)), (2, SHARED, (3, 1, SHARED))] {
        let place = Place::new(&KEYS);
        let children = in_training(&place, 3, TIMEOUT, &[items]);
        let begin = Instant::now();
        signal(&children[asked], "TERM");
        let what = format!("SIGTERM to rank {asked}, {items}");
        for (rank, output) in ended(children, begin, SOON, &what).iter().enumerate() {
            assert_eq!(output.status.code(), Some(4), "{what}, rank {rank}: {}", told(output));
        }
        let log = text(&place.path("run/log.txt"));
        assert!(log.lines().last().unwrap_or_default().contains("stopped: interrupted "), "{what}: {log}");
        goes_on(&place, further, &what);
    }
}

/// Where rank 0 collects rows of the others as it writes; `reference` has one where it does not.
#[test]
fn a_full_disk_at_rank_0_ends_all() {
    let place = Place::new(&KEYS);
    let children = in_training(&place, 3, TIMEOUT, &[SHARED]);
    let begin = Instant::now();
    let put_back = fill_disk(&place);
    let outputs = ended(children, begin, SOON, "a full disk");
    assert!(outputs.iter().all(|output| output.status.code() == Some(2)), "{outputs:?}");
    assert!(told(&outputs[0]).contains("No space left on device"), "{}", told(&outputs[0]));
    put_back();
    goes_on(&place, (1, 3, WHOLE), "a full disk");
}

/// `/dev/full` stands for a full disk: every write to it fails as there. Returns what undoes it.
pub fn fill_disk(place: &Place) -> impl FnOnce() {
    let part = place.path("run/last.safetensors.part");
    // Not while a checkpoint is written: its own file would be renamed, or the link in its place.
    wait_until("the link", || std::os::unix::fs::symlink("/dev/full", &part).is_ok());
    move || _ = fs::remove_file(&part)
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
    assert!(begin.elapsed() < Duration::from_secs(SOON), "{:?}", begin.elapsed());
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("rank 0 waited 2 s at nobody for the 2 ranks"), "{}", told(&output));
    assert!(!place.path("run").exists(), "no run has begun");
}
