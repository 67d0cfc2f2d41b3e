//! Python's way of writing values: RecBole evaluates command-line values as Python and prints values as Python does.

use serde_yaml::{Mapping, Value};

/// How deep lists and dictionaries may nest in a literal.
const MAX_DEPTH: usize = 16;

/// The value of a command-line text: a Python literal, or YAML's lists, dictionaries and null, or else the text itself.
pub(super) fn value_of(text: &str) -> Value {
    let text = text.trim();
    literal(text).or_else(|| yaml(text)).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The value of a text that is a Python literal as a whole.
pub(super) fn literal(text: &str) -> Option<Value> {
    let mut rest = text.trim();
    let value = parse(&mut rest, 0)?;
    rest.trim().is_empty().then_some(value)
}

fn yaml(text: &str) -> Option<Value> {
    match text.to_lowercase().as_str() {
        "true" => Some(Value::Bool(true)),
        "false" => Some(Value::Bool(false)),
        "null" | "~" => Some(Value::Null),
        lower if lower.starts_with(['[', '{']) => crate::yaml::from_str(text).ok(),
        _ => None,
    }
}

fn parse(rest: &mut &str, depth: usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    *rest = rest.trim_start();
    match rest.chars().next()? {
        quote @ ('\'' | '"') => string(rest, quote).map(Value::String),
        '[' => {
            let mut items = Vec::new();
            enclosed(rest, ']', |rest| parse(rest, depth + 1).map(|item| items.push(item)))?;
            Some(Value::Sequence(items))
        }
        '{' => {
            let mut pairs = Mapping::new();
            enclosed(rest, '}', |rest| {
                let key = parse(rest, depth + 1)?;
                *rest = rest.trim_start().strip_prefix(':')?;
                parse(rest, depth + 1).map(|value| drop(pairs.insert(key, value)))
            })?;
            Some(Value::Mapping(pairs))
        }
        _ => {
            let end = rest.find([',', ']', '}', ':']).unwrap_or(rest.len());
            let word = rest[..end].trim_end();
            *rest = &rest[end..];
            scalar(word)
        }
    }
}

/// Reads what stands between a bracket and its `close`, items separated by commas.
fn enclosed(rest: &mut &str, close: char, mut item: impl FnMut(&mut &str) -> Option<()>) -> Option<()> {
    *rest = rest[1..].trim_start();
    while !rest.starts_with(close) {
        item(rest)?;
        *rest = rest.trim_start();
        match rest.strip_prefix(',') {
            Some(after) => *rest = after.trim_start(),
            None if rest.starts_with(close) => {}
            None => return None,
        }
    }
    *rest = &rest[1..];
    Some(())
}

fn string(rest: &mut &str, quote: char) -> Option<String> {
    let mut text = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            *rest = &rest[at + 1..];
            return Some(text);
        }
        match (c, if c == '\\' { Some(chars.next()?.1) } else { None }) {
            (_, Some('n')) => text.push('\n'),
            (_, Some('t')) => text.push('\t'),
            (_, Some('r')) => text.push('\r'),
            (_, Some(escaped @ ('\\' | '\'' | '"'))) => text.push(escaped),
            (_, Some(other)) => text.extend(['\\', other]),
            (c, None) => text.push(c),
        }
    }
    None
}

fn scalar(word: &str) -> Option<Value> {
    match word {
        "None" => Some(Value::Null),
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        // Rust reads `inf` and `nan` as numbers, Python does not.
        _ if word.contains(|c: char| c.is_ascii_alphabetic() && !"eE".contains(c)) => None,
        _ => word.parse().map(|n: i64| n.into()).or_else(|_| word.parse().map(|n: f64| n.into())).ok(),
    }
}

/// `value` as Python prints it.
pub(super) fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => repr(other),
    }
}

/// [`repr`], cut to fit a message.
pub(super) fn shown(value: &Value) -> String {
    crate::excerpt::cut(&repr(value))
}

/// `value` as Python writes it in code.
pub(super) fn repr(value: &Value) -> String {
    let joined = |items: Vec<String>| items.join(", ");
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(flag) => if *flag { "True" } else { "False" }.to_owned(),
        Value::Number(n) if n.is_f64() => float(n.as_f64().unwrap_or(f64::NAN)),
        Value::Number(n) => n.to_string(),
        Value::String(text) => {
            let text = text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r");
            format!("'{}'", text.replace('\'', "\\'"))
        }
        Value::Sequence(items) => format!("[{}]", joined(items.iter().map(repr).collect())),
        Value::Mapping(pairs) => {
            format!("{{{}}}", joined(pairs.iter().map(|(k, v)| format!("{}: {}", repr(k), repr(v))).collect()))
        }
        Value::Tagged(tagged) => format!("{} {}", tagged.tag, repr(&tagged.value)),
    }
}

/// Python's shortest form: a point where there is no exponent, an exponent of two digits or more where there is one.
pub(crate) fn float(x: f64) -> String {
    let scientific = format!("{x:e}");
    match scientific.split_once('e').map(|(mantissa, exponent)| (mantissa, exponent.parse::<i32>())) {
        Some((_, Ok(-4..=15))) => format!("{x:?}"),
        Some((mantissa, Ok(exponent))) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        _ => scientific, // inf, nan
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_values_are_read_as_python_would() {
        for (text, printed_back) in [
            ("True", "True"),
            ("true", "True"),
            ("None", "None"),
            ("~", "None"),
            ("-5", "-5"),
            ("1e-4", "0.0001"),
            ("9.9e-5", "9.9e-05"),
            ("-1e-7", "-1e-07"),
            ("1e-12", "1e-12"),
            ("0.0", "0.0"),
            ("0.00001", "1e-05"),
            ("1e16", "1e+16"),
            ("5.", "5.0"),
            ("'a b'", "'a b'"),
            (r"'\t'", r"'\t'"),
            ("[1, 2,]", "[1, 2]"),
            ("[]", "[]"),
            ("[Recall, NDCG]", "['Recall', 'NDCG']"),
            ("{'LS': 'valid_and_test'}", "{'LS': 'valid_and_test'}"),
            ("{inter: [a]}", "{'inter': ['a']}"),
            ("[5,inf)", "'[5,inf)'"),
            ("(5,10)", "'(5,10)'"),
            ("Recall@10", "'Recall@10'"),
            ("inf", "'inf'"),
            ("'unclosed", "'\\'unclosed'"),
            ("", "''"),
        ] {
            assert_eq!(repr(&value_of(text)), printed_back, "{text}");
        }
    }
}
