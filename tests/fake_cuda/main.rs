//! What can be held of the GPU's path without a GPU: libtorch for CUDA on a device that computes nothing (`device.cpp`).
//!
//! `tests/fake_cuda.sh` builds the device and starts these tests with it. Without it each says that it is left out; with
//! `DIF_SR_FAKE_CUDA=required` it fails. Numbers mean nothing here: what is held is which operations libtorch asks for, and
//! where the host waits for the device.

#[path = "../common/mod.rs"]
mod common;
mod fake;
#[path = "../ranks/launch.rs"]
#[allow(dead_code, reason = "ranks start here with variables of their own")]
mod launch;
mod ranks;

use std::process::Command;

use dif_sr::config::{Loss, RunConfig};
use dif_sr::cuda::Executor;
use dif_sr::data::{NegativeSampler, OrderedRows};
use dif_sr::device::generator_state;
use dif_sr::train::{Event, Prepared, Stepper, Training, set_up};
use dif_sr::{Error, Result};
use fake::device;
use tch::{Device, Kind, Tensor};

const GPU: Device = Device::Cuda(0);

/// ml-100k with four layers, in batches of 2,048 rows, with dropout: the layers of Amazon_Beauty, of whose step PyTorch's
/// profiler counts 838 kernels in the peer.
fn config(keys: &[(&str, &str)]) -> RunConfig {
    let fixed = [("data_path", common::ML_100K.as_str()), ("use_gpu", "True"), ("n_layers", "4"), ("eval_step", "9")];
    common::config("ml-100k", &[&fixed[..], keys].concat())
}

/// As a run begins: in deterministic mode.
fn prepared(config: &RunConfig) -> Prepared {
    set_up(config).unwrap_or_else(|e| panic!("{e}"));
    Prepared::new(config).unwrap_or_else(|e| panic!("{e}"))
}

/// Under configurations that change which operations there are, each with as many as it may have.
#[test]
fn a_step_is_one_graph_for_which_the_host_never_waits() {
    let Some(fake) = device() else { return };
    let clip = ("clip_grad_norm", "{'max_norm': 5, 'norm_type': 2}");
    let fast = ("compute_path", "fast");
    let sum = [("fusion_type", "sum"), ("lamdas", "[0]"), ("weight_decay", "0.1")];
    let concat = [("fusion_type", "concat"), ("pooling_mode", "max")];
    let bpr = ("loss_type", "BPR");
    let none =
        ["selected_features", "pooling_mode", "attribute_hidden_size", "fusion_type", "attribute_predictor", "lamdas"];
    let none = none.map(|key| (key, "None"));
    let cases: [(&[(&str, &str)], usize); 13] = [
        (&[], 800),
        (&[("precision", "bf16")], 1100),
        (&[clip], 1100),
        (&sum, 800),
        (&concat, 800),
        (&[fast], 500),
        (&[fast, ("precision", "bf16")], 700),
        (&[fast, clip], 800),
        (&[fast, sum[0], sum[1], sum[2]], 500),
        (&[fast, concat[0], concat[1]], 500),
        (&[fast, bpr], 500),
        (&[&[fast, ("model", "SASRecF")], &none[2..]].concat(), 500),
        (&[&[fast, ("model", "SASRec")], &none[..]].concat(), 500),
    ];
    for (keys, most) in cases {
        let config = config(keys);
        let prepared = prepared(&config);
        let mut stepper = Stepper::new(&config, &prepared.model).unwrap_or_else(|e| panic!("{e}"));
        let batch = OrderedRows::new(&prepared.splits.train, GPU).batch(0, config.train.train_batch_size);
        let mut sampler = NegativeSampler::new(&prepared.splits.train, prepared.model.n_items() as usize, 1);
        let batch = match config.model.loss_type {
            Loss::Ce => batch,
            Loss::Bpr => batch.with_negatives(&mut sampler).unwrap_or_else(|e| panic!("{e}")),
        };
        stepper.step(&batch).unwrap_or_else(|e| panic!("{e}"));
        assert!(stepper.take_graph_failure().is_none(), "{keys:?}");

        let (losses, seen) = fake.during(|| stepper.step(&batch));
        losses.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((seen.waited, seen.replays), (0, 1), "{keys:?}: {}", seen.waits);
        let [operations] = stepper.operations()[..] else { panic!("one graph, found {:?}", stepper.operations()) };
        println!("{keys:?}: {operations} operations in the graph, {} beside it", seen.operations.len() - 1);
        assert!((200..=most).contains(&operations), "{keys:?}: {operations}");
        // Three inputs and BPR's fourth, the generator's seed and offset, and the losses.
        assert!(seen.operations.len() <= 9, "{keys:?}: {:?}", seen.operations);
    }
}

#[test]
fn a_training_replays_every_step_and_reads_losses_sixteen_steps_at_a_time() {
    let Some(fake) = device() else { return };
    let config = config(&[("epochs", "2")]);
    let prepared = prepared(&config);
    let mut training = Training::new(&config, &prepared.model, &prepared.splits).unwrap_or_else(|e| panic!("{e}"));
    let batches = training.batches();
    fake.watch();
    let mut epochs = Vec::new();
    let mut reads = 0;
    let fitted = training.run(|event, _| {
        match event {
            Event::NoGraphs { reason } => panic!("{reason}"),
            Event::Batches { .. } => reads += 1,
            Event::Epoch { .. } => {
                epochs.push((std::mem::take(&mut reads), fake.seen()));
                fake.watch();
            }
            _ => {}
        }
        Ok(())
    });
    assert_eq!(fitted.unwrap_or_else(|e| panic!("{e}")).epochs, 2);
    let [(_, first), (reads, second)] = &epochs[..] else { panic!("two epochs") };
    // Both graphs, that of the full batches and that of the last one, were recorded in the first epoch.
    assert_eq!((first.replays, second.replays), (batches, batches));
    assert_eq!(*reads, batches.div_ceil(16));
    assert_eq!(second.waited, *reads, "{}", second.waits);
}

/// Libtorch warns of an operation that it cannot do alike in every run. Its warnings go to standard error, which only another
/// process can read.
#[test]
fn deterministic_algorithms_have_nothing_to_say() {
    if device().is_none() {
        return;
    }
    let program = std::env::current_exe().expect("this test");
    let said = |test: &str| {
        let output = Command::new(&program).args(["--exact", test, "--nocapture"]).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let planted = said("an_operation_without_a_deterministic_form_is_asked_for");
    assert!(planted.contains("does not have a deterministic implementation"), "{planted}");
    let step = said("a_step_is_one_graph_for_which_the_host_never_waits");
    assert!(!step.contains("deterministic"), "{step}");
}

/// Of which libtorch warns: what [`deterministic_algorithms_have_nothing_to_say`] would see.
#[test]
fn an_operation_without_a_deterministic_form_is_asked_for() {
    let Some(fake) = device() else { return };
    let _prepared = prepared(&config(&[]));
    let numbers = Tensor::ones([4], (Kind::Float, GPU));
    let (_, seen) = fake.during(|| numbers.histc(4));
    assert!(!seen.operations.is_empty(), "it is asked of the device");
}

#[test]
fn the_generator_goes_on_alike_with_a_graph_and_without() {
    let Some(_fake) = device() else { return };
    let state = || Vec::<u8>::try_from(generator_state(GPU).expect("a state")).expect("bytes");
    let after = ["True", "False"].map(|cuda_graphs| {
        let config = config(&[("cuda_graphs", cuda_graphs)]);
        let prepared = prepared(&config);
        let mut stepper = Stepper::new(&config, &prepared.model).unwrap_or_else(|e| panic!("{e}"));
        let train = OrderedRows::new(&prepared.splits.train, GPU);
        let last = train.n_batches(config.train.train_batch_size) - 1;
        // The last batch is smaller, and has a graph of its own.
        [0, 1, last, 2, last].map(|i| {
            stepper.step(&train.batch(i, config.train.train_batch_size)).unwrap_or_else(|e| panic!("{e}"));
            assert!(stepper.take_graph_failure().is_none());
            state()
        })
    });
    assert_eq!(after[0], after[1]);
    assert!(after[0].windows(2).all(|two| two[0] != two[1]), "each step draws");
}

/// What a step must not do, each planted in a step that is otherwise right.
#[test]
fn a_step_that_waits_for_the_device_is_found_and_leaves_no_trace() {
    let Some(fake) = device() else { return };
    type Plant = fn(&Tensor) -> Tensor;
    // Libtorch refuses the last one itself, before it asks the device.
    let planted: [(&str, Plant, bool); 4] = [
        ("a value is read", |x| x * x.sum(None::<Kind>).double_value(&[]), true),
        ("indices of what is not zero", |x| x.nonzero().sum(Kind::Float), true),
        ("selection by a mask", |x| x.masked_select(&x.ge(0.0)).sum(Kind::Float), true),
        ("numbers of the host", |x| x + Tensor::from_slice(&[1f32; 4]).to_device(GPU), false),
    ];
    let state = Tensor::ones([4], (Kind::Float, GPU));
    let input = Tensor::ones([4], (Kind::Float, GPU));
    let step = |plant: Plant| {
        let state = state.shallow_clone();
        move |inputs: &[Tensor]| -> Result<Tensor> {
            let _ = state.shallow_clone().g_add_(&inputs[0].dropout(0.5, true));
            Ok(plant(&inputs[0]).sum(Kind::Float).reshape([1]))
        }
    };
    let mut executor = Executor::new(GPU).unwrap_or_else(|e| panic!("{e}"));
    for (what, plant, by_device) in planted {
        let generator = generator_state(GPU).expect("a state");
        let (error, seen) = fake.during(|| {
            executor.run(&[&input], std::slice::from_ref(&state), &mut step(plant)).expect_err(what).to_string()
        });
        println!("{what}: {error}\n{}", seen.refused);
        assert_eq!(!seen.refused.is_empty(), by_device, "{what}: {}", seen.refused);
        assert!(error.contains("captur"), "{what}: {error}");
        assert_eq!(generator_state(GPU).expect("a state"), generator, "{what}");
        assert!(executor.operations().is_empty(), "{what}");
        // What is asked for outside of a graph still works, and draws.
        let _ = state.dropout(0.5, true);
        assert_ne!(generator_state(GPU).expect("a state"), generator, "{what}");
    }
    // A step without any of it, by the same executor.
    let losses = executor.run(&[&input], std::slice::from_ref(&state), &mut step(|x| x * 2.0));
    assert_eq!(losses.unwrap_or_else(|e| panic!("{e}")).size(), [1]);
    assert_eq!(executor.operations().len(), 1);
}

#[test]
fn a_training_whose_steps_cannot_be_recorded_goes_on_without_graphs_and_says_so_once() {
    let Some(fake) = device() else { return };
    let config = config(&[("epochs", "1")]);
    let prepared = prepared(&config);
    let mut training = Training::new(&config, &prepared.model, &prepared.splits).unwrap_or_else(|e| panic!("{e}"));
    let batches = training.batches();
    fake.refuse_captures(true);
    let mut reasons = Vec::new();
    let mut trained = 0;
    let (fitted, seen) = fake.during(|| {
        training.run(|event, _| {
            match event {
                Event::NoGraphs { reason } => reasons.push(reason.to_string()),
                Event::Batches { losses, .. } => trained += losses.len(),
                _ => {}
            }
            Ok(())
        })
    });
    fake.refuse_captures(false);
    fitted.unwrap_or_else(|e: Error| panic!("{e}"));
    assert_eq!((trained, seen.replays), (batches, 0));
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(reasons[0].contains("operation not permitted when stream is capturing"), "{reasons:?}");
}

/// Its negatives are an input of the graph.
#[test]
fn bpr_is_recorded_too_and_its_negatives_are_drawn_without_waiting() {
    let Some(fake) = device() else { return };
    let config = config(&[("loss_type", "BPR"), ("epochs", "1")]);
    let prepared = prepared(&config);
    let mut training = Training::new(&config, &prepared.model, &prepared.splits).unwrap_or_else(|e| panic!("{e}"));
    let batches = training.batches();
    let mut seen = Vec::new();
    fake.watch();
    let fitted = training.run(|event, _| {
        match event {
            Event::NoGraphs { reason } => panic!("{reason}"),
            Event::Batches { .. } => {
                seen.push(fake.seen());
                fake.watch();
            }
            _ => {}
        }
        Ok(())
    });
    fitted.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(seen.iter().map(|seen| seen.replays).sum::<usize>(), batches);
    // Of the second sixteen steps, behind the recording and before that of the smaller batch: one read.
    assert_eq!(seen[1].waited, 1, "{}", seen[1].waits);
}
