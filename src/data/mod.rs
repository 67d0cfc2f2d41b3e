//! data (stub until the branch lands)
use tch::Tensor;
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttributeKind {
    Token,
    TokenSeq,
}
#[derive(Debug)]
pub struct Vocabulary(Vec<String>);
impl Vocabulary {
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
#[derive(Debug)]
pub struct Attribute {
    pub name: String,
    pub kind: AttributeKind,
    pub vocab: Vocabulary,
    pub width: usize,
    pub ids: Vec<i64>,
}
#[derive(Debug)]
pub struct Batch {
    pub user: Tensor,
    pub item_seq: Tensor,
    pub item_seq_len: Tensor,
    pub pos_items: Tensor,
    pub neg_items: Option<Tensor>,
}
