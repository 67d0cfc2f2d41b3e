//! The crate's one error: a sentence that names the place, what was expected there, what was found and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why nothing could be judged.
#[derive(Debug)]
pub struct Error {
    path: Option<PathBuf>,
    tensor: Option<String>,
    problem: String,
    hint: Option<String>,
}

impl Error {
    /// A problem, stated as what was expected and what was found.
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { path: None, tensor: None, problem: problem.into(), hint: None }
    }

    /// The file or folder concerned; an empty path is none.
    pub(crate) fn at(mut self, path: &Path) -> Self {
        self.path = (!path.as_os_str().is_empty()).then(|| path.to_path_buf());
        self
    }

    /// The tensor concerned.
    pub(crate) fn tensor(mut self, name: impl Into<String>) -> Self {
        self.tensor = Some(name.into());
        self
    }

    /// What the reader can do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_ref().map(|path| path.display().to_string());
        let place: Vec<String> =
            path.into_iter().chain(self.tensor.as_ref().map(|t| format!("tensor `{t}`"))).collect();
        if !place.is_empty() {
            write!(f, "{}: ", place.join(", "))?;
        }
        write!(f, "{}", self.problem)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for Error {}

/// The one of `names` that is spelt most like `name`, with how alike they are: 1 is equal.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<(&'a str, f64)> {
    let rated = names.into_iter().map(|known| (known, strsim::normalized_damerau_levenshtein(name, known)));
    rated.max_by(|a, b| a.1.total_cmp(&b.1))
}
