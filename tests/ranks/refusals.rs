//! Starts that are refused, each in one sentence at every rank, and how ranks meet over TCP.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::common::place::{Place, sentence};
use super::faults::SOON;
use super::launch::{Bits, outputs, rank, told, train};

const KEYS: [&str; 2] = ["--compute_path=fast", "--epochs=1"];

/// A port that is free now, and below those from which the system takes ports for others.
fn free_port() -> String {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let mut ports = first..32_000;
    ports.find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok()).expect("a free port").to_string()
}

#[test]
fn a_launcher_without_ranks_is_refused_unless_it_is_meant() {
    let place = Place::new(&KEYS);
    for command in ["train", "reproduce"] {
        let mut one = place.command(&[&[command], &place.keys[..], &["--out=run"]].concat());
        let output = one.env("RANK", "1").env("WORLD_SIZE", "2").output().expect("the binary runs");
        let told = sentence(2, &output);
        assert!(
            told.contains("started this process as rank 1 of 2, and each of them would be a run of its own"),
            "{told}"
        );
        assert!(!place.path("run").exists());
    }
    let mut one = place.command(&[&["train", "--ranks=none", "--out=run"], &place.keys[..]].concat());
    let output = one.env("RANK", "1").env("WORLD_SIZE", "2").output().expect("the binary runs");
    assert!(output.status.success(), "{}", told(&output));
}

/// One of two ranks that meet in a file.
fn start(place: &Place, number: usize, more: &[&str]) -> Child {
    let meeting = ["--out=run", "--ranks_file=meeting", "--ranks_timeout=300"];
    let mut command = rank(place, number, 2, &[&place.keys[..], &meeting, more].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

#[test]
fn ranks_of_different_runs_are_refused() {
    for (key, expected) in [
        ("--seed=7", "the key seed is `2020` at rank 0 and `7` at rank 1"),
        ("--learning_rate=0.5", "the key learning_rate is `0.01` at rank 0 and `0.5` at rank 1"),
        ("--threads=2", "the number of threads is `1` at rank 0 and `2` at rank 1"),
        ("--user_inter_num_interval=[8,inf)", "the key user_inter_num_interval is"),
    ] {
        let place = Place::new(&KEYS);
        for output in outputs(vec![start(&place, 0, &[]), start(&place, 1, &[key])]) {
            let told = sentence(2, &output);
            assert!(told.contains("the ranks are not of one run: ") && told.contains(expected), "{key}: {told}");
        }
        assert!(!place.path("run").exists(), "{key}");
    }
}

#[test]
fn what_one_rank_cannot_do_ends_all() {
    let place = Place::new(&KEYS);
    std::fs::create_dir(place.path("elsewhere")).expect("a folder");
    let outputs = outputs(vec![start(&place, 0, &[]), start(&place, 1, &["--data_path=elsewhere"])]);
    let [first, second] = [&outputs[0], &outputs[1]].map(|output| sentence(2, output));
    assert!(first.starts_with("rank 1 has ended: elsewhere/toy"), "{first}");
    assert!(second.starts_with("rank 1: elsewhere/toy"), "{second}");
    assert!(!place.path("run").exists());
}

#[test]
fn a_mistake_of_one_rank_is_told_there_before_the_others_have_come_and_then_to_them() {
    let damaged = |place: &Place| {
        std::fs::create_dir_all(place.path("damaged/toy")).expect("a folder");
        std::fs::write(place.path("damaged/toy/toy.inter"), "user_id:token\n").expect("written");
    };
    for (mistake, expected, at_once) in [
        ("--hidden_sise=8", "unknown key `hidden_sise`", true),
        ("--config_files=none.yaml", "none.yaml: ", true),
        ("--data_path=elsewhere", "elsewhere/toy/toy.inter: cannot read the file", true),
        ("--data_path=damaged", "damaged/toy/toy.inter", false),
    ] {
        let place = Place::new(&KEYS);
        damaged(&place);
        let mut second = start(&place, 1, &[mistake]);
        let mut told = String::new();
        let first = (!at_once).then(|| start(&place, 0, &[]));
        let mut lines = BufReader::new(second.stderr.take().expect("piped"));
        lines.read_line(&mut told).expect("a line");
        assert!(told.starts_with("dif-sr: rank 1: ") && told.contains(expected), "{mistake}: {told}");
        assert_eq!(told.contains("it waits 300 s at most to tell the other ranks"), at_once, "{mistake}: {told}");
        let begin = Instant::now();
        let first = first.unwrap_or_else(|| start(&place, 0, &[])).wait_with_output().expect("a child");
        let first = sentence(2, &first);
        assert!(first.starts_with("rank 1 has ended: ") && first.contains(expected), "{mistake}: {first}");
        assert_eq!(second.wait().expect("a child").code(), Some(2));
        assert!(begin.elapsed() < Duration::from_secs(SOON), "{mistake}: {:?}", begin.elapsed());
        let mut rest = String::new();
        lines.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "", "{mistake}: it is told once");
        assert!(!place.path("run").exists(), "{mistake}");
    }
}

/// As plain variables and as `srun` number them, with the ranks at a port of this host.
#[test]
fn ranks_meet_over_tcp_as_variables_or_srun_say() {
    let place = Place::new(&KEYS);
    train(&place, "alone", 1, 2);
    let alone = Bits::of(&place.path("alone"));
    for (how, names) in [("env", ["RANK", "WORLD_SIZE"]), ("slurm", ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"])] {
        let (port, flag, out) = (free_port(), format!("--ranks={how}"), format!("--out={how}"));
        let start = |number: usize| {
            let mut command = place.command(&[&["train", &flag, &out], &place.keys[..]].concat());
            command.env(names[0], number.to_string()).env(names[1], "2").env("MASTER_PORT", &port);
            command.env("MASTER_ADDR", "127.0.0.1").stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("the binary runs")
        };
        for output in outputs(vec![start(0), start(1)]) {
            assert!(output.status.success(), "{how}: {}", told(&output));
        }
        Bits::of(&place.path(how)).assert_equal(&alone, how);
    }
}

#[test]
fn a_port_that_is_taken_is_told() {
    let place = Place::new(&KEYS);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let mut command = rank(&place, 0, 2, &[&place.keys[..], &["--out=run"]].concat());
    let output = command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", &port).output().expect("the binary runs");
    let told = sentence(2, &output);
    assert!(told.contains(&format!("rank 0 cannot listen at 127.0.0.1:{port}: Address already in use")), "{told}");
}
