//! The first packet of a connection, as it came from anybody.

use poolkeeper::pg::error::SqlState;
use poolkeeper::pg::frame;
use poolkeeper::pg::message::negotiate_protocol_version;
use poolkeeper::pg::startup::{
    self, Initial, MAX_CANCEL_KEY, MAX_PACKET, Startup, StartupError, StartupSet, initial, startup_message,
};

/// `data` is what was read from the socket.
pub fn run(data: &[u8]) {
    for max in [MAX_PACKET, 64] {
        check(data, max);
    }
}

/// What it is does not depend on the pieces in which it came, nor on what follows it.
fn check(data: &[u8], max: usize) {
    let result = initial(data, max);
    let complete = match &result {
        Ok(Some((_, taken))) => {
            assert!(*taken <= data.len() && (8..=max).contains(taken), "{taken} of {}", data.len());
            *taken
        }
        Ok(None) => {
            assert!(data.len() < max, "{} bytes and no answer", data.len());
            data.len()
        }
        Err(error) => {
            check_error(error, data);
            data.len()
        }
    };
    for end in 0..complete {
        let part = initial(&data[..end], max);
        assert!(part == Ok(None) || (part.is_err() && part == result), "{end} bytes: {part:?}, all: {result:?}");
    }
    if result != Ok(None) {
        let mut more = data.to_vec();
        more.extend(b"\0\0\0\x08more");
        assert_eq!(initial(&more, max), result, "what follows counts");
    }
    match result {
        Ok(Some((Initial::Startup(startup), taken))) => check_startup(&startup, taken),
        Ok(Some((Initial::Cancel { key, .. }, _))) => assert!(key.len() <= MAX_CANCEL_KEY),
        _ => {}
    }
}

fn check_error(error: &StartupError, data: &[u8]) {
    assert!(error.to_string().len() < 200, "an error as long as the peer wants");
    let length = matches!(error, StartupError::Length { .. });
    assert!(length || data.len() >= 8);
    assert!(SqlState::parse(error.sqlstate().as_str()).is_some());
}

/// It holds no more than came, and written out it reads as the same.
fn check_startup(startup: &Startup, taken: usize) {
    let Startup { minor, unknown_options, user, database, parameters, replication } = startup;
    assert!(!user.is_empty() && !database.is_empty());
    let held: usize = parameters.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(held + unknown_options.iter().map(String::len).sum::<usize>() + user.len() <= taken);

    let options = unknown_options.iter().map(|option| (option.as_str(), ""));
    let plain = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let asks = replication.then_some(("replication", "true"));
    let mut bytes = Vec::new();
    startup_message(&mut bytes, *minor, user, database, plain.chain(options).chain(asks));
    let again = initial(&bytes, bytes.len());
    assert_eq!(again, Ok(Some((Initial::Startup(startup.clone()), bytes.len()))));

    assert!([0, startup::NEWEST_MINOR].contains(&startup.negotiated(startup::NEWEST_MINOR)));
    if startup.needs_negotiation(startup::NEWEST_MINOR) {
        let mut answer = Vec::new();
        negotiate_protocol_version(&mut answer, startup.negotiated(startup::NEWEST_MINOR), unknown_options);
        assert!(matches!(frame::whole(&answer), Ok(Some(whole)) if whole.total() == answer.len()));
    }
    check_set(parameters);
}

/// Sorted, each name once, nothing in it that is no setting; and made of itself it is itself.
fn check_set(parameters: &[(String, String)]) {
    let set = StartupSet::new(parameters.iter().map(|(name, value)| (name, value)));
    let names: Vec<&str> = set.iter().map(|(name, _)| name).collect();
    assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "{names:?}");
    for (name, value) in set.iter() {
        assert_eq!(set.get(name), Some(value));
        assert!(!["user", "database", "replication"].contains(&name) && !name.starts_with("_pq_."), "{name}");
        let came = parameters.iter().any(|(n, v)| n.eq_ignore_ascii_case(name) && v == value);
        assert!(came, "{name} = {value} was not asked for");
        assert_eq!(set.without(name).get(name), None);
    }
    assert_eq!(StartupSet::new(set.iter()), set);
}
