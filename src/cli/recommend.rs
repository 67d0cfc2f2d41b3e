//! `dif-sr recommend`

use std::collections::HashMap;
use std::io::{IsTerminal, stdout};
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use dif_sr::config::RunConfig;
use dif_sr::data::Dataset;
use dif_sr::data::split::{Histories, history_of};
use dif_sr::eval::Recommend;
use dif_sr::train::{Checkpoint, set_up};
use dif_sr::{Error, Result};
use serde_json::json;

use super::arguments::ConfigArgs;
use super::progress::Progress;
use super::{Outcome, output};

#[derive(Debug, Args)]
// The run first: a list of tokens takes every word behind it.
#[command(override_usage = "dif-sr recommend [OPTIONS] <RUN> <--history <ITEM>...|--user <USER>...|--all-users>")]
#[command(group = ArgGroup::new("whom").args(["history", "user", "all_users"]).required(true))]
pub struct RecommendArgs {
    /// A run folder or a .safetensors checkpoint.
    run: PathBuf,
    /// Items by their tokens, oldest first: needs the checkpoint alone. --history=-k is the item `-k`.
    #[arg(long, value_name = "ITEM", num_args = 1..)]
    history: Vec<String>,
    /// Users of the data set by their tokens, with all that they chose. --user=-k is the user `-k`.
    #[arg(long, value_name = "USER", num_args = 1..)]
    user: Vec<String>,
    /// Every user of the data set.
    #[arg(long)]
    all_users: bool,
    /// How many items.
    #[arg(short, long, value_name = "N", default_value_t = 10)]
    k: usize,
    /// Leave out the items of the history.
    #[arg(long)]
    unseen: bool,
    #[command(flatten)]
    config_args: ConfigArgs,
}

/// Whom to recommend to.
enum Asked {
    /// One history of item ids.
    History(Vec<i64>),
    /// Users of the data set, by their ids.
    Users { ids: Vec<i64>, dataset: Box<Dataset>, histories: Histories },
}

pub fn run(args: RecommendArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let path = output::checkpoint(&args.run)?;
    let mut checkpoint = Checkpoint::load(&path)?;
    let config = checkpoint.config.changed(&args.config_args.files()?, &args.config_args.overrides(overrides))?;
    checkpoint.check_model(&path, &config)?;
    if args.k == 0 {
        return Err(Error::new("expected at least one item after -k, found 0"));
    }
    let device = set_up(&config)?;
    let asked = asked(&args, &checkpoint, &path, &config)?;

    checkpoint.model.to_device(device);
    // On a terminal the lines themselves show how far it is.
    let mut progress = Progress::of_stages(config.run.show_progress && !stdout().is_terminal());
    let how = Recommend {
        length: config.data.max_item_list_length,
        k: args.k,
        unseen: args.unseen,
        batch_size: config.eval.eval_batch_size,
    };
    how.run(&checkpoint.model, (0..asked.len()).map(|i| asked.history(i)), |i, best| {
        let best = best.iter().map(|&(id, score)| (checkpoint.items[id as usize].as_str(), score));
        let lines = match json {
            true => json_line(asked.name(i), best),
            false => table(asked.name(i), best, i == 0),
        };
        progress.step("Recommend", i + 1, asked.len());
        output::print_on(&lines)
    })?;
    Ok(Outcome::Pass)
}

fn asked(args: &RecommendArgs, checkpoint: &Checkpoint, path: &Path, config: &RunConfig) -> Result<Asked> {
    if !args.history.is_empty() {
        return Ok(Asked::History(items(&args.history, checkpoint, path)?));
    }
    let dataset = Dataset::load(&config.data)?;
    checkpoint.check_dataset(path, &dataset)?;
    let histories = Histories::new(&dataset, config.data.time_precision);
    let ids = match args.all_users {
        // The `.user` file may list users who have chosen nothing.
        true => histories.iter().filter(|(_, chosen)| !chosen.is_empty()).map(|(id, _)| id).collect(),
        false => known(&args.user, "user", path, |token| dataset.users.id(token).filter(|&id| id > 0))?,
    };
    if let Some(user) = ids.iter().find(|&&id| histories.of(id).is_empty()) {
        let user = dataset.users.token(*user).unwrap_or_default();
        return Err(Error::new(format!("expected interactions of the user `{user}`, found none"))
            .at(config.data.data_path.join(&config.data.dataset))
            .hint("leave the user out, or name items after --history"));
    }
    Ok(Asked::Users { ids, dataset: Box::new(dataset), histories })
}

impl Asked {
    fn len(&self) -> usize {
        match self {
            Self::History(_) => 1,
            Self::Users { ids, .. } => ids.len(),
        }
    }

    fn name(&self, i: usize) -> &str {
        match self {
            Self::History(_) => "history",
            Self::Users { ids, dataset, .. } => dataset.users.token(ids[i]).unwrap_or_default(),
        }
    }

    fn history(&self, i: usize) -> Vec<i64> {
        match self {
            Self::History(items) => items.clone(),
            Self::Users { ids, dataset, histories } => history_of(dataset, histories, ids[i]),
        }
    }
}

fn json_line<'a>(user: &str, items: impl Iterator<Item = (&'a str, f64)>) -> String {
    let items: Vec<_> = items.map(|(item, score)| json!({ "item": item, "score": score })).collect();
    format!("{}\n", json!({ "user": user, "items": items }))
}

/// Lines of user, rank, item and score. A token with a tab, a quote or a line end is quoted.
fn table<'a>(user: &str, items: impl Iterator<Item = (&'a str, f64)>, header: bool) -> String {
    let mut table = csv::WriterBuilder::new().delimiter(b'\t').from_writer(Vec::new());
    let mut write = |fields: [&str; 4]| table.write_record(fields).expect("memory takes every record of four fields");
    if header {
        write(["user", "rank", "item", "score"]);
    }
    for (i, (item, score)) in items.enumerate() {
        write([user, &(i + 1).to_string(), item, &format!("{score:.6}")]);
    }
    String::from_utf8_lossy(&table.into_inner().expect("memory is flushed")).into_owned()
}

/// The ids of items by their tokens.
fn items(tokens: &[String], checkpoint: &Checkpoint, path: &Path) -> Result<Vec<i64>> {
    // The first is the padding, which is no item.
    let ids: HashMap<&str, i64> = checkpoint.items.iter().map(String::as_str).zip(0..).skip(1).collect();
    known(tokens, "item", path, |token| ids.get(token).copied())
}

/// The ids of all tokens, or an error that names those without.
fn known(tokens: &[String], what: &str, path: &Path, id: impl Fn(&str) -> Option<i64>) -> Result<Vec<i64>> {
    let unknown: Vec<String> =
        tokens.iter().filter(|token| id(token).is_none()).map(|token| format!("`{token}`")).collect();
    if !unknown.is_empty() {
        let list = unknown.join(", ");
        return Err(Error::new(format!("expected {what}s that the model was trained with, found {list}"))
            .at(path)
            .hint(format!(
                "name {what}s by their tokens in the data set's files; those that a filter left out are unknown here"
            )));
    }
    Ok(tokens.iter().filter_map(|token| id(token)).collect())
}
