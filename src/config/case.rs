//! stub until the configuration branch lands
use std::path::Path;
use serde::Deserialize;
use super::ModelConfig;
use crate::data::AttributeKind;
#[derive(Debug, Deserialize)]
pub struct CaseConfig { #[serde(flatten)] pub model: ModelConfig, pub n_items: i64, #[serde(rename="MAX_ITEM_LIST_LENGTH")] pub max_item_list_length: i64, pub attributes: Vec<CaseAttribute>, pub learning_rate: f64, pub train_steps: usize }
#[derive(Debug, Deserialize)]
pub struct CaseAttribute { pub name: String, #[serde(rename="type")] pub kind: AttributeKind, pub vocab: i64 }
impl CaseConfig { pub fn load(path: &Path) -> crate::Result<Self> { Ok(serde_yaml::from_str(&std::fs::read_to_string(path).map_err(|e| crate::Error::io(path,"read",e))?).map_err(|e| crate::Error::new(e.to_string()))?) } }
impl super::RunConfig { pub fn to_yaml(&self) -> String { String::new() } pub fn log_block(&self) -> String { String::new() } pub fn from_yaml(_: &str, _: &Path) -> crate::Result<Self> { todo!() } }
