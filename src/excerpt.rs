//! Text of any length as it can stand in a message.

/// Characters that are shown of a longer text: at its beginning, and at its end.
const SHOWN: [usize; 2] = [150, 50];

/// `text` on one line; of a long one its beginning, its end and its length.
pub(crate) fn excerpt(text: &str) -> String {
    cut(&text.escape_debug().to_string())
}

/// `text` as it is, cut as [`excerpt`] cuts it.
pub(crate) fn cut(text: &str) -> String {
    let [first, last] = SHOWN;
    let length = text.chars().count();
    if length <= first + last {
        return text.to_owned();
    }
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    format!("{} … {} ({length} characters)", &text[..at(first)], &text[at(length - last)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_its_end_and_its_length() {
        assert_eq!(excerpt("a\tb"), "a\\tb");
        let long = excerpt(&format!("first {} last", "é".repeat(1000)));
        assert!(long.starts_with("first éé") && long.ends_with("éé last (1011 characters)"), "{long}");
        assert!(long.chars().count() < 250);
    }
}
