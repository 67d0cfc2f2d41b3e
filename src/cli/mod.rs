//! Argument parsing and one file per command; no logic.

mod arguments;
mod compare;
mod evaluate;
mod fetch;
mod gate;
mod import;
mod inspect;
mod output;
mod power;
mod progress;
mod publish;
mod ranks;
mod recommend;
mod record;
mod report;
mod reproduce;
mod sweep;
mod train;
mod training;
mod verdict;
mod verify;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use dif_sr::verdict::Outcome;
use dif_sr::{Error, Result};

use arguments::{ConfigArgs, Split};

/// DIF-SR on libtorch: train, evaluate, and prove that it is DIF-SR.
///
/// Commands that read a configuration take RecBole's flags: --model, --dataset, --config_files, and any key as
/// --key=value (docs/configuration.md lists them). Results go to standard output, the log to standard error.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print the result as JSON.
    #[arg(long, global = true)]
    json: bool,
}

const EXIT_CODES: &str = "Exit codes: 0 it holds; 1 it does not hold (verdict, tolerance); 2 it could not run (input, \
                          configuration, device); 3 the evidence does not decide; 4 it was interrupted and can go on \
                          (train and reproduce with --resume; sweep run, data fetch).";

#[derive(Debug, Subcommand)]
enum Command {
    /// Train, evaluate, compare with what is expected, and say whether it holds.
    ///
    /// Without CONFIG and --config_files: configs/ml-100k.yaml, held to the authors' run in golden/ml-100k_full.json.
    Reproduce(ReproduceArgs),
    /// Train a model, test its best epoch, and write a run folder.
    Train(TrainArgs),
    /// Evaluate the best model of a run folder, or a checkpoint.
    ///
    /// The configuration is the checkpoint's own; --key=value changes it (--data_path=…).
    Evaluate(EvaluateArgs),
    /// Hold the model, or another implementation's dump, to golden cases.
    ///
    /// A case is a folder with config.yaml and tensors.safetensors. With --against, what another implementation computed
    /// on the case is compared with it, and the first stage that departs is named with its cause (docs/verify.md).
    Verify(verify::VerifyArgs),
    /// The items that a model expects next, for users or for a history, as TSV or (--json) JSON lines.
    Recommend(recommend::RecommendArgs),
    /// Make a checkpoint of RecBole's parameters, with the configuration and the data set that they were trained on.
    ///
    /// The attribute tables, which RecBole does not save, are drawn from the configured seed, which must be the
    /// training's: with another one the model recommends a little worse. `dif-sr evaluate` shows it beside RecBole's log.
    Import(import::ImportArgs),
    /// Judge finished runs, and benchmarks: pass, fail or undecided, with the reason (docs/verdict.md).
    Gate(gate::GateArgs),
    /// Compare finished runs with others, user by user: mean differences of every metric, with standard errors.
    Compare(compare::CompareArgs),
    /// Write the record of each finished run: one small file that later runs are compared with.
    Record(record::RecordArgs),
    /// Simulate verdicts from recorded runs: how often the gate gives a false alarm, and how often it sees a drop.
    Power(power::PowerArgs),
    /// One self-contained HTML page of runs: verdict, curves, times, configuration, differences.
    Report(report::ReportArgs),
    /// Write what follows from recorded runs: the tables of their README, and the figures (records/README.md).
    Publish(publish::PublishArgs),
    /// Get a known data set, or look at one.
    #[command(subcommand)]
    Data(DataCommand),
    /// Several seeds, configurations and data sets: plan the runs, run them here or on an engine, gather them into verdicts.
    ///
    /// docs/sweeps.md has the form of sweep.yaml, and how engines other than Slurm run the tasks.
    #[command(subcommand)]
    Sweep(sweep::SweepCommand),
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// Get a known data set: download it, convert it to RecBole's files, and record what it came from (docs/data.md).
    ///
    /// Work that was interrupted goes on where it was. A data set that is there is never overwritten.
    Fetch(fetch::FetchArgs),
    /// Statistics, splits and hashes, and what decides whether two copies agree.
    Inspect(ConfigArgs),
}

#[derive(Debug, Args)]
struct ReproduceArgs {
    /// A RecBole YAML file, before those of --config_files [default: configs/ml-100k.yaml].
    config: Option<PathBuf>,
    /// What is expected [default: expectations/<the same name> beside the last file].
    #[arg(long, value_name = "FILE")]
    expect: Option<PathBuf>,
    /// The run folder, new or empty [default: checkpoint_dir/<dataset>-<date>-<time>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on in the folder of a run that was interrupted, as it was begun.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["config", "out"])]
    resume: Option<PathBuf>,
    #[command(flatten)]
    config_args: ConfigArgs,
}

#[derive(Debug, Args)]
struct TrainArgs {
    /// The run folder, new or empty [default: checkpoint_dir/<dataset>-<date>-<time>].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on in the folder of a run that was interrupted, as it was begun.
    #[arg(long, value_name = "RUN", conflicts_with_all = ["out", "from"])]
    resume: Option<PathBuf>,
    /// Begin a new run from the state of another, finished or not, which stays as it is: --from RUN --epochs=300.
    #[arg(long, value_name = "RUN")]
    from: Option<PathBuf>,
    #[command(flatten)]
    ranks: ranks::RanksArgs,
    #[command(flatten)]
    config_args: ConfigArgs,
}

#[derive(Debug, Args)]
struct EvaluateArgs {
    /// A run folder or a .safetensors checkpoint.
    run: PathBuf,
    #[command(flatten)]
    config_args: ConfigArgs,
}

/// Parses the process's arguments and runs the command.
pub fn main() -> ExitCode {
    let command = <Cli as clap::CommandFactory>::command();
    let Split { arguments, overrides, takes_keys } = match arguments::split(std::env::args_os(), &command) {
        Ok(split) => split,
        Err(error) => return output::fail(&error),
    };
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return arguments::usage(error, &arguments, takes_keys),
    };
    if cli.command.computes() {
        dif_sr::device::wait_passively();
    }
    std::panic::set_hook(Box::new(output::note_panic));
    match cli.run_without_panic(&overrides) {
        Ok(Outcome::Pass) => ExitCode::SUCCESS,
        Ok(Outcome::Fail) => ExitCode::from(1),
        Ok(Outcome::Undecided) => ExitCode::from(3),
        Err(error) => output::fail(&error),
    }
}

impl Command {
    /// Whether a command computes with a model for more than a moment.
    fn computes(&self) -> bool {
        matches!(
            self,
            Self::Reproduce(_)
                | Self::Train(_)
                | Self::Evaluate(_)
                | Self::Recommend(_)
                | Self::Sweep(sweep::SweepCommand::Run(_))
        )
    }
}

/// Runs another command of this program as if it had been given in place of this one.
fn call(arguments: impl IntoIterator<Item = OsString>, json: bool) -> Result<Outcome> {
    let arguments = std::iter::once("dif-sr".into()).chain(json.then(|| "--json".into())).chain(arguments);
    let Split { arguments, overrides, .. } = arguments::split(arguments, &<Cli as clap::CommandFactory>::command())?;
    let cli = Cli::try_parse_from(&arguments).map_err(|e| Error::new(e.to_string()))?;
    cli.run_without_panic(&overrides)
}

impl Cli {
    /// libtorch's errors inside of the model (no memory left, say) arrive as panics: one sentence for these too.
    fn run_without_panic(self, overrides: &[(String, String)]) -> Result<Outcome> {
        std::panic::catch_unwind(|| self.run(overrides)).unwrap_or_else(|panic| Err(output::of_panic(panic.as_ref())))
    }

    fn run(self, overrides: &[(String, String)]) -> Result<Outcome> {
        let json = self.json;
        match self.command {
            Command::Reproduce(args) => reproduce::run(args, overrides, json),
            Command::Train(args) => train::run(args, overrides, json),
            Command::Evaluate(args) => evaluate::run(args, overrides, json),
            Command::Verify(args) => verify::run(&args, json),
            Command::Recommend(args) => recommend::run(args, overrides, json),
            Command::Import(args) => import::run(args, overrides, json),
            Command::Gate(args) => gate::run(&args, json),
            Command::Compare(args) => compare::run(&args, json),
            Command::Record(args) => record::run(&args, json),
            Command::Power(args) => power::run(&args, json),
            Command::Report(args) => report::run(&args, json),
            Command::Publish(args) => publish::run(&args, json),
            Command::Data(DataCommand::Fetch(args)) => fetch::run(args, json),
            Command::Data(DataCommand::Inspect(args)) => inspect::run(args, overrides, json),
            Command::Sweep(command) => sweep::run(command, overrides, json),
        }
    }
}
