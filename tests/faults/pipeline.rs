//! Faults outside of the model: in filtering, splitting, shuffling and ranking. Each function computes what an
//! implementation with or without the fault would, and is held to the goldens where they can show it.

use std::collections::HashMap;
use std::path::Path;

use dif_sr::data::{Dataset, Rows};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// Rows of training, validation and test, as the golden README describes them; sorts are stable or not.
pub fn splits(dataset: &Dataset, l: usize, stable: bool) -> [(&'static str, Rows); 3] {
    let time = |&interaction: &usize| dataset.time[interaction] as f32;
    let mut order: Vec<usize> = (0..dataset.user.len()).collect();
    let by_user = |a: &usize, b: &usize| dataset.user[*a].cmp(&dataset.user[*b]).then(time(a).total_cmp(&time(b)));
    if stable {
        order.sort_by(by_user)
    } else {
        order.sort_unstable_by(by_user)
    }

    // A row by its place in `order`; its history are the places before it of the same user.
    let user_at = |place: usize| i64::from(dataset.user[order[place]]);
    let mut rows: Vec<usize> = (1..order.len()).filter(|&place| user_at(place - 1) == user_at(place)).collect();
    let by_time = |a: &usize, b: &usize| time(&order[*a]).total_cmp(&time(&order[*b]));
    if stable {
        rows.sort_by(by_time)
    } else {
        rows.sort_unstable_by(by_time)
    }

    let mut users: Vec<i64> = Vec::new();
    let mut rows_of: HashMap<i64, Vec<usize>> = HashMap::new();
    for place in rows {
        let user = user_at(place);
        rows_of.entry(user).or_insert_with(|| (users.push(user), Vec::new()).1).push(place);
    }
    let mut splits = [const { Vec::new() }; 3];
    for user in users {
        let places = &rows_of[&user];
        for (i, &place) in places.iter().enumerate() {
            let split = match places.len() - i {
                1 if places.len() > 1 => 2,
                2 if places.len() > 2 => 1,
                _ => 0,
            };
            let start = (0..place).rev().take_while(|&p| user_at(p) == user).last().expect("a row has a history");
            let history: Vec<i64> = order[start..place].iter().map(|&i| dataset.item[i].into()).collect();
            splits[split].push((user, history, dataset.item[order[place]].into()));
        }
    }
    let [train, valid, test] = splits.map(|rows| Rows::new(l, rows));
    [("train", train), ("valid", valid), ("test", test)]
}

/// The first key of a golden file that the rows do not have: `train_sha256.item_id`, …
pub fn first_difference(splits: &[(&'static str, Rows)], golden: &Value) -> Option<String> {
    splits.iter().find_map(|(split, rows)| {
        let hashes = serde_json::to_value(rows.hashes()).expect("hashes are JSON");
        let key = format!("{split}_sha256");
        let ours = hashes.as_object().expect("an object");
        let different = ours.iter().find(|(column, hash)| golden[&key][column.as_str()] != **hash)?;
        Some(format!("{key}.{}", different.0))
    })
}

/// What filtering by the interval `[k,inf)` of users and of items leaves: (user, item) pairs, counted anew until nothing
/// changes, or once.
pub fn k_core(dataset: &Dataset, k: usize, once: bool) -> Vec<(i64, i64)> {
    let mut pairs: Vec<(i64, i64)> =
        dataset.user.iter().zip(&dataset.item).map(|(&user, &item)| (user.into(), item.into())).collect();
    loop {
        let before = pairs.len();
        let (of_user, of_item) = (counts(pairs.iter().map(|p| p.0)), counts(pairs.iter().map(|p| p.1)));
        pairs.retain(|(user, item)| of_user[user] >= k && of_item[item] >= k);
        if once || pairs.len() == before {
            return pairs;
        }
    }
}

/// How often each id occurs.
pub fn counts(ids: impl Iterator<Item = i64>) -> HashMap<i64, usize> {
    let mut counts = HashMap::new();
    ids.for_each(|id| *counts.entry(id).or_default() += 1);
    counts
}

/// Writes a data set of users with their items, in order of time, to `folder/chain`.
pub fn write_chain(folder: &Path, users: &[&[&str]]) {
    let mut text = String::from("user_id:token\titem_id:token\ttimestamp:float\n");
    for (user, items) in users.iter().enumerate() {
        items.iter().enumerate().for_each(|(time, item)| text += &format!("u{user}\t{item}\t{time}\n"));
    }
    std::fs::create_dir(folder.join("chain")).expect("a writable folder");
    std::fs::write(folder.join("chain/chain.inter"), text).expect("a writable folder");
}

/// The first eight targets of every batch, epoch by epoch, with the generator at its state after initialisation. Each epoch
/// permutes what the one before left, or the rows in their first order (`fresh`).
pub fn first_targets(targets: &[i64], batch_size: usize, epochs: usize, fresh: bool) -> Vec<Vec<i64>> {
    let rows = Tensor::from_slice(targets);
    let mut order = rows.copy();
    let mut batches = Vec::new();
    for _ in 0..epochs {
        let permutation = Tensor::randperm(rows.size()[0], (Kind::Int64, Device::Cpu));
        order = if fresh { &rows } else { &order }.index_select(0, &permutation);
        let epoch = Vec::<i64>::try_from(&order).expect("int64");
        batches.extend(epoch.chunks(batch_size).map(|batch| batch[..batch.len().min(8)].to_vec()));
    }
    batches
}

/// How many items are scored higher than each row's target; item 0 counts, or not.
pub fn ranks(scores: &Tensor, targets: &Tensor, hide_id_0: bool) -> Vec<usize> {
    let (rows, items) = scores.size2().expect("[B, n_items]");
    let rank = |row: i64| {
        let target = scores.double_value(&[row, targets.int64_value(&[row])]);
        (i64::from(hide_id_0)..items).filter(|&item| scores.double_value(&[row, item]) > target).count()
    };
    (0..rows).map(rank).collect()
}
