//! What a misspelt word was meant to be, and what a secret in the wrong place is told.

/// What to say of a key that nobody asked for: what is wrong, and what to do instead.
pub(super) fn unknown(word: &str, asked: &[&'static str]) -> (&'static str, String) {
    let file_key = format!("{word}_file");
    if asked.iter().any(|key| *key == file_key) {
        let hint = format!(
            "put it into a file that only the service can read, and name that file in {file_key}"
        );
        return ("would be a secret in the configuration", hint);
    }
    let secretive = ["secret", "token", "password", "passwd", "secret_id", "key", "credential"];
    if secretive.iter().any(|end| word.to_ascii_lowercase().ends_with(end)) {
        let hint = "no secret stands in this file: it belongs in the store, or in a file that a *_file key names";
        return ("would be a secret in the configuration", hint.to_owned());
    }
    let hint = match nearest(word, asked.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None if asked.is_empty() => "take it out".to_owned(),
        None => format!("take it out; the keys here are {}", asked.join(", ")),
    };
    ("is not a key there is", hint)
}

/// The word closest to `given`, if any is close enough to be meant.
pub(super) fn nearest<'w>(given: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let close = given.chars().count() / 3 + 1;
    words
        .map(|word| (distance(given, word), word))
        .filter(|(distance, _)| *distance <= close)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
