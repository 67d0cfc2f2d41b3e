//! The statistics of verdicts: what two sets of runs say about a difference between their means.
//!
//! A run is one draw of a seed. All runs are judged on the same users, so that a user's value in one set is compared with
//! the same user's in the other.

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::Outcome;

/// A difference of means, ours less the reference's, with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Ours less the reference's.
    pub estimate: f64,
    /// The interval that leaves the true difference out with the stated error.
    pub low: f64,
    /// Its other end.
    pub high: f64,
    /// The two-sided probability of so large a difference where there is none.
    pub p: f64,
}

impl Difference {
    fn new(estimate: f64, variance: f64, freedom: f64, error: f64) -> Self {
        let t = student(freedom);
        let deviation = variance.sqrt();
        let half = t.inverse_cdf(1.0 - error / 2.0) * deviation;
        let p = match (estimate == 0.0, deviation == 0.0) {
            (true, _) => 1.0,
            (false, true) => 0.0,
            (false, false) => 2.0 * t.cdf(-(estimate / deviation).abs()),
        };
        Self { estimate, low: estimate - half, high: estimate + half, p }
    }

    /// Near, another, or open, for a margin that was stated in advance.
    ///
    /// Pass: the interval lies within ±`margin`. Fail: it does not, and zero lies outside of it. Undecided: both
    /// remain possible. Where there is no difference, fail is as rare as the interval's error.
    pub fn near(&self, margin: f64) -> Outcome {
        if -margin <= self.low && self.high <= margin {
            Outcome::Pass
        } else if self.low > 0.0 || self.high < 0.0 {
            Outcome::Fail
        } else {
            Outcome::Undecided
        }
    }
}

/// Student's distribution. More degrees of freedom than these change no digit, and statrs finds no quantile for them.
fn student(freedom: f64) -> StudentsT {
    StudentsT::new(0.0, 1.0, freedom.min(1e6)).expect("degrees of freedom are positive")
}

/// The difference between the means of runs, one number each: Student's two-sample test with one variance for both sets,
/// which for a single run of ours is the prediction interval of the reference.
///
/// `resolution` is the step in which the numbers are counted, 0 for none: runs that agree by it differ by chance within it.
/// `None` where the runs have no spread to judge by, fewer than three in all or one set empty.
pub fn of_runs(reference: &[f64], ours: &[f64], resolution: f64, error: f64) -> Option<Difference> {
    let freedom = freedom(reference.len(), ours.len())?;
    // What lies between two steps falls to either side by chance: half a step of deviation.
    let variance = (squares(reference) + squares(ours)) / freedom;
    let variance = variance.max(resolution.powi(2) / 4.0) * share(reference.len(), ours.len());
    Some(Difference::new(mean(ours) - mean(reference), variance, freedom, error))
}

/// The same for runs of which every user's value is known, `[runs][users]`, the users in one order: runs and users are
/// crossed random effects.
///
/// The variance has two parts. One is that between runs, which holds what a seed does to each user by itself and to all
/// together. The other is what an implementation does to some users and not to others: what the users' paired differences
/// vary beyond the seeds' noise. Each part has its own quantile, so that with one implementation on both sides the interval
/// is Student's. It is never narrower than that of the paired users alone: a few runs that happen to agree show no spread
/// between runs, which is not the knowledge that there is none.
pub fn of_users(reference: &[Vec<f64>], ours: &[Vec<f64>], error: f64) -> Option<Difference> {
    let freedom = freedom(reference.len(), ours.len())?;
    let users = ours[0].len() as f64;
    let means = |runs: &[Vec<f64>]| runs.iter().map(|run| mean(run)).collect::<Vec<f64>>();
    let (reference_means, our_means) = (means(reference), means(ours));
    let between = (squares(&reference_means) + squares(&our_means)) / freedom;
    let (reference_users, our_users) = (user_means(reference), user_means(ours));

    // What is left of each value after its run's and its user's mean.
    let residual = (residual_squares(reference, &reference_users) + residual_squares(ours, &our_users))
        / (freedom * (users - 1.0).max(1.0));
    let share = share(reference.len(), ours.len());
    let paired: Vec<f64> = our_users.iter().zip(&reference_users).map(|(a, b)| a - b).collect();
    let of_users = (users - 1.0).max(1.0);
    let by_user = squares(&paired) / of_users / users;
    let apart = (by_user - residual / users * share).max(0.0);
    let quantile = |freedom: f64| student(freedom).inverse_cdf(1.0 - error / 2.0);
    // In units of the runs' quantile, so that one distribution serves for both parts.
    let apart = apart * (quantile(of_users) / quantile(freedom)).powi(2);
    let estimate = mean(&our_means) - mean(&reference_means);
    let runs = Difference::new(estimate, between * share + apart, freedom, error);
    let least = Difference::new(estimate, by_user, of_users, error);
    let wider = if least.high > runs.high { least } else { runs };
    Some(Difference { p: least.p.max(runs.p), ..wider })
}

/// The variance between runs beyond what users, each by itself, give, `[runs][users]`: what a seed does to all users
/// together.
pub fn seeds_alone(runs: &[Vec<f64>]) -> f64 {
    let (n, users) = (runs.len() as f64, runs[0].len() as f64);
    let means: Vec<f64> = runs.iter().map(|run| mean(run)).collect();
    let residual = residual_squares(runs, &user_means(runs)) / (users - 1.0).max(1.0);
    ((squares(&means) - residual / users) / (n - 1.0)).max(0.0)
}

/// Runs, `[runs][users]`, whose users lie further from their means over the runs, so that drawing each user's value from one
/// of them at random has the variance of the sample: m runs as they are have (m − 1) / m of it.
pub fn spread_to_draw(runs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let (n, of_users) = (runs.len() as f64, user_means(runs));
    let factor = (n / (n - 1.0)).sqrt();
    let spread =
        |run: &Vec<f64>| run.iter().zip(&of_users).map(|(value, mean)| mean + (value - mean) * factor).collect();
    runs.iter().map(spread).collect()
}

/// Degrees of freedom of the runs' spread within the two sets.
fn freedom(reference: usize, ours: usize) -> Option<f64> {
    (reference > 0 && ours > 0 && reference + ours > 2).then(|| (reference + ours - 2) as f64)
}

/// The variance of a difference of two means, in that of one run.
fn share(reference: usize, ours: usize) -> f64 {
    1.0 / reference as f64 + 1.0 / ours as f64
}

/// The mean of at least one value.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The sum of squared deviations from the mean.
fn squares(values: &[f64]) -> f64 {
    let mean = mean(values);
    values.iter().map(|value| (value - mean).powi(2)).sum()
}

/// The standard deviation of a sample; 0 of one value.
pub fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 { 0.0 } else { (squares(values) / (values.len() - 1) as f64).sqrt() }
}

/// The middle value, or the mean of the two middle ones; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Half the interval around a median in which the true one is to be expected, as a share of it: 1.57 times the distance of the
/// quartiles over √n, the notch of a box plot (McGill, Tukey and Larsen, *Variations of Box Plots*, 1978). Infinite where one
/// value, or a median of 0, says nothing of it; 0 of none.
pub fn notch(values: &[f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let quartiles = quantile(values, 0.75) - quantile(values, 0.25);
    let share = 1.57 * quartiles / median(values) / (values.len() as f64).sqrt();
    if values.len() > 1 && share.is_finite() { share } else { f64::INFINITY }
}

/// The value below which this share of the values lies, between two of them in proportion; NaN of none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Each user's mean over the runs, `[runs][users]`.
pub fn user_means(runs: &[Vec<f64>]) -> Vec<f64> {
    let mut sums = vec![0.0; runs[0].len()];
    runs.iter().for_each(|run| sums.iter_mut().zip(run).for_each(|(sum, value)| *sum += value));
    sums.iter().map(|sum| sum / runs.len() as f64).collect()
}

/// The sum of squares that neither the runs' nor the users' means explain.
fn residual_squares(runs: &[Vec<f64>], user_means: &[f64]) -> f64 {
    let all = mean(user_means);
    let of_run = |run: &Vec<f64>| {
        let run_mean = mean(run);
        run.iter().zip(user_means).map(|(value, user)| (value - run_mean - user + all).powi(2)).sum::<f64>()
    };
    runs.iter().map(of_run).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-4
    }

    /// R: `t.test(c(5.1, 4.9, 5.6, 5.8), c(4.1, 5.0, 4.4, 4.6, 4.7), var.equal = TRUE)`.
    #[test]
    fn several_runs_give_students_two_sample_test() {
        let difference = of_runs(&[4.1, 5.0, 4.4, 4.6, 4.7], &[5.1, 4.9, 5.6, 5.8], 0.0, 0.05).expect("a spread");
        // By hand: s² = (0.452 + 0.53)/7, standard error √(s² (1/4 + 1/5)) = 0.25126, t = 3.1442, t₇(0.975) = 2.36462.
        assert!(close(difference.estimate, 0.79), "{difference:?}");
        assert!(close(difference.high - difference.estimate, 2.36462 * 0.251258), "{difference:?}");
        assert!(close(difference.p, 0.01629), "{difference:?}");
    }

    #[test]
    fn one_run_gives_the_prediction_interval() {
        let reference = [1.0, 2.0, 3.0, 4.0, 5.0];
        let difference = of_runs(&reference, &[3.0], 0.0, 0.05).expect("a spread");
        // s² = 2.5, t₄(0.975) = 2.776445, s √(1 + 1/5) = 1.732051.
        assert!(close(difference.high, 2.776_445 * 1.732_051), "{difference:?}");
        assert!(of_runs(&[1.0], &[1.0], 0.0, 0.05).is_none(), "one run against one shows no spread");
    }

    #[test]
    fn counts_that_agree_differ_by_chance_within_their_step() {
        let difference = of_runs(&[5.0; 4], &[5.0], 1.0, 0.05).expect("a step");
        assert!(difference.high > 0.5 && difference.low < -0.5, "{difference:?}");
    }

    #[test]
    fn runs_that_agree_by_luck_do_not_hide_the_noise_of_users() {
        // Every run has the mean 1/2, while each user changes sides between the runs.
        let a: Vec<f64> = (0..100).map(|user| f64::from(user % 2)).collect();
        let b: Vec<f64> = (0..100).map(|user| f64::from((user + 1) % 2)).collect();
        let difference = of_users(&[a.clone(), b.clone()], &[a], 0.05).expect("a spread");
        assert!(close(difference.estimate, 0.0) && difference.high > 0.09, "{difference:?}");
    }

    #[test]
    fn a_seed_that_moves_all_users_widens_the_interval_that_users_alone_would_give() {
        let run = |shift: f64| (0..1000).map(|user| f64::from(user) / 1000.0 + shift).collect::<Vec<f64>>();
        let reference = [run(0.0), run(0.02), run(-0.02), run(0.01), run(-0.01)];
        let difference = of_users(&reference, &[run(0.02)], 0.05).expect("a spread");
        let of_means = of_runs(&[0.0, 0.02, -0.02, 0.01, -0.01], &[0.02], 0.0, 0.05).expect("a spread");
        assert!(close(difference.high, of_means.high), "{difference:?} {of_means:?}");
    }

    #[test]
    fn a_spread_between_runs_that_is_next_to_nothing_leaves_the_certainty_of_the_users() {
        // Users change sides in pairs, so that the runs' means agree but for one user's billionth.
        let run = |by: u32, more: f64| -> Vec<f64> {
            (0..1000).map(|user| f64::from((user / by) % 2) + if user == 0 { more } else { 0.0 }).collect()
        };
        let reference = [run(1, 0.0), run(2, 1e-9), run(4, 0.0)];
        let difference = of_users(&reference, &[run(5, 0.0)], 0.05).expect("a spread");
        let paired: Vec<f64> = user_means(&reference).iter().zip(run(5, 0.0)).map(|(a, b)| b - a).collect();
        let error = deviation(&paired) / 1000.0_f64.sqrt();
        // t₉₉₉(0.975) = 1.962341.
        assert!(close((difference.high - difference.estimate) / error, 1.962_341), "{difference:?}");
    }

    #[test]
    fn drawing_users_from_runs_that_are_spread_has_the_samples_variance() {
        let runs = [vec![0.0, 1.0], vec![1.0, 1.0], vec![0.0, 4.0]];
        for user in 0..2 {
            let of = |runs: &[Vec<f64>]| runs.iter().map(|run| run[user]).collect::<Vec<f64>>();
            let drawn = squares(&of(&spread_to_draw(&runs))) / 3.0;
            assert!(close(drawn, deviation(&of(&runs)).powi(2)), "{drawn}");
        }
    }

    #[test]
    fn near_needs_the_interval_within_the_margin_and_fail_needs_it_apart_from_zero() {
        let outcome = |low: f64, high: f64| Difference { estimate: 0.5 * (low + high), low, high, p: 0.5 }.near(1.0);
        assert_eq!(outcome(-0.9, 0.9), Outcome::Pass);
        assert_eq!(outcome(0.1, 0.9), Outcome::Pass, "different, but by less than matters");
        assert_eq!(outcome(-1.1, 0.9), Outcome::Undecided, "no difference was found, which does not make it near");
        assert_eq!(outcome(-1.1, -0.1), Outcome::Fail);
        assert_eq!(outcome(0.1, 1.1), Outcome::Fail, "too good is not near either");
    }

    #[test]
    fn quantiles_lie_between_values_in_proportion() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.25), 1.75);
        assert!(median(&[]).is_nan());
    }
}
