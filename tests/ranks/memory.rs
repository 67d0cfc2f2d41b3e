//! Of ranks that share the items out, each needs for an item what one process needs, divided by the ranks.
//!
//! `DIF_SR_ITEMS=2000000 cargo test --test ranks memory -- --nocapture` prints the table of docs/scale.md, which is at half
//! of so many items and at all of them.

use std::fmt::Write;
use std::fs;
use std::process::Child;
use std::time::Duration;

use super::common::place::Place;
use super::launch::{TIMEOUT, outputs, spawn_with, told};

/// H.
const WIDTH: usize = 64;
/// Rows of the one batch.
const ROWS: usize = 60;
/// Bytes of an item that every rank has, at most: its token both ways and its id take some 70.
const OF_EACH: f64 = 200.0;

/// A data set of few users and so many items, most of which nobody has chosen.
fn made(items: usize) -> Place {
    let place = Place::new(&[]);
    let folder = place.path("made");
    fs::create_dir(&folder).expect("a folder can be made");
    let mut inter = "user_id:token\titem_id:token\ttimestamp:float\n".to_owned();
    for user in 0..20 {
        // Multiplication by a prime scatters the items.
        (0..6)
            .for_each(|time| writeln!(inter, "{user}\t{}\t{time}", (user * 6 + time) * 7919 % items).expect("memory"));
    }
    fs::write(folder.join("made.inter"), inter).expect("written");
    let mut item = "item_id:token\n".to_owned();
    (0..items).for_each(|i| writeln!(item, "{i}").expect("memory"));
    fs::write(folder.join("made.item"), item).expect("written");
    place
}

/// The peak of the resident set of every child, in bytes, as the kernel counts it up to its end.
fn peaks(mut children: Vec<Child>) -> Vec<usize> {
    let mut peaks = vec![0; children.len()];
    loop {
        for (child, peak) in children.iter().zip(&mut peaks) {
            let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let now = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
            *peak = now.map_or(*peak, |kib| (1024 * kib).max(*peak));
        }
        if children.iter_mut().all(|child| child.try_wait().expect("a child").is_some()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    for output in outputs(children) {
        assert!(output.status.success(), "{}", told(&output));
    }
    peaks
}

/// The largest peak of the ranks of a training that saves, validates and tests.
///
/// glibc raises its threshold for blocks of their own as it goes, and then keeps what is freed below it: 10 to 20 MB by
/// chance, of the 35 that the items more take here. With a fixed threshold the peak is what the ranks need.
fn peak(place: &Place, ranks: usize) -> usize {
    let (out, width) = (format!("--out=run{ranks}"), format!("--hidden_size={WIDTH}"));
    let arguments = [
        "--model=SASRec",
        "--dataset=made",
        "--data_path=.",
        "--compute_path=fast",
        "--use_gpu=False",
        "--epochs=1",
        "--threads=1",
        "--n_layers=1",
        "--n_heads=1",
        "--inner_size=64",
        "--shard_items=True",
        "--show_progress=False",
        "--load_col={'inter': ['user_id', 'item_id', 'timestamp'], 'item': ['item_id']}",
        &out,
        &width,
    ];
    let children = spawn_with(Some(("MALLOC_MMAP_THRESHOLD_", "131072")), place, ranks, TIMEOUT, &arguments);
    let peak = peaks(children).into_iter().max().expect("ranks");
    fs::remove_dir_all(place.path(&format!("run{ranks}"))).expect("the run is there");
    peak
}

#[test]
fn what_a_rank_needs_for_an_item_falls_with_the_number_of_ranks() {
    let wanted = std::env::var("DIF_SR_ITEMS").ok().map(|n| n.parse().expect("a number of items"));
    let items = wanted.unwrap_or(100_000);
    let places = [items / 2, items].map(|items| (items, made(items)));
    // One process has the best model beside the last one when it tests: it is for the table alone.
    for ranks in wanted.map(|_| 1).into_iter().chain([2, 4]) {
        let [half, whole] = places.each_ref().map(|(items, place)| {
            let peak = peak(place, ranks);
            println!("{items} items x {WIDTH}, {ranks} ranks: {:.2} GB a rank at most", peak as f64 / 1e9);
            peak
        });
        let each = whole.saturating_sub(half) as f64 / (items - items / 2) as f64;
        println!("{ranks} ranks: {each:.0} bytes for each item more");
        // 16 bytes a weight, and 4 a score.
        let shared = (16 * WIDTH + 4 * ROWS) as f64 / ranks as f64;
        assert!(ranks == 1 || each <= 1.1 * shared + OF_EACH, "{ranks} ranks: {each:.0} bytes an item");
    }
}
