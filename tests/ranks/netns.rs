//! Two hosts, which are two network namespaces of this one with a link between them alone, and a rank in each.
//!
//! Needs root and iproute2, so that it runs where `DIF_SR_NETNS=required` asks for it.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

use super::common::place::{Place, sentence, text, wait_until};
use super::common::{left_out, required};
use super::faults::{KEYS, SOON};
use super::launch::{Bits, resume, train};

static IS_WANTED: Lazy<bool> = Lazy::new(|| {
    let wanted = required("DIF_SR_NETNS");
    if !wanted {
        left_out("no DIF_SR_NETNS=required");
    }
    wanted
});

/// The link's end in each namespace.
const INTERFACE: &str = "trusted0";

/// Two namespaces, which end with it.
struct Hosts([String; 2]);

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is there");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Hosts {
    fn new(of: &str) -> Self {
        let hosts = Self(["a", "b"].map(|end| format!("dif-sr-{of}-{}{end}", std::process::id())));
        hosts.0.iter().for_each(|host| _ = ip(&format!("netns add {host}")));
        let [first, second] = &hosts.0;
        ip(&format!("link add {INTERFACE} netns {first} type veth peer name {INTERFACE} netns {second}"));
        for (rank, host) in hosts.0.iter().enumerate() {
            ip(&format!("-n {host} address add {}/24 dev {INTERFACE}", Self::address(rank)));
            ip(&format!("-n {host} link set {INTERFACE} up"));
            ip(&format!("-n {host} link set lo up"));
        }
        hosts
    }

    fn address(rank: usize) -> String {
        format!("10.77.0.{}", rank + 1)
    }

    /// A rank on its host.
    fn rank(&self, place: &Place, rank: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.current_dir(place.folder.path()).args(["netns", "exec", &self.0[rank]]);
        command.arg(assert_cmd::cargo::cargo_bin!("dif-sr")).args(["train", "--ranks=env"]).args(arguments);
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2");
        command.env("MASTER_ADDR", Self::address(0)).env("MASTER_PORT", "29500");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn spawn(&self, place: &Place, arguments: &[&str]) -> [Child; 2] {
        let start = |rank: usize| {
            let mut command = self.rank(place, rank, arguments);
            command.env("GLOO_SOCKET_IFNAME", INTERFACE).spawn().expect("ip runs")
        };
        [0, 1].map(start)
    }

    /// Bytes that have come to a host over the link.
    fn received(&self, rank: usize) -> u64 {
        let file = format!("netns exec {} cat /sys/class/net/{INTERFACE}/statistics/rx_bytes", self.0[rank]);
        ip(&file).trim().parse().expect("a number")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for host in &self.0 {
            _ = Command::new("ip").args(["netns", "delete", host]).status();
        }
    }
}

#[test]
fn ranks_on_two_hosts_are_threads_and_need_a_named_interface() {
    if !*IS_WANTED {
        return;
    }
    let (hosts, place) = (Hosts::new("bits"), Place::new(&KEYS));
    let keys = [&place.keys[..], &["--epochs=2", "--out=hosts"]].concat();
    for rank in [0, 1] {
        let told = sentence(2, &hosts.rank(&place, rank, &keys).output().expect("ip runs"));
        let expected = "ranks that meet at 10.77.0.1:29500 need a network, and none is named; set GLOO_SOCKET_IFNAME";
        assert!(told.contains(expected), "{told}");
    }
    assert!(!place.path("hosts").exists());
    let before = [0, 1].map(|rank| hosts.received(rank));
    for child in hosts.spawn(&place, &keys) {
        let output = child.wait_with_output().expect("a child");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    for (rank, before) in before.into_iter().enumerate() {
        let received = hosts.received(rank) - before;
        println!("rank {rank} has received {received} bytes over the link");
        // 38 steps, in each of which a rank gets the gradient of half of 31 items of 16 numbers, and more.
        assert!(received > 38 * 31 * 16 * 4 / 2, "rank {rank}: {received}");
    }
    let whole = Place { keys: [&place.keys[..], &["--epochs=2"]].concat(), ..place };
    train(&whole, "alone", 1, 2);
    Bits::of(&whole.path("hosts")).assert_equal(&Bits::of(&whole.path("alone")), "two hosts");
}

#[test]
fn a_host_whose_link_goes_down_ends_the_ranks_in_bounded_time_and_the_run_goes_on_to_the_bit() {
    const SECONDS: u64 = 10;
    if !*IS_WANTED {
        return;
    }
    let (hosts, place) = (Hosts::new("down"), Place::new(&KEYS));
    train(&place, "whole", 1, 2);
    let children =
        hosts.spawn(&place, &[&place.keys[..], &["--out=run", &format!("--ranks_timeout={SECONDS}")]].concat());
    let log = || std::fs::read_to_string(place.path("run/log.txt")).unwrap_or_default();
    wait_until("training", || log().contains("epoch 1 training") && place.path("run/last.safetensors").exists());
    let begin = Instant::now();
    ip(&format!("-n {} link set {INTERFACE} down", hosts.0[1]));
    for (rank, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().expect("a child");
        let took = begin.elapsed();
        let told = sentence(2, &output);
        println!("rank {rank} after {:.1} s: {told}", took.as_secs_f64());
        assert!(told.contains("another rank has ended or does not answer"), "{told}");
        assert!(took < Duration::from_secs(SECONDS + SOON), "{took:?}");
    }
    assert!(text(&place.path("run/log.txt")).contains("stopped: "), "rank 0 has noted its end");
    resume(&place, "run", 2, 1, &[]);
    Bits::of(&place.path("run")).assert_equal(&Bits::of(&place.path("whole")), "a link that went down");
}
