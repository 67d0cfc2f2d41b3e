//! `dif-sr data fetch` as a process, against a server on loopback.

#[path = "../common/mod.rs"]
mod common;
mod place;
mod refusals;
mod server;

use std::fs;

use common::place::{signal, wait_until};
use common::process::{code, refusal, stderr, stdout};
use common::root;
use flate2::Compression;
use place::{Place, TAG, archive, fixture, gzip, json, length, names, orderly};
use server::{Reply, Request, Server};

const REVIEWS: &str = "reviews_Beauty_5.json.gz";
const METADATA: &str = "meta_Beauty.json.gz";

#[test]
fn what_is_fetched_is_what_pandas_writes_and_loads() {
    let (place, server) = (Place::new(), Server::start(orderly));
    let output = place.fetch(&server, &["--json"]);
    place.assert_fetched(&output);
    let printed = json(&stdout(&output));
    assert_eq!((&printed["folder"], &printed["already_there"]), (&"dataset/Amazon_Beauty".into(), &false.into()));
    assert_eq!((&printed["files"][0]["rows"], &printed["files"][1]["rows"]), (&25.into(), &6.into()));
    let recorded = json(&fs::read_to_string(place.path("dataset/Amazon_Beauty/source.json")).expect("a record"));
    for key in ["dataset", "archives", "files", "program", "fetched"] {
        assert_eq!(printed[key], recorded[key], "{key}");
    }
    assert_eq!(recorded["archives"][0]["url"], format!("{}/{REVIEWS}", server.address));
    assert_eq!(recorded["archives"][0]["bytes"], archive(REVIEWS).len());

    let config = root().join("configs/amazon_beauty.yaml").display().to_string();
    let inspect =
        ["data", "inspect", "--dataset", "Amazon_Beauty", "--data_path=dataset", "--json", "--config_files", &config];
    let output = place.run(&inspect);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let inspected = json(&stdout(&output));
    // The padding is counted.
    assert_eq!([6, 6, 25], ["users", "items", "inters"].map(|key| inspected["log"][key].as_u64().expect("a number")));
    let tokens = inspected["categories_tokens"].to_string();
    assert!(tokens.contains("'Concealers") && tokens.contains(r#"\"Women's\","#), "{tokens}");
}

#[test]
fn what_is_there_is_recognised_without_the_network_and_held_to_its_record() {
    let (place, server) = (Place::new(), Server::start(orderly));
    place.assert_fetched(&place.fetch(&server, &[]));
    let asked = server.requests().len();
    let output = place.fetch(&server, &[]);
    place.assert_fetched(&output);
    assert!(stdout(&output).ends_with("dataset/Amazon_Beauty: is there already, unchanged\n"), "{}", stdout(&output));
    assert_eq!(server.requests().len(), asked);

    // What was changed is told, and stays.
    let item = place.path("dataset/Amazon_Beauty/Amazon_Beauty.item");
    fs::write(&item, "item_id:token\nmine\n").expect("written");
    let sentence = refusal(&place.fetch(&server, &[]));
    assert!(sentence.starts_with("dataset/Amazon_Beauty/Amazon_Beauty.item: expected SHA-256"), "{sentence}");
    assert_eq!(fs::read_to_string(&item).expect("a file"), "item_id:token\nmine\n");

    // What is missing is told, too.
    fs::remove_file(&item).expect("removed");
    let sentence = refusal(&place.fetch(&server, &[]));
    assert!(sentence.starts_with("dataset/Amazon_Beauty/Amazon_Beauty.item: cannot read the file: "), "{sentence}");
    assert!(sentence.ends_with("; move the data set away to fetch it anew"), "{sentence}");
    assert!(!item.exists());
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_was_behind_redirects_too() {
    let server = Server::start(|request| match request.path.strip_prefix("/moved/") {
        Some(name) => Reply::new("302 Found", b"").header("Location", format!("/files/{name}")),
        None if request.earlier == 0 => orderly(request).cut(100),
        None if request.earlier == 1 => orderly(request).cut(200),
        None => orderly(request),
    });
    let place = Place::new();
    let from = format!("{}/moved/", server.address);
    place.assert_fetched(&place.run(&["data", "fetch", "Amazon_Beauty", "--from", &from]));
    let expected = [None, Some("bytes=100-".to_owned()), Some("bytes=300-".to_owned())];
    assert_eq!(server.ranges(&format!("/files/{REVIEWS}")), expected);
    assert!(server.requests().iter().all(|r| r.range.is_none() || r.if_range.as_deref() == Some(TAG)));
    let record = json(&fs::read_to_string(place.path("dataset/Amazon_Beauty/source.json")).expect("a record"));
    assert_eq!(record["archives"][1]["redirected_to"], format!("{}/files/{METADATA}", server.address));
}

#[test]
fn what_came_whole_is_not_asked_for_again() {
    let server = Server::start(|request| match (request.path.ends_with(REVIEWS), request.earlier) {
        (true, 0) => orderly(request).cut(70),
        (true, 1..5) => Reply::new("503 Service Unavailable", b""),
        _ => orderly(request),
    });
    let place = Place::new();
    refusal(&place.fetch(&server, &[]));
    // As a process leaves it that ends between the last byte and the word that all is there.
    fs::write(place.path(&format!("dataset/Amazon_Beauty.part/{REVIEWS}.part")), archive(REVIEWS)).expect("written");
    place.assert_fetched(&place.fetch(&server, &[]));
    assert_eq!(server.ranges(REVIEWS).len(), 5);
}

#[test]
fn what_one_server_gave_another_is_not_asked_for() {
    let without_metadata = Server::start(|request| match request.path.ends_with(REVIEWS) {
        true => orderly(request),
        false => Reply::new("404 Not Found", b""),
    });
    let place = Place::new();
    let sentence = refusal(&place.fetch(&without_metadata, &[]));
    assert!(sentence.contains("the server answered 404"), "{sentence}");
    let mirror = Server::start(orderly);
    place.assert_fetched(&place.fetch(&mirror, &[]));
    assert_eq!(mirror.ranges(REVIEWS).len(), 0);
}

type Answer = fn(&Request) -> Reply;

#[test]
fn a_transfer_begins_anew_where_the_server_cannot_go_on_with_it() {
    let begun_anew: [(&str, Answer); 4] = [
        ("it ignores ranges", |request| Reply::new("200 OK", &archive(&request.path)).header("ETag", TAG)),
        ("it has another file now", |request| Reply::file(request, &archive(&request.path), "\"second\"")),
        ("it sends another part", |request| match request.range {
            Some(_) => Reply::new("206 Partial Content", b"xyz").header("Content-Range", "bytes 0-2/3"),
            None => orderly(request),
        }),
        ("its file is shorter now", |request| match request.range {
            Some(_) => Reply::new("416 Range Not Satisfiable", b""),
            None => orderly(request),
        }),
    ];
    for (what, answer) in begun_anew {
        let server = Server::start(move |request| match request.earlier {
            // Other bytes than those of the archive: none of them may stay.
            0 => Reply::new("200 OK", &vec![b'x'; archive(&request.path).len()]).header("ETag", TAG).cut(70),
            _ => answer(request),
        });
        let place = Place::new();
        let output = place.fetch(&server, &[]);
        assert_eq!(code(&output), 0, "{what}: {}", stderr(&output));
        place.assert_complete();
        assert_eq!(server.ranges(REVIEWS)[1].as_deref(), Some("bytes=70-"), "{what}");
    }

    // Without a tag or a date of which the server could tell that the file is the same, no part is asked for.
    let server = Server::start(|request| match request.earlier {
        0 => Reply::new("200 OK", &archive(&request.path)).header("ETag", "W/\"weak\"").cut(70),
        _ => Reply::new("200 OK", &archive(&request.path)),
    });
    let place = Place::new();
    place.assert_fetched(&place.fetch(&server, &[]));
    assert_eq!(server.ranges(REVIEWS), [None, None]);
}

#[test]
fn a_silent_server_is_given_up_and_asked_again() {
    let server = Server::start(|request| match request.earlier {
        0 if request.path.ends_with(REVIEWS) => orderly(request).cut(50).silent(20),
        _ => orderly(request),
    });
    let place = Place::new();
    let output = place.fetch(&server, &["--timeout=10"]);
    place.assert_fetched(&output);
    assert!(stderr(&output).contains("broke off behind 50 bytes of"), "{}", stderr(&output));
    assert_eq!(server.ranges(REVIEWS), [None, Some("bytes=50-".to_owned())]);
}

/// Sends half of the second archive and is then silent, the first time.
fn halfway(request: &Request) -> Reply {
    match request.earlier {
        0 if request.path.ends_with(METADATA) => orderly(request).cut(400).silent(30),
        _ => orderly(request),
    }
}

#[test]
fn a_process_that_is_killed_leaves_what_the_next_goes_on_with() {
    let (place, server) = (Place::new(), Server::start(halfway));
    let mut child = place.spawn(&server, &[]);
    let part = place.path("dataset/Amazon_Beauty.part").join(format!("{METADATA}.part"));
    wait_until("half of an archive", || length(&part) == 400);
    // Meanwhile nobody else works in the folder.
    let sentence = refusal(&place.fetch(&server, &[]));
    assert!(sentence.contains("expected the folder to itself, found another process at work in it"), "{sentence}");
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(!place.path("dataset/Amazon_Beauty").exists());
    place.assert_fetched(&place.fetch(&server, &[]));
    assert_eq!(server.ranges(REVIEWS), [None], "what was complete is not fetched again");
    assert_eq!(server.ranges(METADATA), [None, Some("bytes=400-".to_owned())]);
}

#[test]
fn a_signal_ends_it_with_an_exit_code_of_its_own_and_it_can_go_on() {
    let (place, server) = (Place::new(), Server::start(halfway));
    let child = place.spawn(&server, &["--timeout=10"]);
    let part = place.path("dataset/Amazon_Beauty.part").join(format!("{METADATA}.part"));
    wait_until("half of an archive", || length(&part) == 400);
    signal(&child, "INT");
    let output = child.wait_with_output().expect("ended");
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert!(
        stderr(&output).ends_with("dif-sr: interrupted; run the same command again to go on\n"),
        "{}",
        stderr(&output)
    );
    place.assert_fetched(&place.fetch(&server, &[]));
    assert_eq!(server.ranges(METADATA), [None, Some("bytes=400-".to_owned())]);
}

#[test]
fn archives_are_held_to_the_sums_that_are_given() {
    let server = Server::start(orderly);
    let place = Place::new();
    place.assert_fetched(&place.fetch(&server, &[]));
    // The record of one copy holds the next one.
    let sums = place.path("dataset/Amazon_Beauty/source.json").display().to_string();
    let second = Place::new();
    second.assert_fetched(&second.fetch(&server, &["--sums", &sums]));

    let third = Place::new();
    let record = json(&fs::read_to_string(&sums).expect("a record"));
    let sum = record["archives"][1]["sha256"].as_str().expect("a sum").to_owned();
    let other = record["archives"][0]["sha256"].as_str().expect("a sum").to_owned();
    fs::write(third.path("one.sums"), format!("{sum}  x/{METADATA}\n")).expect("written");
    let sentence = refusal(&third.fetch(&server, &["--sums=one.sums"]));
    assert!(sentence.contains(&format!("found none of {REVIEWS}")), "{sentence}");
    let of_both = |sum: &str| format!("# of today\n{sum} *{METADATA}\n{other}  x/{REVIEWS}\n");
    fs::write(third.path("bad.sums"), of_both(&"0".repeat(64))).expect("written");
    let sentence = refusal(&third.fetch(&server, &["--sums=bad.sums"]));
    let expected =
        format!("{}/{METADATA}: expected SHA-256 {}, as bad.sums says, found {sum}", server.address, "0".repeat(64));
    assert!(sentence.starts_with(&expected), "{sentence}");
    assert_eq!(names(&third.path("dataset")), ["Amazon_Beauty.part"]);
    fs::write(third.path("good.sums"), of_both(&sum.to_uppercase())).expect("written");
    third.assert_fetched(&third.fetch(&server, &["--sums=good.sums"]));
    assert_eq!(server.ranges(METADATA).len(), 4, "what was not as it must be is fetched again");
    let sentence = refusal(&third.fetch(&server, &["--sums=bad.sums"]));
    assert!(sentence.contains("as bad.sums says"), "{sentence}");
}

#[test]
fn toys_and_sports_have_the_columns_of_their_own() {
    let server = Server::start(|request| {
        let name = if request.path.contains("/reviews_") { "reviews_Beauty_5.json" } else { "meta_Beauty.json" };
        Reply::file(request, &gzip(&fixture(name), Compression::default()), TAG)
    });
    for (name, dataset, header) in [
        ("amazon-toys", "Amazon_Toys_and_Games", "item_id title price sales_type sales_rank brand categories"),
        ("amazon-sports", "Amazon_Sports_and_Outdoors", "item_id title price brand categories sales_type sales_rank"),
    ] {
        let place = Place::new();
        let output = place.run(&["data", "fetch", name, "--from", &server.address]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let items =
            fs::read_to_string(place.path("dataset").join(dataset).join(format!("{dataset}.item"))).expect("items");
        let columns: Vec<&str> =
            items.lines().next().expect("a header").split('\t').map(|f| f.split(':').next().unwrap_or(f)).collect();
        assert_eq!(columns.join(" "), header);
        let config = root().join("configs").join(format!("{}.yaml", dataset.to_lowercase())).display().to_string();
        let output = place.run(&["data", "inspect", "--data_path=dataset", "--config_files", &config]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    assert!(server.requests().iter().any(|r| r.path == "/reviews_Sports_and_Outdoors_5.json.gz"));
}
