use super::*;
use crate::pg::session::scan::scan;

fn found(settings: &[(&str, Option<&str>)]) -> Option<Found> {
    let bytes = |text: &str| -> Box<[u8]> { text.as_bytes().into() };
    let settings = settings.iter().map(|(name, value)| (bytes(name), value.map(bytes))).collect();
    Some(Found { settings, ..Found::default() })
}

fn run(mine: &mut Mine, text: &str) {
    let scan = scan(text.as_bytes());
    mine.note(scan);
    if scan.asks.has(Asks::SETTINGS) {
        mine.touched().add_text(text.as_bytes(), scan.set_config);
    }
}

#[test]
fn a_setting_is_carried_with_the_servers_value_and_a_reset_ends_it() {
    let mut mine = Mine::default();
    run(&mut mine, "set work_mem = 1000");
    assert!(mine.wants_audit(true));
    let (questions, names) = mine.questions(true);
    assert_eq!((questions, names.as_slice()), (vec![Ours::AskSettings], &b"{\"work_mem\"}"[..]));
    mine.audited(found(&[("work_mem", Some("1000kB"))]));
    assert_eq!(mine.label.get(b"work_mem"), Some(&b"1000kB"[..]));
    assert!(!mine.wants_audit(true));
    run(&mut mine, "begin; reset work_mem; rollback");
    mine.questions(true);
    mine.audited(found(&[("work_mem", Some("1000kB"))]));
    assert_eq!(mine.label.get(b"work_mem"), Some(&b"1000kB"[..]), "rolled back");
    run(&mut mine, "reset work_mem");
    mine.questions(true);
    mine.audited(found(&[("work_mem", Some("4MB"))]));
    assert!(mine.label.is_plain());
}

#[test]
fn what_is_bound_is_freed_when_nothing_binds() {
    let mut mine = Mine::default();
    run(&mut mine, "create temp table t(a int)");
    mine.questions(true);
    mine.audited(Some(Found { bound: Some(Pin::Temporary), ..Found::default() }));
    assert_eq!(mine.pin(), Some(Pin::Temporary));
    run(&mut mine, "select 1");
    assert!(!mine.wants_audit(true), "an ordinary statement frees nothing");
    run(&mut mine, "drop table t");
    assert_eq!(mine.questions(true).0.len(), 5);
    mine.audited(found(&[]));
    assert_eq!(mine.pin(), None);
}

#[test]
fn a_label_is_not_lost_by_an_audit_about_something_else() {
    let mut mine = Mine::default();
    run(&mut mine, "set a.b = 1");
    mine.questions(true);
    mine.audited(found(&[("a.b", Some("1"))]));
    run(&mut mine, "listen x");
    mine.audited(Some(Found { bound: Some(Pin::Listen), ..Found::default() }));
    assert!(!mine.label.is_plain());
}

#[test]
fn an_audit_that_fails_or_finds_too_much_keeps_the_server() {
    let mut mine = Mine::default();
    mine.audited(None);
    assert_eq!(mine.pin(), Some(Pin::Unexplained));
    let mut mine = Mine::default();
    (0..70).for_each(|n| run(&mut mine, &format!("set a.b{n} = 1")));
    mine.questions(true);
    mine.audited(found(&[]));
    assert_eq!(mine.pin(), Some(Pin::Setting));
}

#[test]
fn a_use_is_harmless_only_by_list_and_verdict_or_by_grammar() {
    let used = |texts: &[&str], care, quiet| {
        let mut mine = Mine::default();
        texts.iter().for_each(|text| run(&mut mine, text));
        mine.used(care, quiet)
    };
    assert_eq!(used(&["select f()"], Care::Preserve, true), Use::Harmless);
    assert_eq!(used(&["select f()"], Care::Preserve, false), Use::Unproven);
    assert_eq!(used(&["begin", "select 1", "commit"], Care::Preserve, false), Use::Harmless);
    assert_eq!(used(&["select 1"], Care::Strict, true), Use::Unproven);
    assert_eq!(used(&["select f()"], Care::Trusting, false), Use::Harmless);
    assert_eq!(used(&["set a = 1"], Care::Trusting, true), Use::Unproven);
    assert_eq!(used(&["select setseed(1)"], Care::Trusting, true), Use::Incurable);
    let mut mine = Mine::default();
    mine.note_tag(crate::pg::session::scan::tag(b"DO", false));
    assert_eq!(mine.used(Care::Preserve, true), Use::Unproven);
    assert_eq!(mine.used(Care::Preserve, true), Use::Harmless, "begins anew");
}

#[test]
fn an_empty_name_is_the_clients_if_it_has_set_it_or_never_had_one() {
    let nameless = |texts: &[&str], nameless| {
        let mut mine = Mine { nameless, ..Mine::default() };
        texts.iter().for_each(|text| run(&mut mine, text));
        mine.may_be_nameless()
    };
    assert!(nameless(&["set application_name = ''"], false));
    assert!(!nameless(&["set application_name = 'x'", "reset application_name"], false));
    assert!(!nameless(&["set application_name = 'x'", "reset all"], false));
    assert!(!nameless(&["select 1"], false));
    assert!(nameless(&["reset application_name"], true));
}

#[test]
fn custom_names_are_kept_and_bounded() {
    let (mut a, mut b) = (Customs::default(), Customs::default());
    a.add(b"app.x");
    a.add(b"work_mem");
    assert!(!a.are_within(&b) && b.are_within(&a));
    b.add(b"app.x");
    assert!(a.are_within(&b));
    (0..100).for_each(|n| a.add(format!("app.y{n}").as_bytes()));
    (0..100).for_each(|n| b.add(format!("app.y{n}").as_bytes()));
    assert!(!a.are_within(&b), "nobody knows them all");
}

#[test]
fn a_call_asks_everything_only_where_routines_touch() {
    let mut mine = Mine::default();
    run(&mut mine, "call p()");
    assert!(!mine.wants_audit(true) && mine.wants_audit(false));
    assert_eq!(mine.questions(false).0.len(), 7);
}

#[test]
fn a_name_that_was_reset_is_not_carried_on_when_nobody_answers() {
    let mut mine = Mine::default();
    run(&mut mine, "set application_name = 'x'; set work_mem = 1000");
    mine.questions(true);
    mine.audited(found(&[("application_name", Some("x")), ("work_mem", Some("1000kB"))]));
    run(&mut mine, "set application_name to default");
    mine.audited(None);
    assert_eq!((mine.label.get(b"application_name"), mine.label.get(b"work_mem")), (None, Some(&b"1000kB"[..])));
    assert_eq!(mine.pin(), Some(Pin::Unexplained));
}
