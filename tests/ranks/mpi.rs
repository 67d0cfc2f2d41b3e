//! Ranks that mpirun starts, on real MPI libraries: the bits of gloo and of one process, and the ends of ranks.
//!
//! Left out where there is no mpirun; `DIF_SR_MPI=required` asks for Open MPI's and MPICH's (Debian: openmpi-bin, mpich).

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

use super::WHOLE;
use super::common::place::{Place, sentence, text, wait_until};
use super::common::{left_out, required};
use super::faults::{KEYS, SOON, goes_on};
use super::launch::{Bits, TIMEOUT, told, train};

/// A launcher with its library's file, and the variable in which it numbers ranks.
struct Mpi {
    name: &'static str,
    options: &'static [&'static str],
    library: &'static str,
    number: &'static str,
}

static MPIS: Lazy<Vec<Mpi>> = Lazy::new(|| {
    let all = [
        Mpi {
            name: "mpirun.openmpi",
            options: &["--allow-run-as-root", "--oversubscribe"],
            library: "libmpi.so.40",
            number: "OMPI_COMM_WORLD_RANK",
        },
        Mpi { name: "mpirun.mpich", options: &[], library: "libmpich.so.12", number: "PMI_RANK" },
    ];
    let is_there = |mpi: &Mpi| Command::new(mpi.name).arg("--version").output().is_ok();
    let (there, missing): (Vec<Mpi>, Vec<Mpi>) = all.into_iter().partition(is_there);
    for mpi in missing {
        assert!(!required("DIF_SR_MPI"), "there is no {}", mpi.name);
        left_out(&format!("no {}", mpi.name));
    }
    there
});

impl Mpi {
    fn command(&self, place: &Place, ranks: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.name);
        command.current_dir(place.folder.path()).args(self.options).args(["-n", &ranks.to_string()]);
        command.arg(assert_cmd::cargo::cargo_bin!("dif-sr")).args(["train", "--ranks=mpi"]).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn spawn_training(&self, place: &Place, timeout: &str) -> Child {
        let arguments = [&place.keys[..], &["--out=run", timeout]].concat();
        let child = self.command(place, 3, &arguments).spawn().expect("mpirun runs");
        let log = || fs::read_to_string(place.path("run/log.txt")).unwrap_or_default();
        wait_until("training", || log().contains("epoch 1 training") && place.path("run/last.safetensors").exists());
        child
    }

    /// The process of a rank that works in this place, or of any.
    fn process(&self, place: &Place, rank: Option<usize>) -> Option<u32> {
        let folder = fs::canonicalize(place.folder.path()).expect("a folder");
        let program = fs::canonicalize(assert_cmd::cargo::cargo_bin!("dif-sr")).expect("the binary");
        let is_rank = |process: &PathBuf| {
            let link = |name: &str| fs::read_link(process.join(name)).ok();
            let variables = fs::read(process.join("environ")).unwrap_or_default();
            let number = rank.map(|rank| format!("{}={rank}", self.number));
            let is_numbered = |number: &String| variables.split(|&byte| byte == 0).any(|one| one == number.as_bytes());
            link("cwd").as_ref() == Some(&folder)
                && link("exe").as_ref() == Some(&program)
                && number.as_ref().is_none_or(is_numbered)
        };
        let processes = fs::read_dir("/proc").expect("processes").flatten().map(|entry| entry.path());
        let found: Option<PathBuf> = processes.filter(|path| path.join("environ").exists()).find(is_rank);
        found.and_then(|path| path.file_name()?.to_str()?.parse().ok())
    }
}

#[test]
fn ranks_of_mpi_are_threads_and_ranks_of_gloo() {
    for (path, ranks, gloo) in [("--compute_path=fast", 3, (1, 3)), ("--compute_path=reference", 2, (2, 1))] {
        let place = Place::new(&[path, "--train_batch_size=200", "--epochs=2"]);
        train(&place, "gloo", gloo.0, gloo.1);
        let gloo = Bits::of(&place.path("gloo"));
        for mpi in MPIS.iter() {
            let out = format!("--out={}", mpi.name);
            let output = mpi.command(&place, ranks, &[&place.keys[..], &[&out]].concat()).output();
            let output = output.expect("mpirun runs");
            assert!(output.status.success(), "{}: {}", mpi.name, String::from_utf8_lossy(&output.stderr));
            let printed = String::from_utf8_lossy(&output.stdout);
            assert_eq!(printed.matches("best epoch").count(), 1, "{}: rank 0 alone prints the result", mpi.name);
            let what = format!("{} of {ranks}, {path}", mpi.name);
            Bits::of(&place.path(mpi.name)).assert_equal(&gloo, &what);
        }
    }
}

#[test]
fn a_rank_of_mpi_that_ends_or_stands_still_ends_the_others_and_the_run_goes_on_to_the_bit() {
    for mpi in MPIS.iter() {
        for (signal, rank, timeout) in [("KILL", 0, TIMEOUT), ("STOP", 1, 10), ("TERM", 2, TIMEOUT)] {
            let place = Place::new(&KEYS);
            let child = mpi.spawn_training(&place, &format!("--ranks_timeout={timeout}"));
            let process = mpi.process(&place, Some(rank)).expect("a rank").to_string();
            let begin = Instant::now();
            assert!(
                Command::new("kill").args([&format!("-{signal}"), &process]).status().expect("kill runs").success()
            );
            let output = child.wait_with_output().expect("a child");
            let what = format!("{}, SIG{signal} to rank {rank}", mpi.name);
            println!("{what}: {:?} after {:.1} s", output.status.code(), begin.elapsed().as_secs_f64());
            assert!(!output.status.success(), "{what}");
            assert!(begin.elapsed() < Duration::from_secs(SOON), "{what}: {:?}", begin.elapsed());
            wait_until("the end of all ranks", || mpi.process(&place, None).is_none());
            if signal == "TERM" {
                let log = text(&place.path("run/log.txt"));
                assert!(log.lines().last().unwrap_or_default().contains("stopped: interrupted "), "{what}: {log}");
            }
            goes_on(&place, (1, 3, WHOLE), &what);
        }
    }
}

#[test]
fn what_is_wrong_with_mpi_or_at_a_rank_of_it_is_told() {
    let place = Place::new(&["--compute_path=fast"]);
    let mut alone = place.command(&[&["train", "--ranks=mpi", "--out=run"], &place.keys[..]].concat());
    let refused = sentence(2, &alone.env("DIF_SR_MPI_LIBRARY", "libnone.so").output().expect("the binary runs"));
    assert!(refused.contains("expected the MPI library of a launcher, found none of libnone.so; "), "{refused}");
    for mpi in MPIS.iter() {
        let other = if mpi.library == "libmpi.so.40" { "libmpich.so.12" } else { "libmpi.so.40" };
        let keys = [&place.keys[..], &["--out=run"]].concat();
        let output = mpi.command(&place, 2, &keys).env("DIF_SR_MPI_LIBRARY", other).output().expect("mpirun runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        let expected = ["expected the 2 ranks of the launcher, found 1; ", "expected the MPI library of a launcher"];
        assert!(expected.iter().any(|expected| errors.contains(expected)), "{} on {other}: {errors}", mpi.name);
        let output = mpi.command(&place, 2, &[&keys[..], &["--hidden_sise=8"]].concat()).output().expect("mpirun runs");
        assert!(!output.status.success() && !place.path("run").exists(), "{}: {}", mpi.name, told(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains("unknown key `hidden_sise`"), "{}", mpi.name);
        // Without mpirun it would train as one process; of `mpirun -n 1` it is one.
        let mut alone = place.command(&[&["train", "--ranks=mpi"], &keys[..]].concat());
        let refused = sentence(2, &alone.env("DIF_SR_MPI_LIBRARY", mpi.library).output().expect("the binary runs"));
        assert!(refused.contains("expects the variable OMPI_COMM_WORLD_SIZE, PMI_SIZE or PMIX_RANK"), "{refused}");
        assert!(!place.path("run").exists(), "{}", mpi.name);
        let only = ["--out=only", "--epochs=1"];
        let output = mpi.command(&place, 1, &[&place.keys[..], &only].concat()).output().expect("mpirun runs");
        assert!(output.status.success(), "{}: {}", mpi.name, told(&output));
        fs::remove_dir_all(place.path("only")).expect("one run");
        // Without the flag each would be a run of its own.
        let mut command = Command::new(mpi.name);
        command.current_dir(place.folder.path()).args(mpi.options).args(["-n", "2"]);
        let output = command.arg(assert_cmd::cargo::cargo_bin!("dif-sr")).arg("train").args(&keys).output();
        let errors = String::from_utf8_lossy(&output.expect("mpirun runs").stderr).into_owned();
        assert!(errors.contains("give --ranks=mpi for one run of all of them"), "{}: {errors}", mpi.name);
    }
}
