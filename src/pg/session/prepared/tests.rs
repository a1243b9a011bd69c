#![allow(clippy::unwrap_used)]

use super::*;

fn statement(registry: &Registry, text: &str) -> Arc<Statement> {
    registry.intern(text.as_bytes(), b"", Scan::default).unwrap()
}

fn add(names: &mut Names, name: &str, statement: &Arc<Statement>) {
    names.push(Change::Add(name.as_bytes().into(), Arc::clone(statement)));
}

#[test]
fn one_text_is_one_statement_and_its_name_is_random() {
    let registry = Registry::default();
    let (one, two) = (statement(&registry, "a"), statement(&registry, "b"));
    assert!(one.is(&statement(&registry, "a")) && !one.is(&two));
    assert!(one.id != two.id && one.name != two.name);
    for name in [&one.name, &two.name] {
        assert!(name.starts_with(b"pk_") && name.len() == 35);
        assert!(name[3..].iter().all(|digit| digit.is_ascii_hexdigit() && !digit.is_ascii_uppercase()));
        // Both halves of a byte are there: a constant nibble in 16 random bytes would be a fault.
        for half in 0..2 {
            let digits: std::collections::HashSet<_> = name[3..].iter().skip(half).step_by(2).collect();
            assert!(digits.len() > 2, "{name:?}");
        }
    }
}

#[test]
fn statements_that_nobody_has_are_swept() {
    let registry = Registry::default();
    let kept = statement(&registry, "kept");
    for n in 0..1000 {
        statement(&registry, &n.to_string());
    }
    let known = registry.known.lock().unwrap().statements.len();
    assert!((2..=200).contains(&known), "{known}");
    assert!(kept.is(&statement(&registry, "kept")));
}

#[test]
fn names_change_when_the_server_has_answered_and_mean_the_newest_until_then() {
    let (registry, mut names) = (Registry::default(), Names::default());
    let (a, b) = (statement(&registry, "a"), statement(&registry, "b"));
    assert!(names.get(b"s").is_none() && !names.has_unnamed());
    add(&mut names, "s", &a);
    add(&mut names, "s", &b);
    assert!(names.get(b"s").unwrap().is(&b), "the next message means the newest");
    assert!(names.get(b"t").is_none() && names.get(b"").is_none());
    assert!(names.has_unnamed(), "a simple Query would have to wait for its turn");
    names.apply();
    names.drop_change(false);
    assert!(names.get(b"s").unwrap().is(&a), "the second failed");
    assert!(!names.has_unnamed());
    names.push(Change::Remove(b"t"[..].into()));
    assert!(names.get(b"s").is_some(), "another name");
    names.drop_change(true);
    names.push(Change::Remove(b"s"[..].into()));
    assert!(names.get(b"s").is_none() && names.get(b"t").is_none());
    names.drop_change(true);
    assert!(names.get(b"s").is_some(), "skipped");
    names.push(Change::Remove(b"s"[..].into()));
    names.apply();
    assert!(names.get(b"s").is_none());
}

#[test]
fn names_and_texts_are_counted() {
    let (registry, mut names) = (Registry::default(), Names::default());
    let (a, b) = (statement(&registry, "12345"), statement(&registry, "123"));
    add(&mut names, "s", &a);
    assert_eq!(names.bytes(), PENDING);
    names.apply();
    assert_eq!(names.bytes(), 6);
    add(&mut names, "s", &b);
    names.apply();
    assert_eq!(names.bytes(), 4, "the old one is gone");
    add(&mut names, "long", &a);
    names.apply();
    assert_eq!(names.bytes(), 13);
    names.push(Change::Remove(b"long"[..].into()));
    names.apply();
    assert_eq!(names.bytes(), 4);
    names.clear();
    assert_eq!(names.bytes(), 0);
    assert!(names.get(b"s").is_none());
}

#[test]
fn the_unnamed_statement_has_no_name_among_the_named() {
    let (registry, mut names) = (Registry::default(), Names::default());
    let (named, unnamed) = (statement(&registry, "a"), Statement::unnamed(b"u", Scan::default()));
    add(&mut names, "s", &named);
    names.apply();
    names.push(Change::Unnamed(Some(Arc::clone(&unnamed))));
    assert!(names.get(b"").unwrap().is(&unnamed) && names.get(b"s").unwrap().is(&named));
    names.apply();
    assert!(names.get(b"").unwrap().is(&unnamed) && names.has_unnamed());
    names.clear();
    assert!(names.get(b"").is_some(), "DEALLOCATE ALL is about named ones");
    names.push(Change::Unnamed(None));
    assert!(names.get(b"").is_none());
    names.drop_change(true);
    assert!(names.get(b"").is_some(), "skipped");
    names.push(Change::Unnamed(None));
    names.drop_change(false);
    assert!(names.get(b"").is_none(), "a Parse that fails has ended it");
}

#[test]
fn an_idle_client_keeps_no_room_for_changes() {
    let (registry, mut names) = (Registry::default(), Names::default());
    add(&mut names, "s", &statement(&registry, "a"));
    names.rest();
    names.apply();
    assert!(names.get(b"s").is_some(), "what is pending stays");
    names.rest();
    assert_eq!(names.pending.capacity(), 0);
}

#[test]
fn the_least_recently_used_statement_leaves_first() {
    let (registry, mut cache) = (Registry::default(), Cache::new(2));
    let [a, b, c] = ["a", "b", "c"].map(|text| statement(&registry, text));
    assert!(cache.is_empty() && !cache.has(&a));
    for statement in [&a, &b] {
        cache.parse_sent(statement);
        assert!(cache.evict().is_none());
        cache.parsed();
    }
    assert!(cache.has(&a), "which makes b the oldest");
    cache.parse_sent(&c);
    assert!(cache.evict().unwrap().is(&b) && cache.evict().is_none());
    assert_eq!(cache.len(), 2);
    assert!(!cache.is_empty() && cache.has(&a) && !cache.has(&b) && cache.has(&c));
    cache.close_skipped();
    assert!(cache.has(&b), "the server still has it");
    cache.set_limit(1);
    assert_eq!(std::iter::from_fn(|| cache.evict()).count(), 2);
    cache.closed();
    cache.close_skipped();
    cache.close_skipped();
    assert_eq!(cache.len(), 2, "one was closed, one was not");
    cache.clear();
    assert!(cache.is_empty());
}

#[test]
fn a_limit_of_none_still_holds_the_one_in_use() {
    let (registry, mut cache) = (Registry::default(), Cache::new(0));
    let (a, b) = (statement(&registry, "a"), statement(&registry, "b"));
    cache.parse_sent(&a);
    assert!(cache.evict().is_none() && cache.has(&a));
    cache.set_limit(0);
    assert!(cache.evict().is_none());
    cache.parse_sent(&b);
    assert!(cache.evict().unwrap().is(&a) && cache.has(&b));
}

#[test]
fn a_parse_that_failed_is_forgotten_unless_it_was_sent_again() {
    let (registry, mut cache) = (Registry::default(), Cache::new(9));
    let (a, b) = (statement(&registry, "a"), statement(&registry, "b"));
    cache.parse_sent(&a);
    cache.parse_sent(&b);
    cache.parse_failed();
    assert!(!cache.has(&a) && cache.has(&b));
    cache.parsed();
    cache.parse_failed();
    assert!(cache.has(&b), "nothing was under way");
    cache.parse_sent(&a);
    cache.parse_sent(&a);
    cache.parse_failed();
    assert!(cache.has(&a), "the second is still under way");
    cache.parse_failed();
    assert!(!cache.has(&a));
}

#[test]
fn a_statement_that_the_server_lost_is_sent_again() {
    let (registry, mut cache) = (Registry::default(), Cache::new(9));
    let (a, b) = (statement(&registry, "a"), statement(&registry, "b"));
    for statement in [&a, &b] {
        cache.parse_sent(statement);
        cache.parsed();
    }
    assert!(cache.peek(a.id).unwrap().is(&a) && cache.peek(99).is_none());
    cache.parse_sent(&b);
    cache.lost(b.id);
    assert!(cache.has(&b), "it is under way again");
    cache.parsed();
    cache.lost(b.id);
    assert!(cache.has(&a) && !cache.has(&b));
}

#[test]
fn a_server_has_one_unnamed_statement() {
    let (registry, mut cache) = (Registry::default(), Cache::new(9));
    let (one, two) = (Statement::unnamed(b"x", Scan::default()), Statement::unnamed(b"x", Scan::default()));
    cache.parse_sent(&one);
    assert!(cache.has_unnamed() && cache.has(&one) && !cache.has(&two), "the same text, but another client's");
    cache.parse_sent(&two);
    assert!(!cache.has(&one) && cache.has(&two));
    cache.parsed();
    cache.parse_failed();
    assert!(!cache.has_unnamed() && !cache.has(&two));
    cache.parse_sent(&one);
    cache.forget_unnamed();
    assert!(!cache.has(&one));
    assert!(cache.is_empty() && !cache.has(&statement(&registry, "a")));
}

#[test]
fn a_retired_statement_is_prepared_anew_by_the_next() {
    let registry = Registry::default();
    let intern = || registry.intern(b"SELECT * FROM t\0\0\0", b"", Scan::default).unwrap();
    let old = intern();
    assert!(old.is(&intern()));
    registry.retire(&old);
    let new = intern();
    assert!(!new.is(&old) && new.name != old.name && new.id != old.id);
    // Whoever still has the old one can't retire the new one.
    registry.retire(&old);
    assert!(new.is(&intern()));
}
