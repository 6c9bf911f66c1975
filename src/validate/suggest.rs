//! "Did you mean": the candidate that a person most likely wanted.

/// How alike two words must be, from 0 to 1, before one is offered for the other. Lower values offer nonsense.
const LIKENESS: f64 = 0.75;

/// The candidate closest to `name`, if one is close.
pub fn suggest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer words are no slip of the fingers, and comparing them is slow.
    const LONGEST: usize = 100;
    if name.len() > LONGEST {
        return None;
    }
    let wanted = name.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= LONGEST)
        .map(|candidate| (likeness(&wanted, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, candidate)| candidate)
}

fn likeness(wanted: &str, candidate: &str) -> f64 {
    if wanted == candidate {
        return 1.0;
    }
    // Jaro-Winkler favours a common beginning, the other one a common rest with letters swapped.
    strsim::jaro_winkler(wanted, candidate).min(0.5 + strsim::normalized_damerau_levenshtein(wanted, candidate) / 2.0)
}

/// The help line for an unknown `name`: the closest candidate, or all of them.
pub(super) fn did_you_mean(name: &str, what: &str, candidates: &[&str]) -> String {
    match suggest(name, candidates.iter().copied()) {
        Some(candidate) => format!("did you mean {candidate:?}?"),
        None if candidates.is_empty() => format!("there are no {what}"),
        None => format!("{what} are {}", list(candidates)),
    }
}

/// `a, b and c`.
pub(super) fn list<S: AsRef<str>>(items: &[S]) -> String {
    match items {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_recognised() {
        let kinds = ["Database", "Cache", "Tenant"];
        assert_eq!(suggest("Databse", kinds), Some("Database"));
        assert_eq!(suggest("database", kinds), Some("Database"));
        assert_eq!(suggest("Chace", kinds), Some("Cache"));
        assert_eq!(suggest("conectionLimit", ["connectionLimit", "extensions"]), Some("connectionLimit"));
    }

    #[test]
    fn something_else_entirely_is_not_guessed_at() {
        assert_eq!(suggest("Deployment", ["Database", "Cache"]), None);
        assert_eq!(suggest(&"x".repeat(10_000), ["Database"]), None);
        assert_eq!(did_you_mean("Deployment", "kinds", &["Database", "Cache"]), "kinds are Database and Cache");
    }
}
