//! Honest answers, damaged at random: bits flipped, bytes cut out, messages doubled, swapped and left away.

use crate::answers::policy;
use crate::honest;
use crate::support::hostile::{Events, Server, Session};
use crate::support::{Sidecar, bed, eventually, fe, hostile, process};
use crate::victim::{ALL, ask, is_well, next_ones};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Random numbers that a seed repeats (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }
}

/// Messages that an answer may also hold.
fn strangers() -> Vec<Vec<u8>> {
    let error = hostile::error(&[(b'S', "ERROR"), (b'V', "ERROR"), (b'C', "XX000"), (b'M', "random")]);
    let mut strangers: Vec<_> = b"123AcGHdINnstVWK?R".iter().map(|tag| fe::message(*tag, &[0, 0, 0, 0])).collect();
    strangers.extend([
        error,
        hostile::ready(b'I'),
        hostile::ready(b'T'),
        hostile::ready(b'E'),
        hostile::complete("SET"),
    ]);
    strangers
}

fn damaged(mut messages: Vec<Vec<u8>>, dice: &mut Dice) -> Vec<u8> {
    let strangers = strangers();
    for _ in 0..1 + dice.below(3) {
        let at = dice.below(messages.len().max(1));
        match dice.below(7) {
            0 if !messages.is_empty() => drop(messages.remove(at)),
            1 if !messages.is_empty() => messages.insert(at, messages[at].clone()),
            2 if !messages.is_empty() => {
                let other = dice.below(messages.len());
                messages.swap(at, other);
            }
            3 => messages.insert(at, strangers[dice.below(strangers.len())].clone()),
            4 if !messages.is_empty() => {
                let length = messages[at].len();
                messages[at].truncate(dice.below(length.max(1)));
            }
            _ if messages.iter().any(|message| !message.is_empty()) => {
                let message = messages.iter_mut().find(|message| !message.is_empty()).unwrap();
                let (place, bit) = (dice.below(message.len()), dice.below(8));
                message[place] ^= 1 << bit;
            }
            _ => {}
        }
    }
    messages.concat()
}

#[test]
fn damaged_answers() {
    if bed::is_direct() {
        return;
    }
    let seed: u64 = std::env::var("HOSTILE_SEED").ok().map_or(1, |seed| seed.parse().unwrap());
    let rounds: u64 = std::env::var("HOSTILE_ROUNDS").ok().map_or(150, |rounds| rounds.parse().unwrap());
    let (events, number) = (Events::default(), Arc::new(AtomicU64::new(0)));
    let (told, round) = (events.clone(), Arc::clone(&number));
    let server = Server::start(move |session, _| {
        session.login()?;
        let (told, round) = (told.clone(), Arc::clone(&round));
        let lie = move |session: &mut Session, honest: Vec<Vec<u8>>| {
            let mut dice = Dice(seed.wrapping_mul(1_000_003) + round.load(Ordering::SeqCst));
            let result = session.send(&[damaged(honest, &mut dice)]);
            told.note("told");
            result
        };
        honest::serve(session, &lie)
    });
    let mut sidecar = Sidecar::start(&policy(server.port));
    let before = process::resident(sidecar.pid());
    let mut failures = vec![];
    for turn in 0..rounds {
        number.store(turn, Ordering::SeqCst);
        let how = ALL[usize::try_from(turn % 3).unwrap()];
        let mut victim = sidecar.client();
        ask(&mut victim, how, "lie", Duration::from_millis(40));
        eventually("it was told", || events.saw("told"));
        events.clear();
        drop(victim);
        failures.extend(next_ones(&sidecar, &format!("seed {seed}, round {turn}, {how:?}")).err());
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    is_well(&mut sidecar, before, 40_000_000);
}
