//! The crate's one error: a sentence that names the place, what was found there, what was expected and what to do.

use std::any::Any;
use std::fmt;
use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, where, and what to do about it.
///
/// ```
/// use dif_sr::Error;
/// let e = Error::new("expected a number, found `abc`").at("toy.inter").line(3).column("timestamp:float").hint("correct the value");
/// assert_eq!(e.to_string(), "toy.inter, line 3, column `timestamp:float`: expected a number, found `abc`; correct the value");
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    path: Option<PathBuf>,
    line: Option<u64>,
    /// What of the file, with its name: "column `x`".
    part: Option<String>,
    problem: String,
    hint: Option<String>,
    interrupted: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A problem, stated as what was expected and what was found.
    pub fn new(problem: impl Into<String>) -> Self {
        let problem = problem.into();
        let (path, line, part, hint, source) = (None, None, None, None, None);
        Self(Box::new(Inner { path, line, part, problem, hint, interrupted: false, source }))
    }

    /// An operating-system error on `path`, met while `doing`.
    pub fn io(path: impl AsRef<Path>, doing: &str, source: std::io::Error) -> Self {
        let mut error = Self::new(format!("cannot {doing}: {source}")).at(path);
        error.0.source = Some(Box::new(source));
        error
    }

    /// An operating-system error met while writing the file at `path`.
    pub fn unwritable(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::io(path, "write the file", source).hint("check the folder's permissions and the free space")
    }

    /// What a panic said; of tch's, which holds an error of libtorch, the message without its C++ stack.
    pub fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        let text = text.unwrap_or("no message");
        // tch panics with the Debug form of its error, in which line breaks are escaped.
        let line = text.split("\\n").next().unwrap_or(text).lines().next().unwrap_or(text);
        Self::new(line.split_once("Torch(\"").map_or(line, |(_, message)| message))
    }

    /// The file or folder concerned.
    pub fn at(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_path_buf());
        self
    }

    /// The file concerned, where none is named yet.
    pub fn or_at(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// The line of the file, counted from 1.
    pub fn line(mut self, line: u64) -> Self {
        self.0.line = Some(line);
        self
    }

    /// The part of the file concerned, with its name.
    pub fn part(mut self, part: impl fmt::Display) -> Self {
        self.0.part = Some(part.to_string());
        self
    }

    /// The column concerned.
    pub fn column(self, name: impl fmt::Display) -> Self {
        self.part(format!("column `{name}`"))
    }

    /// The tensor concerned.
    pub fn tensor(self, name: impl fmt::Display) -> Self {
        self.part(format!("tensor `{name}`"))
    }

    /// Work that was asked to stop, and has left everything in order to go on later: no failure.
    pub fn interruption(problem: impl Into<String>) -> Self {
        let mut error = Self::new(problem);
        error.0.interrupted = true;
        error
    }

    /// Whether it is one of [`Error::interruption`].
    pub fn is_interruption(&self) -> bool {
        self.0.interrupted
    }

    /// More to the problem, behind what is there.
    pub fn and(mut self, more: &str) -> Self {
        self.0.problem += more;
        self
    }

    /// What the reader can do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { path, line, part, problem, hint, .. } = &*self.0;
        let mut place = Vec::new();
        place.extend(path.as_ref().map(|p| p.display().to_string()));
        place.extend(line.map(|l| format!("line {l}")));
        place.extend(part.clone());
        if !place.is_empty() {
            write!(f, "{}: ", place.join(", "))?;
        }
        write!(f, "{problem}")?;
        hint.as_ref().map_or(Ok(()), |h| write!(f, "; {h}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

impl From<tch::TchError> for Error {
    fn from(source: tch::TchError) -> Self {
        // libtorch appends a C++ stack trace; the first line is the message.
        let text = source.to_string();
        let mut error = Self::new(format!("libtorch: {}", text.lines().next().unwrap_or_default()));
        error.0.source = Some(Box::new(source));
        error
    }
}

impl From<judge::Error> for Error {
    /// The judge's sentence is of the same form.
    fn from(source: judge::Error) -> Self {
        let mut error = Self::new(source.to_string());
        error.0.source = Some(Box::new(source));
        error
    }
}
