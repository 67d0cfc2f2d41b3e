//! Names of the numbers that a factor between two tensors may be.

use crate::Case;

/// Numbers of a case, each with what it is.
pub(crate) struct Names(Vec<(f64, String)>);

impl Names {
    pub fn of(case: &Case) -> Self {
        let config = &case.config;
        let of = |number: usize, name: &str| (number as f64, name.to_owned());
        let mut all = vec![
            of(case.batch(), "the rows of the batch"),
            of(config.max_len, "the positions of a sequence"),
            of(config.n_items, "the items"),
            of(config.n_items - 1, "the items without the padding item"),
            of(config.n_heads, "n_heads"),
            of(config.hidden_size, "hidden_size"),
            of(config.head_size(), "the item head size"),
            of(2 + config.attributes.len(), "the streams"),
        ];
        for (i, attribute) in config.attributes.iter().enumerate() {
            let name = &attribute.name;
            all.push(of(attribute.vocab, &format!("the vocabulary of `{name}`")));
            all.push(of(attribute.vocab - 1, &format!("the vocabulary of `{name}` without its padding token")));
            let shares = (attribute.vocab - 1) as f64 / attribute.vocab as f64;
            all.push((shares, format!("the share of `{name}`'s vocabulary that is not its padding token")));
            all.push((
                (case.batch() * (attribute.vocab - 1)) as f64,
                format!("the rows of the batch times the vocabulary of `{name}` without its padding token"),
            ));
            all.extend(config.lamdas.get(i).map(|&weight| (weight, format!("the weight of `{name}` in lamdas"))));
            let head = config.attribute_hidden_size.get(i).map(|size| size / config.n_heads);
            all.extend(head.map(|head| of(head, &format!("the head size of `{name}`"))));
        }
        let roots: Vec<_> = all.iter().filter(|(_, name)| name.contains("size")).cloned().collect();
        all.extend(roots.into_iter().map(|(number, name)| (number.sqrt(), format!("the root of {name}"))));
        all.retain(|(number, _)| *number != 1.0);
        Self(all)
    }

    /// "−6 times what is expected (6: the rows of the batch)", if the factor is within `rtol` a whole number up to 100, one over
    /// it, or a number of the case.
    pub fn of_factor(&self, factor: f64, rtol: f64) -> Option<String> {
        let size = factor.abs();
        let sign = if factor < 0.0 { "−" } else { "" };
        let near = |number: f64| (size - number).abs() <= rtol * number;
        if near(1.0) {
            return (factor < 0.0).then(|| "what is expected with its sign turned".to_owned());
        }
        let named = |inverse: bool| {
            let names = self.0.iter().filter(|(number, _)| near(if inverse { 1.0 / number } else { *number }));
            names.map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(", or ")
        };
        let whole = |number: f64| (2.0..=100.0).contains(&number.round()) && near_whole(number, rtol);
        let shown = |number: f64| {
            if near_whole(number, rtol) { format!("{number:.0}") } else { format!("{number:.6}") }
        };
        let (times, over) = (named(false), named(true));
        if !times.is_empty() {
            return Some(format!("{sign}{} times what is expected ({})", shown(size), times));
        }
        if !over.is_empty() {
            return Some(format!("{sign}1/{} of what is expected ({})", shown(1.0 / size), over));
        }
        match () {
            () if whole(size) => Some(format!("{sign}{size:.0} times what is expected")),
            () if whole(1.0 / size) => Some(format!("{sign}1/{:.0} of what is expected", 1.0 / size)),
            () => None,
        }
    }
}

fn near_whole(number: f64, rtol: f64) -> bool {
    (number - number.round()).abs() <= rtol * number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_is_told_by_all_that_it_may_be() {
        let names = Names::of(&Case::bundled("gate").unwrap_or_else(|e| panic!("{e}")));
        let told = |factor: f64| names.of_factor(factor, 1e-6).unwrap_or_default();
        assert_eq!(told(6.0), "6 times what is expected (the rows of the batch)");
        assert_eq!(told(1.0 / 12.0), "1/12 of what is expected (the vocabulary of `categories`)");
        assert_eq!(told(4.0), "4 times what is expected (n_heads, or the head size of `categories`)");
        assert_eq!(told(-1.0), "what is expected with its sign turned");
        assert_eq!(told(-2.0), "−2 times what is expected (the root of the head size of `categories`)");
        assert_eq!(told(1.234), "");
    }
}
