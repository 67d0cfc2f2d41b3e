//! `dif-sr recommend`

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use dif_sr::data::Dataset;
use dif_sr::data::split::{Histories, history_of};
use dif_sr::eval::recommend;
use dif_sr::train::{Checkpoint, set_up};
use dif_sr::{Error, Result};
use serde_json::json;

use super::arguments::ConfigArgs;
use super::progress::Progress;
use super::{Outcome, output};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").args(["history", "user", "all_users"]).required(true))]
pub struct RecommendArgs {
    /// A run folder or a .safetensors checkpoint.
    run: PathBuf,
    /// Items by their tokens, oldest first: needs the checkpoint alone.
    #[arg(long, value_name = "ITEM", num_args = 1..)]
    history: Vec<String>,
    /// Users of the data set by their tokens, with all that they chose.
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

/// Whom to recommend to, and what they chose, as item ids.
type Asked = (String, Vec<i64>);

pub fn run(args: RecommendArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let path = output::checkpoint(&args.run)?;
    let mut checkpoint = Checkpoint::load(&path)?;
    let config = checkpoint.config.changed(&args.config_args.files()?, &args.config_args.overrides(overrides))?;
    checkpoint.check_model(&path, &config)?;
    if args.k == 0 {
        return Err(Error::new("expected at least one item after -k, found 0"));
    }
    let device = set_up(&config)?;
    let asked = if args.history.is_empty() {
        let dataset = Dataset::load(&config.data)?;
        checkpoint.check_dataset(&path, &dataset)?;
        let histories = Histories::new(&dataset, config.data.time_precision);
        let history = |user: i64| history_of(&dataset, &histories, user);
        if args.all_users {
            histories
                .iter()
                .map(|(id, _)| (dataset.users.token(id).unwrap_or_default().to_owned(), history(id)))
                .collect()
        } else {
            let ids = known(&args.user, "user", &path, |token| dataset.users.id(token).filter(|&id| id > 0))?;
            args.user.iter().cloned().zip(ids.into_iter().map(history)).collect()
        }
    } else {
        vec![("history".to_owned(), items(&args.history, &checkpoint, &path)?)]
    };

    checkpoint.model.to_device(device);
    let mut progress = Progress::of_stages(config.run.show_progress);
    let histories: Vec<Vec<i64>> = asked.iter().map(|(_, history): &Asked| history.clone()).collect();
    let of = histories.len();
    let (length, batch) = (config.data.max_item_list_length, config.eval.eval_batch_size);
    let best = recommend(&checkpoint.model, &histories, length, args.k, args.unseen, batch, |done| {
        progress.step("Recommend  ", done, of);
    })?;
    let item = |id: i64| checkpoint.items[id as usize].as_str();
    let of_users = asked.iter().map(|(name, _)| name).zip(&best);
    let text = if json {
        let lines = of_users.map(|(name, items)| {
            let items: Vec<_> = items.iter().map(|&(id, score)| json!({ "item": item(id), "score": score })).collect();
            json!({ "user": name, "items": items }).to_string()
        });
        lines.collect::<Vec<_>>().join("\n")
    } else {
        let mut table = csv::WriterBuilder::new().delimiter(b'\t').from_writer(Vec::new());
        let mut write =
            |fields: [&str; 4]| table.write_record(fields).expect("memory takes every record of four fields");
        write(["user", "rank", "item", "score"]);
        for (name, items) in of_users {
            for (i, &(id, score)) in items.iter().enumerate() {
                write([name, &(i + 1).to_string(), item(id), &format!("{score:.6}")]);
            }
        }
        String::from_utf8_lossy(&table.into_inner().expect("memory is flushed")).trim_end().to_owned()
    };
    output::print(&text)?;
    Ok(Outcome::Holds)
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
            .hint(format!("name {what}s by the tokens of the data set's files")));
    }
    Ok(tokens.iter().filter_map(|token| id(token)).collect())
}
