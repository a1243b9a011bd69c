//! What sidecars said last. Pure: time comes in from outside.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::index::Key;
use crate::api::schema;
use crate::contract::{BAND, Band, Hello, Numbers, PolicyReport, Report};

/// For how long a sidecar that isn't heard from keeps its last state: reconnecting, or a leader that has just begun.
pub const GRACE: Duration = Duration::from_secs(30);

/// One sidecar.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Its pod.
    pub key: Key,
    /// Which of its connections is the present one.
    session: u64,
    /// It has reported on this connection.
    has_reported: bool,
    /// When the connection ended; `None` while it stands.
    pub lost: Option<Instant>,
    /// What it said last; `None` before its first report.
    pub report: Option<Arc<Report>>,
    /// The policy fields that it knows; `None` if it knows all that this operator knows.
    pub fields: Option<Arc<BTreeSet<String>>>,
    /// Its version.
    pub version: String,
}

/// What a report brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The same as before.
    Nothing,
    /// Numbers within their class.
    Numbers,
    /// Something that a status shows.
    Class,
}

/// How far a sidecar can be relied on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Not heard from since this leader began, but it is early.
    Early,
    /// Never heard from: it starts.
    New,
    /// What it said holds.
    Heard,
    /// Not heard from for too long.
    Lost,
}

/// All sidecars, by the uid of their pod.
#[derive(Debug)]
pub struct Reports {
    began: Instant,
    sessions: u64,
    sidecars: HashMap<String, Heard>,
    /// Pods that were there when this leader began: others have heard from their sidecars.
    inherited: HashSet<String>,
}

impl Reports {
    /// Of a leader that begins now and finds these pods.
    pub fn new(now: Instant, inherited: HashSet<String>) -> Self {
        Self { began: now, sessions: 0, sidecars: HashMap::new(), inherited }
    }

    /// A number for a connection that has said who it is: higher than those before.
    pub fn number(&mut self) -> u64 {
        self.sessions += 1;
        self.sessions
    }

    /// The sidecar of the connection `session` has proved who it is. False if it did so on a later one meanwhile.
    pub fn connected(&mut self, session: u64, key: Key, uid: &str, hello: &Hello) -> bool {
        if self.sidecars.get(uid).is_some_and(|heard| heard.session > session) {
            return false;
        }
        let fields = fields(hello);
        let report = self.sidecars.remove(uid).and_then(|heard| heard.report);
        let version = hello.version.clone();
        let heard = Heard { key, session, has_reported: false, lost: None, report, fields, version };
        self.sidecars.insert(uid.to_owned(), heard);
        true
    }

    /// A sidecar said what it runs.
    pub fn report(&mut self, uid: &str, session: u64, report: Report) -> News {
        let Some(heard) = self.sidecars.get_mut(uid).filter(|heard| heard.session == session) else {
            return News::Nothing;
        };
        // It may have been missed, and a status may say so: what it says first is news even if it is nothing new.
        let is_first = !std::mem::replace(&mut heard.has_reported, true);
        let news = match &heard.report {
            _ if is_first => News::Class,
            Some(before) if **before == report => News::Nothing,
            Some(before) if class(before) == class(&report) => News::Numbers,
            _ => News::Class,
        };
        heard.report = Some(Arc::new(report));
        news
    }

    /// A connection has ended; whether it was the present one of its pod.
    pub fn disconnected(&mut self, uid: &str, session: u64, now: Instant) -> bool {
        let Some(heard) = self.sidecars.get_mut(uid).filter(|heard| heard.session == session) else { return false };
        heard.lost = Some(now);
        true
    }

    /// The pod is gone.
    pub fn forget(&mut self, uid: &str) {
        self.sidecars.remove(uid);
        self.inherited.remove(uid);
    }

    /// What a sidecar said, if it did.
    pub fn get(&self, uid: &str) -> Option<&Heard> {
        self.sidecars.get(uid)
    }

    /// How far a sidecar can be relied on, and when that changes without news of it.
    pub fn contact(&self, uid: &str, now: Instant) -> (Contact, Option<Instant>) {
        let (since, within) = match self.sidecars.get(uid) {
            Some(Heard { lost: None, report: Some(_), .. }) => return (Contact::Heard, None),
            Some(Heard { lost: Some(lost), report: Some(_), .. }) => (*lost, Contact::Heard),
            _ if self.inherited.contains(uid) => (self.began, Contact::Early),
            _ => return (Contact::New, None),
        };
        let until = since + GRACE;
        if now < until { (within, Some(until)) } else { (Contact::Lost, None) }
    }

    /// A leader begins now and finds these pods: nothing was heard yet. Connections of an earlier term of this replica
    /// that have not ended yet keep numbers of their own.
    pub fn begin(&mut self, now: Instant, inherited: HashSet<String>) {
        *self = Self { sessions: self.sessions, ..Self::new(now, inherited) };
    }

    /// Only these pods are there.
    pub fn retain(&mut self, uids: &HashSet<String>) {
        self.sidecars.retain(|uid, _| uids.contains(uid));
        self.inherited.retain(|uid| uids.contains(uid));
    }

    /// Connections that stand now.
    pub fn streams(&self) -> usize {
        self.sidecars.values().filter(|heard| heard.lost.is_none()).count()
    }
}

/// The fields that a sidecar knows, unless it knows all.
pub fn fields(hello: &Hello) -> Option<Arc<BTreeSet<String>>> {
    let known: BTreeSet<String> = hello.fields.iter().cloned().collect();
    let complete = schema::fields().iter().all(|field| known.contains(field));
    (!complete).then(|| Arc::new(known))
}

/// How busy a pool is, and whether anybody waits.
type Busy = (Option<Band>, bool);

/// A report without what changes all the time.
fn class(report: &Report) -> (bool, Vec<(PolicyReport, Option<Busy>)>) {
    let of = |policy: &PolicyReport| {
        let busy = policy.numbers.as_ref().map(|n| (n.band(), n.waiting > 0));
        (PolicyReport { numbers: None, ..policy.clone() }, busy)
    };
    (report.draining, report.policies.iter().map(of).collect())
}

/// Of a report, by policy uid: what it says of each.
pub fn by_uid(report: &Report) -> BTreeMap<&str, &PolicyReport> {
    report.policies.iter().map(|policy| (policy.uid.as_str(), policy)).collect()
}

/// `12/30 in use (40%, below 60-80%), size 20, overflow 0/10, waiting 0, generation 7`
pub fn line(numbers: &Numbers, generation: i64) -> String {
    let Numbers { size, max_overflow, limit, in_use, overflow, waiting, .. } = numbers;
    let used = match (limit, numbers.utilization_percent()) {
        (Some(limit), Some(percent)) => {
            let band = match Band::of(percent) {
                Band::Below => "below",
                Band::Within => "within",
                Band::Above => "above",
            };
            format!("{in_use}/{limit} in use ({percent}%, {band} {}-{}%)", BAND.start(), BAND.end())
        }
        _ => format!("{in_use} in use (no limit)"),
    };
    let most = if *max_overflow < 0 { "unlimited".to_owned() } else { max_overflow.to_string() };
    format!("{used}, size {size}, overflow {overflow}/{most}, waiting {waiting}, generation {generation}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn report(in_use: u32, waiting: u32) -> Report {
        let numbers = Numbers { size: 20, max_overflow: 10, limit: Some(30), in_use, waiting, ..Numbers::default() };
        Report { policies: vec![PolicyReport { numbers: Some(numbers), ..PolicyReport::default() }], draining: false }
    }

    fn connected(reports: &mut Reports) -> u64 {
        let session = reports.number();
        assert!(reports.connected(session, Key::new("n", "p"), "u", &Hello::default()));
        session
    }

    #[test]
    fn of_two_greetings_the_later_counts() {
        let now = Instant::now();
        let mut reports = Reports::new(now, HashSet::new());
        let early = reports.number();
        let late = connected(&mut reports);
        assert!(!reports.connected(early, Key::new("n", "p"), "u", &Hello::default()));
        assert!(!reports.disconnected("u", early, now));
        assert_eq!(reports.report("u", late, report(1, 0)), News::Class);
    }

    #[test]
    fn only_a_class_is_news() {
        let now = Instant::now();
        let mut reports = Reports::new(now, HashSet::new());
        let session = connected(&mut reports);
        assert_eq!(reports.report("u", session, report(1, 0)), News::Class);
        assert_eq!(reports.report("u", session, report(1, 0)), News::Nothing);
        assert_eq!(reports.report("u", session, report(17, 0)), News::Numbers);
        assert_eq!(reports.report("u", session, report(18, 0)), News::Class, "in the band");
        assert_eq!(reports.report("u", session, report(18, 1)), News::Class, "somebody waits");
        let again = connected(&mut reports);
        assert_eq!(reports.report("u", session, report(1, 0)), News::Nothing, "of an old connection");
        assert_eq!(reports.report("u", again, report(18, 1)), News::Class, "it may have been missed");
        assert_eq!(reports.report("u", again, report(18, 1)), News::Nothing);
        assert!(!reports.disconnected("u", session, now));
        assert!(reports.disconnected("u", again, now));
    }

    #[test]
    fn a_connection_of_an_earlier_term_ends_no_other() {
        let now = Instant::now();
        let mut reports = Reports::new(now, HashSet::new());
        let old = connected(&mut reports);
        reports.begin(now, HashSet::from(["u".to_owned(), "gone".to_owned()]));
        let new = connected(&mut reports);
        assert!(!reports.disconnected("u", old, now));
        assert_eq!((reports.report("u", new, report(1, 0)), reports.streams()), (News::Class, 1));
        reports.retain(&HashSet::new());
        assert_eq!((reports.streams(), reports.contact("gone", now).0), (0, Contact::New));
    }

    #[test]
    fn silence_counts_after_a_while_only() {
        let (now, later) = (Instant::now(), Instant::now() + GRACE);
        let mut reports = Reports::new(now, HashSet::from(["u".to_owned()]));
        assert_eq!(reports.contact("another", later), (Contact::New, None));
        assert_eq!(reports.contact("u", now), (Contact::Early, Some(now + GRACE)));
        assert_eq!(reports.contact("u", later), (Contact::Lost, None));
        let session = connected(&mut reports);
        assert_eq!(reports.contact("u", now).0, Contact::Early, "it has said nothing yet");
        reports.report("u", session, report(1, 0));
        assert_eq!(reports.contact("u", later), (Contact::Heard, None));
        reports.disconnected("u", session, later);
        assert_eq!(reports.contact("u", later), (Contact::Heard, Some(later + GRACE)));
        assert_eq!(reports.contact("u", later + GRACE), (Contact::Lost, None));
    }

    #[test]
    fn a_line_like_a_dashboard() {
        let text = |in_use, overflow, waiting| {
            let numbers = Numbers {
                size: 20,
                max_overflow: 10,
                limit: Some(30),
                in_use,
                overflow,
                waiting,
                ..Numbers::default()
            };
            line(&numbers, 7)
        };
        assert_eq!(text(12, 0, 0), "12/30 in use (40%, below 60-80%), size 20, overflow 0/10, waiting 0, generation 7");
        assert_eq!(
            text(30, 10, 4),
            "30/30 in use (100%, above 60-80%), size 20, overflow 10/10, waiting 4, generation 7"
        );
        let unlimited = Numbers { max_overflow: -1, in_use: 3, ..Numbers::default() };
        assert_eq!(line(&unlimited, 1), "3 in use (no limit), size 0, overflow 0/unlimited, waiting 0, generation 1");
    }
}
