//! `dif-sr import`

use std::path::PathBuf;

use clap::Args;
use dif_sr::tensors::{TensorFile, make_place};
use dif_sr::train::{Checkpoint, Prepared};
use dif_sr::{Error, Result};
use serde_json::json;

use super::arguments::ConfigArgs;
use super::{Outcome, output};

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Parameters under RecBole's names: what python/peer/dif_sr_peer/from_recbole.py makes of a .pth.
    weights: PathBuf,
    /// The checkpoint, a new file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    config_args: ConfigArgs,
}

pub fn run(args: ImportArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    if args.out.exists() {
        return Err(Error::new("expected no file, found one").at(&args.out).hint("choose another name with --out"));
    }
    make_place(&args.out)?;
    let config = args.config_args.load(overrides)?;
    let mut file = TensorFile::read(&args.weights)?;
    let prepared = Prepared::new(&config)?;
    // RecBole saves no attribute tables: they are what the seed draws, here as there.
    let drawn = prepared.model.named_tables().iter().any(|(name, _)| !file.tensors.contains_key(name));
    for (name, table) in prepared.model.named_tables() {
        file.tensors.entry(name).or_insert(table);
    }
    // What a checkpoint has beside its parameters the data set has, too.
    file.tensors.retain(|name, _| !Checkpoint::is_of_items(name));
    prepared.model.load(&args.weights, &mut file, "")?;
    if let Some(name) = file.tensors.keys().next() {
        return Err(Error::new(format!("expected the model's parameters alone, found `{name}` too"))
            .at(&args.weights)
            .hint("the file belongs to another configuration"));
    }
    let epoch = file.metadata.get("epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Checkpoint::save(&args.out, &config, &prepared.dataset, &prepared.model, epoch)?;
    let parameters = prepared.model.trainable_parameters();
    let seed = drawn.then_some(config.run.seed);
    let value = json!({
        "checkpoint": output::place(&args.out), "trainable_parameters": parameters, "epoch": epoch, "tables_of_seed": seed,
    });
    output::result(json, &value, || {
        let tables = seed.map(|seed| {
            format!(
                "; attribute tables as seed {seed} draws them: `dif-sr evaluate` gives the training's metrics if it was that seed's"
            )
        });
        let tables = tables.unwrap_or_default();
        format!("{}: {parameters} parameters, epoch {epoch}{tables}", args.out.display())
    })?;
    Ok(Outcome::Pass)
}
