//! Protocol-level prepared statements in transaction mode.
//!
//! A statement is named by each client as it likes ([`Names`]), is shared on each server under a random name of
//! our own ([`Cache`]), and is one object for all clients that prepare the same text with the same parameter types
//! ([`Registry`]).
//!
//! Names change when the *server* says so, not when the client asks: what a pipeline adds and removes is kept as
//! pending [`Change`]s in the order of the replies, applied one by one as these arrive and dropped if an error
//! makes the server skip the messages (wire-cases 27, 31).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lru::LruCache;

use super::scan::Scan;

/// A statement's text and parameter types, and the name under which servers know it.
#[derive(Debug)]
pub struct Statement {
    /// Its number in the registry; 0 for an unnamed one.
    pub id: u64,
    /// The name on servers: random (128 bit), so that SQL can't meet it by chance. Empty for an unnamed statement.
    pub name: Box<[u8]>,
    /// A Parse message's body after the statement's name: the text, a zero byte, the parameter types.
    pub tail: Box<[u8]>,
    /// Whether running it may leave session state behind.
    pub scan: Scan,
}

impl Statement {
    /// A client's unnamed statement.
    pub fn unnamed(tail: &[u8], scan: Scan) -> Arc<Self> {
        Arc::new(Self { id: 0, name: Box::default(), tail: tail.into(), scan })
    }

    /// Whether this is that very statement.
    pub fn is(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, other)
    }
}

/// All statements that clients of one database have prepared by name, by their Parse message's tail.
#[derive(Debug, Default)]
pub struct Registry {
    known: Mutex<Known>,
}

/// Settings that parsing depends on, and a Parse message's tail.
type Labelled = (Box<[u8]>, Box<[u8]>);

#[derive(Debug, Default)]
struct Known {
    statements: HashMap<Box<[u8]>, Weak<Statement>>,
    /// Those prepared under settings that parsing depends on, by these and the tail.
    labelled: HashMap<Labelled, Weak<Statement>>,
    last: u64,
    /// Dead entries are swept when the map reaches this size.
    sweep: usize,
}

impl Registry {
    /// The one statement of this text and these parameter types under these settings that parsing depends on
    /// ([`Label::parse_key`](super::label::Label::parse_key)); `scan` looks at the text if it is new.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn intern(
        &self,
        tail: &[u8],
        label: &[u8],
        scan: impl FnOnce() -> Scan,
    ) -> Result<Arc<Statement>, getrandom::Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match label {
            [] => known.statements.get(tail).and_then(Weak::upgrade),
            label => known.labelled.get(&(label.into(), tail.into())).and_then(Weak::upgrade),
        };
        if let Some(statement) = found {
            return Ok(statement);
        }
        let statement = known.make(tail, scan())?;
        if known.statements.len() + known.labelled.len() >= known.sweep {
            known.statements.retain(|_, statement| statement.strong_count() > 0);
            known.labelled.retain(|_, statement| statement.strong_count() > 0);
            known.sweep = (known.statements.len() + known.labelled.len()) * 2 + 64;
        }
        match label {
            [] => known.statements.insert(tail.into(), Arc::downgrade(&statement)),
            label => known.labelled.insert((label.into(), tail.into()), Arc::downgrade(&statement)),
        };
        Ok(statement)
    }

    /// A statement that is shared with nobody: settings that hold for this transaction only may be folded into it.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn alone(&self, tail: &[u8], scan: Scan) -> Result<Arc<Statement>, getrandom::Error> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).make(tail, scan)
    }

    /// Something was defined: who prepares a text from now on gets it parsed anew (a type or a table of that name may be
    /// another one). Who has prepared it before keeps what it has, as in PostgreSQL.
    pub fn retire_all(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.statements.clear();
        known.labelled.clear();
    }

    /// What this statement returns has changed since it was prepared (`cached plan must not change result type`): who
    /// has it goes on meeting that error, as in PostgreSQL; who prepares the same text again gets a new one
    /// (wire-cases 34).
    pub fn retire(&self, statement: &Arc<Statement>) {
        let is = |known: &Weak<Statement>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(statement));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.statements.get(&statement.tail).is_some_and(is) {
            known.statements.remove(&statement.tail);
        }
        known.labelled.retain(|_, other| !is(other));
    }
}

impl Known {
    fn make(&mut self, tail: &[u8], scan: Scan) -> Result<Arc<Statement>, getrandom::Error> {
        self.last += 1;
        Ok(Arc::new(Statement { id: self.last, name: random_name()?, tail: tail.into(), scan }))
    }
}

/// A name for use on servers that nobody guesses or chooses by chance.
///
/// # Errors
/// If the system has no random bytes.
pub fn random_name() -> Result<Box<[u8]>, getrandom::Error> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let digits = random.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    Ok(b"pk_".iter().copied().chain(digits).collect())
}

/// What a message does to the client's names once the server has answered it.
#[derive(Debug)]
pub enum Change {
    /// Parse: the name now means that statement.
    Add(Box<[u8]>, Arc<Statement>),
    /// Close: the name is free.
    Remove(Box<[u8]>),
    /// Parse without a name, or a simple Query, which ends the unnamed statement.
    Unnamed(Option<Arc<Statement>>),
}

/// What a pending change takes, with its name and with its note in the exchange.
const PENDING: usize = 128;

/// One client's prepared statements by the names it gave them.
#[derive(Debug, Default)]
pub struct Names {
    named: HashMap<Box<[u8]>, Arc<Statement>>,
    unnamed: Option<Arc<Statement>>,
    pending: VecDeque<Change>,
    bytes: usize,
}

impl Names {
    /// What this name means to the next message of the client; the empty name is the unnamed statement.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        for change in self.pending.iter().rev() {
            match change {
                Change::Add(added, statement) if **added == *name => return Some(statement),
                Change::Remove(removed) if **removed == *name => return None,
                Change::Unnamed(statement) if name.is_empty() => return statement.as_ref(),
                _ => {}
            }
        }
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// The name that the client has for a statement; none if it has none any more.
    pub fn name_of(&self, id: u64) -> Option<&[u8]> {
        self.named.iter().find(|(_, statement)| statement.id == id).map(|(name, _)| &**name)
    }

    /// Whether it has no named statement, nor will have when its next message comes.
    pub fn has_none(&self) -> bool {
        self.named.is_empty() && !self.pending.iter().any(|change| matches!(change, Change::Add(..)))
    }

    /// Every named statement as the client's next message finds them.
    pub fn all(&self) -> Vec<(Box<[u8]>, Arc<Statement>)> {
        let added = self.pending.iter().filter_map(|change| match change {
            Change::Add(name, _) => Some(name),
            _ => None,
        });
        let mut names: Vec<_> = self.named.keys().chain(added).collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| Some((name.clone(), Arc::clone(self.get(name)?)))).collect()
    }

    /// The messages that pending changes wait for will never be answered: nothing of them was done.
    pub fn forget_pending(&mut self) {
        self.pending.clear();
    }

    /// Notes a change that the next answer decides about.
    pub fn push(&mut self, change: Change) {
        self.pending.push_back(change);
    }

    /// Whether a simple Query changes anything here.
    pub fn has_unnamed(&self) -> bool {
        self.unnamed.is_some() || !self.pending.is_empty()
    }

    /// The oldest pending change was answered: it holds from now on.
    pub fn apply(&mut self) {
        match self.pending.pop_front() {
            Some(Change::Add(name, statement)) => {
                self.bytes += name.len() + statement.tail.len();
                let new = name.len();
                if let Some(old) = self.named.insert(name, statement) {
                    self.bytes = self.bytes.saturating_sub(new + old.tail.len());
                }
            }
            Some(Change::Remove(name)) => {
                if let Some(old) = self.named.remove(&name) {
                    self.bytes = self.bytes.saturating_sub(name.len() + old.tail.len());
                }
            }
            Some(Change::Unnamed(statement)) => self.unnamed = statement,
            None => {}
        }
    }

    /// The oldest pending change failed (`skipped` false) or was skipped by the server after an earlier error.
    pub fn drop_change(&mut self, skipped: bool) {
        // A Parse that fails has ended the unnamed statement all the same (exec_parse_message in postgres.c).
        if let Some(Change::Unnamed(_)) = self.pending.pop_front()
            && !skipped
        {
            self.unnamed = None;
        }
    }

    /// Forgets every named statement: after DEALLOCATE ALL and DISCARD ALL.
    pub fn clear(&mut self) {
        self.named = HashMap::new();
        self.bytes = 0;
    }

    /// Bytes of names and texts that this client holds, and of changes that wait for their answers.
    pub fn bytes(&self) -> usize {
        self.bytes + self.pending.len() * PENDING
    }

    /// Gives memory back while the client is idle.
    pub fn rest(&mut self) {
        if self.pending.is_empty() && self.pending.capacity() > 0 {
            self.pending = VecDeque::new();
        }
    }
}

/// The statements that one server holds: the least recently used leaves first.
#[derive(Debug)]
pub struct Cache {
    held: LruCache<u64, Arc<Statement>>,
    limit: usize,
    unnamed: Option<Arc<Statement>>,
    /// Parse messages sent and not answered, in order.
    preparing: VecDeque<Arc<Statement>>,
    /// Close messages sent and not answered, in order.
    closing: VecDeque<Arc<Statement>>,
}

impl Cache {
    /// An empty cache for at most `limit` statements; even a limit of 0 holds the one in use.
    pub fn new(limit: usize) -> Self {
        Self {
            held: LruCache::unbounded(),
            limit: limit.max(1),
            unnamed: None,
            preparing: VecDeque::new(),
            closing: VecDeque::new(),
        }
    }

    /// Another limit, kept to from the next statement on.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
    }

    /// Whether the server has this statement, or will have when it comes to the next message; marks it as used.
    pub fn has(&mut self, statement: &Arc<Statement>) -> bool {
        if statement.name.is_empty() {
            return self.unnamed.as_ref().is_some_and(|held| held.is(statement));
        }
        self.held.get(&statement.id).is_some()
    }

    /// SQL has deallocated this statement, or will have when the server comes to the next message.
    pub fn remove(&mut self, id: u64) {
        self.held.pop(&id);
    }

    /// All named ones, in no order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Statement>> {
        self.held.iter().map(|(_, statement)| statement)
    }

    /// The statement with this number, if the server has it; not marked as used.
    pub fn peek(&self, id: u64) -> Option<&Arc<Statement>> {
        self.held.peek(&id)
    }

    /// A Parse for this statement is sent now.
    pub fn parse_sent(&mut self, statement: &Arc<Statement>) {
        if statement.name.is_empty() {
            if !self.unnamed.as_ref().is_some_and(|held| Arc::ptr_eq(held, statement)) {
                self.unnamed = Some(Arc::clone(statement));
            }
        } else {
            self.held.put(statement.id, Arc::clone(statement));
        }
        self.preparing.push_back(Arc::clone(statement));
    }

    /// The statement that has to be closed now to keep to the limit; a Close for it must be sent.
    pub fn evict(&mut self) -> Option<Arc<Statement>> {
        if self.held.len() <= self.limit {
            return None;
        }
        let (_, statement) = self.held.pop_lru()?;
        self.closing.push_back(Arc::clone(&statement));
        Some(statement)
    }

    /// ParseComplete: the oldest Parse under way has worked.
    pub fn parsed(&mut self) {
        self.preparing.pop_front();
    }

    /// The oldest Parse under way failed or was skipped: the server does not have it.
    pub fn parse_failed(&mut self) {
        let Some(statement) = self.preparing.pop_front() else { return };
        if statement.name.is_empty() {
            self.unnamed = None;
        } else if !self.preparing.iter().any(|later| later.is(&statement)) {
            self.held.pop(&statement.id);
        }
    }

    /// The server says that it does not have this statement.
    pub fn lost(&mut self, id: u64) {
        // One that is under way again will be there.
        if !self.preparing.iter().any(|later| later.id == id) {
            self.held.pop(&id);
        }
    }

    /// CloseComplete for an evicted statement.
    pub fn closed(&mut self) {
        self.closing.pop_front();
    }

    /// The Close for an evicted statement was skipped: the server still has it.
    pub fn close_skipped(&mut self) {
        if let Some(statement) = self.closing.pop_front() {
            self.held.put(statement.id, statement);
        }
    }

    /// The server has dropped its unnamed statement: a simple Query was sent.
    pub fn forget_unnamed(&mut self) {
        self.unnamed = None;
    }

    /// Whether the server has somebody's unnamed statement.
    pub fn has_unnamed(&self) -> bool {
        self.unnamed.is_some()
    }

    /// The server has dropped every named statement: DEALLOCATE ALL or DISCARD ALL.
    pub fn clear(&mut self) {
        self.held.clear();
    }

    /// How many statements the server holds.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests;
