//! Gets a known data set: downloads its archives, converts them, and puts the result into place when it is complete.
//!
//! `download` gets a file and goes on with what broke off, `lines` unpacks it, `convert` writes the
//! atomic files, `record` notes what they came from, `sums` says what archives must be, `place` keeps unfinished work apart
//! from finished. Known data sets are listed in [`sources`].
//! Each archive is a single gzip file: no path from within one is ever used, and nothing that was fetched is run.

mod convert;
mod download;
mod lines;
mod place;
mod record;
pub mod sources;
mod sums;
mod watch;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;

use crate::{Error, Result};
use download::Client;
use place::Place;
pub use record::{Archive, Record, Written};
use sources::Source;
use sums::Sums;
pub use watch::Event;
use watch::Watch;

/// What to fetch, and how.
#[derive(Debug)]
pub struct Request {
    /// Which data set.
    pub source: &'static Source,
    /// The folder in which the data set's folder will be.
    pub to: PathBuf,
    /// The address that the archives' names are appended to, if not the source's own.
    pub from: Option<String>,
    /// A file of SHA-256 sums that the archives must have.
    pub sums: Option<PathBuf>,
    /// How long a server may be silent.
    pub timeout: Duration,
}

/// A data set that is in its place.
#[derive(Debug, Serialize)]
pub struct Fetched {
    /// Where it is.
    pub folder: PathBuf,
    /// Whether it was there before, unchanged.
    pub already_there: bool,
    /// What it came from and consists of.
    #[serde(flatten)]
    pub record: Record,
}

/// Fetches a data set, or finds that it is there.
///
/// # Errors
/// The folder holds something else, or another process is at work in it; the server cannot be reached or serves something else; an
/// archive is not what the sums say, or no data set; files cannot be written. Work that was done is kept in `<data set>.part`, and
/// the next call goes on with it. An interruption, once `stop` is set.
pub fn fetch(request: &Request, stop: &AtomicBool, report: &mut dyn FnMut(&Event)) -> Result<Fetched> {
    let Request { source, to, from, sums, timeout } = request;
    let base = base_address(from.as_deref().unwrap_or(source.base))?;
    let mut watch = Watch { stop, report };
    let sums = sums.as_deref().map(|path| Sums::read(path, source)).transpose()?.unwrap_or_default();
    let folder = to.join(source.dataset);
    let done = |record| Fetched { folder: folder.clone(), already_there: true, record };
    // Neither a lock nor leave to write is needed to see that nothing is to be done.
    if let Some(record) = place::look(&folder, source)?
        && !place::part(to, source).exists()
    {
        sums.check_all(&record)?;
        return Ok(done(record));
    }
    let place = Place::open(to, source)?;
    // Under the lock nothing changes any more; what another process left behind when it had finished is removed.
    if let Some(record) = place::look(&folder, source)? {
        sums.check_all(&record)?;
        place.remove()?;
        return Ok(done(record));
    }
    let client = Client::new(*timeout, base.starts_with("https://"));
    let mut archives = Vec::new();
    for name in [source.reviews, source.metadata] {
        let archive = client.download(&format!("{base}{name}"), &place, name, &mut watch)?;
        sums.check(&archive).inspect_err(|_| place.forget(name))?;
        archives.push(archive);
    }
    let (files, repeated_items) = convert(source, &place, &mut watch)?;
    let (fetched, program) =
        (jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), record::PROGRAM.to_owned());
    let record = Record { dataset: source.dataset.to_owned(), fetched, program, archives, files, repeated_items };
    place.finish(&folder, &record)?;
    Ok(Fetched { folder, already_there: false, record })
}

/// Writes the data set's files from the archives. What turns out to be no archive of the data set is forgotten, so that the next
/// fetch gets it anew; where the operating system fails, as on a full disk, the archive may be good and stays.
fn convert(source: &Source, place: &Place, watch: &mut Watch) -> Result<(Vec<Written>, u64)> {
    let forget = |name: &str, error: &Error| {
        let of_the_system = std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
        if !error.is_interruption() && !of_the_system {
            place.forget(name)
        }
    };
    let [inter, item] = source.files();
    watch.note(format!("Convert {} to {inter}", source.reviews));
    let (archive, out) = (place.archive(source.reviews), place.file(&inter)?);
    let rows = convert::interactions(&archive, &out, watch).inspect_err(|e| forget(source.reviews, e))?;
    let inter = Written::of(&out, rows)?;
    watch.note(format!("Convert {} to {item}", source.metadata));
    let (archive, out) = (place.archive(source.metadata), place.file(&item)?);
    let (rows, repeated) =
        convert::items(&archive, &out, &source.columns, watch).inspect_err(|e| forget(source.metadata, e))?;
    Ok((vec![inter, Written::of(&out, rows)?], repeated))
}

/// An address of HTTP or HTTPS that a file's name can be appended to.
fn base_address(address: &str) -> Result<String> {
    // First, since what is told below names the address.
    if address.split('/').nth(2).is_some_and(|host| host.contains('@')) {
        return Err(Error::new("expected --from without a user and a password, found an address with them")
            .hint("the address is printed and kept in source.json: use a mirror that asks for none"));
    }
    let known =
        ["https://", "http://"].iter().any(|scheme| address.strip_prefix(scheme).is_some_and(|host| !host.is_empty()));
    if !known || address.contains(['?', '#']) || address.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Error::new(format!("expected an address of HTTP or HTTPS, found `{}`", address.escape_debug()))
            .hint("write --from as https://mirror.example/folder; the names of the archives are appended to it"));
    }
    Ok(format!("{}/", address.trim_end_matches('/')))
}
