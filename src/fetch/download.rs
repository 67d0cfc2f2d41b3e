//! One file over HTTP or HTTPS. A transfer that breaks off goes on where it was, if the server can tell that the file is
//! still the same, and begins anew otherwise.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body, ResponseExt};

use super::place::Place;
use super::record::{self, Archive};
use super::watch::Watch;
use crate::tensors::{rename, replace_json};
use crate::{Error, Result};

/// Redirects that are followed: one or two are usual, more are a loop.
const MAX_REDIRECTS: u32 = 5;

/// Bytes of the largest file that is taken; the largest of 2014 have some hundred million.
const MAX_BYTES: u64 = 2 << 30;

/// Attempts in a row without a new byte, after which a transfer is given up.
const ATTEMPTS: u32 = 4;

/// Behind the first attempt without a new byte; twice as long behind each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// What is known of a file that is not complete, or was made complete by this program.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    url: String,
    /// What a server needs to tell whether the file is still the same: a strong entity tag, or the date of its last change.
    validator: Option<String>,
    /// The size of the whole.
    bytes: Option<u64>,
    redirected_to: Option<String>,
    last_modified: Option<String>,
    /// Of the complete file.
    sha256: Option<String>,
}

/// How an attempt ended, if not with an error that another one would meet again.
enum Attempt {
    Complete,
    BrokeOff(String),
}

/// Gets files.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
}

impl Client {
    /// A client that gives up on a server that is silent for `timeout`, and, if `https`, follows no redirect to plain HTTP.
    pub fn new(timeout: Duration, https: bool) -> Self {
        let timeout = Some(timeout);
        let config = Agent::config_builder()
            .user_agent(record::PROGRAM.replace(' ', "/"))
            // The archives are gzip files: one more layer would only hide their size.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .https_only(https)
            .max_redirects(MAX_REDIRECTS)
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_send_request(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout);
        Self { agent: config.build().new_agent() }
    }

    /// Gets the file at `url`, or what of it is missing.
    ///
    /// # Errors
    /// The server cannot be reached, has no such file or breaks off again and again; the file cannot be written. What was received
    /// is kept.
    pub fn download(&self, url: &str, place: &Place, name: &str, watch: &mut Watch) -> Result<Archive> {
        let (path, part) = (place.archive(name), place.partial(name));
        let mut state = State::read(&place.state(name)).unwrap_or_default();
        // Wherever it came from: an archive that turns out to be none is removed.
        if let Some(known) = state.sha256.as_ref().filter(|_| path.is_file()) {
            let (bytes, sha256) = record::digest(&path)?;
            if sha256 == *known {
                watch.note(format!("{name} is there already, {bytes} bytes"));
                return Ok(state.archive(name, bytes, sha256));
            }
        }
        if state.url != url || state.validator.is_none() || state.sha256.is_some() {
            place.forget(name);
            state = State::of(url);
        }
        let (mut most, mut without_new) = (length(&part), 0);
        loop {
            let problem = match self.attempt(&mut state, place, name, watch)? {
                Attempt::Complete => break,
                Attempt::BrokeOff(problem) => problem,
            };
            let have = length(&part);
            without_new = if have > most { 0 } else { without_new + 1 };
            most = most.max(have);
            if without_new == ATTEMPTS {
                let problem =
                    format!("expected {}, found {ATTEMPTS} attempts without a new byte: {problem}", state.whole());
                let hint = if state.validator.is_some() && have > 0 {
                    format!("run the command again: it goes on behind the {have} bytes that are there")
                } else {
                    "run the command again later, or name another address with --from".to_owned()
                };
                return Err(Error::new(problem).at(url).hint(hint));
            }
            watch.note(format!("{name}: {problem}; trying again"));
            sleep(FIRST_PAUSE * 2u32.pow(without_new.saturating_sub(1)));
        }
        let (bytes, sha256) = record::digest(&part)?;
        rename(&part, &path).map_err(|e| Error::io(&path, "move the file into its place", e))?;
        state.sha256 = Some(sha256.clone());
        state.write(&place.state(name))?;
        Ok(state.archive(name, bytes, sha256))
    }

    fn attempt(&self, state: &mut State, place: &Place, name: &str, watch: &mut Watch) -> Result<Attempt> {
        let part = place.partial(name);
        let have = if state.validator.is_some() { length(&part) } else { 0 };
        watch.bytes(name, have, state.bytes)?;
        if have > 0 && state.bytes == Some(have) {
            // All of it came, and the process ended before it could say so: no server has a part behind the last byte.
            return Ok(Attempt::Complete);
        }
        let mut request = self.agent.get(&state.url);
        if let Some(validator) = state.validator.as_ref().filter(|_| have > 0) {
            request = request.header("Range", format!("bytes={have}-")).header("If-Range", validator);
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error) => return cannot_get(&state.url, &error),
        };
        let status = response.status();
        let goes_on = status == StatusCode::PARTIAL_CONTENT && have > 0;
        if goes_on {
            // A server that sends other bytes than it was asked for cannot be gone on with.
            let range = content_range(response.headers());
            // A server that did not say the size at first may say it now.
            if state.bytes.is_none() {
                state.bytes = range.and_then(|(_, whole)| whole);
                state.write(&place.state(name))?;
            }
            if range != Some((have, state.bytes)) {
                place.forget(name);
                *state = State::of(&state.url);
                return Ok(Attempt::BrokeOff("the server sent another part of the file than was asked for".to_owned()));
            }
            watch.note(format!("{name}: going on behind {have} bytes"));
        } else if status == StatusCode::OK {
            *state = State::begin(&state.url, &response);
            let whole = state.whole();
            if state.bytes.is_some_and(|bytes| bytes > MAX_BYTES) {
                return Err(too_large(&state.url, MAX_BYTES));
            }
            if have > 0 {
                watch.note(format!(
                    "{name}: the server does not go on with what broke off, or has another file now: beginning anew"
                ));
            }
            watch.note(format!("Download {}, {whole}", state.url));
            // The bytes of another version go before there is a validator of this one.
            File::create(&part).map_err(|e| Error::unwritable(&part, e))?;
            state.write(&place.state(name))?;
        } else if status == StatusCode::RANGE_NOT_SATISFIABLE {
            place.forget(name);
            *state = State::of(&state.url);
            return Ok(Attempt::BrokeOff("the server's file is shorter than what is there of it".to_owned()));
        } else if status.is_server_error()
            || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
        {
            return Ok(Attempt::BrokeOff(format!("the server answered {status}")));
        } else {
            return Err(Error::new(format!("expected the file, the server answered {status}"))
                .at(&state.url)
                .hint("name an address that has the file with --from"));
        }
        receive(response.into_body(), state, &part, name, watch)
    }
}

/// Appends what arrives.
fn receive(body: Body, state: &State, part: &Path, name: &str, watch: &mut Watch) -> Result<Attempt> {
    let mut file = OpenOptions::new().append(true).open(part).map_err(|e| Error::unwritable(part, e))?;
    let (mut reader, mut buffer, mut have) = (body.into_reader(), vec![0; 1 << 16], length(part));
    loop {
        watch.bytes(name, have, state.bytes)?;
        let n = match reader.read(&mut buffer) {
            Ok(n) => n,
            Err(e) => return Ok(Attempt::BrokeOff(format!("broke off behind {have} bytes of {}: {e}", state.whole()))),
        };
        file.write_all(&buffer[..n]).map_err(|e| Error::unwritable(part, e))?;
        have += n as u64;
        if have > MAX_BYTES || state.bytes.is_some_and(|bytes| have > bytes) {
            return Err(too_large(&state.url, state.bytes.unwrap_or(MAX_BYTES)));
        }
        if n == 0 {
            file.sync_all().map_err(|e| Error::unwritable(part, e))?;
            return Ok(match state.bytes {
                Some(bytes) if have < bytes => Attempt::BrokeOff(format!("ended behind {have} bytes of {bytes}")),
                _ => Attempt::Complete,
            });
        }
    }
}

/// What another attempt may get over, or an error.
fn cannot_get(url: &str, error: &ureq::Error) -> Result<Attempt> {
    use ureq::Error::{
        BodyStalled, ConnectionFailed, HostNotFound, Io, Protocol, RequireHttpsOnly, Timeout, TooManyRedirects,
    };
    let (problem, hint) = match error {
        Io(_) | Timeout(_) | ConnectionFailed | HostNotFound | BodyStalled | Protocol(_) => {
            return Ok(Attempt::BrokeOff(error.to_string()));
        }
        TooManyRedirects => (
            format!("expected at most {MAX_REDIRECTS} redirects, found more"),
            "the server leads in a circle: name another address with --from",
        ),
        RequireHttpsOnly(to) => (
            format!("expected HTTPS all the way, found a redirect to {to}"),
            "name that address with --from if you trust it",
        ),
        other => (format!("expected the file, found: {other}"), "check the address, and proxy and certificates"),
    };
    Err(Error::new(problem).at(url).hint(hint))
}

impl State {
    /// Nothing is known yet.
    fn of(url: &str) -> Self {
        Self { url: url.to_owned(), ..Self::default() }
    }

    /// What a server says of a file that it begins to send.
    fn begin(url: &str, response: &Response<Body>) -> Self {
        let header = |name| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        // Weak tags stand for equal meaning, not for equal bytes.
        let tag = header("etag").filter(|tag| tag.starts_with('"'));
        let last_modified = header("last-modified");
        let to = response.get_uri().to_string();
        Self {
            validator: tag.or_else(|| last_modified.clone()),
            bytes: header("content-length").and_then(|length| length.parse().ok()),
            redirected_to: (to != url).then_some(to),
            last_modified,
            ..Self::of(url)
        }
    }

    fn read(path: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
    }

    fn write(&self, path: &Path) -> Result<()> {
        replace_json(path, self)
    }

    fn whole(&self) -> String {
        self.bytes.map_or_else(|| "the whole file".to_owned(), |bytes| format!("{bytes} bytes"))
    }

    fn archive(&self, name: &str, bytes: u64, sha256: String) -> Archive {
        let Self { url, redirected_to, last_modified, .. } = self;
        let (redirected_to, last_modified) = (redirected_to.clone(), last_modified.clone());
        Archive { name: name.to_owned(), url: url.clone(), redirected_to, last_modified, bytes, sha256 }
    }
}

/// The first byte that a server sends of a file, and the size of the whole.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, whole) = headers.get("content-range")?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, whole.parse().ok()))
}

/// Bytes that are there of a file.
fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn too_large(url: &str, most: u64) -> Error {
    Error::new(format!("expected at most {most} bytes, found more")).at(url).hint("this is not the data set's file")
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::fetch::sources::SOURCES;

    #[test]
    fn a_client_of_https_refuses_http_without_asking_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/archive.json.gz", listener.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let place = Place::open(folder.path(), &SOURCES[0]).unwrap();
        let (stop, mut report) = (AtomicBool::new(false), |_: &super::super::Event| {});
        let mut watch = Watch { stop: &stop, report: &mut report };
        let client = Client::new(Duration::from_secs(5), true);
        let error = client.download(&url, &place, "archive.json.gz", &mut watch).unwrap_err().to_string();
        assert!(error.contains(&format!("expected HTTPS all the way, found a redirect to {url}")), "{error}");
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}
