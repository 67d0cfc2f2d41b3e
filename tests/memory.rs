//! No input makes a reader take more memory than a stated multiple of the input's size (docs/reliability.md).
//!
//! Measured as the kernel counts it, so that libtorch's memory is seen as Rust's is: the peak of the resident set while an
//! input of about a megabyte, made to be as costly as its form allows, is read.
#![cfg(target_os = "linux")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Instant;

use dif_sr::Error;
use dif_sr::config::{ModelConfig, RunConfig};
use dif_sr::data::atomic::{Format, parse};
use dif_sr::data::split::split;
use dif_sr::data::{Dataset, OrderedRows};
use dif_sr::golden::Case;
use dif_sr::model::Model;
use dif_sr::tensors::{TensorFile, write};
use dif_sr::train::{Checkpoint, Event, Training};
use tempfile::TempDir;

/// Bytes of memory for each byte of input. The worst known inputs take 196, items of short names with as much padding as is
/// taken, and 195, YAML of nothing but `[` (and half a minute, which is why there is less of it below).
const MULTIPLE: usize = 256;
/// What reading anything takes, whatever its size.
const CONSTANT: usize = 4 << 20;
/// About the size of the inputs.
const SIZE: usize = 1 << 20;

/// Bytes that Rust holds, libtorch's not among them: to the byte, whatever the kernel takes back meanwhile.
static HELD: AtomicUsize = AtomicUsize::new(0);

struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

// SAFETY: the system's allocator does all, with the same arguments.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.fetch_add(size, Relaxed);
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(place, layout, size) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(place, layout) }
    }
}

#[test]
fn no_input_takes_more_memory_than_a_multiple_of_its_size() {
    assert!(peak(|| drop(std::hint::black_box(vec![1u8; 64 << 20]))) >= 60 << 20, "the gauge sees what is allocated");
    for (name, text) in data_files() {
        hold(name, text.len(), || {
            let format = Format { field_separator: b'\t', seq_separator: " " };
            drop(parse(Path::new(name), text.clone().into_bytes(), format, None));
        });
    }
    items_of_many_tags();
    for (name, text) in configurations() {
        hold(name, text.len(), || {
            drop(RunConfig::from_yaml(&text, Path::new(name)));
            drop(ModelConfig::parse_case(&text, Path::new(name)));
            drop(RunConfig::load(&[], &[("metrics".to_owned(), text.clone())]));
        });
    }
    for (name, bytes) in tensor_files() {
        hold(name, bytes.len(), || {
            drop(TensorFile::parse(Path::new(name), &bytes));
            drop(Checkpoint::parse(Path::new(name), &bytes));
        });
    }
    for (name, config, tensors) in cases() {
        hold(name, config.len() + tensors.len(), || drop(Case::parse(Path::new(name), &config, &tensors)));
    }
    interactions_are_kept_once();
    an_epoch_holds_a_batch_at_a_time();
}

/// What is kept for a training grows by at most 40 bytes with each interaction, which is less than a sequence of 200.
fn interactions_are_kept_once() {
    let n = std::env::var("DIF_SR_INTERACTIONS").map_or(2_000_000, |n| n.parse().expect("a number of interactions"));
    let [half, whole] = [n / 2, n].map(|n| kept(n, 200));
    let each = whole.saturating_sub(half) as f64 / (n - n / 2) as f64;
    println!("{n} interactions, L = 200: {whole} bytes are kept, {each:.1} for each interaction more");
    assert!(each <= 40.0, "{each:.1} bytes an interaction");
}

/// A data set of 50,000 users and 20,000 items, and the configuration of a small model on it.
fn made(interactions: usize, length: usize) -> (TempDir, RunConfig) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("made/made.inter");
    std::fs::create_dir(folder.path().join("made")).expect("a folder can be made");
    let mut file = BufWriter::new(File::create(path).expect("a file can be made"));
    writeln!(file, "user_id:token\titem_id:token\ttimestamp:float").expect("written");
    for i in 0..interactions {
        // Multiplication by a prime scatters the items.
        writeln!(file, "{}\t{}\t{i}", i % 50_000, (i / 50_000 * 7919 + i * 31) % 20_000).expect("written");
    }
    file.into_inner().expect("written");
    let keys = [
        ("dataset", "made".to_owned()),
        ("data_path", folder.path().display().to_string()),
        ("model", "SASRec".to_owned()),
        ("hidden_size", "2".to_owned()),
        ("inner_size", "2".to_owned()),
        ("n_heads", "1".to_owned()),
        ("n_layers", "1".to_owned()),
        ("train_batch_size", "64".to_owned()),
        ("use_gpu", "False".to_owned()),
        ("MAX_ITEM_LIST_LENGTH", length.to_string()),
    ];
    let config = RunConfig::load(&[], &keys.map(|(key, value)| (key.to_owned(), value)));
    (folder, config.unwrap_or_else(|e| panic!("{e}")))
}

/// Bytes that are kept of a data set, with its splits and the order of training.
fn kept(interactions: usize, length: usize) -> usize {
    let (_folder, config) = made(interactions, length);
    let before = HELD.load(Relaxed);
    let dataset = Dataset::load(&config.data).unwrap_or_else(|e| panic!("{e}"));
    let splits = split(&dataset, &config.data).unwrap_or_else(|e| panic!("{e}"));
    let order = OrderedRows::new(&splits.train, tch::Device::Cpu);
    let kept = HELD.load(Relaxed) - before;
    assert_eq!(dataset.user.len(), interactions);
    drop((dataset, splits, order));
    kept
}

/// An epoch draws its order, and makes a batch when it is its turn: all at once would be 8 bytes for each position of each
/// row, 3.2 GB here.
fn an_epoch_holds_a_batch_at_a_time() {
    let (interactions, length) = (2_000_000, 200);
    let (_folder, config) = made(interactions, length);
    let dataset = Dataset::load(&config.data).unwrap_or_else(|e| panic!("{e}"));
    let splits = split(&dataset, &config.data).unwrap_or_else(|e| panic!("{e}"));
    let model = Model::new(&config.model, dataset.items.len() as i64, length as i64, Vec::new(), tch::Kind::Float);
    let mut training = Training::new(&config, &model, &splits).unwrap_or_else(|e| panic!("{e}"));
    let begun = peak(|| {
        let stopped = training.run(|event, _| match event {
            Event::Batches { .. } => Err(Error::new("one batch is enough")),
            _ => Ok(()),
        });
        assert!(stopped.is_err_and(|error| error.to_string().contains("one batch")));
    });
    println!("an epoch of {interactions} interactions, L = {length}, takes {begun} bytes more");
    // The permutation, its copy and the new order take 20 bytes a row; a step of 64 rows some 100 MB.
    assert!(
        begun <= 40 * interactions + (256 << 20),
        "an epoch of {interactions} interactions takes {begun} bytes more"
    );
}

/// Every item's tags are padded to the longest list: one line could ask for the square of the file's size, and so could
/// several attributes where each of them alone does not.
fn items_of_many_tags() {
    let head = "user_id:token\titem_id:token\ttimestamp:float\n";
    let tags: Vec<String> = (0..SIZE / 16).map(|i| format!("{i:x}")).collect();
    let item = lines(&format!("item_id:token\ta:token_seq\nx\t{}\n", tags.join(" ")), |i| format!("{i}\t\n"));
    let rows: String = (0..SIZE / 32).map(|i| format!("{}\t{i}\t{i}\n", i / 5)).collect();
    an_item_file("an item of many tags", &item, &format!("{head}{rows}"), &["a"], Some("a"));
    // Most of a table's memory for each byte goes to names, and padding takes none before something on its page is written.
    let tags = |i: usize| if i.is_multiple_of(16) { "\tt\tt\tt" } else { "" };
    for (name, longest, refused) in [("as many tags as fit", 22, None), ("a few tags more", 26, Some("c"))] {
        let first = format!("first{}", format!("\t{}", vec!["t"; longest].join(" ")).repeat(3));
        let head_of_items = format!("item_id:token\ta:token_seq\tb:token_seq\tc:token_seq\n{first}\n");
        let item = lines(&head_of_items, |i| format!("{}{}\n", short_name(i), tags(i)));
        an_item_file(name, &item, &format!("{head}u\tfirst\t1\n"), &["a", "b", "c"], refused);
    }
}

/// Distinct names, most of the first quarter of a million of three bytes.
fn short_name(mut i: usize) -> String {
    let digits: Vec<char> = ('0'..='9').chain('a'..='z').chain('A'..='Z').collect();
    let mut name = String::new();
    loop {
        name.push(digits[i % digits.len()]);
        i /= digits.len();
        if i == 0 {
            return name;
        }
    }
}

/// Loads a data set with these attributes, or is told that the padding up to `refused` is too large.
fn an_item_file(name: &str, item: &str, inter: &str, attributes: &[&str], refused: Option<&str>) {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let toy = folder.path().join("toy");
    std::fs::create_dir(&toy).expect("a folder can be made");
    std::fs::write(toy.join("toy.item"), item).expect("a file can be written");
    std::fs::write(toy.join("toy.inter"), inter).expect("a file can be written");
    let for_each = |value: &str| format!("[{}]", vec![value; attributes.len()].join(", "));
    let keys = [
        ("dataset", "toy".to_owned()),
        ("data_path", folder.path().display().to_string()),
        ("selected_features", format!("[{}]", attributes.join(", "))),
        ("attribute_hidden_size", for_each("8")),
        ("lamdas", for_each("1")),
    ];
    let keys = keys.map(|(key, value)| (key.to_owned(), value));
    let config = RunConfig::load(&[], &keys).unwrap_or_else(|e| panic!("{e}"));
    hold(name, item.len() + inter.len(), || match (Dataset::load(&config.data), refused) {
        (Ok(data), None) => assert_eq!(data.attributes.len(), attributes.len()),
        (Err(error), Some(attribute)) => {
            let expected = format!(", line 2, column `{attribute}`: expected lists of tokens that all items");
            assert!(error.to_string().contains(&expected), "{error}");
        }
        (result, _) => panic!("{name}: {:?}", result.map(|data| data.items.len())),
    });
}

fn hold(name: &str, size: usize, read: impl FnOnce()) {
    let begin = Instant::now();
    let taken = peak(read);
    let times = taken as f64 / size as f64;
    println!(
        "{name}: {size} bytes took {taken} bytes of memory, {times:.1} times as many, and {:.1?}",
        begin.elapsed()
    );
    assert!(taken <= MULTIPLE * size + CONSTANT, "{name}: {size} bytes of input took {taken} bytes of memory");
}

/// How far the resident set grows, at most, while `work` runs.
fn peak(work: impl FnOnce()) -> usize {
    unsafe extern "C" {
        fn malloc_trim(pad: usize) -> i32;
    }
    // What earlier work has freed would be taken again unseen.
    // SAFETY: glibc's function has no precondition.
    unsafe { malloc_trim(0) };
    std::fs::write("/proc/self/clear_refs", "5").expect("the peak can be set back");
    let before = status("VmRSS:");
    work();
    status("VmHWM:").saturating_sub(before)
}

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has this file");
    let line = status.lines().find(|line| line.starts_with(name)).expect("Linux has this line");
    1024 * line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok()).expect("a number of kB")
}

/// `line(0)`, `line(1)`, … to about [`SIZE`] bytes.
fn lines(head: &str, line: impl Fn(usize) -> String) -> String {
    let mut text = head.to_owned();
    for i in 0.. {
        if text.len() >= SIZE {
            break;
        }
        text += &line(i);
    }
    text
}

fn data_files() -> Vec<(&'static str, String)> {
    let head = "user_id:token\titem_id:token\ttags:token_seq\tx:float\txs:float_seq\n";
    let columns: String = (0..SIZE / 32).map(|i| format!("{i:x}:float\t")).collect();
    let columns = columns.trim_end().to_owned();
    vec![
        ("distinct tokens", lines(head, |i| format!("{i:x}\n"))),
        (
            "distinct elements",
            lines(head, |i| format!("a\tb\t{}\n", (0..9).map(|j| format!("{i:x}{j} ")).collect::<String>())),
        ),
        ("the shortest elements", lines(head, |_| "a\tb\ta b c d e f g h\t1\t1 2 3 4 5 6 7 8\n".to_owned())),
        ("blank lines", lines(head, |_| "\n".to_owned())),
        ("many columns", lines("", |i| format!("{i:x}:float\t"))),
        ("many columns, many short lines", lines(&(columns + "\n"), |_| "1\n".to_owned())),
        ("quotes", lines(head, |_| "\"\"\"\"\t\"\"\n".to_owned())),
    ]
}

fn configurations() -> Vec<(&'static str, String)> {
    let doubled = (1..40).fold("a0: &a0 [1]\n".to_owned(), |t, i| t + &format!("a{i}: &a{i} [*a{0}, *a{0}]\n", i - 1));
    let keys: String = (0..SIZE / 32).map(|i| format!("{i:x},")).collect();
    let anchor = format!("a: &a [{}]\nb: [", "1,".repeat(SIZE / 4));
    vec![
        ("aliases within aliases", lines(&doubled, |_| "# more\n".to_owned())),
        ("many aliases of a long list", lines(&anchor, |_| "*a,".to_owned()) + "]"),
        ("a merged mapping", lines(&format!("a: &a {{{keys}}}\nb: {{<<: *a}}\n"), |_| "# more\n".to_owned())),
        ("a long list", lines("metrics: [", |_| "a,".to_owned()) + "]"),
        ("a list of nulls", lines("metrics:\n", |_| "-\n".to_owned())),
        ("a flow mapping", lines("eval_args: {", |i| format!("{i:x},")) + "}"),
        ("nesting", lines(&("[".repeat(SIZE / 16) + "\n"), |_| "# more\n".to_owned())),
        ("keys of nothing", lines("", |i| format!("{i:x}:\n"))),
        ("a Python list", lines("[", |_| "1,".to_owned()) + "]"),
    ]
}

/// A safetensors file with this header.
fn tensor_file(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()
}

fn tensor_files() -> Vec<(&'static str, Vec<u8>)> {
    let tensor =
        |shape: &str, end: usize| format!(r#"{{"a":{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,{end}]}}}}"#);
    let empty = |i: usize| format!(r#""{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#);
    let mut entries = lines("{", empty);
    entries.pop();
    let mut metadata = lines(r#"{"__metadata__":{"#, |i| format!(r#""{i:x}":"","#));
    metadata.pop();
    vec![
        ("one large tensor", tensor_file(&tensor(&(SIZE / 4).to_string(), SIZE), SIZE)),
        ("a shape beyond the file", tensor_file(&tensor("1000000000,1000000000,1000000000", SIZE), SIZE)),
        ("a shape without elements", tensor_file(&tensor("0,1000000000000", 0), SIZE)),
        ("many empty tensors", tensor_file(&(entries + "}"), 0)),
        ("many metadata", tensor_file(&(metadata + "}}"), 0)),
        ("a header longer than the file", [&u64::MAX.to_le_bytes()[..], &vec![b' '; SIZE]].concat()),
        ("many items", checkpoint("", &format!("[{}\"a\"]", "\"\",".repeat(SIZE / 3)), "[]")),
        (
            "many layers",
            checkpoint(
                "n_layers: 1000000\nn_heads: 1\nhidden_size: 1000000\ninner_size: 1000000\nattribute_hidden_size: [1000000]\n",
                &format!("[\"[PAD]\"{}]", ",\"a\"".repeat(SIZE / 4)),
                "[]",
            ),
        ),
    ]
}

/// A sealed checkpoint of these metadata without any tensor.
fn checkpoint(config: &str, items: &str, attributes: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let path = folder.path().join("made.safetensors");
    let config = format!("selected_features: []\n{config}");
    let metadata = [
        ("format", "dif-sr checkpoint 2"),
        ("config", &config),
        ("items", items),
        ("attributes", attributes),
        ("epoch", "0"),
    ];
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    write(&path, &[], &metadata).expect("the file can be written");
    std::fs::read(&path).expect("it was just written")
}

fn cases() -> Vec<(&'static str, String, Vec<u8>)> {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/gate");
    let config = std::fs::read_to_string(case.join("config.yaml")).expect("the golden case is there");
    let tensors = std::fs::read(case.join("tensors.safetensors")).expect("the golden case is there");
    let larger = |key: &str, value: &str| {
        let line = config.lines().find(|line| line.starts_with(key)).expect("the case has this key");
        config.replace(line, &format!("{key}: {value}"))
    };
    let names: String = (0..SIZE / 200).map(|i| format!("\"{i:x}\",")).collect();
    let attributes: String =
        (0..SIZE / 200).map(|i| format!("- {{name: \"{i:x}\", type: token, vocab: 2}}\n")).collect();
    let many = larger("selected_features", &format!("[{names}]")).replace("\n- categories\n", "\n");
    let (before, after) = many.split_once("- name: categories").expect("the case has this attribute");
    let many = format!("{before}{attributes}{}", &after[after.find("pooling_mode").expect("the case has this key")..]);
    vec![
        ("a case", config.clone(), tensors.clone()),
        ("a case of many items", larger("n_items", "1000000"), tensors.clone()),
        ("a case of many layers", larger("n_layers", "1000000"), tensors.clone()),
        ("a case of wide layers", larger("hidden_size", "1000000"), tensors.clone()),
        ("a case of long sequences", larger("MAX_ITEM_LIST_LENGTH", "1000000"), tensors.clone()),
        ("a case of many attributes", many, tensors),
    ]
}
