//! A configuration as YAML and as RecBole's log prints it.

use serde_yaml::Mapping;

use super::keys::{self, Key, Kind, Section};
use super::{RunConfig, python};

/// Keys that are written where they are set: elsewhere a configuration equals those of before there were any.
const WHERE_SET: [&str; 3] = ["benchmark_filename", "LIST_SUFFIX", "unload_col"];

impl RunConfig {
    /// Every honoured key that the model reads, under RecBole's name; [`RunConfig::load`] and [`RunConfig::from_yaml`] read the same back.
    pub fn to_yaml(&self) -> String {
        let defaults = Self::defaults();
        let honoured = self.keys().filter_map(|key| match key.kind {
            Kind::Honoured { get, .. } if WHERE_SET.contains(&key.name) && get(self) == get(&defaults) => None,
            Kind::Honoured { get, .. } => Some((key.name.into(), get(self))),
            _ => None,
        });
        serde_yaml::to_string(&honoured.collect::<Mapping>()).expect("keys and values are YAML")
    }

    /// The block that RecBole's log opens with.
    ///
    /// Left out are the names of columns that this program does not use: any value of theirs is accepted, and none is kept.
    pub fn log_block(&self) -> String {
        let blocks = [
            ("General Hyper Parameters:", Section::General),
            ("Training Hyper Parameters:", Section::Training),
            ("Evaluation Hyper Parameters:", Section::Evaluation),
            ("Dataset Hyper Parameters:", Section::Dataset),
            ("Other Hyper Parameters: ", Section::Other), // the space is RecBole's
        ];
        let block = |(title, section): (&str, Section)| {
            let keys = self.keys().filter(|key| key.section == section);
            let lines = keys.filter_map(|key| match &key.kind {
                // RecBole's log joins the two.
                Kind::Honoured { .. } if key.name == "data_path" => {
                    Some(format!("data_path = {}", self.data.data_path.join(&self.data.dataset).display()))
                }
                Kind::Honoured { get, .. } => Some(format!("{} = {}", key.name, python::printed(&get(self)))),
                Kind::Accepted { values, .. } => Some(format!("{} = {}", key.name, values(self)[0])),
                Kind::Unused { .. } => None,
            });
            std::iter::once(title.to_owned()).chain(lines).collect::<Vec<_>>().join("\n")
        };
        blocks.map(block).join("\n\n") + "\n"
    }

    /// The keys that the model reads, in the order of the log.
    fn keys(&self) -> impl Iterator<Item = &'static Key> {
        let model = self.model.model;
        keys::table().filter(move |key| key.is_of(model))
    }
}
