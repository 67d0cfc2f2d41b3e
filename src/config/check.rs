//! What keys must say together.

use std::path::Path;

use super::keys::{self, Kind};
use super::raw::Raw;
use super::read::value;
use super::{Architecture, MetricAt, Predictor, RunConfig, python};
use crate::{Error, Result};

impl RunConfig {
    /// The data set is named, its folder is found from `data_path`, and the columns that the program needs are loaded.
    pub(super) fn settle_data(&mut self, raw: &Raw) -> Result<()> {
        let data = &mut self.data;
        if data.dataset.is_empty() {
            return Err(Error::new("no data set is named").hint("give `--dataset=NAME`, or `dataset: NAME` in a file"));
        }
        if data.data_path.file_name().is_some_and(|name| name == data.dataset.as_str()) {
            let parent = data.data_path.parent().filter(|parent| !parent.as_os_str().is_empty());
            data.data_path = parent.unwrap_or(Path::new(".")).to_path_buf();
        }
        let names = [&data.user_id_field, &data.item_id_field, &data.time_field];
        if names[0] == names[1] || names[0] == names[2] || names[1] == names[2] {
            let problem =
                format!("expected three columns for user, item and time, found {}", python::shown(&value(names)));
            let keys = ["USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"];
            return refuse(
                raw,
                &keys,
                problem,
                "give `USER_ID_FIELD`, `ITEM_ID_FIELD` and `TIME_FIELD` different names",
            );
        }
        self.check_columns(raw)
    }

    /// The columns that are read are loaded.
    fn check_columns(&self, raw: &Raw) -> Result<()> {
        let data = &self.data;
        let names = [&data.user_id_field, &data.item_id_field, &data.time_field];
        let filtered = data.val_interval.iter().map(|(column, _)| column);
        let mut inter = (data.load_inter.as_ref(), "inter", names.into_iter().chain(filtered).collect::<Vec<_>>());
        // Files of splits are not filtered, and stated histories need no times.
        let list = data.list_field();
        match &data.benchmark_filename {
            Some(_) if inter.0.is_none_or(|columns| columns.contains(&list)) => inter.2.truncate(2),
            Some(_) => inter.2.truncate(3),
            None => {}
        }
        let item =
            (data.load_item.as_ref(), "item", std::iter::once(names[1]).chain(&data.selected_features).collect());
        let reads_item = data.load_item.as_ref().is_none_or(|columns| !columns.is_empty());
        let files = [(inter, &data.unload_inter), (item, &data.unload_item)];
        for ((loaded, file, needed), unloaded) in files.into_iter().filter(|(of, _)| of.1 == "inter" || reads_item) {
            if let Some(name) = needed.iter().find(|name| unloaded.contains(name)) {
                let problem = format!("`unload_col`: expected columns of `{file}` that nothing reads, found `{name}`");
                return refuse(raw, &["unload_col"], problem, "leave the column out of `unload_col`");
            }
            let Some(loaded) = loaded else { continue };
            if !unloaded.is_empty() {
                let problem = format!("`unload_col`: expected no columns of `{file}`, of which `load_col` names some");
                return refuse(raw, &["unload_col"], problem, "keep one of the two, as in RecBole");
            }
            if let Some(missing) = needed.into_iter().find(|name| !loaded.contains(name)) {
                let problem = format!(
                    "`load_col`: expected `{missing}` among the columns of `{file}`, found {}",
                    python::shown(&value(loaded))
                );
                let near = keys::nearest(missing, loaded.iter().map(String::as_str));
                let near = near.map_or_else(String::new, |near| format!("if you mean `{near}`, write that; else "));
                let hint = format!("{near}add the column, or leave `load_col` out to load all");
                return refuse(raw, &["load_col"], problem, hint);
            }
        }
        let users = &data.load_user;
        if !users.is_empty() && !users.contains(names[0]) && users[..] != ["*"] {
            let problem = format!(
                "`load_col`: expected `{}` among the columns of `user`, found {}",
                names[0],
                python::shown(&value(users))
            );
            return refuse(raw, &["load_col"], problem, "add the column, or leave `user` out");
        }
        // No `.item` file is read: a model without attributes needs none.
        if data.load_item.as_ref().is_some_and(Vec::is_empty) && !data.selected_features.is_empty() {
            let features = data.selected_features.join(", ");
            let problem = "`load_col`: expected `item` with the columns of `selected_features`, found none";
            let hint =
                format!("add `item: [{}, {features}]`, or use SASRec, which has no attributes", data.item_id_field);
            return refuse(raw, &["load_col"], problem, hint);
        }
        Ok(())
    }

    /// What the model does not read is what it has none of.
    pub(super) fn settle_model(&mut self) {
        let (model, attributes) = (&mut self.model, &mut self.data.selected_features);
        match model.model {
            Architecture::SasRecD => return,
            Architecture::SasRec => attributes.clear(),
            Architecture::SasRecF => {}
        }
        model.attribute_hidden_size = vec![model.hidden_size; attributes.len()];
        model.attribute_predictor = Predictor::Not;
        model.lamdas.clear();
    }

    /// Heads divide the vectors that they share out, and each attribute has its size and its weight.
    pub(super) fn check_model(&self, raw: &Raw) -> Result<()> {
        let (model, attributes) = (&self.model, &self.data.selected_features);
        let heads = model.n_heads;
        if model.model == Architecture::SasRecF && attributes.is_empty() {
            let problem = "`selected_features`: expected at least one attribute for SASRecF, found []";
            let hint = "name a column of the `.item` file, or use SASRec, which has no attributes";
            return refuse(raw, &["selected_features"], problem, hint);
        }
        let lengths = [("attribute_hidden_size", model.attribute_hidden_size.len()), ("lamdas", model.lamdas.len())];
        for (key, length) in lengths.into_iter().filter(|_| model.model == Architecture::SasRecD) {
            if length != attributes.len() {
                let problem = format!(
                    "`{key}`: expected one value for each of the {} `selected_features` ({}), found {length}",
                    attributes.len(),
                    attributes.join(", ")
                );
                let hint = format!("give `{key}` as many values as there are attributes");
                return refuse(raw, &[key, "selected_features"], problem, hint);
            }
        }
        let sizes = std::iter::once(("hidden_size", model.hidden_size))
            .chain(model.attribute_hidden_size.iter().map(|size| ("attribute_hidden_size", *size)));
        for (key, size) in sizes {
            if size % heads != 0 {
                let divisors: Vec<_> = (1..=size.min(64)).filter(|d| size % d == 0).map(|d| d.to_string()).collect();
                let problem = format!("`{key}`: expected a multiple of `n_heads`, which is {heads}, found {size}");
                let hint = format!("change `{key}`, or set `n_heads` to one of {}", divisors.join(", "));
                return refuse(raw, &[key, "n_heads"], problem, hint);
            }
        }
        Ok(())
    }

    /// The metric that stops training is one of those that are computed.
    pub(super) fn check_valid_metric(&self, raw: &Raw) -> Result<()> {
        let MetricAt { kind, k } = self.eval.valid_metric;
        if self.eval.metrics.contains(&kind) && self.eval.topk.contains(&k) {
            return Ok(());
        }
        let problem = format!(
            "`valid_metric`: expected one of `metrics` {} at one of `topk` {}, found {}",
            self.shown("metrics"),
            self.shown("topk"),
            self.shown("valid_metric")
        );
        let cure = "set `valid_metric` to one that is computed, or add it to `metrics` and `topk`";
        refuse(raw, &["valid_metric", "metrics", "topk"], problem, cure)
    }

    fn shown(&self, key: &str) -> String {
        match keys::find(key).map(|key| &key.kind) {
            Some(Kind::Honoured { get, .. }) => python::printed(&get(self)),
            _ => String::new(),
        }
    }
}

/// An error at the place of the first of `keys` that was written.
fn refuse(raw: &Raw, keys: &[&str], problem: impl Into<String>, cure: impl Into<String>) -> Result<()> {
    let error = Error::new(problem).hint(cure);
    Err(match keys.iter().find_map(|key| raw.get(key)) {
        Some(entry) => entry.origin.name(error),
        None => error,
    })
}
