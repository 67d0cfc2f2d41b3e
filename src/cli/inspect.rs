//! `dif-sr data inspect`

use dif_sr::Result;
use dif_sr::data::{Inspection, split};

use super::arguments::ConfigArgs;
use super::{Outcome, output};

pub fn run(args: ConfigArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let config = args.load(overrides)?.data;
    let (dataset, splits) = split::load(&config)?;
    let inspection = Inspection::new(&dataset, &splits, &config);
    output::result(json, &inspection, || inspection.to_string())?;
    Ok(Outcome::Pass)
}
