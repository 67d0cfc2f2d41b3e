//! Two ranks that share the fake device, as processes: gradients go through the host, and the host waits where it must.
//!
//! What kernels should have written are bytes of a rank's own, so that a sum shows whose gradients came into it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dif_sr::ranks::launch::Meeting;
use dif_sr::ranks::{Launch, Ranks};
use dif_sr::train::{Event, Prepared, Training, set_up};
use tch::{Device, Tensor};

use super::common::place::{Place, signal, text, wait_until};
use super::common::{TOY, configs};
use super::fake::device;
use super::launch::{Bits, TIMEOUT, outputs, rank, told};

/// The bytes of each rank.
const FILL: [u8; 2] = [1, 3];
/// In which a process finds that it is a rank of [`a_rank_of_two`].
const NUMBER: &str = "DIF_SR_FAKE_RANK";
/// Reading the losses, behind which the gradients are there too.
const WAITS: usize = 1;

/// A process that shares the device.
fn share(command: &mut Command, rank: usize) -> Child {
    command.env("FAKE_CUDA_FILL", FILL[rank].to_string()).env("PYTORCH_NO_CUDA_MEMORY_CACHING", "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts")
}

#[test]
fn ranks_get_the_sum_of_their_gradients_and_wait_for_the_device_once_a_step() {
    if device().is_none() {
        return;
    }
    let place = Place::new(&[]);
    let program = std::env::current_exe().expect("this test");
    let start = |rank: usize| {
        let mut command = Command::new(&program);
        command.current_dir(place.folder.path()).args(["--exact", "ranks::a_rank_of_two", "--nocapture"]);
        share(command.env(NUMBER, rank.to_string()), rank)
    };
    for (rank, output) in outputs((0..2).map(start).collect()).iter().enumerate() {
        let said = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
        assert!(output.status.success(), "rank {rank}: {said}");
        assert!(said.contains("every configuration held"), "rank {rank}: {said}");
    }
}

/// Steps of each configuration, in a process that was told which rank it is.
#[test]
fn a_rank_of_two() {
    let (Some(fake), Ok(rank)) = (device(), std::env::var(NUMBER)) else { return };
    let (rank, size) = (rank.parse().expect("a number"), 2);
    let meeting = Meeting::File("meeting".into());
    let launch = Launch { rank, size, meeting, interface: None, timeout: Duration::from_secs(TIMEOUT) };
    let ranks = Ranks::join(&launch).unwrap_or_else(|e| panic!("{e}"));
    let sum: f32 = FILL.iter().map(|&byte| f32::from_le_bytes([byte; 4])).sum();
    // Of a last batch of one row the first rank has none.
    let fixed = ["--use_gpu=True", "--train_batch_size=299", "--epochs=3", "--eval_step=9"];
    for keys in [
        &[][..],
        &["--precision=bf16"],
        &["--clip_grad_norm={'max_norm': 5, 'norm_type': 2}", "--weight_decay=0.1"],
        &["--loss_type=BPR", "--attribute_predictor=not", "--fusion_type=concat"],
    ] {
        let overrides = [&TOY[..], &fixed, keys].concat();
        let overrides = overrides.iter().filter_map(|key| key.strip_prefix("--")?.split_once('='));
        let config = configs(&[], &overrides.collect::<Vec<_>>());
        set_up(&config).unwrap_or_else(|e| panic!("{e}"));
        let prepared = Prepared::over(&config, &ranks).unwrap_or_else(|e| panic!("{e}"));
        let training = Training::over(&config, &prepared.model, &prepared.splits, &ranks);
        let mut training = training.unwrap_or_else(|e| panic!("{e}"));
        let mut steps = 0;
        fake.watch();
        let fitted = training.run(|event, _| {
            if let Event::Batches { .. } = event {
                let seen = fake.seen();
                // Before its first step a training asks how many were taken.
                assert_eq!(seen.waited, WAITS + usize::from(steps == 0), "{keys:?}, step {steps}: {}", seen.waits);
                assert_eq!((seen.replays, &*seen.refused), (0, ""), "{keys:?}");
                for (name, parameter) in prepared.model.named_parameters() {
                    let gradient = parameter.grad();
                    assert!(gradient.defined() && gradient.device().is_cuda(), "{keys:?}: {name}");
                    let gradient: Tensor = gradient.to_device(Device::Cpu).flatten(0, -1);
                    let gradient = Vec::<f32>::try_from(gradient).expect("float32");
                    assert!(gradient.iter().all(|&x| x == sum), "{keys:?}, {name}: {gradient:?} is not all {sum}");
                }
                steps += 1;
                fake.watch();
            }
            Ok(())
        });
        assert_eq!(fitted.unwrap_or_else(|e| panic!("{e}")).epochs, 3);
        assert_eq!(steps, 6, "{keys:?}");
    }
    println!("every configuration held");
}

/// Ranks of the program, of which the second has the number of a card that is not there, and so shares the first's.
fn start(place: &Place, meeting: &str, arguments: &[&str]) -> Vec<Child> {
    let (file, timeout) = (format!("--ranks_file={meeting}.meeting"), format!("--ranks_timeout={TIMEOUT}"));
    let start = |number: usize| {
        let mut command = rank(place, number, 2, &[&[&file[..], &timeout], arguments].concat());
        command.env("LOCAL_RANK", number.to_string());
        command.env("FAKE_CUDA_REPORT", place.path(&format!("{meeting}.refused{number}")));
        share(&mut command, number)
    };
    (0..2).map(start).collect()
}

fn ended(place: &Place, meeting: &str, children: Vec<Child>, code: i32) {
    for (rank, output) in outputs(children).iter().enumerate() {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{meeting}, rank {rank}: {said}");
        assert_eq!(text(&place.path(&format!("{meeting}.refused{rank}"))), "", "{meeting}, rank {rank}");
        println!("{meeting}, rank {rank}: {}", told(output));
    }
}

#[test]
fn ranks_train_evaluate_save_stop_and_go_on() {
    if device().is_none() {
        return;
    }
    let place = Place::new(&["--use_gpu=True", "--epochs=30", "--train_batch_size=60"]);
    let of = |out: &'static str| [&place.keys[..], &[out]].concat();
    ended(&place, "whole", start(&place, "whole", &of("--out=whole")), 0);
    let children = start(&place, "stopped", &of("--out=run"));
    let log = || std::fs::read_to_string(place.path("run/log.txt")).unwrap_or_default();
    wait_until("an epoch", || log().contains("epoch 0 evaluating"));
    signal(&children[1], "TERM");
    ended(&place, "stopped", children, 4);
    ended(&place, "resumed", start(&place, "resumed", &["--resume=run"]), 0);
    let [whole, run] = ["whole", "run"].map(|run| Bits::of(&place.path(run)));
    run.assert_equal(&whole, "interrupted and resumed");
}
