//! `dif-sr data inspect`

use dif_sr::Result;
use dif_sr::data::split::split;
use dif_sr::data::{Dataset, Inspection};

use super::arguments::ConfigArgs;
use super::{Outcome, output};

pub fn run(args: ConfigArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let config = args.load(overrides)?.data;
    let mut dataset = Dataset::load(&config)?;
    let splits = split(&dataset, &config)?;
    dataset.warnings.extend(splits.warning(dataset.user.len()));
    let inspection = Inspection::new(&dataset, &splits, &config);
    output::result(json, &inspection, || inspection.to_string())?;
    Ok(Outcome::Pass)
}
