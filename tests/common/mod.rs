//! What several test binaries share: the goldens and the data sets, read once.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod place;
pub mod process;

use std::io::Write;
use std::path::{Path, PathBuf};

use dif_sr::config::RunConfig;
use dif_sr::tensors::hex;
use once_cell::sync::Lazy;
use serde_json::Value;
use sha2::Digest;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A golden whole-run file.
pub fn golden(name: &str) -> Value {
    json(format!("golden/{name}.json"))
}

/// A JSON file, of the repository where the path is relative.
pub fn json(path: impl AsRef<Path>) -> Value {
    let path = root().join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// `configs/<name>.yaml` with overrides, on one thread of the CPU.
pub fn config(name: &str, overrides: &[(&str, &str)]) -> RunConfig {
    configs(&[name], overrides)
}

/// The same for several files, of which later ones win.
pub fn configs(names: &[&str], overrides: &[(&str, &str)]) -> RunConfig {
    let fixed = [("threads", "1"), ("use_gpu", "False"), ("show_progress", "False")];
    shipped(names, &[&fixed[..], overrides].concat())
}

/// The same with these overrides alone.
pub fn shipped(names: &[&str], overrides: &[(&str, &str)]) -> RunConfig {
    let files: Vec<PathBuf> = names.iter().map(|name| root().join(format!("configs/{name}.yaml"))).collect();
    let overrides: Vec<_> = overrides.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    RunConfig::load(&files, &overrides).unwrap_or_else(|e| panic!("{e}"))
}

/// The folders in a folder of the repository, sorted.
pub fn folders(of: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(of)).expect("a folder of the repository");
    let mut folders: Vec<_> = entries.map(|e| e.expect("readable").path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// The folder that holds `ml-100k/`, which `./setup` fetches.
pub static ML_100K: Lazy<String> = Lazy::new(|| {
    let path = root().join("dataset");
    assert!(path.join("ml-100k/ml-100k.inter").is_file(), "dataset/ml-100k is missing: run ./setup");
    path.display().to_string()
});

/// Whether a variable says that this machine must run the tests that need something.
pub fn required(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|wish| wish == "required")
}

/// Says that a test is left out: past the test harness, which shows what is printed for failures only.
pub fn left_out(why: &str) {
    std::io::stderr().write_all(format!("left out: {why}\n").as_bytes()).expect("standard error is open");
}

/// The folder that holds `Amazon_Beauty/`: `DIF_SR_AMAZON_BEAUTY`, or `dataset`. It is not part of the repository, so
/// that tests on it say that they are left out where it is missing; a folder that is named must hold it.
pub static AMAZON_BEAUTY: Lazy<Option<String>> = Lazy::new(|| {
    let named = std::env::var_os("DIF_SR_AMAZON_BEAUTY").map(PathBuf::from);
    let path = named.clone().unwrap_or_else(|| root().join("dataset"));
    let there = path.join("Amazon_Beauty/Amazon_Beauty.inter").is_file();
    assert!(there || named.is_none(), "DIF_SR_AMAZON_BEAUTY is {}, which holds no Amazon_Beauty", path.display());
    if !there {
        left_out(&format!("no Amazon_Beauty in {}; set DIF_SR_AMAZON_BEAUTY", path.display()));
    }
    there.then(|| path.display().to_string())
});

/// [`AMAZON_BEAUTY`], if it is the copy that the golden values were computed from (docs/data.md). Its files say so: ids, order
/// and tokens of any other are others.
pub static GOLDEN_BEAUTY: Lazy<Option<String>> = Lazy::new(|| {
    const SUMS: [(&str, &str); 2] = [
        ("inter", "05d61e5014c9add97ad7543d3dbd0858f39b8a83feba2e3ac14359276fd951a1"),
        ("item", "6d0d6083ce9b74ca4d4f168db423a6b2a42350a47183fdba8597da68e01d06d5"),
    ];
    let path = AMAZON_BEAUTY.clone()?;
    let is_golden = |(extension, sum): (&str, &str)| {
        let file = PathBuf::from(&path).join(format!("Amazon_Beauty/Amazon_Beauty.{extension}"));
        std::fs::read(file).is_ok_and(|bytes| hex(&sha2::Sha256::digest(bytes)) == sum)
    };
    let golden = SUMS.into_iter().all(is_golden);
    if !golden {
        left_out(&format!("the Amazon_Beauty in {path} is another copy than the golden values'"));
    }
    golden.then_some(path)
});

/// Writes a small data set `toy` to `folder/toy`: 60 users, 30 items, 8 interactions each, one to three tags an item.
/// Users walk through the items in a fixed stride, so that there is something to learn.
pub fn write_toy(folder: &Path) {
    let (mut inter, mut item) = (String::from("user_id:token\titem_id:token\ttimestamp:float\n"), String::new());
    item += "item_id:token\ttags:token_seq\tbrand:token\n";
    for user in 0..60 {
        for step in 0..8 {
            inter += &format!("u{user}\ti{}\t{}\n", (user + step * (1 + user % 3)) % 30, 1000 + step);
        }
    }
    for i in 0..30 {
        let tags: Vec<String> = (0..=i % 3).map(|t| format!("t{}", (i + t) % 5)).collect();
        item += &format!("i{i}\t{}\tb{}\n", tags.join(" "), i % 4);
    }
    let toy = folder.join("toy");
    std::fs::create_dir_all(&toy).expect("a writable folder");
    std::fs::write(toy.join("toy.inter"), inter).expect("a writable folder");
    std::fs::write(toy.join("toy.item"), item).expect("a writable folder");
}

/// `--key=value` for a small model on [`write_toy`]'s data.
pub const TOY: [&str; 14] = [
    "--dataset=toy",
    "--data_path=.",
    "--selected_features=[tags]",
    "--attribute_hidden_size=[8]",
    "--lamdas=[5]",
    "--hidden_size=16",
    "--inner_size=16",
    "--n_layers=2",
    "--n_heads=2",
    "--MAX_ITEM_LIST_LENGTH=5",
    "--learning_rate=0.01",
    "--valid_metric=Recall@10",
    "--use_gpu=False",
    "--threads=1",
];
