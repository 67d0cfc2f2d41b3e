//! Python's way of writing values: RecBole evaluates command-line values as Python and prints values as Python does.

use serde_yaml::Value;

use crate::python;

/// The value of a command-line text: a Python literal, or YAML's lists, dictionaries and null, or else the text itself.
pub(super) fn value_of(text: &str) -> Value {
    let text = text.trim();
    literal(text).or_else(|| yaml(text)).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// The value of a text that is a Python literal as a whole.
pub(super) fn literal(text: &str) -> Option<Value> {
    python::value(text).ok().map(owned)
}

fn owned(value: python::Value) -> Value {
    match value {
        python::Value::None => Value::Null,
        python::Value::Bool(flag) => Value::Bool(flag),
        python::Value::Number(n) => n.parse::<i64>().map_or_else(|_| n.parse().unwrap_or(f64::NAN).into(), Value::from),
        python::Value::Text(text) => Value::String(text.into_owned()),
        python::Value::List(items) => items.into_iter().map(owned).collect(),
        python::Value::Dict(python::Dict(pairs)) => {
            Value::Mapping(pairs.into_iter().map(|(key, value)| (key.as_ref().into(), owned(value))).collect())
        }
    }
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
        Value::Number(n) if n.is_f64() => python::float(n.as_f64().unwrap_or(f64::NAN)),
        Value::Number(n) => n.to_string(),
        Value::String(text) => python::repr(text),
        Value::Sequence(items) => format!("[{}]", joined(items.iter().map(repr).collect())),
        Value::Mapping(pairs) => {
            format!("{{{}}}", joined(pairs.iter().map(|(k, v)| format!("{}: {}", repr(k), repr(v))).collect()))
        }
        Value::Tagged(tagged) => format!("{} {}", tagged.tag, repr(&tagged.value)),
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
            ("'unclosed", "\"'unclosed\""),
            ("", "''"),
        ] {
            assert_eq!(repr(&value_of(text)), printed_back, "{text}");
        }
    }
}
