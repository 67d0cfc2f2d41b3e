//! Figures of the records as SVG: readable in light and dark, in a column of a telephone, and without seeing them.
//!
//! `figures.yaml` beside the records says which there are.

mod bars;
mod curves;
mod svg;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::File;
use crate::tensors::refuse_foreign;
use crate::{Error, Result, yaml};

/// The form of `figures.yaml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Figures {
    #[serde(default)]
    curves: Vec<curves::Form>,
    #[serde(default)]
    bars: Vec<bars::Form>,
}

/// The figures that `folder/figures.yaml` names, none without the file. All paths in it are from its folder.
///
/// # Errors
/// A file of another form, records or measurements that cannot be read, another file where a figure shall be.
pub fn figures(folder: &Path) -> Result<Vec<File>> {
    let path = folder.join("figures.yaml");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let Figures { curves, bars } = read(&path)?;
    let curves = curves.into_iter().map(|form| Ok((folder.join(&form.file), form.svg(folder)?)));
    let bars = bars.into_iter().map(|form| Ok((folder.join(&form.file), form.svg(folder)?)));
    let file = |(path, text): (PathBuf, String)| {
        refuse_foreign(&path, "figure", svg::GENERATOR)?;
        Ok(File { path, text })
    };
    curves.chain(bars).map(|figure| figure.and_then(file)).collect()
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path)
        .map_err(|e| Error::io(path, "read what is drawn", e).hint("see records/figures.yaml for the form"))?;
    yaml::from_str(&text).map_err(|e| {
        Error::new(format!("expected what is drawn, found {e}")).at(path).hint("see records/ for the form")
    })
}
