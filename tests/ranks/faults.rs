//! What happens to the others when something happens to one rank: all end, in bounded time, with an exit code that says so,
//! and the run goes on to the bit.

use std::fs;
use std::process::{Child, Output};
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

use super::common::place::{Place, signal, text, wait_until};
use super::launch::{Bits, TIMEOUT, outputs, rank, resume, spawn, told, train};

/// A run that faults interrupt: several epochs of 19 batches, saved so often that a fault finds something saved, and not
/// always the last batch.
pub struct Run {
    path: &'static str,
    /// What it must come to.
    whole: Lazy<Bits>,
}

pub static FAST: Run = Run { path: "--compute_path=fast", whole: Lazy::new(|| FAST.without_a_fault(1, 3)) };
static REFERENCE: Run = Run { path: "--compute_path=reference", whole: Lazy::new(|| REFERENCE.without_a_fault(3, 1)) };

impl Run {
    pub fn place(&self) -> Place {
        Place::new(&[self.path, "--epochs=6", "--checkpoint_interval=0.02", "--train_batch_size=16"])
    }

    fn without_a_fault(&self, ranks: usize, threads: usize) -> Bits {
        let place = self.place();
        train(&place, "whole", ranks, threads);
        Bits::of(&place.path("whole"))
    }

    /// Goes on as so many ranks.
    pub fn goes_on(&self, place: &Place, ranks: usize, threads: usize, what: &str) {
        resume(place, "run", ranks, threads);
        Bits::of(&place.path("run")).assert_equal(&self.whole, &format!("{what}, {}", self.path));
    }
}

/// Three ranks in training, in the folder `run`.
fn in_training(place: &Place, timeout: u64) -> Vec<Child> {
    let children = spawn(place, 3, timeout, &[&place.keys[..], &["--out=run"]].concat());
    let log = || fs::read_to_string(place.path("run/log.txt")).unwrap_or_default();
    wait_until("training", || log().contains("epoch 1 training") && place.path("run/last.safetensors").exists());
    children
}

/// The end of all, which must come in so many seconds.
fn ended(children: Vec<Child>, begin: Instant, seconds: u64, what: &str) -> Vec<Output> {
    let outputs = outputs(children);
    let took = begin.elapsed();
    let codes: Vec<Option<i32>> = outputs.iter().map(|output| output.status.code()).collect();
    println!("{what}: {codes:?} after {:.1} s; rank 0: {}", took.as_secs_f64(), told(&outputs[0]));
    assert!(took < Duration::from_secs(seconds), "{what}: {took:?}");
    assert!(!codes.contains(&Some(0)), "{what}: {codes:?}");
    outputs
}

#[test]
fn whichever_rank_is_killed_the_others_end_and_the_run_goes_on_to_the_bit() {
    for (run, killed, (ranks, threads)) in
        [(&FAST, 0, (3, 1)), (&FAST, 1, (1, 3)), (&FAST, 2, (3, 1)), (&REFERENCE, 0, (3, 1)), (&REFERENCE, 2, (3, 1))]
    {
        let place = run.place();
        let mut children = in_training(&place, TIMEOUT);
        let begin = Instant::now();
        children[killed].kill().expect("killed");
        let what = format!("kill -9 of rank {killed}");
        for (rank, output) in ended(children, begin, 20, &what).iter().enumerate().filter(|(rank, _)| *rank != killed) {
            assert_eq!(output.status.code(), Some(2), "{what}, rank {rank}: {}", told(output));
            assert!(told(output).contains("another rank has ended or does not answer"), "{}", told(output));
        }
        run.goes_on(&place, ranks, threads, &what);
    }
}

#[test]
fn a_rank_that_stands_still_ends_the_others_after_their_timeout() {
    const SECONDS: u64 = 4;
    for (run, still) in [(&FAST, 0), (&FAST, 1), (&REFERENCE, 1)] {
        let place = run.place();
        let mut children = in_training(&place, SECONDS);
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
        run.goes_on(&place, 3, 1, &what);
    }
}

#[test]
fn a_signal_to_one_rank_stops_all_at_the_same_step() {
    for (run, asked, (ranks, threads)) in [(&FAST, 0, (1, 3)), (&FAST, 2, (1, 3)), (&REFERENCE, 2, (3, 1))] {
        let place = run.place();
        let children = in_training(&place, TIMEOUT);
        let begin = Instant::now();
        signal(&children[asked], "TERM");
        let what = format!("SIGTERM to rank {asked}");
        for (rank, output) in ended(children, begin, 20, &what).iter().enumerate() {
            assert_eq!(output.status.code(), Some(4), "{what}, rank {rank}: {}", told(output));
        }
        let log = text(&place.path("run/log.txt"));
        assert!(log.lines().last().unwrap_or_default().contains("stopped: interrupted "), "{what}: {log}");
        run.goes_on(&place, ranks, threads, &what);
    }
}

/// `/dev/full` stands for a full disk: every write to it fails as there.
#[test]
fn a_full_disk_at_rank_0_ends_all() {
    for run in [&FAST, &REFERENCE] {
        let place = run.place();
        let children = in_training(&place, TIMEOUT);
        let begin = Instant::now();
        let part = place.path("run/last.safetensors.part");
        wait_until("the link", || {
            _ = fs::remove_file(&part);
            std::os::unix::fs::symlink("/dev/full", &part).is_ok()
        });
        let outputs = ended(children, begin, 20, "a full disk");
        assert!(outputs.iter().all(|output| output.status.code() == Some(2)), "{outputs:?}");
        assert!(told(&outputs[0]).contains("No space left on device"), "{}", told(&outputs[0]));
        _ = fs::remove_file(&part);
        run.goes_on(&place, 3, 1, "a full disk");
    }
}

#[test]
fn a_rank_that_never_comes_is_not_waited_for_without_end() {
    let place = FAST.place();
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
