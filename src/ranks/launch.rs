//! How a launcher tells a process which rank it is: `torchrun`, `srun`, or variables that somebody sets.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::{Error, Result};

/// Who starts the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// `torchrun --no-python`, or anybody who sets `RANK`, `WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`.
    Env,
    /// `srun`, by the variables of its job step.
    Slurm,
}

/// Which rank this process is, and where it meets the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// From 0.
    pub rank: usize,
    /// How many ranks there are.
    pub size: usize,
    /// Where they meet.
    pub meeting: Meeting,
    /// The network interface that the ranks exchange over; `None` for loopback.
    pub interface: Option<String>,
    /// How long a rank waits for another, at the start and in every exchange.
    pub timeout: Duration,
}

/// Where ranks find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Meeting {
    /// A new file in a folder that all of them see.
    File(PathBuf),
    /// An address.
    Address {
        /// A name or a number.
        host: String,
        /// Of TCP.
        port: u16,
        /// Whether this rank listens there: rank 0, unless the launcher itself does.
        serves: bool,
    },
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Address { host, port, .. } => write!(f, "{host}:{port}"),
        }
    }
}

/// The environment of a process.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Launcher {
    const fn name(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Slurm => "slurm",
        }
    }

    /// How ranks are started so that they have their variables.
    const fn how(self) -> &'static str {
        match self {
            Self::Env => "start the ranks by torchrun --no-python, or set it at each of them",
            Self::Slurm => {
                "start the ranks by srun, in a job of Slurm or as one; without Slurm use torchrun --no-python and --ranks=env"
            }
        }
    }
}

impl Launch {
    /// Reads what the launcher has set. Ranks meet in `file` where it is given, else at `MASTER_ADDR` and `MASTER_PORT`, which
    /// `srun` leaves to be derived from its job.
    ///
    /// # Errors
    /// A variable that is missing or no number; ranks on several hosts without `GLOO_SOCKET_IFNAME`; a file of an earlier
    /// start.
    pub fn read(launcher: Launcher, file: Option<PathBuf>, timeout: Duration, of: Environment) -> Result<Self> {
        let number = |names: &[&str]| number(launcher, names, of);
        let (rank, size) = match launcher {
            Launcher::Env => (number(&["RANK"])?, number(&["WORLD_SIZE"])?),
            Launcher::Slurm => (number(&["SLURM_PROCID"])?, number(&["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"])?),
        };
        if rank >= size {
            return Err(Error::new(format!("expected a rank below the number of ranks, found rank {rank} of {size}"))
                .hint("number the ranks from 0"));
        }
        let interface = of("GLOO_SOCKET_IFNAME").filter(|name| !name.is_empty());
        let one_host = one_host(launcher, of);
        let meeting = match file {
            Some(file) => Meeting::File(fresh(file, timeout)?),
            None => {
                let (host, port) = match launcher {
                    Launcher::Env => (named(launcher, &["MASTER_ADDR"], of)?, port(launcher, of)?),
                    Launcher::Slurm => (slurm_host(one_host, of)?, slurm_port(of)?),
                };
                // torchrun has a store of its own there.
                let serves = rank == 0 && of("TORCHELASTIC_USE_AGENT_STORE").is_none_or(|value| value != "True");
                Meeting::Address { host, port, serves }
            }
        };
        let on_loopback = match &meeting {
            Meeting::File(_) => one_host != Some(false),
            Meeting::Address { host, .. } => one_host == Some(true) || is_loopback(host),
        };
        if interface.is_none() && !on_loopback && size > 1 {
            return Err(Error::new(format!("ranks that meet at {meeting} need a network, and none is named"))
                .hint("set GLOO_SOCKET_IFNAME to the interface that the ranks trust (docs/scale.md)"));
        }
        Ok(Self { rank, size, meeting, interface, timeout })
    }
}

/// Which of the ranks of its own host a process is, from 0, as any launcher says; 0 where none does.
pub fn local_rank(of: Environment) -> usize {
    let names = ["LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"];
    names.iter().find_map(|name| of(name)?.trim().parse().ok()).unwrap_or(0)
}

/// Refuses a process that a launcher has started as one of several, and that was not told so: it would be one of several
/// equal runs.
///
/// # Errors
/// It is one.
pub fn refuse_launched(of: Environment) -> Result<()> {
    let launchers = [
        ("torchrun, or another launcher", ["RANK", "WORLD_SIZE"], "--ranks=env"),
        ("srun", ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"], "--ranks=slurm"),
        ("mpirun", ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"], "--ranks=mpi"),
        ("mpirun", ["PMI_RANK", "PMI_SIZE"], "--ranks=mpi"),
    ];
    for (launcher, [rank, size], flag) in launchers {
        let (Some(rank), Some(size)) = (of(rank), of(size)) else { continue };
        if size.trim().parse().is_ok_and(|size: usize| size > 1) {
            return Err(Error::new(format!(
                "{launcher} has started this process as rank {rank} of {size}, and each of them would be a run of its own"
            ))
            .hint(format!("give {flag} for one run of all of them, or --ranks=none for {size} runs")));
        }
    }
    Ok(())
}

/// Refuses a process that is alone because no mpirun has started it: it would train without the other ranks and not say so.
///
/// # Errors
/// No launcher of MPI has set its variables.
pub(super) fn expect_mpirun(of: Environment) -> Result<()> {
    if ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"].iter().any(|name| of(name).is_some()) {
        return Ok(());
    }
    Err(Error::new(
        "--ranks=mpi expects the variable OMPI_COMM_WORLD_SIZE, PMI_SIZE or PMIX_RANK of a launcher, found none",
    )
    .hint("start the ranks by `mpirun -n R dif-sr train --ranks=mpi …` (docs/scale.md), or leave --ranks=mpi out"))
}

fn named(launcher: Launcher, names: &[&str], of: Environment) -> Result<String> {
    names.iter().find_map(|name| of(name)).filter(|value| !value.is_empty()).ok_or_else(|| {
        Error::new(format!("--ranks={} expects the variable {}, found none", launcher.name(), names.join(" or ")))
            .hint(format!("{} (docs/scale.md)", launcher.how()))
    })
}

fn number<T: std::str::FromStr>(launcher: Launcher, names: &[&str], of: Environment) -> Result<T> {
    let text = named(launcher, names, of)?;
    text.trim().parse().map_err(|_| {
        Error::new(format!("expected a number in the variable {}, found `{text}`", names.join(" or ")))
            .hint("start the ranks by torchrun --no-python or srun, or correct it")
    })
}

fn port(launcher: Launcher, of: Environment) -> Result<u16> {
    let port: i64 = number(launcher, &["MASTER_PORT"], of)?;
    u16::try_from(port).ok().filter(|&port| port > 0).ok_or_else(|| {
        Error::new(format!("expected a port from 1 to {} in the variable MASTER_PORT, found {port}", u16::MAX))
            .hint("choose one that is free at rank 0, above 1023")
    })
}

/// Whether the launcher says that all ranks are on one host; `None` where it says nothing. A job of Slurm may have other hosts
/// than the ranks that torchrun starts in it.
fn one_host(launcher: Launcher, of: Environment) -> Option<bool> {
    let number = |name: &str| of(name)?.trim().parse::<usize>().ok();
    match launcher {
        Launcher::Slurm => Some(number("SLURM_STEP_NUM_NODES").or_else(|| number("SLURM_NNODES"))? == 1),
        Launcher::Env => Some(number("LOCAL_WORLD_SIZE")? == number("WORLD_SIZE")?),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// `MASTER_ADDR`, loopback on one host, else the first host of the job step.
fn slurm_host(one_host: Option<bool>, of: Environment) -> Result<String> {
    if let Some(host) = of("MASTER_ADDR").filter(|host| !host.is_empty()) {
        return Ok(host);
    }
    if one_host == Some(true) {
        return Ok("127.0.0.1".to_owned());
    }
    named(Launcher::Slurm, &["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"], of).map(|list| first_host(&list))
}

/// The first of Slurm's list of hosts: `gpu-07` of `gpu-[07-09,12],login`.
fn first_host(list: &str) -> String {
    let first = list.split_once('[').filter(|(head, _)| !head.contains(',')).map(|(head, tail)| {
        let (numbers, rest) = tail.split_once(']').unwrap_or((tail, ""));
        let number = numbers.split([',', '-']).next().unwrap_or_default();
        format!("{head}{number}{}", rest.split(',').next().unwrap_or_default())
    });
    first.unwrap_or_else(|| list.split(',').next().unwrap_or_default().to_owned())
}

/// `MASTER_PORT`, or one that follows from the job step: below those that a system gives away by itself.
fn slurm_port(of: Environment) -> Result<u16> {
    if of("MASTER_PORT").is_some() {
        return port(Launcher::Slurm, of);
    }
    let job: u64 = number(Launcher::Slurm, &["SLURM_JOB_ID"], of)?;
    let step = of("SLURM_STEP_ID").and_then(|step| step.parse().ok()).unwrap_or(0_u64);
    Ok(20_000 + ((job + 7919 * step) % 12_000) as u16)
}

/// The file, unless it is older than this start: an earlier start's ranks would be looked for in vain.
fn fresh(file: PathBuf, timeout: Duration) -> Result<PathBuf> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        return Err(Error::new("expected a folder that all ranks see, for the file in which they meet, found none")
            .at(folder)
            .hint("make it, or name another one"));
    }
    let age = file.metadata().and_then(|file| file.modified()).ok().and_then(|time| time.elapsed().ok());
    if age.is_some_and(|age| age > timeout) {
        return Err(Error::new("expected a file that is new at every start, found an older one")
            .at(file)
            .hint("name another one, new at every start"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(launcher: Launcher, variables: &[(&str, &str)]) -> Result<Launch> {
        let of = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        Launch::read(launcher, None, Duration::from_secs(9), &of)
    }

    #[test]
    fn a_file_to_meet_in_needs_its_folder() {
        let of = |name: &str| PLAIN.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
        let launch = Launch::read(Launcher::Env, Some("/nowhere/file".into()), Duration::from_secs(9), &of);
        assert!(launch.unwrap_err().to_string().starts_with("/nowhere: expected a folder that all ranks see"));
    }

    fn address(host: &str, port: u16, serves: bool) -> Meeting {
        Meeting::Address { host: host.to_owned(), port, serves }
    }

    const PLAIN: [(&str, &str); 4] =
        [("RANK", "1"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", "29500")];

    #[test]
    fn plain_variables_name_the_rank_and_the_place() {
        let launch = read(Launcher::Env, &PLAIN).unwrap_or_else(|e| panic!("{e}"));
        let expected = Launch {
            rank: 1,
            size: 4,
            meeting: address("127.0.0.1", 29500, false),
            interface: None,
            timeout: Duration::from_secs(9),
        };
        assert_eq!(launch, expected);
    }

    #[test]
    fn rank_0_serves_unless_torchrun_does() {
        let first = [&[("RANK", "0")], &PLAIN[1..]].concat();
        let serves = |variables: &[(&str, &str)]| {
            let launch = read(Launcher::Env, variables).unwrap_or_else(|e| panic!("{e}"));
            launch.meeting == address("127.0.0.1", 29500, true)
        };
        assert!(serves(&first));
        assert!(!serves(&[&first[..], &[("TORCHELASTIC_USE_AGENT_STORE", "True")]].concat()));
        assert!(serves(&[&first[..], &[("TORCHELASTIC_USE_AGENT_STORE", "False")]].concat()));
    }

    #[test]
    fn the_first_host_of_a_job_step_is_where_its_ranks_meet() {
        let step =
            [("SLURM_PROCID", "3"), ("SLURM_STEP_NUM_TASKS", "8"), ("SLURM_JOB_ID", "12001"), ("SLURM_STEP_ID", "1")];
        let one = read(Launcher::Slurm, &[&step[..], &[("SLURM_STEP_NUM_NODES", "1")]].concat());
        assert_eq!(one.unwrap_or_else(|e| panic!("{e}")).meeting, address("127.0.0.1", 27_920, false));
        let two = [("SLURM_STEP_NUM_NODES", "2"), ("SLURM_STEP_NODELIST", "gpu-[07-09,12],login")];
        let several = [&step[..], &two].concat();
        let told = read(Launcher::Slurm, &several).expect_err("no interface is named").to_string();
        assert!(told.contains("gpu-07:27920") && told.contains("GLOO_SOCKET_IFNAME"), "{told}");
        let launch = read(Launcher::Slurm, &[&several[..], &[("GLOO_SOCKET_IFNAME", "ib0")]].concat());
        let launch = launch.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((launch.meeting, launch.interface.as_deref()), (address("gpu-07", 27_920, false), Some("ib0")));
        for (list, first) in [("n1", "n1"), ("n1,n[2-3]", "n1"), ("a[1,3]", "a1"), ("a[001-128]-ib,b", "a001-ib")] {
            assert_eq!(first_host(list), first, "{list}");
        }
    }

    #[test]
    fn the_hosts_are_those_of_the_launcher_and_not_of_the_job_around_it() {
        let variables = |local: &'static str, nodes: &'static str| {
            let named = [("MASTER_ADDR", "gpu-07"), ("LOCAL_WORLD_SIZE", local), ("SLURM_NNODES", nodes)];
            [&PLAIN[..2], &PLAIN[3..], &named].concat()
        };
        let one = read(Launcher::Env, &variables("4", "2"));
        assert!(one.is_ok_and(|launch| launch.interface.is_none()), "all four ranks are on one host of the job");
        let told = read(Launcher::Env, &variables("2", "1")).expect_err("two hosts, a job each").to_string();
        assert!(told.contains("GLOO_SOCKET_IFNAME"), "{told}");
    }

    #[test]
    fn what_is_missing_or_no_number_is_told() {
        for (i, (name, _)) in PLAIN.iter().enumerate() {
            let mut variables = PLAIN.to_vec();
            variables.remove(i);
            let told = read(Launcher::Env, &variables).expect_err("one is missing").to_string();
            assert!(told.contains(&format!("expects the variable {name}, found none")), "{told}");
        }
        let told = read(Launcher::Env, &[&[("RANK", "first")], &PLAIN[1..]].concat()).expect_err("a word").to_string();
        assert!(told.contains("a number in the variable RANK, found `first`"), "{told}");
        let told = read(Launcher::Env, &[&[("RANK", "4")], &PLAIN[1..]].concat()).expect_err("too many").to_string();
        assert!(told.contains("found rank 4 of 4"), "{told}");
        for port in ["99999", "0", "-1"] {
            let told = read(Launcher::Env, &[&PLAIN[..3], &[("MASTER_PORT", port)]].concat()).expect_err("no port");
            let expected = format!("a port from 1 to 65535 in the variable MASTER_PORT, found {port}; ");
            assert!(told.to_string().contains(&expected), "{told}");
        }
        let told = read(Launcher::Slurm, &PLAIN).expect_err("no Slurm").to_string();
        assert!(
            told.contains("the variable SLURM_PROCID, found none; start the ranks by srun") && !told.contains("set it"),
            "{told}"
        );
    }

    #[test]
    fn every_launcher_says_which_rank_of_its_host_a_process_is() {
        for name in ["LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"] {
            assert_eq!(local_rank(&|asked| (asked == name).then(|| "3".to_owned())), 3, "{name}");
        }
        assert_eq!(local_rank(&|_| None), 0);
    }

    #[test]
    fn one_rank_of_mpi_needs_a_launcher_too() {
        let told = expect_mpirun(&|_| None).expect_err("no launcher").to_string();
        assert!(told.contains("found none; start the ranks by `mpirun -n R "), "{told}");
        for name in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"] {
            assert!(expect_mpirun(&|asked| (asked == name).then(|| "1".to_owned())).is_ok(), "{name}");
        }
    }

    #[test]
    fn several_equal_runs_are_refused_and_one_is_not() {
        let refused = |variables: &[(&str, &str)]| {
            let of =
                |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
            refuse_launched(&of).err().map(|e| e.to_string())
        };
        assert_eq!(refused(&[]), None);
        assert_eq!(refused(&[("RANK", "0"), ("WORLD_SIZE", "1")]), None);
        // A batch script has the number of tasks of its job, and is one process.
        assert_eq!(refused(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]), None);
        let told = refused(&PLAIN).expect("four ranks");
        assert!(told.contains("rank 1 of 4") && told.contains("--ranks=env"), "{told}");
        let told = refused(&[("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2")]).expect("two ranks");
        assert!(told.contains("srun") && told.contains("--ranks=slurm"), "{told}");
        for mpi in ["OMPI_COMM_WORLD_", "PMI_"].map(|mpi| ["RANK", "SIZE"].map(|name| format!("{mpi}{name}"))) {
            let told = refused(&[(&*mpi[0], "1"), (&*mpi[1], "2")]).expect("two ranks");
            assert!(told.contains("mpirun") && told.contains("--ranks=mpi"), "{told}");
        }
    }
}
