//! Python literals: RecBole evaluates values of the command line, RecSysDatasets lines of metadata.
//!
//! Both hand them to Python's `eval`, which would run whatever stands in them. Here they are data: texts, numbers, `None`,
//! `True`, `False`, lists and dictionaries with texts as keys, and nothing else.

use std::borrow::Cow;

/// How deep lists and dictionaries may nest; the metadata's nest three deep.
const MAX_DEPTH: usize = 16;

/// How many values a line may hold; a line of 2014 has a few hundred.
const MAX_VALUES: usize = 100_000;

/// A value, borrowed from its line where no escape had to be resolved.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    None,
    Bool(bool),
    /// As it is written.
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
    Dict(Dict<'a>),
}

/// A dictionary's pairs in their order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dict<'a>(pub Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Dict<'a> {
    /// The value of a key: the last, as in Python.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

/// Where a line is no literal.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// Bytes before it.
    pub at: usize,
    pub expected: &'static str,
}

/// Reads a line that is a dictionary as a whole.
pub fn dict(line: &str) -> Result<Dict<'_>, Problem> {
    whole(line, |reader| reader.dict(0))
}

/// Reads a text that is a literal as a whole.
pub fn value(text: &str) -> Result<Value<'_>, Problem> {
    whole(text, |reader| reader.value(0))
}

fn whole<'a, T>(text: &'a str, read: impl FnOnce(&mut Reader<'a>) -> Result<T, Problem>) -> Result<T, Problem> {
    let mut reader = Reader { text, at: 0, values: 0 };
    reader.blanks();
    let value = read(&mut reader)?;
    reader.blanks();
    if reader.at < text.len() { Err(reader.problem("the end of the line")) } else { Ok(value) }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// So many values so far.
    values: usize,
}

impl<'a> Reader<'a> {
    fn problem(&self, expected: &'static str) -> Problem {
        Problem { at: self.at, expected }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\r', '\n']).len();
    }

    /// Steps over `token` if it stands here.
    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, Problem> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.problem("at most 100,000 values"));
        }
        match self.rest().bytes().next() {
            Some(b'{') => self.dict(depth).map(Value::Dict),
            Some(b'[') => self.list(depth).map(Value::List),
            Some(b'\'' | b'"' | b'u' | b'U') => self.string().map(Value::Text),
            Some(b'0'..=b'9' | b'.' | b'+' | b'-') => self.number().map(Value::Number),
            _ if self.take("None") => Ok(Value::None),
            _ if self.take("True") => Ok(Value::Bool(true)),
            _ if self.take("False") => Ok(Value::Bool(false)),
            _ => Err(self.problem("a text, a number, None, True, False, a list or a dictionary")),
        }
    }

    /// What stands between brackets, separated by commas.
    fn enclosed(
        &mut self,
        [open, close]: [&'static str; 2],
        depth: usize,
        mut item: impl FnMut(&mut Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        if depth > MAX_DEPTH {
            return Err(self.problem("at most 16 levels of lists and dictionaries"));
        }
        if !self.take(open) {
            return Err(self.problem("a dictionary"));
        }
        loop {
            self.blanks();
            if self.take(close) {
                return Ok(());
            }
            item(self)?;
            self.blanks();
            if !self.take(",") && !self.rest().starts_with(close) {
                return Err(self.problem("a comma or a closing bracket"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value<'a>>, Problem> {
        let mut items = Vec::new();
        self.enclosed(["[", "]"], depth, |reader| reader.value(depth + 1).map(|item| items.push(item)))?;
        Ok(items)
    }

    fn dict(&mut self, depth: usize) -> Result<Dict<'a>, Problem> {
        let mut pairs = Vec::new();
        self.enclosed(["{", "}"], depth, |reader| {
            let key = reader.string()?;
            reader.blanks();
            if !reader.take(":") {
                return Err(reader.problem("a colon"));
            }
            reader.blanks();
            reader.value(depth + 1).map(|value| pairs.push((key, value)))
        })?;
        Ok(Dict(pairs))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Problem> {
        // Python 2 marks some texts as Unicode; Python 3 takes the mark as well.
        let _ = self.take("u") || self.take("U");
        let quote = match self.rest().chars().next() {
            Some(quote @ ('\'' | '"')) => quote,
            _ => return Err(self.problem("a text in quotes")),
        };
        self.at += 1;
        if self.rest().strip_prefix(quote).is_some_and(|rest| rest.starts_with(quote)) {
            return Err(self.problem("a text in single quotes, not in three"));
        }
        let mut text = Cow::Borrowed("");
        loop {
            let Some(end) = self.rest().find([quote, '\\']) else {
                return Err(self.problem("a closing quote"));
            };
            match &mut text {
                Cow::Borrowed("") => text = Cow::Borrowed(&self.rest()[..end]),
                text => text.to_mut().push_str(&self.rest()[..end]),
            }
            self.at += end + 1;
            if self.text.as_bytes()[self.at - 1] != b'\\' {
                return Ok(text);
            }
            self.escape(text.to_mut())?;
        }
    }

    /// What stands for the escape whose backslash was read.
    fn escape(&mut self, text: &mut String) -> Result<(), Problem> {
        let Some(c) = self.rest().chars().next() else {
            return Err(self.problem("a closing quote"));
        };
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            'N' => return Err(self.problem("an escape other than \\N")),
            '0'..='7' => {
                let octal = self.rest().bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
                return self.code(octal, 8, text);
            }
            _ => {
                self.at += c.len_utf8();
                match c {
                    '\\' | '\'' | '"' => text.push(c),
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    'a' => text.push('\x07'),
                    'b' => text.push('\x08'),
                    'f' => text.push('\x0c'),
                    'v' => text.push('\x0b'),
                    // No escape: Python keeps both characters.
                    other => text.extend(['\\', other]),
                }
                return Ok(());
            }
        };
        self.at += 1;
        self.code(digits, 16, text)
    }

    /// The character whose number is written in so many digits.
    fn code(&mut self, digits: usize, radix: u32, text: &mut String) -> Result<(), Problem> {
        let written = self.rest().get(..digits).filter(|w| w.bytes().all(|b| b.is_ascii_alphanumeric()));
        let code = written.and_then(|written| u32::from_str_radix(written, radix).ok());
        // Halves of surrogate pairs are no characters: Python reads them, but cannot write them to a file either.
        let c = code.and_then(char::from_u32).ok_or_else(|| self.problem("the number of a character"))?;
        self.at += digits;
        text.push(c);
        Ok(())
    }

    fn number(&mut self) -> Result<&'a str, Problem> {
        let number = |c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-' | 'e' | 'E');
        let written = &self.rest()[..self.rest().find(|c| !number(c)).unwrap_or(self.rest().len())];
        let bare = written.trim_start_matches(['+', '-']);
        let whole = bare.bytes().all(|b| b.is_ascii_digit());
        // Python 3 has no numbers like 012, and Rust's reader takes two signs for none.
        let padded = whole && bare.len() > 1 && bare.starts_with('0') && !bare.trim_start_matches('0').is_empty();
        if padded || written.len() > bare.len() + 1 || !written.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(self.problem("a number"));
        }
        self.at += written.len();
        Ok(written)
    }
}

/// A text as Python's `repr` writes it.
pub fn repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            _ if c == quote => out.extend(['\\', c]),
            _ if c.is_control() || (c.is_whitespace() && c != ' ') || c == '\u{ad}' => match u32::from(c) {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code => out.push_str(&format!("\\u{code:04x}")),
            },
            _ => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// A number as Python's `repr` writes it, in the shortest form: a point where there is no exponent, an exponent of two digits or
/// more where there is one.
pub fn float(x: f64) -> String {
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
    use proptest::prelude::*;

    use super::*;

    fn text(written: &str) -> Option<String> {
        match dict(&format!("{{'a': {written}}}")).ok()?.get("a")? {
            Value::Text(text) => Some(text.clone().into_owned()),
            _ => None,
        }
    }

    #[test]
    fn texts_are_read_as_python_3_reads_them() {
        for (written, read) in [
            ("''", ""),
            ("'it'", "it"),
            (r"'it\'s'", "it's"),
            (r#""it's""#, "it's"),
            (r#"'say \"x\"'"#, "say \"x\""),
            (r"'a\\b\tc\nd\re'", "a\\b\tc\nd\re"),
            (r"'\a\b\f\v'", "\x07\x08\x0c\x0b"),
            (r"'caf\xc3\xa9'", "cafÃ©"),
            (r"u'caf\u00e9 \U0001f600'", "café 😀"),
            (r"'\101\0\78'", "A\0\x078"),
            (r"'\d &amp; é'", r"\d &amp; é"),
        ] {
            assert_eq!(text(written).as_deref(), Some(read), "{written}");
        }
    }

    #[test]
    fn what_python_would_have_to_run_or_refuses_is_no_literal() {
        for line in [
            "",
            "{",
            "[]",
            "{'a': __import__('os').system('true')}",
            "{'a': open('x')}",
            "{'a': 1 + 1}",
            "{'a': (1, 2)}",
            "{'a': 'b' 'c'}",
            "{'a': r'b'}",
            "{'a': b'b'}",
            "{'a': '''b'''}",
            "{'a': 'b}",
            "{'a': 'b\\",
            "{'a': '\\x4'}",
            "{'a': '\\xé1'}",
            "{'a': '\\ud83d'}",
            "{'a': '\\N{DASH}'}",
            "{'a': 012}",
            "{'a': 1_0}",
            "{'a': 0x10}",
            "{'a': --1}",
            "{'a': 1e999}",
            "{'a': nan}",
            "{'a': true}",
            "{'a'}",
            "{1: 2}",
            "{[]: 2}",
            "{'a': 1,, 'b': 2}",
            "{'a': 1} {}",
            "{'a': 1} # more",
        ] {
            assert!(dict(line).is_err(), "{line}");
        }
    }

    #[test]
    fn lists_dictionaries_and_numbers_are_read_in_their_order() {
        let read = dict(" {'b': [['x', u'y'],], 'a': {'k': -1.5e3, }, 'n': None, 't': True, 'b': []}\r\n").unwrap();
        assert_eq!(read.0.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["b", "a", "n", "t", "b"]);
        assert_eq!(read.get("b"), Some(&Value::List(vec![])));
        let Some(Value::Dict(inner)) = read.get("a") else { panic!("a dictionary") };
        assert_eq!(inner.get("k"), Some(&Value::Number("-1.5e3")));
        assert_eq!((read.get("n"), read.get("t")), (Some(&Value::None), Some(&Value::Bool(true))));
        for number in ["0", "00", "5.", ".5", "+7", "461765", "19.99"] {
            assert!(dict(&format!("{{'a': {number}}}")).is_ok(), "{number}");
        }
    }

    #[test]
    fn depth_and_number_of_values_are_bounded() {
        let nested = |depth: usize| format!("{{'a': {}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(dict(&nested(16)).is_ok());
        assert_eq!(dict(&nested(17)).unwrap_err().expected, "at most 16 levels of lists and dictionaries");
        assert!(dict(&nested(1_000_000)).is_err());
        let many = |n: usize| format!("{{'a': [{}]}}", "1,".repeat(n));
        assert!(dict(&many(99_999)).is_ok());
        assert_eq!(dict(&many(100_000)).unwrap_err().expected, "at most 100,000 values");
    }

    #[test]
    fn a_text_is_written_as_python_writes_it() {
        for (text, written) in [
            ("Face", "'Face'"),
            ("Women's", "\"Women's\""),
            ("5\" Women's", r#"'5" Women\'s'"#),
            ("a\\b\n", r"'a\\b\n'"),
            ("\u{a0}\u{2028}\x1b", r"'\xa0\u2028\x1b'"),
            ("é", "'é'"),
        ] {
            assert_eq!(repr(text), written);
        }
    }

    proptest! {
        #[test]
        fn any_line_gives_a_dictionary_or_a_place_in_it(line in "\\PC{0,80}|([{}\\[\\]'\",:u\\\\xN0-9.e+ -]|None|'a': ){0,40}") {
            if let Err(problem) = dict(&line) {
                prop_assert!(problem.at <= line.len());
            }
        }

        #[test]
        fn what_is_written_is_read_back(text in any::<String>()) {
            let line = format!("{{{0}: {0}}}", repr(&text));
            let read = dict(&line).unwrap();
            prop_assert_eq!(read.get(&text), Some(&Value::Text(text.clone().into())));
        }
    }
}
