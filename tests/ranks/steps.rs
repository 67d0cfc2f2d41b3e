//! Steps and evaluations of many models, with ranks as threads of this process: losses, gradients and places, to the bit.

use std::path::Path;
use std::time::Duration;

use dif_sr::config::*;
use dif_sr::data::{OrderedRows, Rows};
use dif_sr::eval::rank;
use dif_sr::fast::{DropoutSeed, FastPath};
use dif_sr::model::Model;
use dif_sr::ranks::launch::Meeting;
use dif_sr::ranks::team::of_elements;
use dif_sr::ranks::{Launch, Ranks, Team};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use tch::{Device, Kind, no_grad};

use super::launch::TIMEOUT;
use super::sample::{AttributeShape, FUSIONS, SUM_OR_MEAN, Shape, baselines, ids, shapes};

/// A model with the sizes of its batches, which one fast path takes one after the other.
#[derive(Debug, Clone)]
struct Case {
    shape: Shape,
    rows: [i64; 2],
    precision: Precision,
}

/// Batches of several micro-batches and of fewer rows than threads; fewer items than threads and several blocks of them.
fn cases() -> Vec<Case> {
    let mut runner = TestRunner::deterministic();
    let mut draw =
        |shapes: proptest::strategy::BoxedStrategy<Shape>| shapes.new_tree(&mut runner).expect("a shape").current();
    let many = AttributeShape { kind: AttributeKind::Token, vocab: 4000, head_size: 3, width: 1 };
    let mut all = Vec::new();
    for (i, rows) in [[333, 130], [65, 1], [300, 2], [64, 7], [150, 97], [700, 3]].into_iter().enumerate() {
        let fusion: &'static [Fusion] = &FUSIONS[i % 3..][..1];
        let dif = draw(shapes(fusion, &SUM_OR_MEAN).boxed());
        let dif = Shape { predictor: if i == 4 { Predictor::Not } else { Predictor::Linear }, ..dif };
        let mut attributes = dif.attributes.clone();
        attributes.extend((i == 3).then_some(many));
        let wide = Shape { n_items: 2900, attributes, ..dif.clone() };
        let bpr = Shape { loss: Loss::Bpr, predictor: Predictor::Not, ..dif.clone() };
        let baseline = draw(baselines().boxed());
        for (shape, precision) in [
            (dif, Precision::Float32),
            (wide, if i % 2 == 0 { Precision::Float32 } else { Precision::Bf16 }),
            (bpr, Precision::Float32),
            (baseline, Precision::Float32),
        ] {
            all.push(Case { shape, rows, precision });
        }
    }
    all
}

/// All that a case comes to.
struct Outcome {
    losses: Vec<Vec<u64>>,
    gradients: Vec<(String, Vec<u32>)>,
    places: Vec<usize>,
}

impl Outcome {
    /// What of it is another one's not.
    fn difference(&self, other: &Self) -> Option<String> {
        if self.losses != other.losses {
            return Some(format!("losses {:x?} for {:x?}", self.losses, other.losses));
        }
        let mut both = self.gradients.iter().zip(&other.gradients);
        let gradient = both.find(|(a, b)| a != b).map(|((name, a), (_, b))| {
            let at = a.iter().zip(b).position(|(a, b)| a != b);
            format!("the gradient of {name}, first at {at:?}")
        });
        gradient.or_else(|| (self.places != other.places).then(|| "the places".to_owned()))
    }
}

/// Who has the item embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Items {
    /// Every rank all of it.
    Whole,
    /// Every rank its own rows.
    Shared,
}

const ITEM_EMBEDDING: &str = "item_embedding.weight";

/// The part of a model that a rank has.
fn part(whole: &Model, team: &Team) -> Model {
    let held = team.shares(whole.n_items() as usize)[team.rank()].clone();
    let held = held.start as i64..held.end as i64;
    let features = whole.features().iter().map(|feature| feature.on(Device::Cpu));
    let (n_items, length) = (whole.n_items(), whole.max_len());
    let part = Model::part(whole.config(), n_items, Some(held.clone()), length, features.collect(), Kind::Float);
    let all = whole.named_parameters().into_iter().chain(whole.named_tables());
    no_grad(|| {
        for ((name, values), (_, mut own)) in all.zip(part.named_parameters().into_iter().chain(part.named_tables())) {
            match name == ITEM_EMBEDDING {
                true => own.copy_(&values.narrow(0, held.start, held.end - held.start)),
                false => own.copy_(&values),
            }
        }
    });
    assert_eq!(part.trainable_parameters(), whole.trainable_parameters());
    part
}

fn outcome(case: &Case, ranks: &Ranks, threads: usize, items: Items) -> Outcome {
    let config = ModelConfig { hidden_dropout_prob: 0.3, attn_dropout_prob: 0.3, ..case.shape.config() };
    let complete: Model = case.shape.model_with(&config, Kind::Float);
    // Libtorch sets a thread up when it is first asked.
    tch::get_num_threads();
    tch::set_num_threads(threads as i32);
    let team = Team::new(ranks.clone(), threads);
    let own = (items == Items::Shared).then(|| part(&complete, &team));
    let model = own.as_ref().unwrap_or(&complete);
    let mut fast = FastPath::over(model, case.precision, ranks.clone()).expect("a float32 model on the CPU");
    assert_eq!(fast.team().all(), ranks.size() * threads);
    let (mut losses, mut gradients, mut places) = (Vec::new(), Vec::new(), Vec::new());
    for (step, rows) in case.rows.into_iter().enumerate() {
        let batch = Shape { rows, ..case.shape.clone() }.batch();
        let masks = Some(DropoutSeed { seed: case.shape.seed, step: step as u64 });
        let found = fast.try_losses(&batch, masks).unwrap_or_else(|e| panic!("{e}"));
        let found = [&[found.total, found.item], &found.attributes[..]].concat();
        losses.push(found.into_iter().map(f64::to_bits).collect());
        for (name, _) in model.named_parameters() {
            let bits = fast.gradient(&name).iter().map(|x| x.to_bits()).collect();
            let bits = match name == ITEM_EMBEDDING && items == Items::Shared {
                true => whole(&team, bits, model),
                false => bits,
            };
            gradients.push((format!("{name}, step {step}"), bits));
        }
        let (seq, l) = (ids(&batch.item_seq), case.shape.length as usize);
        let histories = seq.chunks(l).zip(ids(&batch.item_seq_len)).map(|(row, len)| &row[..len as usize]);
        let rows = Rows::new(l, histories.zip(ids(&batch.pos_items)).map(|(history, target)| (0, history, target)));
        let mut told = 0;
        let ranking = fast.rank(&OrderedRows::new(&rows, model.device()), |done| {
            told = done;
            Ok(())
        });
        assert_eq!(told, rows.n());
        let reference = rank(ranks, &complete, &OrderedRows::new(&rows, model.device()), 29, |done| {
            told = done;
            Ok(())
        });
        assert_eq!(told, rows.n());
        for ranking in [ranking, reference] {
            let ranking = ranking.expect("finite scores");
            places.extend(ranking.rank.into_iter().chain(ranking.ties));
        }
    }
    Outcome { losses, gradients, places }
}

/// All rows of a table of which each rank has its own.
fn whole(team: &Team, own: Vec<u32>, model: &Model) -> Vec<u32> {
    let shares = team.shares(model.n_items() as usize);
    team.gather(own, &of_elements(&shares, model.config().hidden_size as usize)).expect("all are there")
}

/// What each of several ranks, or one process, finds in all cases.
fn outcomes(cases: &[Case], folder: &Path, size: usize, threads: usize, items: Items) -> Vec<Vec<Outcome>> {
    std::thread::scope(|scope| {
        let one = |rank: usize| {
            let meeting = Meeting::File(folder.join(format!("{size}x{threads} {items:?}")));
            let launch = Launch { rank, size, meeting, interface: None, timeout: Duration::from_secs(TIMEOUT) };
            scope.spawn(move || {
                let ranks = Ranks::join(&launch).unwrap_or_else(|e| panic!("{e}"));
                cases.iter().map(|case| outcome(case, &ranks, threads, items)).collect()
            })
        };
        let threads: Vec<_> = (0..size).map(one).collect();
        threads.into_iter().map(|thread| thread.join().expect("a rank")).collect()
    })
}

#[test]
fn steps_and_evaluations_of_ranks_are_those_of_threads_in_every_model() {
    let (cases, folder) = (cases(), tempfile::tempdir().expect("a temporary folder"));
    for (all, shapes) in [(2, &[(2, 1)][..]), (3, &[(3, 1)]), (4, &[(2, 2), (4, 1)]), (6, &[(2, 3)]), (12, &[(4, 3)])] {
        let alone = outcomes(&cases, folder.path(), 1, all, Items::Whole).remove(0);
        for (&(size, threads), items) in shapes.iter().flat_map(|shape| [(shape, Items::Whole), (shape, Items::Shared)])
        {
            for (rank, found) in outcomes(&cases, folder.path(), size, threads, items).into_iter().enumerate() {
                for ((case, found), alone) in cases.iter().zip(found).zip(&alone) {
                    let difference = found.difference(alone);
                    assert_eq!(difference, None, "rank {rank} of {size}x{threads}, {items:?}: {case:?}");
                }
            }
        }
    }
}
