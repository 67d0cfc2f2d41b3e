//! The folder of a sweep: what is planned, and where.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Group, State, Sweep, Task};
use crate::config::RunConfig;
use crate::run_folder::{CONFIG, TASKS, try_lock};
use crate::tensors::replace;
use crate::verdict::Expectation;
use crate::{Error, Result};

const SWEEP: &str = "sweep.yaml";
/// What a group's runs are held to.
const EXPECTATION: &str = "expectation.yaml";
/// Held while the folder's own files are written.
const LOCK: &str = "lock";
/// Names in a sweep's and in a group's folder that no data set and no configuration can have.
const RESERVED: [&str; 11] = [
    TASKS,
    EXPECTATION,
    LOCK,
    CONFIG,
    "sweep.yaml",
    "logs",
    "records",
    "report.html",
    "summary.json",
    "verdict.json",
    "..",
];

/// Whether a folder of this name would be in the way of a sweep's own files.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with(['.', '-']) || name.starts_with("seed-") || name.is_empty()
}

/// A planned sweep.
#[derive(Debug)]
pub struct SweepFolder {
    path: PathBuf,
    /// All that were ever planned, by their numbers.
    tasks: Vec<Task>,
}

/// What a plan changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Runs that were not planned before.
    pub new: usize,
    /// Runs that are not in the sweep any more.
    pub dropped: usize,
    /// Groups of which runs have begun, and which are held to another expectation than before, or to none.
    pub restated: usize,
}

impl SweepFolder {
    /// Opens a folder that was planned.
    ///
    /// # Errors
    /// No such folder, or one of another kind.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = Self::read(path)?;
        if folder.tasks.is_empty() {
            return Err(Error::new("expected at least one task, found an empty file")
                .at(path.join(TASKS))
                .hint("plan the sweep once more"));
        }
        Ok(folder)
    }

    fn read(path: &Path) -> Result<Self> {
        let file = path.join(TASKS);
        let text = fs::read_to_string(&file).map_err(|e| {
            Error::io(&file, "read the tasks of the sweep", e)
                .hint("name the folder that `dif-sr sweep plan --out` wrote")
        })?;
        let mut tasks = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let task = serde_json::from_str(line).map_err(|e| e.to_string());
            // A group's name is its place.
            let inside = |task: &Task| !task.group.split('/').any(is_reserved);
            let task = task.and_then(|task| {
                inside(&task).then_some(task).ok_or_else(|| "a group outside of the sweep".to_owned())
            });
            tasks.push(task.map_err(|e| {
                Error::new(format!("expected a task, found {e}")).at(&file).line(i as u64 + 1).hint(
                    "the file is damaged: remove it, and plan the sweep once more, which finds the runs that there are",
                )
            })?);
        }
        Ok(Self { path: path.to_owned(), tasks })
    }

    /// Writes a sweep into a new or empty folder, or changes what is planned in a sweep's: runs are added or dropped, none is
    /// lost, and each keeps its number.
    ///
    /// # Errors
    /// A folder of something else; a group of which runs have begun, with another configuration. Nothing has then changed.
    pub fn plan(path: &Path, sweep: &Sweep) -> Result<(Self, Planned)> {
        fs::create_dir_all(path)
            .map_err(|e| Error::io(path, "make the folder of the sweep", e).hint("choose another place with --out"))?;
        let before = Self { path: path.to_owned(), tasks: Vec::new() };
        // A folder of something else gets no lock; that of a sweep which another process plans right now has one.
        if !path.join(LOCK).exists() {
            before.refuse_other_files()?;
        }
        let _lock = before.lock()?;
        before.refuse_other_files()?;
        let before = if path.join(TASKS).exists() { Self::read(path)? } else { before };
        let (folder, mut planned) = before.with(sweep);
        sweep.groups.iter().try_for_each(|group| folder.check(group))?;
        for group in &sweep.groups {
            let place = folder.group(&group.name);
            fs::create_dir_all(&place).map_err(|e| Error::io(&place, "make the folder of a group", e))?;
            replace(&place.join(CONFIG), group.config.to_yaml().as_bytes())?;
            let expectation = place.join(EXPECTATION);
            let former = fs::read_to_string(&expectation).ok();
            let expected = group.expect.as_ref().map(|file| Expectation::text_for_elsewhere(file)).transpose()?;
            let begun = folder.tasks.iter().any(|task| task.group == group.name && folder.has_begun(task));
            planned.restated += usize::from(begun && former != expected);
            match expected {
                Some(text) => replace(&expectation, text.as_bytes())?,
                None if expectation.exists() => fs::remove_file(&expectation)
                    .map_err(|e| Error::io(&expectation, "remove the former expectation", e))?,
                None => {}
            }
        }
        replace(&path.join(SWEEP), sweep.text.as_bytes())?;
        let lines = folder.tasks.iter().map(|task| serde_json::to_string(task).expect("text is JSON") + "\n");
        // Last: what it names is there.
        replace(&path.join(TASKS), lines.collect::<String>().as_bytes())?;
        Ok((folder, planned))
    }

    fn refuse_other_files(&self) -> Result<()> {
        // Without its tasks, which a damaged file had, a sweep is still one.
        let is_sweep = [TASKS, SWEEP].iter().any(|name| self.path.join(name).exists());
        let mut entries = fs::read_dir(&self.path).map_err(|e| Error::io(&self.path, "read the folder", e))?;
        if is_sweep || !entries.any(|entry| entry.is_ok_and(|entry| entry.file_name() != LOCK)) {
            return Ok(());
        }
        Err(Error::new("expected a sweep, or a new or empty folder, found other files")
            .at(&self.path)
            .hint("choose another place with --out: nothing is overwritten"))
    }

    /// That runs of a group, if there are any, are what the group still says: also runs that the file of tasks has lost.
    fn check(&self, group: &Group) -> Result<()> {
        let file = self.group(&group.name).join(CONFIG);
        let has_begun = |task: &&Task| self.has_begun(task) || self.state(task) == State::Running;
        let mut runs = self.tasks.iter().filter(|task| task.group == group.name);
        let Some(run) = runs.find(has_begun) else { return Ok(()) };
        let before = RunConfig::load(std::slice::from_ref(&file), &[])?;
        let changed = before.differing(&group.config);
        if changed.is_empty() {
            return Ok(());
        }
        let problem = format!("expected the configuration of {}, found another {}", run.in_words(), changed.join(", "));
        Err(Error::new(problem).at(&file).hint("runs of it have begun: plan the other one under another name or --out"))
    }

    /// The tasks with those of the sweep.
    fn with(self, sweep: &Sweep) -> (Self, Planned) {
        let Self { path, mut tasks } = self;
        let runs =
            || sweep.groups.iter().flat_map(|group| sweep.seeds.iter().map(move |&seed| (group.name.clone(), seed)));
        let planned: BTreeSet<(String, i64)> = runs().collect();
        let run = |task: &Task| (task.group.clone(), task.seed);
        let before: BTreeSet<(String, i64)> = tasks.iter().filter(|task| !task.dropped).map(run).collect();
        tasks.iter_mut().for_each(|task| task.dropped = !planned.contains(&run(task)));
        let known: BTreeSet<(String, i64)> = tasks.iter().map(run).collect();
        let first = tasks.iter().map(|task| task.task + 1).max().unwrap_or(0);
        let new = runs().filter(|run| !known.contains(run));
        tasks.extend((first..).zip(new).map(|(task, (group, seed))| Task { task, group, seed, dropped: false }));
        let changed = Planned {
            new: planned.difference(&before).count(),
            dropped: before.difference(&planned).count(),
            restated: 0,
        };
        (Self { path, tasks }, changed)
    }

    /// Held while the folder's own files are written.
    ///
    /// # Errors
    /// Another process that plans or gathers.
    pub fn lock(&self) -> Result<File> {
        try_lock(&self.path.join(LOCK))?.ok_or_else(|| {
            Error::new("expected a sweep at rest, found another process that plans or gathers it")
                .at(&self.path)
                .hint("wait for its end")
        })
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The runs of the sweep, by their numbers.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(|task| !task.dropped)
    }

    /// The run of this number, in the sweep or dropped from it.
    ///
    /// # Errors
    /// No such number.
    pub fn task(&self, number: usize) -> Result<&Task> {
        self.tasks.iter().find(|task| task.task == number).ok_or_else(|| {
            let last = self.tasks.last().map_or(0, |task| task.task);
            Error::new(format!("expected a task from 0 to {last}, found {number}")).at(self.path.join(TASKS))
        })
    }

    /// The groups, each with its runs, in the order of their first runs.
    pub fn groups(&self) -> Vec<(&str, Vec<&Task>)> {
        let mut groups: Vec<(&str, Vec<&Task>)> = Vec::new();
        for task in self.tasks() {
            match groups.iter_mut().find(|(name, _)| *name == task.group) {
                Some((_, tasks)) => tasks.push(task),
                None => groups.push((&task.group, vec![task])),
            }
        }
        groups
    }

    /// Where a group's files are.
    pub fn group(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What is expected of a group.
    ///
    /// # Errors
    /// As [`Expectation::load`].
    pub fn expectation(&self, group: &str) -> Result<Option<Expectation>> {
        let file = self.group(group).join(EXPECTATION);
        if file.exists() { Expectation::load(&file).map(Some) } else { Ok(None) }
    }

    /// The folder for what tasks say that run in the background.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn logs(&self) -> Result<PathBuf> {
        let path = self.path.join("logs");
        fs::create_dir_all(&path).map_err(|e| Error::io(&path, "make the folder", e))?;
        Ok(path)
    }
}
