//! `dif-sr data fetch`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dif_sr::Result;
use dif_sr::fetch::sources::find;
use dif_sr::fetch::{Event, Fetched, Request, fetch};

use super::progress::Progress;
use super::training::stop_on_signals;
use super::{Outcome, output};

#[derive(Debug, Args)]
pub struct FetchArgs {
    /// The data set: amazon-beauty, amazon-toys or amazon-sports (5-core, 2014).
    name: String,
    /// The folder in which the data set's folder will be: the configuration's data_path.
    #[arg(long, value_name = "DIR", default_value = "dataset")]
    to: PathBuf,
    /// A mirror: the address of the folder that holds the archives, of HTTPS or HTTP.
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// SHA-256 sums that the archives must have: what sha256sum prints, or the source.json of another copy.
    #[arg(long, value_name = "FILE")]
    sums: Option<PathBuf>,
    /// Seconds after which a silent server is given up.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
}

pub fn run(args: FetchArgs, json: bool) -> Result<Outcome> {
    let FetchArgs { name, to, from, sums, timeout } = args;
    let request = Request { source: find(&name)?, to, from, sums, timeout: Duration::from_secs(timeout) };
    let stop = stop_on_signals()?;
    let mut progress = Progress::of_stages(true);
    let fetched = fetch(&request, &stop, &mut |event| match event {
        Event::Note(line) => progress.log(line),
        Event::Bytes { stage, done, of } => progress.bytes(stage, *done, *of),
    });
    // Whatever comes next finds no bar in its way.
    drop(progress);
    let fetched = fetched?;
    output::result(json, &fetched, || text(&fetched))?;
    Ok(Outcome::Pass)
}

fn text(fetched: &Fetched) -> String {
    let Fetched { folder, already_there, record } = fetched;
    let mut rows = vec![["file", "rows", "bytes", "SHA-256"].map(str::to_owned).to_vec()];
    let row = |name: &str, rows: String, bytes: u64, sha: &str| {
        vec![name.to_owned(), rows, bytes.to_string(), sha.to_owned()]
    };
    rows.extend(record.archives.iter().map(|a| row(&a.name, String::new(), a.bytes, &a.sha256)));
    rows.extend(record.files.iter().map(|f| row(&f.name, f.rows.to_string(), f.bytes, &f.sha256)));
    let state = if *already_there { "is there already, unchanged" } else { "is complete" };
    format!("{}\n\n{}: {state}", output::table(&rows), folder.display())
}
