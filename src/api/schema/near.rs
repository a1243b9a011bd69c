//! Names that were probably meant.

use serde_json::Value;

/// Paths of the fields called `key` (whatever its case), anywhere below.
pub fn find(schema: &Value, path: &str, key: &str, out: &mut Vec<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if plain(name) == plain(key) {
            out.push(path.clone());
        }
        find(inner, &path, key, out);
    }
}

/// A name without case and separators: `max_overflow` is `maxOverflow`.
pub fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Levenshtein's distance between two names, without case and separators.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (plain(a).chars().take(64).collect(), plain(b).chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (diagonal + usize::from(x != y)).min(above + 1).min(row[j] + 1);
            diagonal = above;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_levenshteins_without_case_and_separators() {
        for (a, b, apart) in [
            ("", "", 0),
            ("a", "", 1),
            ("max_overflow", "maxOverflow", 0),
            ("sise", "size", 1),
            ("recylce", "recycle", 2),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (apart, apart), "{a} {b}");
        }
        assert!(distance(&"x".repeat(1 << 20), "size") > 4, "a long name costs nothing");
    }
}
