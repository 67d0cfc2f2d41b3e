//! The folder that a test fetches into, and what its server has.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::process::{code, stderr};
use crate::common::root;
use crate::server::{Reply, Request, Server};

/// The entity tag of everything on an orderly server.
pub const TAG: &str = "\"first\"";

/// Proxies of the machine are for the machine's own affairs.
const PROXIES: [&str; 6] = ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

pub fn fixture(name: &str) -> Vec<u8> {
    let path = root().join("fixtures/fetch").join(name);
    fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// gzip without compression, so that its bytes do not hang on the compressor.
pub fn gzip(content: &[u8], level: Compression) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}

/// The archive at a path, made of the fixtures.
pub fn archive(path: &str) -> Vec<u8> {
    let name = path.rsplit('/').next().expect("a path").trim_end_matches(".gz");
    gzip(&fixture(name), Compression::none())
}

/// What an orderly server answers.
pub fn orderly(request: &Request) -> Reply {
    Reply::file(request, &archive(&request.path), TAG)
}

/// A folder in which data sets are fetched.
pub struct Place(pub TempDir);

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("dif-sr"));
        for name in PROXIES {
            command.env_remove(name);
        }
        command.current_dir(self.0.path()).args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// Fetches Amazon_Beauty to `dataset/`.
    pub fn fetch(&self, server: &Server, more: &[&str]) -> Output {
        self.run(&[&["data", "fetch", "amazon-beauty", "--from", &server.address], more].concat())
    }

    pub fn spawn(&self, server: &Server, more: &[&str]) -> Child {
        let mut command = self.command(&[&["data", "fetch", "beauty", "--from", &server.address], more].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs")
    }

    /// The data set is there as it must be, and nothing else is.
    pub fn assert_complete(&self) {
        for name in ["Amazon_Beauty.inter", "Amazon_Beauty.item"] {
            let found = fs::read_to_string(self.path("dataset/Amazon_Beauty").join(name)).expect(name);
            assert_eq!(found, String::from_utf8(fixture(name)).expect("UTF-8"), "{name}");
        }
        assert_eq!(names(&self.path("dataset")), ["Amazon_Beauty"]);
        assert_eq!(
            names(&self.path("dataset/Amazon_Beauty")),
            ["Amazon_Beauty.inter", "Amazon_Beauty.item", "source.json"]
        );
    }

    pub fn assert_fetched(&self, output: &Output) {
        assert_eq!(code(output), 0, "{}", stderr(output));
        self.assert_complete();
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("UTF-8")).collect();
    names.sort();
    names
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

pub fn length(path: &Path) -> u64 {
    path.metadata().map_or(0, |m| m.len())
}
