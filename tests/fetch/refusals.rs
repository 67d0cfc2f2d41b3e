//! What is no data set, or cannot be written: it is told in one sentence, and nothing outside of the folder is touched.

use std::fs;
use std::io::Write;

use flate2::{Compression, GzBuilder};

use crate::common::process::{code, refusal, stderr};
use crate::place::{Place, archive, gzip, names, orderly};
use crate::server::{Reply, Server};
use crate::{METADATA, REVIEWS};

/// An answer for one archive; the other is orderly.
fn instead(name: &'static str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request| if request.path.ends_with(name) { reply() } else { orderly(request) })
}

fn ok(content: &[u8]) -> Reply {
    Reply::new("200 OK", content)
}

#[test]
fn what_cannot_be_fetched_is_told_in_one_sentence_and_leaves_no_data_set() {
    let metadata = |line: &'static str| {
        let good = "{'asin': 'B1', 'title': 'first'}";
        instead(METADATA, move || ok(&gzip(format!("{good}\n{line}\n").as_bytes(), Compression::none())))
    };
    let cases: Vec<(&str, Server)> = vec![
        ("no such file", instead(REVIEWS, || Reply::new("404 Not Found", b"gone"))),
        ("an error that stays", instead(REVIEWS, || Reply::new("500 Internal Server Error", b""))),
        (
            "a circle of redirects",
            instead(REVIEWS, || Reply::new("302 Found", b"").header("Location", "/reviews_Beauty_5.json.gz")),
        ),
        ("a page instead of a file", instead(REVIEWS, || ok(b"<!DOCTYPE html>\n<title>Please log in</title>"))),
        ("a file of another size than was said", instead(REVIEWS, || ok(&archive(REVIEWS)).cut(60))),
        ("an archive that ends early", instead(REVIEWS, || ok(&archive(REVIEWS)[..3000]))),
        (
            "a bomb of lines",
            instead(METADATA, || ok(&gzip(&[&[b' '; 1023][..], b"\n"].concat().repeat(20 << 10), Compression::best()))),
        ),
        (
            "a review that is none",
            instead(REVIEWS, || ok(&gzip(b"{\"reviewerID\": \"A\", \"asin\": \"B\"}\n", Compression::none()))),
        ),
        ("a program", metadata("{'asin': __import__('os').system('touch ran')}")),
    ];
    // Some of them wait for a while before they try again: all at once.
    let told = |(what, server): &(&str, Server)| {
        let place = Place::new();
        let sentence = refusal(&place.fetch(server, &[])).replace(&server.address, "http://server");
        assert!(!place.path("dataset/Amazon_Beauty").exists() && !place.path("ran").exists(), "{what}");
        assert_eq!(names(place.0.path()), ["dataset"], "{what}");
        format!("{what}\n  {sentence}\n")
    };
    let mut text: String = std::thread::scope(|scope| {
        let threads: Vec<_> = cases.iter().map(|case| scope.spawn(|| told(case))).collect();
        threads.into_iter().map(|thread| thread.join().expect("it is told")).collect()
    });

    let place = Place::new();
    fs::create_dir_all(place.path("mine/Amazon_Beauty")).expect("a folder");
    fs::write(place.path("mine/Amazon_Beauty/Amazon_Beauty.inter"), "mine").expect("written");
    fs::write(place.path("a.sums"), "abc  meta_Beauty.json.gz\n").expect("written");
    fs::write(place.path("other.sums"), format!("{}  meta_Books.json.gz\n", "0".repeat(64))).expect("written");
    for arguments in [
        "amazon-books",
        "ml-100k",
        "amazon-beauty --from ftp://server/",
        "amazon-beauty --from http://server/?key=1",
        "amazon-beauty --from https://user:secret@server/?key=1",
        "amazon-beauty --to mine",
        "amazon-beauty --sums a.sums",
        "amazon-beauty --sums other.sums",
        "amazon-beauty --sums nowhere.sums",
        "amazon-beauty --from http://127.0.0.1:9 --timeout 5",
    ] {
        let arguments: Vec<&str> = ["data", "fetch"].into_iter().chain(arguments.split(' ')).collect();
        text += &format!("$ dif-sr {}\n  {}\n", arguments.join(" "), refusal(&place.run(&arguments)));
    }
    assert_eq!(fs::read_to_string(place.path("mine/Amazon_Beauty/Amazon_Beauty.inter")).expect("a file"), "mine");
    insta::with_settings!({filters => [(r"expected \d+ bytes of gzip", "expected [bytes] bytes of gzip")]}, {
        insta::assert_snapshot!(text);
    });
}

/// `/dev/full` stands for a full disk: every write to it fails as there.
#[test]
fn a_full_disk_while_converting_leaves_the_archives() {
    for file in ["Amazon_Beauty.inter", "Amazon_Beauty.item"] {
        let (place, server) = (Place::new(), Server::start(orderly));
        let part = place.path("dataset/Amazon_Beauty.part");
        let made = part.join("Amazon_Beauty");
        fs::create_dir_all(&made).expect("a folder");
        std::os::unix::fs::symlink("/dev/full", made.join(file)).expect("a link");
        let sentence = refusal(&place.fetch(&server, &[]));
        assert!(sentence.contains(&format!("{file}: cannot write the file: No space left on device")), "{sentence}");
        for name in [REVIEWS, METADATA] {
            assert_eq!(fs::read(part.join(name)).expect(name), archive(name), "{file}");
        }
        fs::remove_file(made.join(file)).expect("removed");
        place.assert_fetched(&place.fetch(&server, &[]));
        assert_eq!(server.requests().len(), 2, "{file}: no archive is fetched again");
    }
}

#[test]
fn no_name_in_an_archive_becomes_a_path() {
    const ESCAPE: &str = "../../escape";
    let server = Server::start(|request| {
        let content = match request.path.ends_with(REVIEWS) {
            true => format!(r#"{{"reviewerID": "{ESCAPE}", "asin": "{ESCAPE}", "overall": 5.0, "unixReviewTime": 1}}"#),
            false => format!("{{'asin': '{ESCAPE}', 'title': '/escape', 'categories': [['{ESCAPE}']]}}"),
        };
        let mut encoder = GzBuilder::new().filename(ESCAPE).write(Vec::new(), Compression::none());
        encoder.write_all(content.as_bytes()).expect("memory");
        ok(&encoder.finish().expect("memory"))
    });
    // Deep enough for the way up to end in a place that is looked at.
    let place = Place::new();
    fs::create_dir_all(place.path("a/b")).expect("folders");
    let mut command = place.command(&["data", "fetch", "amazon-beauty", "--from", &server.address]);
    let output = command.current_dir(place.path("a/b")).output().expect("the binary runs");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for (folder, only) in [(".", "a"), ("a", "b"), ("a/b", "dataset"), ("a/b/dataset", "Amazon_Beauty")] {
        assert_eq!(names(&place.path(folder)), [only], "{folder}");
    }
    let folder = place.path("a/b/dataset/Amazon_Beauty");
    assert_eq!(names(&folder), ["Amazon_Beauty.inter", "Amazon_Beauty.item", "source.json"]);
    let rows = |name: &str| fs::read_to_string(folder.join(name)).expect(name).lines().skip(1).collect::<String>();
    assert_eq!(rows("Amazon_Beauty.inter"), format!("{ESCAPE}\t{ESCAPE}\t5.0\t1"));
    assert_eq!(rows("Amazon_Beauty.item"), format!("{ESCAPE}\t/escape\t\t\t'{ESCAPE}'\t\t"));
}

#[test]
fn keys_of_a_configuration_are_refused() {
    let place = Place::new();
    let output = place.run(&["data", "fetch", "amazon-beauty", "--epochs=3"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("does not read, found `epochs`"), "{}", stderr(&output));
    assert!(names(place.0.path()).is_empty());
}
