//! `dif-sr data inspect`

use dif_sr::Result;
use dif_sr::data::split::split;
use dif_sr::data::{Dataset, Inspection};

use super::arguments::ConfigArgs;
use super::{Outcome, output};

pub fn run(args: ConfigArgs, overrides: &[(String, String)], json: bool) -> Result<Outcome> {
    let config = args.load(overrides)?.data;
    let dataset = Dataset::load(&config)?;
    let inspection = Inspection::new(&dataset, &split(&dataset, &config)?, &config);
    output::result(json, &inspection, || inspection.to_string())?;
    Ok(Outcome::Pass)
}
