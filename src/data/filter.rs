//! K-core filtering, as RecBole does it.

use crate::config::Interval;

/// What filtering leaves.
pub struct Core {
    /// The interactions that stay, in the given order.
    pub rows: Vec<usize>,
    /// By user id: whether the user was banned, from the interactions and from the user file.
    pub banned_users: Vec<bool>,
    /// By item id: the same.
    pub banned_items: Vec<bool>,
}

/// The users or the items of the interactions.
pub struct Side<'a> {
    /// Of each interaction.
    pub ids: &'a [i64],
    /// By id: whether the user or item file has it; `None` without a file. Ids may be there alone.
    pub listed: Option<&'a [bool]>,
    /// The counts of interactions that are allowed.
    pub interval: Option<&'a Interval>,
}

/// Bans the users and the items whose number of interactions is outside its interval, then counts again, until none is.
///
/// `rows` are the interactions to look at. Users and items that are listed are also banned when fewer interactions than the
/// lower bound are left, be it none.
/// The result does not depend on the order of the interactions: every round looks at all users and items at once.
pub fn k_core(mut rows: Vec<usize>, users: &Side, items: &Side) -> Core {
    let [mut banned_users, mut banned_items] = [users, items].map(|side| {
        let n = side.listed.map_or(0, <[bool]>::len);
        vec![false; side.ids.iter().max().map_or(n, |&max| n.max(max as usize + 1))]
    });
    loop {
        let changed = [users.ban(&rows, &mut banned_users), items.ban(&rows, &mut banned_items)];
        if changed == [false, false] {
            return Core { rows, banned_users, banned_items };
        }
        rows.retain(|&row| !banned_users[users.ids[row] as usize] && !banned_items[items.ids[row] as usize]);
    }
}

impl Side<'_> {
    /// Bans what is outside the interval; whether anything was. Ids that do not occur are banned only if listed.
    fn ban(&self, rows: &[usize], banned: &mut [bool]) -> bool {
        let Some(interval) = self.interval else { return false };
        let mut counts = vec![0u32; banned.len()];
        rows.iter().for_each(|&row| counts[self.ids[row] as usize] += 1);
        let mut changed = false;
        for (id, (banned, &count)) in banned.iter_mut().zip(&counts).enumerate() {
            // RecBole's two rules: the interval for what occurs, the lower end (even of an open interval) for what is listed.
            let outside = count > 0 && !interval.contains(f64::from(count));
            let too_few = f64::from(count) < interval.low && self.listed.is_some_and(|listed| listed[id]);
            if !*banned && (outside || too_few) {
                *banned = true;
                changed = true;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AT_LEAST_TWO: Interval = Interval { low: 2.0, low_closed: true, high: f64::INFINITY, high_closed: false };

    #[test]
    fn a_ban_that_leaves_others_too_few_goes_on_until_nothing_changes() {
        // User 3 has one interaction; without it item 3 has one left, without which user 2 has one left.
        let (users, items) = ([1, 1, 2, 2, 3, 4, 4], [1, 2, 2, 3, 3, 1, 2]);
        let [users, items] = [&users, &items].map(|ids| Side { ids, listed: None, interval: Some(&AT_LEAST_TWO) });
        let core = k_core((0..7).collect(), &users, &items);
        assert_eq!(core.rows, [0, 1, 5, 6]);
        assert_eq!(core.banned_items, [false, false, false, true]);
    }

    #[test]
    fn what_is_listed_without_interactions_is_banned_only_below_the_lower_end() {
        let banned = |interval: Option<&Interval>| {
            let side = Side { ids: &[1], listed: Some(&[false, true, true]), interval };
            let Core { banned_users, banned_items, .. } = k_core(vec![0], &side, &side);
            assert_eq!(banned_users, banned_items);
            banned_items
        };
        let from_one = Interval { low: 1.0, ..AT_LEAST_TWO };
        let from_none = Interval { low: 0.0, low_closed: false, ..AT_LEAST_TWO };
        assert_eq!(banned(None), [false; 3]);
        assert_eq!(banned(Some(&from_none)), [false; 3]);
        assert_eq!(banned(Some(&from_one)), [false, false, true]);
    }

    /// The pairs that the core leaves, sorted.
    fn left(pairs: &[(i64, i64)], users: f64, items: f64) -> Vec<(i64, i64)> {
        let (users, items) = (Interval { low: users, ..AT_LEAST_TWO }, Interval { low: items, ..AT_LEAST_TWO });
        let (user, item): (Vec<i64>, Vec<i64>) = pairs.iter().copied().unzip();
        let side = |ids, interval| Side { ids, listed: None, interval: Some(interval) };
        let core = k_core((0..pairs.len()).collect(), &side(&user, &users), &side(&item, &items));
        let mut left: Vec<_> = core.rows.iter().map(|&row| pairs[row]).collect();
        left.sort_unstable();
        left
    }

    /// The same by definition: one row goes at a time, for as long as one has too few beside it.
    fn left_by_definition(pairs: &[(i64, i64)], users: f64, items: f64) -> Vec<(i64, i64)> {
        let mut left = pairs.to_vec();
        left.sort_unstable();
        let too_few = |left: &[(i64, i64)], &(user, item): &(i64, i64)| {
            let of_user = left.iter().filter(|pair| pair.0 == user).count();
            let of_item = left.iter().filter(|pair| pair.1 == item).count();
            (of_user as f64) < users || (of_item as f64) < items
        };
        while let Some(position) = left.iter().position(|pair| too_few(&left, pair)) {
            left.remove(position);
        }
        left
    }

    proptest! {
        #[test]
        fn the_core_is_the_largest_set_in_which_all_have_enough(
            pairs in prop::collection::vec((1i64..8, 1i64..8), 0..60), users in 0..5i32, items in 0..5i32,
        ) {
            let (users, items) = (f64::from(users), f64::from(items));
            prop_assert_eq!(left(&pairs, users, items), left_by_definition(&pairs, users, items));
        }
    }
}
