#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::*;
use crate::pg::session::prepared::{Cache, Change, Names, Registry, Statement};
use crate::pg::session::scan::Scan;

/// One client and one server; `hear` takes a server's messages as a string of tags (`Z` with status I, lower case `z`
/// stands for status T, `!` for status E) and says which of them the client gets, own answers in brackets.
#[derive(Default)]
struct Pair {
    exchange: Exchange,
    names: Names,
    cache: Option<Cache>,
    registry: Registry,
}

impl Pair {
    fn cache(&mut self) -> &mut Cache {
        self.cache.get_or_insert_with(|| Cache::new(2))
    }

    fn try_hear(&mut self, tags: &str) -> Result<String, OutOfStep> {
        let mut got = String::new();
        let mut cache = self.cache.take().unwrap_or_else(|| Cache::new(2));
        let mut result = Ok(());
        for tag in tags.bytes() {
            self.own(&mut got);
            let (tag, body): (u8, &[u8]) = match tag {
                b'Z' => (b'Z', b"I"),
                b'z' => (b'Z', b"T"),
                b'!' => (b'Z', b"E"),
                tag => (tag, b""),
            };
            let (passes, before) = (self.exchange.passes(tag), format!("{:?}", self.exchange));
            let verdict = self.exchange.on_server(tag, body, &mut self.names, &mut cache);
            if passes {
                assert_eq!((&verdict, format!("{:?}", self.exchange)), (&Ok(Verdict::Forward), before));
            }
            match verdict {
                Ok(Verdict::Forward) => got.push(char::from(tag)),
                Ok(Verdict::Swallow) => {}
                Ok(Verdict::Row) => got.push_str("(row)"),
                Ok(Verdict::Parameter) => got.push('p'),
                Ok(Verdict::PrefaceFailed) => got.push_str("(failed)"),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
            self.own(&mut got);
        }
        self.cache = Some(cache);
        result.map(|()| got)
    }

    fn own(&mut self, got: &mut String) {
        let mut own = Vec::new();
        self.exchange.take_own(&mut own, &mut self.names);
        for message in own.chunks(5) {
            got.push('[');
            got.push(char::from(message[0]));
            got.push(']');
        }
    }

    fn hear(&mut self, tags: &str) -> String {
        self.try_hear(tags).unwrap()
    }

    fn batch(&mut self) {
        self.exchange.extended(Expect::Bind);
        self.exchange.extended(Expect::DescribePortal);
        self.exchange.extended(Expect::Execute);
        self.exchange.sync();
    }

    fn statement(&mut self, text: &str) -> Arc<Statement> {
        self.registry.intern(text.as_bytes(), b"", Scan::default).unwrap()
    }

    /// A client's Parse that the server has not seen yet.
    fn parse(&mut self, name: &str, text: &str) {
        let statement = self.statement(text);
        self.names.push(Change::Add(name.as_bytes().into(), Arc::clone(&statement)));
        self.cache().parse_sent(&statement);
        self.exchange.parse(true);
    }

    fn knows(&self, name: &str) -> bool {
        self.names.get(name.as_bytes()).is_some()
    }
}

#[test]
fn a_simple_query_is_over_with_ready_for_query() {
    let mut pair = Pair::default();
    assert!(pair.exchange.is_free());
    pair.exchange.query(Expect::Query, false);
    assert!(!pair.exchange.is_quiet());
    assert_eq!(pair.hear("TDDC"), "TDDC");
    assert!(!pair.exchange.is_free());
    assert_eq!(pair.hear("Z"), "Z");
    assert!(pair.exchange.is_free());
}

#[test]
fn ready_for_query_alone_answers_no_query() {
    for expect in [Expect::Query, Expect::OwnQuery, Expect::Function] {
        let mut pair = Pair::default();
        pair.exchange.query(expect, false);
        assert_eq!(pair.try_hear("Z").unwrap_err(), OutOfStep { tag: b'Z', expected: Some(expect) });
    }
    // Not even behind one that was answered.
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Query, false);
    pair.exchange.query(Expect::Query, false);
    assert_eq!(pair.hear("CZN"), "CZN");
    assert!(pair.try_hear("Z").is_err());
    for answers in ["IZ", "EZ", "TDCZ"] {
        let mut pair = Pair::default();
        pair.exchange.query(Expect::Query, false);
        pair.hear(answers);
        assert!(pair.exchange.is_free(), "{answers}");
    }
}

#[test]
fn several_statements_in_one_query_have_one_ready_for_query() {
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Query, false);
    assert_eq!(pair.hear("CTDCIz"), "CTDCIZ");
    assert!(pair.exchange.is_quiet() && !pair.exchange.is_free());
    assert_eq!(pair.exchange.status(), b'T');
}

#[test]
fn a_batch_without_sync_keeps_the_server() {
    let mut pair = Pair::default();
    pair.exchange.extended(Expect::Parse);
    pair.exchange.extended(Expect::DescribeStatement);
    assert_eq!(pair.hear("1tn"), "1tn");
    assert!(!pair.exchange.is_quiet(), "its Sync is still to come");
    pair.exchange.sync();
    pair.hear("Z");
    assert!(pair.exchange.is_free());
}

#[test]
fn an_error_skips_to_sync_and_not_beyond() {
    let mut pair = Pair::default();
    pair.batch();
    pair.batch();
    assert_eq!(pair.hear("E!"), "EZ");
    assert_eq!(pair.exchange.status(), b'E');
    assert_eq!(pair.hear("2nCZ"), "2nCZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn after_an_error_without_sync_messages_are_skipped() {
    let mut pair = Pair::default();
    pair.exchange.extended(Expect::Bind);
    assert_eq!(pair.hear("E"), "E");
    assert!(pair.exchange.is_skipping() && !pair.exchange.is_quiet());
    pair.exchange.sync();
    assert!(!pair.exchange.is_skipping());
    assert_eq!(pair.hear("Z"), "Z");
    assert!(pair.exchange.is_free());
}

#[test]
fn a_query_behind_a_failed_batch_without_sync_is_skipped_too() {
    let mut pair = Pair::default();
    pair.exchange.extended(Expect::Bind);
    pair.exchange.query(Expect::Query, false);
    assert_eq!(pair.hear("E"), "E");
    assert!(pair.exchange.is_skipping(), "the server drops the Query as well");
    assert!(!pair.exchange.is_quiet());
}

#[test]
fn an_error_at_sync_belongs_to_the_commit() {
    let mut pair = Pair::default();
    pair.batch();
    assert_eq!(pair.hear("2nCEZ"), "2nCEZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn answers_to_our_own_messages_are_swallowed() {
    let mut pair = Pair::default();
    let statement = pair.statement("select 1");
    pair.cache().parse_sent(&statement);
    pair.exchange.reparse();
    pair.cache().evict();
    pair.exchange.evict();
    pair.batch();
    assert_eq!(pair.hear("132nCZ"), "2nCZ");
    assert!(pair.cache().has(&statement));
}

#[test]
fn an_error_of_our_own_parse_is_the_clients() {
    let mut pair = Pair::default();
    let statement = pair.statement("select broken");
    pair.cache().parse_sent(&statement);
    pair.exchange.reparse();
    pair.batch();
    assert_eq!(pair.hear("EZ"), "EZ");
    assert!(!pair.cache().has(&statement), "it is sent again next time");
}

#[test]
fn a_close_that_was_skipped_leaves_the_statement_on_the_server() {
    let mut pair = Pair::default();
    let statements = ["a", "b", "c"].map(|text| pair.statement(text));
    for statement in &statements {
        pair.cache().parse_sent(statement);
        pair.exchange.reparse();
    }
    pair.hear("111");
    pair.exchange.extended(Expect::Bind);
    assert!(pair.cache().evict().unwrap().is(&statements[0]));
    pair.exchange.evict();
    pair.exchange.sync();
    pair.hear("EZ");
    assert!(pair.cache().has(&statements[0]));
}

#[test]
fn own_answers_keep_their_place() {
    let mut pair = Pair::default();
    let statement = pair.statement("x");
    pair.exchange.extended(Expect::Bind);
    pair.names.push(Change::Add(b"s"[..].into(), statement));
    pair.exchange.own(b'1');
    pair.exchange.sync();
    assert!(!pair.exchange.owes_only_own());
    assert_eq!(pair.exchange.owed(), 3);
    assert_eq!(pair.hear("2Z"), "2[1]Z");
    assert_eq!(pair.exchange.owed(), 0);
    assert!(pair.knows("s"));
}

#[test]
fn own_answers_alone_need_no_server() {
    let mut pair = Pair::default();
    pair.names.push(Change::Remove(b"s"[..].into()));
    pair.exchange.own(b'3');
    assert!(pair.exchange.owes_only_own());
    let mut got = String::new();
    pair.own(&mut got);
    assert_eq!(got, "[3]");
    assert!(!pair.exchange.is_quiet(), "its Sync is still to come");
}

#[test]
fn own_answers_behind_an_error_are_skipped() {
    let mut pair = Pair::default();
    let statement = pair.statement("x");
    pair.exchange.extended(Expect::Bind);
    pair.names.push(Change::Add(b"s"[..].into(), statement));
    pair.exchange.own(b'1');
    pair.exchange.sync();
    assert_eq!(pair.hear("EZ"), "EZ");
    assert!(!pair.knows("s"));
}

#[test]
fn a_failed_parse_names_nothing() {
    let mut pair = Pair::default();
    pair.parse("s", "broken");
    assert!(pair.knows("s"), "a Bind in the same pipeline means it");
    pair.exchange.sync();
    pair.hear("EZ");
    assert!(!pair.knows("s"));
    pair.parse("s", "fine");
    pair.exchange.sync();
    pair.hear("1Z");
    assert!(pair.knows("s"));
}

#[test]
fn a_skipped_parse_keeps_the_unnamed_statement_and_a_failed_one_ends_it() {
    let mut pair = Pair::default();
    let statement = Statement::unnamed(b"x", Scan::default());
    pair.names.push(Change::Unnamed(Some(Arc::clone(&statement))));
    pair.cache().parse_sent(&statement);
    pair.exchange.parse(true);
    pair.exchange.sync();
    pair.hear("1Z");
    pair.exchange.extended(Expect::Bind);
    pair.names.push(Change::Unnamed(None));
    pair.cache().parse_sent(&statement);
    pair.exchange.parse(true);
    pair.exchange.sync();
    pair.hear("EZ");
    assert!(pair.knows(""), "the server never came to the second Parse");
    pair.names.push(Change::Unnamed(Some(Arc::clone(&statement))));
    pair.cache().parse_sent(&statement);
    pair.exchange.parse(true);
    pair.exchange.sync();
    pair.hear("EZ");
    assert!(!pair.knows(""));
}

#[test]
fn copy_in_by_simple_query() {
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Query, false);
    assert_eq!(pair.hear("G"), "G");
    assert!(pair.exchange.takes_copy_data() && !pair.exchange.is_quiet());
    pair.exchange.copy_ended();
    assert_eq!(pair.hear("CZ"), "CZ");
    assert!(pair.exchange.is_free() && !pair.exchange.takes_copy_data());
}

#[test]
fn copy_out() {
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Query, false);
    assert_eq!(pair.hear("HddcCZ"), "HddcCZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn a_sync_that_copy_ignores_is_not_owed() {
    let mut pair = Pair::default();
    pair.batch();
    assert_eq!(pair.hear("2nG"), "2nG");
    pair.exchange.copy_ended();
    pair.exchange.sync();
    assert_eq!(pair.hear("CZ"), "CZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn a_sync_during_copy_is_asked_about_when_copy_fails() {
    for answered in [false, true] {
        let mut pair = Pair::default();
        pair.batch();
        pair.hear("2nG");
        assert_eq!(pair.hear("E"), "E");
        assert!(!pair.exchange.wants_probe(), "the client still has to send its Sync");
        pair.exchange.sync();
        assert_eq!(pair.hear("Z"), "Z");
        assert!(!pair.exchange.is_free() && pair.exchange.wants_probe());
        pair.exchange.probe();
        assert_eq!(pair.hear(if answered { "Z3Z" } else { "3Z" }), if answered { "Z" } else { "" });
        assert!(pair.exchange.is_free());
    }
}

#[test]
fn a_copy_that_failed_before_the_first_sync_was_read() {
    let mut pair = Pair::default();
    pair.batch();
    pair.hear("2nGE");
    assert_eq!(pair.hear("Z"), "Z");
    assert!(pair.exchange.is_free(), "the only Sync was answered");
}

#[test]
fn notices_parameters_and_notifications_come_at_any_time() {
    let mut pair = Pair::default();
    assert_eq!(pair.hear("NSA"), "NSA");
    pair.batch();
    assert_eq!(pair.hear("N2SnANCZ"), "N2SnANCZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn a_function_call() {
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Function, false);
    assert_eq!(pair.hear("VZ"), "VZ");
    pair.exchange.query(Expect::Function, false);
    assert_eq!(pair.hear("EZ"), "EZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn what_nobody_asked_for_is_out_of_step() {
    for tag in "123CDTtnIsGHVZdcRKvWx".chars() {
        assert!(Pair::default().try_hear(&tag.to_string()).is_err(), "{tag} out of nowhere");
    }
    for (tags, expect) in [("1", Expect::Bind), ("2", Expect::Parse), ("C", Expect::Sync), ("D", Expect::Close)] {
        let mut pair = Pair::default();
        pair.exchange.extended(expect);
        assert!(pair.try_hear(tags).is_err(), "{tags} for {expect:?}");
    }
    let mut pair = Pair::default();
    pair.exchange.extended(Expect::Bind);
    pair.exchange.sync();
    assert!(pair.try_hear("Z").is_err(), "ReadyForQuery before BindComplete");
}

#[test]
fn a_ready_for_query_needs_a_status() {
    let mut exchange = Exchange::default();
    exchange.query(Expect::Query, false);
    for body in [&b""[..], b"X", b"II"] {
        assert!(exchange.on_server(b'Z', body, &mut Names::default(), &mut Cache::new(1)).is_err());
    }
}

#[test]
fn a_portal_that_is_suspended_goes_on() {
    let mut pair = Pair::default();
    pair.exchange.extended(Expect::Execute);
    assert_eq!(pair.hear("DDs"), "DDs");
    pair.exchange.extended(Expect::Execute);
    pair.exchange.sync();
    assert_eq!(pair.hear("DCZ"), "DCZ");
}

#[test]
fn late_copy_data_is_not_for_a_server_that_is_done() {
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Query, false);
    pair.hear("GEZ");
    assert!(!pair.exchange.takes_copy_data());
    assert!(pair.exchange.is_free());
}

/// The client knew the data beforehand and did not wait for CopyInResponse.
#[test]
fn a_sync_behind_the_end_of_data_sent_ahead_is_answered() {
    let mut pair = Pair::default();
    pair.exchange.extended(Expect::Bind);
    pair.exchange.extended(Expect::Execute);
    pair.exchange.sync();
    pair.exchange.copy_ended();
    pair.exchange.sync();
    pair.exchange.query(Expect::Query, false);
    assert_eq!(pair.hear("2GCZ"), "2GCZ");
    assert!(!pair.exchange.is_quiet());
    assert_eq!(pair.hear("TDCZ"), "TDCZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn an_end_of_data_that_no_copy_asked_for_is_nothing() {
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Query, false);
    pair.exchange.copy_ended();
    assert_eq!(pair.hear("EZ"), "EZ");
    assert!(pair.exchange.is_free());
}

/// Everything was sent before the error came: the Sync behind it ends the batch, and nothing more is to come.
#[test]
fn an_error_before_a_sync_that_was_sent_leaves_no_batch_open() {
    let mut pair = Pair::default();
    pair.batch();
    assert_eq!(pair.hear("EZ"), "EZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn what_comes_without_another_word_of_the_client() {
    let mut pair = Pair::default();
    assert!(!pair.exchange.owes_ready());
    pair.exchange.extended(Expect::Execute);
    assert!(!pair.exchange.owes_ready(), "no Sync was sent");
    pair.exchange.sync();
    assert!(pair.exchange.owes_ready());
    pair.hear("CZ");
    pair.exchange.query(Expect::Query, false);
    assert!(pair.exchange.owes_ready());
    pair.hear("G");
    assert!(!pair.exchange.owes_ready(), "it waits for data");
    pair.exchange.copy_ended();
    assert!(pair.exchange.owes_ready());
}

#[test]
fn a_fresh_exchange_owes_nothing_and_asks_nothing() {
    let exchange = Exchange::default();
    assert!(exchange.is_free() && !exchange.wants_probe() && !exchange.is_skipping() && !exchange.owes_ready());
    assert!(!exchange.has_own() && !exchange.owes_only_own() && !exchange.takes_copy_data());
    assert_eq!(exchange.statement(), None);
}

#[test]
fn what_our_own_statement_left_is_believed() {
    let mut exchange = Exchange::default();
    exchange.assume(b'T');
    assert!(exchange.status() == b'T' && exchange.is_quiet() && !exchange.is_free());
}

#[test]
fn a_query_of_our_own_is_swallowed_and_must_not_fail() {
    let mut pair = Pair::default();
    pair.exchange.own_query();
    pair.exchange.query(Expect::Query, false);
    assert!(!pair.exchange.is_quiet());
    assert_eq!(pair.hear("NCZTDCZ"), "TDCZ");
    pair.exchange.own_query();
    assert!(pair.try_hear("E").is_err());
}

#[test]
fn a_simple_query_ends_the_unnamed_statement_when_it_is_answered() {
    let mut pair = Pair::default();
    pair.names.push(Change::Unnamed(None));
    pair.exchange.query(Expect::Query, true);
    assert!(pair.names.has_unnamed(), "a change is pending");
    pair.hear("CZ");
    assert!(!pair.names.has_unnamed());
}

#[test]
fn the_statement_at_hand_is_that_of_the_oldest_message() {
    let mut pair = Pair::default();
    pair.exchange.uses(Expect::Bind, 7);
    pair.exchange.extended(Expect::Execute);
    assert!(!pair.exchange.is_quiet());
    assert_eq!(pair.exchange.statement(), Some(7));
    pair.hear("2");
    assert_eq!(pair.exchange.statement(), None, "an Execute names none");
}

#[test]
fn a_close_of_the_client_takes_its_name_when_it_is_answered() {
    let mut pair = Pair::default();
    pair.parse("s", "x");
    pair.exchange.sync();
    pair.hear("1Z");
    pair.names.push(Change::Remove(b"s"[..].into()));
    pair.exchange.close(true);
    assert!(!pair.exchange.is_quiet());
    pair.exchange.sync();
    assert_eq!(pair.hear("3Z"), "3Z");
    assert!(!pair.knows("s") && !pair.names.has_unnamed());
}

#[test]
fn a_close_of_our_own_is_swallowed() {
    let mut pair = Pair::default();
    pair.exchange.close_quietly();
    pair.batch();
    assert_eq!(pair.hear("32nCZ"), "2nCZ");
}

#[test]
fn a_failed_parse_leaves_the_server_without_the_statement() {
    let mut pair = Pair::default();
    pair.parse("s", "broken");
    pair.exchange.sync();
    pair.hear("EZ");
    let statement = pair.statement("broken");
    assert!(!pair.cache().has(&statement));
}

#[test]
fn every_sync_during_copy_is_in_doubt() {
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Query, false);
    assert!(pair.exchange.takes_copy_data(), "the server may be about to ask for data");
    pair.hear("G");
    pair.exchange.sync();
    pair.exchange.sync();
    assert!(!pair.exchange.wants_probe(), "the copy goes on");
    assert_eq!(pair.hear("EZ"), "EZ");
    assert!(pair.exchange.wants_probe() && !pair.exchange.is_quiet());
    pair.exchange.probe();
    assert!(!pair.exchange.wants_probe());
    assert_eq!(pair.hear("ZZ3Z"), "ZZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn after_a_copy_in_the_same_query_a_sync_is_owed_again() {
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Query, false);
    pair.hear("G");
    pair.exchange.copy_ended();
    assert_eq!(pair.hear("C"), "C");
    pair.exchange.sync();
    assert_eq!(pair.hear("TDCZZ"), "TDCZZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn a_batch_whose_sync_copy_ignored_waits_for_another() {
    let mut pair = Pair::default();
    pair.batch();
    pair.hear("2nG");
    pair.exchange.copy_ended();
    assert_eq!(pair.hear("C"), "C");
    assert!(!pair.exchange.is_quiet(), "its Sync is still to come");
    // A simple Query needs none.
    let mut pair = Pair::default();
    pair.exchange.query(Expect::Query, false);
    pair.exchange.sync();
    pair.hear("G");
    pair.exchange.copy_ended();
    assert_eq!(pair.hear("CZ"), "CZ");
    assert!(pair.exchange.is_free());
}

#[test]
fn copy_out_of_a_portal() {
    let mut pair = Pair::default();
    pair.batch();
    assert_eq!(pair.hear("2nHddcCZ"), "2nHddcCZ");
}

#[test]
fn copy_data_is_dropped_while_the_server_skips() {
    let mut pair = Pair::default();
    pair.exchange.extended(Expect::Bind);
    pair.exchange.extended(Expect::Execute);
    assert!(pair.exchange.takes_copy_data());
    pair.hear("E");
    assert!(!pair.exchange.takes_copy_data());
}

#[test]
fn a_copy_sent_blindly_with_a_sync_before_and_one_behind_its_end() {
    let mut pair = Pair::default();
    pair.batch();
    pair.exchange.copy_ended();
    pair.exchange.sync();
    assert_eq!(pair.hear("2nGCZ"), "2nGCZ");
    assert!(pair.exchange.is_free(), "the first Sync was ignored, the second answered");
}

fn ours(pair: &mut Pair, purpose: Purpose, messages: &[Expect]) {
    for expect in messages {
        pair.exchange.ours(*expect, purpose);
    }
}

const STEP: [Expect; 5] = [Expect::Parse, Expect::Bind, Expect::Execute, Expect::Parse, Expect::Sync];
const GATE: [Expect; 2] = [Expect::DescribeStatement, Expect::Close];

#[test]
fn a_preface_is_swallowed_and_the_clients_batch_follows() {
    let mut pair = Pair::default();
    ours(&mut pair, Purpose::Preface, &STEP);
    ours(&mut pair, Purpose::Preface, &GATE);
    assert!(pair.exchange.has_preface() && !pair.exchange.is_quiet());
    pair.exchange.query(Expect::Query, false);
    assert_eq!(pair.hear("12NSAC1Zt"), "p");
    assert!(pair.exchange.has_preface());
    assert_eq!(pair.hear("n3TDCZ"), "TDCZ");
    assert!(!pair.exchange.has_preface() && pair.exchange.is_free());
}

#[test]
fn a_preface_that_fails_is_told_at_once() {
    for answers in ["1E", "12CE", "12C1ZE"] {
        let mut pair = Pair::default();
        ours(&mut pair, Purpose::Preface, &STEP);
        ours(&mut pair, Purpose::Preface, &GATE);
        pair.exchange.query(Expect::Query, false);
        assert_eq!(pair.hear(answers), "(failed)", "{answers}");
    }
}

#[test]
fn a_preface_must_leave_no_transaction() {
    let mut pair = Pair::default();
    ours(&mut pair, Purpose::Preface, &STEP);
    assert!(pair.try_hear("12C1z").is_err());
}

#[test]
fn an_audit_gives_rows_and_may_fail() {
    let mut pair = Pair::default();
    let ask = [Expect::Bind, Expect::Execute, Expect::Sync];
    ours(&mut pair, Purpose::Audit, &ask);
    ours(&mut pair, Purpose::Audit, &ask);
    assert_eq!(pair.hear("2DDCz"), "(row)(row)");
    assert!(pair.exchange.has_audit());
    assert_eq!(pair.hear("2ACZ"), "A", "a notification is its client's");
    assert!(!pair.exchange.has_audit() && pair.exchange.is_free() && !pair.exchange.take_audit_failed());
    ours(&mut pair, Purpose::Audit, &ask);
    ours(&mut pair, Purpose::Audit, &ask);
    assert_eq!(pair.hear("2E!2CZ"), "");
    assert!(pair.exchange.take_audit_failed() && pair.exchange.is_free());
}

#[test]
fn a_copy_sent_blindly_with_a_query_behind_its_end() {
    let mut pair = Pair::default();
    pair.batch();
    pair.exchange.copy_ended();
    pair.exchange.query(Expect::Query, false);
    assert_eq!(pair.hear("2nGCCZ"), "2nGCCZ");
    assert!(pair.exchange.is_free(), "the query has ended the batch whose Sync the server ignored");
}

#[test]
fn an_end_of_data_behind_an_answer_of_our_own_is_nothing() {
    let mut pair = Pair::default();
    pair.exchange.own(b'1');
    pair.exchange.copy_ended();
    assert!(pair.exchange.owes_only_own());
    pair.exchange.sync();
    assert_eq!(pair.hear("Z"), "[1]Z");
    assert!(pair.exchange.is_free());
}
