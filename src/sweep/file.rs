//! `sweep.yaml`: seeds × configurations × data sets.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::folder::is_reserved;
use crate::config::{RunConfig, Section};
use crate::train::read_data;
use crate::verdict::Expectation;
use crate::{Error, Result, yaml};

/// More runs than anybody means.
const MOST: usize = 100_000;

/// What a file describes: every group is run with every seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The configurations on their data sets.
    pub groups: Vec<Group>,
    /// In the file's order.
    pub seeds: Vec<i64>,
    /// The file.
    pub text: String,
}

/// Runs that differ in their seeds alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// `<data set>/<configuration>/<point of the grid>`, without the parts that the file does not have.
    pub name: String,
    /// Complete, with a seed that means nothing and with an absolute `data_path`: a task runs anywhere.
    pub config: RunConfig,
    /// The file that says what is expected of the runs.
    pub expect: Option<PathBuf>,
}

/// The file's form.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "lines of the form `key: value`")]
struct File {
    /// Below all others; paths are from the file's folder.
    #[serde(default)]
    config_files: Vec<PathBuf>,
    /// Over all files.
    #[serde(default)]
    keys: Mapping,
    #[serde(default)]
    datasets: Mapping,
    #[serde(default)]
    configurations: Mapping,
    /// Keys with lists of values, of which every combination is a configuration.
    #[serde(default)]
    grid: Mapping,
    seeds: Vec<i64>,
    #[serde(default)]
    expect: Value,
}

/// The form of a data set, or of a configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "lines of the form `key: value`")]
struct Part {
    #[serde(default)]
    config_files: Vec<PathBuf>,
    #[serde(default)]
    keys: Mapping,
    #[serde(default)]
    expect: Value,
    /// Its own name; that of a part which the file does not have is empty.
    #[serde(skip)]
    name: String,
    /// Where it stands in the file.
    #[serde(skip)]
    section: &'static str,
}

impl Sweep {
    /// Reads a sweep, in which `overrides` win over all keys, and all that it names: configurations, expectations, data.
    ///
    /// # Errors
    /// A file of another form; a configuration, an expectation or a data set that a run could not begin with.
    pub fn load(path: &Path, overrides: &[(String, String)]) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|e| Error::io(path, "read the sweep", e).hint("name a YAML file of the form in docs/sweeps.md"))?;
        let file: File = yaml::from_str(&text).map_err(|e| of_no_sweep(path, &e.to_string()))?;
        let reader = Reader { path, file, overrides };
        reader.check_seeds()?;
        let groups = reader.groups()?;
        reader.check_groups(&groups)?;
        let Reader { file: File { seeds, .. }, .. } = reader;
        Ok(Self { groups, seeds, text })
    }
}

fn of_no_sweep(path: &Path, found: &str) -> Error {
    Error::new(format!("expected a sweep, but {found}")).at(path).hint("docs/sweeps.md has the form")
}

/// A file that is being read.
struct Reader<'a> {
    path: &'a Path,
    file: File,
    overrides: &'a [(String, String)],
}

impl Reader<'_> {
    fn wrong(&self, section: &str, problem: impl Into<String>) -> Error {
        Error::new(problem).at(self.path).part(format!("`{section}`"))
    }

    fn check_seeds(&self) -> Result<()> {
        let seeds = &self.file.seeds;
        if seeds.is_empty() {
            let problem = "expected at least one seed, found none";
            return Err(self.wrong("seeds", problem).hint("a verdict needs several: write [1, 2, 3, 4]"));
        }
        if let Some(seed) = seeds.iter().find(|&&seed| u32::try_from(seed).is_err()) {
            let problem = format!("expected whole numbers from 0 to {}, found {seed}", u32::MAX);
            return Err(self.wrong("seeds", problem).hint("write [1, 2, 3, 4]"));
        }
        if let Some(i) = (1..seeds.len()).find(|&i| seeds[..i].contains(&seeds[i])) {
            let problem = format!("expected different seeds, found {} twice", seeds[i]);
            return Err(self.wrong("seeds", problem).hint("a run and its repetition are one draw: remove one of them"));
        }
        Ok(())
    }

    /// The groups in the file's order: data sets, configurations, points of the grid.
    fn groups(&self) -> Result<Vec<Group>> {
        let File { datasets, configurations, .. } = &self.file;
        let datasets = self.parts("datasets", datasets)?;
        let configurations = self.parts("configurations", configurations)?;
        self.check_parts(&datasets, &configurations)?;
        // Before the points of the grid take memory.
        let of_grid = self.file.grid.values().map(|values| values.as_sequence().map_or(1, Vec::len));
        let others = [datasets.len(), configurations.len(), self.file.seeds.len()];
        let n = of_grid.chain(others).fold(1_usize, usize::saturating_mul);
        if n > MOST {
            let problem = format!("expected at most {MOST} runs, found {n}");
            return Err(Error::new(problem).at(self.path).hint("split the sweep"));
        }
        let points = self.points()?;
        let mut groups = Vec::new();
        let mut labels = BTreeSet::new();
        for dataset in &datasets {
            for configuration in &configurations {
                for point in &points {
                    let group = self.group(dataset, configuration, point, groups.is_empty())?;
                    labels.extend([configuration.name.clone(), label(configuration, point)]);
                    groups.push(group);
                }
            }
        }
        let expectations = [("expect", &self.file.expect)];
        let of_datasets = datasets.iter().map(|part| (part.section, &part.expect));
        for (section, expect) in expectations.into_iter().chain(of_datasets) {
            let names = expect.as_mapping().into_iter().flat_map(Mapping::keys).filter_map(Value::as_str);
            if let Some(name) = names.into_iter().find(|name| !labels.contains(*name)) {
                let labels: Vec<String> = labels.into_iter().filter(|label| !label.is_empty()).collect();
                let problem = format!("expected names of configurations under `expect`, found `{name}`");
                return Err(self.wrong(section, problem).hint(match labels.is_empty() {
                    true => "name the file alone: there is one configuration".to_owned(),
                    false => format!("the names are {}", labels.join(", ")),
                }));
            }
        }
        Ok(groups)
    }

    /// The parts of a section, or the one part of a section that is not there.
    fn parts(&self, section: &'static str, mapping: &Mapping) -> Result<Vec<Part>> {
        if mapping.is_empty() {
            return Ok(vec![Part { section, ..Part::default() }]);
        }
        let mut mapping = Value::Mapping(mapping.clone());
        mapping.apply_merge().map_err(|e| of_no_sweep(self.path, &e.to_string()))?;
        let parts = mapping.as_mapping().into_iter().flatten().map(|(name, part)| {
            let Some(name) = name.as_str() else {
                return Err(self.wrong(section, "expected names, which are text, found another key").hint("quote it"));
            };
            let part: Option<Part> = serde_yaml::from_value(part.clone()).map_err(|e| {
                self.wrong(&format!("{section}.{name}"), format!("expected `config_files` and `keys`, but {e}"))
                    .hint("docs/sweeps.md has the form")
            })?;
            Ok(Part { name: name.to_owned(), section, ..part.unwrap_or_default() })
        });
        parts.collect()
    }

    /// What names can be, and which keys have a place of their own.
    fn check_parts(&self, datasets: &[Part], configurations: &[Part]) -> Result<()> {
        for part in configurations.iter().filter(|part| !part.name.is_empty()) {
            let plain = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
            if !part.name.chars().all(plain) || is_reserved(&part.name) {
                let problem = format!("expected a name that can be that of a folder, found `{}`", part.name);
                return Err(self.wrong(part.section, problem).hint(
                    "choose another one, of letters, digits, `.`, `_` and `-`, that begins with a letter or a digit",
                ));
            }
            if !part.expect.is_null() {
                let problem = "expected `config_files` and `keys`, found `expect`";
                return Err(self
                    .wrong(&part.place(), problem)
                    .hint(format!("write `expect: {{{}: FILE}}` at the top, or at a data set", part.name)));
            }
        }
        let keys = [("keys".to_owned(), &self.file.keys), ("grid".to_owned(), &self.file.grid)];
        let of_parts = datasets.iter().chain(configurations).map(|part| (format!("{}.keys", part.place()), &part.keys));
        for (section, keys) in keys.into_iter().chain(of_parts) {
            let own = |key: &str| self.own_place(key, datasets);
            if let Some((key, place)) = keys.keys().filter_map(Value::as_str).find_map(|key| Some((key, own(key)?))) {
                let problem = format!("expected keys without a place of their own, found `{key}`");
                return Err(self.wrong(&section, problem).hint(format!("write it under `{place}`")));
            }
        }
        for (key, _) in self.overrides {
            let varied = self.file.grid.contains_key(key.as_str()).then_some("grid");
            if let Some(place) = self.own_place(key, datasets).or(varied) {
                return Err(Error::new(format!("the sweep varies `{key}`, which cannot have one value"))
                    .at("command line")
                    .hint(format!("leave it out, or change `{place}` in {}", self.path.display())));
            }
        }
        let set = |key: &Value| configurations.iter().find(|part| part.keys.contains_key(key));
        if let Some((key, part)) = self.file.grid.keys().find_map(|key| Some((key.as_str()?, set(key)?))) {
            let problem =
                format!("expected keys that the grid alone sets, found `{key}` in `{}.keys` too", part.place());
            return Err(self.wrong("grid", problem).hint("remove one of the two"));
        }
        Ok(())
    }

    /// The place in the file that a key has for itself.
    fn own_place(&self, key: &str, datasets: &[Part]) -> Option<&'static str> {
        match key {
            "seed" => Some("seeds"),
            "dataset" if !datasets[0].name.is_empty() => Some("datasets"),
            _ => None,
        }
    }

    /// Every combination of the grid's values, the last key changing first.
    fn points(&self) -> Result<Vec<Vec<Section>>> {
        let mut points = vec![Vec::new()];
        for (key, values) in &self.file.grid {
            let section = format!("grid.{}", key.as_str().unwrap_or_default());
            let Some(values) = values.as_sequence().filter(|values| !values.is_empty()) else {
                return Err(self.wrong(&section, "expected a list of values, found none").hint("write [64, 256]"));
            };
            if let Some(i) = (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
                let problem = format!("expected different values, found {} twice", in_name(&values[i]));
                return Err(self.wrong(&section, problem).hint("remove one of them"));
            }
            let with = |point: &Vec<Section>, value: &Value| {
                let keys = Mapping::from_iter([(key.clone(), value.clone())]);
                let own = Section { path: self.path.to_owned(), name: section.clone(), keys };
                point.iter().cloned().chain([own]).collect()
            };
            points = points.iter().flat_map(|point| values.iter().map(move |value| with(point, value))).collect();
        }
        Ok(points)
    }

    /// One group; of the first all seeds are tried.
    fn group(&self, dataset: &Part, configuration: &Part, point: &[Section], first: bool) -> Result<Group> {
        let folder = self.path.parent().unwrap_or(Path::new(""));
        let files = self.file.config_files.iter().chain(&dataset.config_files).chain(&configuration.config_files);
        let files: Vec<PathBuf> = files.map(|file| folder.join(file)).collect();
        let section = |name: String, keys: &Mapping| {
            let mut keys = Value::Mapping(keys.clone());
            keys.apply_merge().map_err(|e| of_no_sweep(self.path, &e.to_string()))?;
            let keys = keys.as_mapping().cloned().unwrap_or_default();
            Ok::<_, Error>(Section { path: self.path.to_owned(), name, keys })
        };
        let mut sections = vec![
            section("keys".to_owned(), &self.file.keys)?,
            section(format!("{}.keys", dataset.place()), &dataset.keys)?,
            section(format!("{}.keys", configuration.place()), &configuration.keys)?,
        ];
        if !dataset.name.is_empty() {
            let named = Mapping::from_iter([("dataset".into(), dataset.name.as_str().into())]);
            sections.push(section("datasets".to_owned(), &named)?);
        }
        sections.extend(point.iter().cloned());
        let load = |sections: &[Section]| {
            RunConfig::load_with(&files, sections, self.overrides).map_err(|e| e.or_at(self.path))
        };
        for &seed in self.file.seeds.iter().filter(|_| first) {
            let seeded = section("seeds".to_owned(), &Mapping::from_iter([("seed".into(), seed.into())]))?;
            load(&[&sections[..], &[seeded]].concat())?;
        }
        let mut config = load(&sections)?;
        config.run.seed = 0;
        let data = &mut config.data.data_path;
        *data = std::path::absolute(&*data).map_err(|e| Error::io(&*data, "find the folder of the data", e))?;
        let label = label(configuration, point);
        let name = [config.data.dataset.as_str(), &label].join("/").trim_end_matches('/').to_owned();
        let expect = self.expected(dataset, &configuration.name, &label)?.map(|file| folder.join(file));
        Ok(Group { name, config, expect })
    }

    /// The expectation of a group: its data set's, or the file's.
    fn expected(&self, dataset: &Part, configuration: &str, label: &str) -> Result<Option<PathBuf>> {
        let (section, expect) = match dataset.expect.is_null() {
            true => ("expect".to_owned(), &self.file.expect),
            false => (format!("{}.expect", dataset.place()), &dataset.expect),
        };
        let named = match expect {
            Value::Mapping(names) => names.get(label).or_else(|| names.get(configuration)).unwrap_or(&Value::Null),
            other => other,
        };
        match named {
            Value::Null => Ok(None),
            Value::String(file) => Ok(Some(file.into())),
            _ => Err(self
                .wrong(&section, "expected the name of a file, or names of configurations with files, found neither")
                .hint("docs/verdict.md has the form of the file")),
        }
    }

    /// That groups have places and differ, that they can be judged, and that there are data to run them on.
    fn check_groups(&self, groups: &[Group]) -> Result<()> {
        let mut names = BTreeSet::new();
        let mut data: Vec<&RunConfig> = Vec::new();
        let mut expectations = BTreeMap::new();
        for (i, group) in groups.iter().enumerate() {
            let too_long = group.name.split('/').any(|part| part.len() > 200);
            if too_long || !names.insert(&group.name) || group.name.split('/').any(is_reserved) {
                let problem = format!("expected a folder of its own for each configuration, found `{}`", group.name);
                let sections = [("grid", &self.file.grid), ("configurations", &self.file.configurations)];
                let hint = "write them under `configurations`, with names that are short and differ";
                return Err(match sections.iter().find(|(_, part)| !part.is_empty()) {
                    Some((section, _)) => self.wrong(section, problem).hint(hint),
                    None => Error::new(problem).at(self.path).hint("give the data set another name"),
                });
            }
            if let Some(same) = groups[..i].iter().find(|other| other.config == group.config) {
                let problem =
                    format!("expected different configurations, found that `{}` is `{}`", group.name, same.name);
                return Err(Error::new(problem).at(self.path).hint("remove one of the two"));
            }
            if let Some(file) = &group.expect {
                if !expectations.contains_key(file) {
                    expectations.insert(file, Expectation::load(file)?);
                }
                expectations[file].check(&group.config).map_err(|e| e.at(file))?;
            }
            let same = |other: &&RunConfig| {
                other.data == group.config.data && other.model.loss_type == group.config.model.loss_type
            };
            if !data.iter().any(same) {
                read_data(&group.config)?;
                data.push(&group.config);
            }
        }
        Ok(())
    }
}

impl Part {
    /// `configurations.small`; `configurations` of what the file does not have.
    fn place(&self) -> String {
        [self.section, &self.name].join(".").trim_end_matches('.').to_owned()
    }
}

/// What distinguishes the runs of a data set: `small/learning_rate=0.001`.
fn label(configuration: &Part, point: &[Section]) -> String {
    let values = point.iter().flat_map(|section| &section.keys);
    let values = values.map(|(key, value)| format!("{}={}", key.as_str().unwrap_or_default(), in_name(value)));
    let values = values.collect::<Vec<_>>().join(",");
    let parts = [configuration.name.clone(), values];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// A value as a part of a folder's name: `0.001`, `8-4` for a list.
fn in_name(value: &Value) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    let kept = text.chars().filter(|c| !['"', '[', ']', '{', '}', ' '].contains(c));
    kept.map(|c| match c {
        ',' => '-',
        c if c.is_alphanumeric() || ['.', '_', '-', '+', '@'].contains(&c) => c,
        _ => '_',
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_docs_is_a_sweep() {
        let docs = include_str!("../../docs/sweeps.md");
        let example = docs.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
        let file: File = yaml::from_str(example).unwrap_or_else(|e| panic!("{e}"));
        let reader = Reader { path: Path::new("sweep.yaml"), file, overrides: &[] };
        let parts = [("datasets", &reader.file.datasets), ("configurations", &reader.file.configurations)];
        let parts = parts.map(|(section, parts)| reader.parts(section, parts).unwrap_or_else(|e| panic!("{e}")));
        assert_eq!(parts.each_ref().map(Vec::len), [2, 2]);
        reader.check_parts(&parts[0], &parts[1]).unwrap_or_else(|e| panic!("{e}"));
        let points = reader.points().unwrap_or_else(|e| panic!("{e}")).len();
        let runs = parts[0].len() * parts[1].len() * points * reader.file.seeds.len();
        assert!(points == 2 && docs.contains(&format!("completions: {runs} ")), "the example has {runs} runs");
    }

    #[test]
    fn a_value_can_stand_in_the_name_of_a_folder() {
        for (value, name) in [
            ("0.0005", "0.0005"),
            ("gate", "gate"),
            ("[8, 4]", "8-4"),
            ("~", "null"),
            ("{max_norm: 1}", "max_norm_1"),
            ("a/b c", "a_bc"),
            ("Recall@10", "Recall@10"),
        ] {
            assert_eq!(in_name(&yaml::from_str(value).expect("YAML")), name, "{value}");
        }
    }
}
