//! RecBole's flags beside clap's: `--config_files`, `--model`, `--dataset`, and any configuration key as `--key=value`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Args, Command};
use dif_sr::config::{RunConfig, key_names, refuse_ini};
use dif_sr::{Error, Result};

use super::output;

/// How a command takes what clap does not know.
const KEYS: &str = "Any key of the configuration, with its `=`: --epochs=3 --compute_path=fast --use_gpu=False \
                    (docs/configuration.md).";

/// The flags of RecBole's own runner.
#[derive(Debug, Args)]
#[command(after_help = KEYS)]
pub struct ConfigArgs {
    /// The model: SASRecD, SASRec or SASRecF.
    #[arg(short, long, value_name = "NAME")]
    model: Option<String>,
    /// The data set, which is also the name of its folder and files.
    #[arg(short, long, value_name = "NAME")]
    dataset: Option<String>,
    /// RecBole YAML files; later ones win, --key=value wins over all.
    #[arg(long = "config_files", value_name = "FILE", num_args = 1..)]
    config_files: Vec<PathBuf>,
    /// The authors' `.ini` command, refused with the name of the file to use.
    #[arg(long = "config_file", hide = true)]
    config_file: Option<PathBuf>,
}

impl ConfigArgs {
    /// The configuration that these flags and keys name.
    pub fn load(&self, overrides: &[(String, String)]) -> Result<RunConfig> {
        RunConfig::load(&self.files()?, &self.overrides(overrides))
    }

    /// The named files. RecBole takes several in one argument, separated by spaces.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        if let Some(ini) = &self.config_file {
            refuse_ini(ini)?;
            return Err(Error::new("expected --config_files, found --config_file")
                .hint("name RecBole YAML files with --config_files"));
        }
        let mut files = Vec::new();
        for file in &self.config_files {
            match file.to_str() {
                Some(text) if !file.exists() => files.extend(text.split_whitespace().map(PathBuf::from)),
                _ => files.push(file.clone()),
            }
        }
        files.iter().try_for_each(|file| refuse_ini(file))?;
        Ok(files)
    }

    /// `--model` and `--dataset` as the keys that they stand for, then the others.
    pub fn overrides(&self, others: &[(String, String)]) -> Vec<(String, String)> {
        let named = [("model", &self.model), ("dataset", &self.dataset)];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        named.chain(others.iter().cloned()).collect()
    }
}

/// The process's arguments, taken apart.
pub struct Split {
    /// For clap.
    pub arguments: Vec<OsString>,
    /// The configuration's keys with their values.
    pub overrides: Vec<(String, String)>,
    /// Whether the command reads a configuration.
    pub takes_keys: bool,
}

/// Commands that read no configuration.
const WITHOUT_KEYS: [&str; 12] =
    ["verify", "gate", "compare", "record", "power", "report", "publish", "fetch", "run", "submit", "status", "gather"];

/// Takes every `--key=value` that is none of the program's own flags out of the arguments of a command that reads a
/// configuration. Where none is read such an argument stays, and clap refuses it.
///
/// # Errors
/// A key or a value that is no UTF-8, as only a path can be.
pub fn split(arguments: impl Iterator<Item = OsString>, command: &Command) -> Result<Split> {
    let (mut rest, mut overrides) = (Vec::new(), Vec::new());
    let arguments: Vec<OsString> = arguments.collect();
    let mut words = arguments.iter().skip(1).filter(|argument| !argument.to_string_lossy().starts_with('-'));
    let mut named = command;
    while let Some(deeper) = words.next().and_then(|word| named.find_subcommand(word)) {
        named = deeper;
    }
    // Another command's flag may bear the name of a key.
    let own = flags(named);
    let takes_keys = !WITHOUT_KEYS.contains(&named.get_name());
    for argument in arguments {
        let text = argument.to_string_lossy();
        let pair = text.strip_prefix("--").filter(|_| takes_keys).and_then(|pair| pair.split_once('='));
        match pair {
            Some((key, value)) if !own.iter().any(|flag| flag == key) => {
                if argument.to_str().is_none() {
                    return Err(Error::new(format!("expected a key and a value in UTF-8, found `{text}`"))
                        .hint("rename the file or folder, or reach it by a link whose name is UTF-8"));
                }
                overrides.push((key.to_owned(), value.to_owned()));
            }
            _ => rest.push(argument),
        }
    }
    Ok(Split { arguments: rest, overrides, takes_keys })
}

/// The long flags of a command and of all below it.
fn flags(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|argument| argument.get_long().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(flags)).collect()
}

/// The word that clap found to be the unknown option `found`, behind an option that takes values: that, and the word.
fn behind_option<'a>(found: &str, words: &'a [OsString]) -> Option<(&'a str, &'a str)> {
    // Of a word with one hyphen clap tells the first letter.
    let is_letter = !found.starts_with("--");
    let is_it = |word: &&str| *word == found || (is_letter && !word.starts_with("--") && word.starts_with(found));
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let at = words.iter().position(is_it)?;
    let option = *words[..at].iter().rfind(|word| word.starts_with('-'))?;
    let command = <super::Cli as clap::CommandFactory>::command();
    let mut named = &command;
    for word in &words {
        named = named.find_subcommand(word).unwrap_or(named);
    }
    let mut own = named.get_arguments().filter(|argument| argument.get_action().takes_values());
    let is_own = |argument: &clap::Arg| {
        option.strip_prefix("--").is_some_and(|long| argument.get_long() == Some(long))
            || option
                .strip_prefix('-')
                .is_some_and(|short| argument.get_short().map(String::from).as_deref() == Some(short))
    };
    own.any(is_own).then_some((option, words[at]))
}

/// Prints clap's message; for a configuration key without `=`, where keys are taken, and for a value that begins with `-`, says
/// how to write it.
pub fn usage(mut error: clap::Error, words: &[OsString], takes_keys: bool) -> ExitCode {
    if let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg)
        && let Some(key) = key_names().find(|key| flag.strip_prefix("--") == Some(key))
    {
        let (problem, hint) = if takes_keys {
            (format!("expected a value joined by `=`, found `--{key}` alone"), format!("write --{key}=value"))
        } else {
            let problem =
                format!("expected no key of the configuration, which this command does not read, found `{key}`");
            (problem, "leave it out".to_owned())
        };
        return output::fail(&Error::new(problem).hint(hint));
    }
    if let Some(ContextValue::String(found)) = error.get(ContextKind::InvalidArg)
        && let Some((option, value)) = behind_option(found, words)
    {
        return output::fail(
            &Error::new(format!("expected a value after {option}, found `{value}`, which begins as an option does"))
                .hint(format!("write {option}={value} if it is the value")),
        );
    }
    if takes_keys
        && let Some(ContextValue::String(file)) = error.get(ContextKind::InvalidArg)
        && [".yaml", ".yml"].iter().any(|end| file.ends_with(end))
    {
        let problem = format!("expected an option, found the file `{file}`");
        return output::fail(&Error::new(problem).hint("name several files as in --config_files A.yaml B.yaml"));
    }
    // clap's tip, to write `--` before it, helps where it is the name of a file alone.
    if matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(flag)) if flag.starts_with("--")) {
        error.remove(ContextKind::Suggested);
    }
    // Help and version are no errors; whether they could be printed is of no interest any more.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
