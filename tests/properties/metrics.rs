//! Ranks and metrics against naive counts, and against RecBole's own values.

use dif_sr::config::{EvalConfig, MetricKind};
use dif_sr::eval::{MetricAt, MetricValues, Ranking, metric};
use proptest::prelude::*;
use tch::Tensor;

use super::sample::*;
use crate::common;

const ALL: [MetricKind; 6] =
    [MetricKind::Recall, MetricKind::Ndcg, MetricKind::Mrr, MetricKind::Hit, MetricKind::Precision, MetricKind::Map];

/// The order in which a recommender shows its items: which of them are relevant.
fn lists(relevant: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<bool>> {
    (prop::collection::btree_set(0..40_usize, relevant), 0..20_usize).prop_map(|(ranks, behind)| {
        let n = ranks.last().map_or(0, |last| last + 1) + behind;
        (0..n).map(|rank| ranks.contains(&rank)).collect()
    })
}

fn ranks(list: &[bool]) -> Vec<usize> {
    (0..list.len()).filter(|&rank| list[rank]).collect()
}

/// Each metric as its definition says, item by item down the list.
fn naive(kind: MetricKind, list: &[bool], k: usize) -> f64 {
    let n_relevant = list.iter().filter(|&&r| r).count();
    if n_relevant == 0 {
        return 0.0;
    }
    let (mut hits, mut dcg, mut precisions, mut first) = (0, 0.0, 0.0, None);
    for (i, &relevant) in list.iter().take(k).enumerate() {
        if relevant {
            hits += 1;
            dcg += 2f64.ln() / (i as f64 + 2.0).ln();
            precisions += f64::from(hits) / (i as f64 + 1.0);
            first = first.or(Some(i));
        }
    }
    let ideal: f64 = (0..n_relevant.min(k)).map(|i| 2f64.ln() / (i as f64 + 2.0).ln()).sum();
    match kind {
        MetricKind::Recall => f64::from(hits) / n_relevant as f64,
        MetricKind::Precision => f64::from(hits) / k as f64,
        MetricKind::Hit => f64::from(u8::from(hits > 0)),
        MetricKind::Mrr => first.map_or(0.0, |i| 1.0 / (i as f64 + 1.0)),
        MetricKind::Ndcg => dcg / ideal,
        MetricKind::Map => precisions / n_relevant.min(k) as f64,
    }
}

fn eval(topk: &[usize]) -> EvalConfig {
    let metrics = ALL.to_vec();
    let valid_metric = MetricAt { kind: MetricKind::Recall, k: topk[0] };
    EvalConfig { metrics, topk: topk.to_vec(), valid_metric, eval_batch_size: 16, metric_decimal_place: 4 }
}

/// Scores of few levels, so that many tie, and a target for each row.
fn scores() -> impl Strategy<Value = (Tensor, Tensor)> {
    (1..6_i64, 2..12_i64, any::<u64>()).prop_map(|(rows, n_items, seed)| {
        let mut random = Random::new(seed);
        let scores = random.ids(&[rows, n_items], -2, 3).to_kind(tch::Kind::Float) * 0.25;
        let _ = scores.select(1, 0).fill_(9.0); // padding would be first everywhere
        (scores, random.ids(&[rows], 1, n_items))
    })
}

proptest! {
    #[test]
    fn metrics_are_within_zero_and_one(list in lists(0..8), k in 1..60_usize) {
        for kind in ALL {
            let value = metric(kind, &ranks(&list), k);
            prop_assert!((0.0..=1.0 + 1e-12).contains(&value), "{kind:?}@{k}: {value}");
        }
    }

    #[test]
    fn metrics_are_what_their_definitions_count(list in lists(0..8), k in 1..60_usize) {
        for kind in ALL {
            let (ours, expected) = (metric(kind, &ranks(&list), k), naive(kind, &list, k));
            prop_assert!((ours - expected).abs() < 1e-12, "{kind:?}@{k}: expected {expected}, found {ours}");
        }
    }

    #[test]
    fn recall_hit_and_mrr_never_fall_with_k(list in lists(0..8), k in 1..60_usize) {
        for kind in [MetricKind::Recall, MetricKind::Hit, MetricKind::Mrr] {
            prop_assert!(metric(kind, &ranks(&list), k + 1) >= metric(kind, &ranks(&list), k), "{kind:?}@{k}");
        }
    }

    #[test]
    fn with_one_relevant_item_ndcg_and_map_never_fall_with_k_either(list in lists(1..2), k in 1..60_usize) {
        for kind in [MetricKind::Ndcg, MetricKind::Map] {
            prop_assert!(metric(kind, &ranks(&list), k + 1) >= metric(kind, &ranks(&list), k), "{kind:?}@{k}");
        }
    }

    #[test]
    fn metrics_of_a_split_are_means_over_its_users(lists in prop::collection::vec(lists(1..5), 1..10)) {
        let users: Vec<Vec<usize>> = lists.iter().map(|list| ranks(list)).collect();
        let values = MetricValues::of_ranks(&eval(&[1, 7]), users.iter().map(Vec::as_slice));
        for kind in ALL {
            for k in [1, 7] {
                let sum: f64 = lists.iter().map(|list| naive(kind, list, k)).sum();
                let (ours, expected) = (values.get(MetricAt { kind, k }).expect("configured"), sum / lists.len() as f64);
                prop_assert!((ours - expected).abs() < 1e-12, "{kind:?}@{k}: expected {expected}, found {ours}");
            }
        }
    }

    #[test]
    fn rounding_moves_a_metric_by_half_a_unit_at_most_and_only_once(list in lists(1..5), decimals in 0..6_usize) {
        let exact = MetricValues::of_ranks(&eval(&[7]), [ranks(&list).as_slice()].into_iter());
        let rounded = exact.rounded(decimals);
        let half = 0.5 * 10f64.powi(-(decimals as i32)) + 1e-15;
        let moved = exact.iter().zip(rounded.iter()).map(|((_, a), (_, b))| (a - b).abs());
        prop_assert!(moved.into_iter().all(|moved| moved <= half));
        prop_assert_eq!(rounded.rounded(decimals), rounded);
    }

    #[test]
    fn ranks_and_ties_are_counted_among_all_items_but_the_padding((scores, targets) in scores()) {
        let ranking = Ranking::of_scores(&scores, &targets);
        for (row, target) in ids(&targets).into_iter().enumerate() {
            let scores = values(&scores.get(row as i64));
            let of_target = scores[target as usize];
            let higher = scores[1..].iter().filter(|&&score| score > of_target).count();
            let equal = scores[1..].iter().filter(|&&score| score == of_target).count() - 1;
            prop_assert_eq!((ranking.rank[row], ranking.ties[row]), (higher, equal), "row {}", row);
        }
    }

    #[test]
    fn the_worst_order_puts_every_tied_item_before_the_target((scores, targets) in scores()) {
        let config = eval(&[1, 3, 5]);
        let ranking = Ranking::of_scores(&scores, &targets);
        // What has the target's score or more, but for the target, stands before it.
        let before = |row: usize, target: i64| {
            let scores = values(&scores.get(row as i64));
            (1..scores.len()).filter(|&i| i as i64 != target && scores[i] >= scores[target as usize]).count()
        };
        let worst: Vec<[usize; 1]> = ids(&targets).into_iter().enumerate().map(|(row, t)| [before(row, t)]).collect();
        let expected = MetricValues::of_ranks(&config, worst.iter().map(|rank| &rank[..]));
        prop_assert_eq!(MetricValues::of_worst_order(&config, &ranking), expected);
    }

    #[test]
    fn ranking_leaves_the_scores_as_they_are((scores, targets) in scores()) {
        let before = scores.copy();
        Ranking::of_scores(&scores, &targets);
        prop_assert!(scores.equal(&before));
    }
}

/// What is **not** monotone: their denominators grow with k.
#[test]
fn precision_falls_with_k_and_so_do_ndcg_and_map_with_several_relevant_items() {
    for (kind, ranks) in [(MetricKind::Precision, &[0][..]), (MetricKind::Ndcg, &[0, 9]), (MetricKind::Map, &[0, 9])] {
        assert!(metric(kind, ranks, 2) < metric(kind, ranks, 1), "{kind:?}");
    }
}

#[test]
fn metrics_with_one_relevant_item_are_recboles() {
    hold("metrics_single", 1);
}

#[test]
fn metrics_with_several_relevant_items_are_recboles() {
    hold("metrics_multi", 4);
}

/// Ranks the positives of a golden score matrix and compares every metric that RecBole computed.
fn hold(name: &str, most_relevant: usize) {
    let golden = common::golden(name);
    let rows = |key: &str| golden[key].as_array().expect("a list of users").clone();
    let mut users = Vec::new();
    for (scores, positives) in rows("scores").iter().zip(rows("positives")) {
        let score = |item: u64| scores[item as usize].as_f64().expect("a score");
        let positives: Vec<u64> =
            positives.as_array().expect("items").iter().map(|i| i.as_u64().expect("an id")).collect();
        // One matrix row a positive item: a rank is the number of items with a higher score.
        let row: Vec<f64> = (0..golden["n_items"].as_u64().expect("a count")).map(score).collect();
        let matrix = Tensor::from_slice(&row).unsqueeze(0).expand([positives.len() as i64, -1], false);
        let targets: Vec<i64> = positives.iter().map(|&item| item as i64).collect();
        let ranking = Ranking::of_scores(&matrix, &Tensor::from_slice(&targets));
        assert_eq!(ranking.tied_rows(), 0, "the golden scores are distinct");
        let mut ranks = ranking.rank;
        ranks.sort_unstable();
        users.push(ranks);
    }
    assert_eq!(users.iter().map(Vec::len).max(), Some(most_relevant));
    let values = MetricValues::of_ranks(&eval(&[1, 3, 5, 10, 20]), users.iter().map(Vec::as_slice));
    let expected = golden["metrics"].as_object().expect("metrics");
    assert_eq!(values.iter().count(), expected.len());
    for (metric, value) in values.iter() {
        let expected = expected[&metric.to_string()].as_f64().expect("a value");
        assert!((value - expected).abs() < 1e-9, "{metric}: expected {expected}, found {value}");
    }
}
