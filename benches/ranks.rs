//! What ranks cost: an exchange beside a copy of memory, and a slice of an epoch by two ranks, which share the items out
//! or not, beside one process of two threads, with the bytes that a rank sends a step. On Amazon_Beauty where
//! `DIF_SR_AMAZON_BEAUTY` or `dataset/` has it, else on ml-100k; batches in the order of the data set.
//!
//! Ranks are threads of this process, which exchange over loopback as processes do.

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dif_sr::data::OrderedRows;
use dif_sr::ranks::launch::Meeting;
use dif_sr::ranks::{Launch, Ranks};
use dif_sr::train::{Prepared, Stepper};

/// Batches of a slice.
const SLICE: usize = 4;

/// Ranks that do the same so often as they are asked to.
struct Crew {
    ask: Vec<Sender<u64>>,
    done: Receiver<(Duration, u64)>,
}

impl Crew {
    /// `work` gets its rank and the function that waits for orders: it gives how often to do the work, then takes the time.
    fn new(size: usize, work: impl Fn(Ranks, &mut dyn FnMut(&mut dyn FnMut())) + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (told, done) = channel();
        let work = Arc::new(work);
        let start = |rank: usize| {
            let (ask, asked) = channel::<u64>();
            let meeting = Meeting::File(folder.path().join("meeting"));
            let launch = Launch { rank, size, meeting, interface: None, timeout: Duration::from_secs(60) };
            let (told, work) = (told.clone(), Arc::clone(&work));
            let run = move || {
                let ranks = Ranks::join(&launch).unwrap_or_else(|e| panic!("{e}"));
                let of_bytes = ranks.clone();
                work(ranks, &mut |one| {
                    while let Ok(n) = asked.recv() {
                        let (start, before) = (Instant::now(), of_bytes.bytes_sent());
                        (0..n).for_each(|_| one());
                        let sent = of_bytes.bytes_sent() - before;
                        told.send((start.elapsed(), sent / n.max(1))).expect("the bench waits");
                    }
                });
            };
            std::thread::spawn(run);
            ask
        };
        let crew = Self { ask: (0..size).map(start).collect(), done };
        // All have met, and the folder can go.
        crew.time(1);
        crew
    }

    /// The time of the slowest rank, and the bytes that each sends a time, the most of them.
    fn time(&self, n: u64) -> (Duration, u64) {
        self.ask.iter().for_each(|ask| ask.send(n).expect("a rank waits"));
        let all = self.ask.iter().map(|_| self.done.recv().expect("a rank answers"));
        all.fold((Duration::ZERO, 0), |(time, bytes), (one, sent)| (time.max(one), bytes.max(sent)))
    }
}

fn exchange(c: &mut Criterion) {
    let mut group = c.benchmark_group("exchange by two ranks");
    group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    for kib in [1, 64, 1024, 16_384] {
        let n = kib * 1024 / 4;
        group.throughput(Throughput::Bytes(4 * n as u64));
        let gather = Crew::new(2, move |ranks, orders| {
            let own = vec![1.0_f32; n];
            orders(&mut || _ = ranks.gather(&own).expect("both are there"));
        });
        group.bench_function(format!("{kib} KiB/gather"), |b| b.iter_custom(|n| gather.time(n).0));
        let exchange = Crew::new(2, move |ranks, orders| {
            let own = vec![1.0_f32; n];
            orders(&mut || _ = ranks.exchange(&own, &[n / 2, n / 2], &[n / 2, n / 2]).expect("both are there"));
        });
        group.bench_function(format!("{kib} KiB/exchange"), |b| b.iter_custom(|n| exchange.time(n).0));
        let own = vec![1.0_f32; n];
        let mut copy = vec![0.0_f32; n];
        group.bench_function(format!("{kib} KiB/copy"), |b| {
            b.iter(|| std::hint::black_box(&mut copy).copy_from_slice(std::hint::black_box(&own)));
        });
    }
    group.finish();
}

fn epoch_slice(c: &mut Criterion) {
    let (name, data) = match common::AMAZON_BEAUTY.as_ref() {
        Some(data) => ("amazon_beauty", data.clone()),
        None => ("ml-100k", common::ML_100K.clone()),
    };
    let mut group = c.benchmark_group(format!("{SLICE} steps on {name}"));
    group.sample_size(10).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(10));
    for (size, threads, shared) in [(1, 2, "False"), (2, 1, "False"), (2, 1, "True")] {
        let data = data.clone();
        let crew = Crew::new(size, move |ranks, orders| {
            let threads = threads.to_string();
            let keys = [("threads", &threads[..]), ("compute_path", "fast"), ("shard_items", shared)];
            let config = common::config(name, &[&keys[..], &[("data_path", &data[..])]].concat());
            let prepared = Prepared::over(&config, &ranks).expect("the data load");
            let mut stepper = Stepper::over(&config, &prepared.model, &ranks).expect("the fast path has the CPU");
            let train = OrderedRows::new(&prepared.splits.train, prepared.model.device());
            orders(&mut || {
                for batch in train.batches(config.train.train_batch_size).take(SLICE) {
                    stepper.losses(&batch).expect("all are there");
                    stepper.update().expect("all are there");
                }
            });
        });
        let (_, bytes) = crew.time(1);
        let case = format!("{size} x {threads}{}", if shared == "True" { ", items shared out" } else { "" });
        println!("{case}: a rank sends {:.1} MB a step", bytes as f64 / SLICE as f64 / 1e6);
        group.bench_function(case, |b| b.iter_custom(|n| crew.time(n).0));
    }
    group.finish();
}

criterion_group!(benches, exchange, epoch_slice);
criterion_main!(benches);
