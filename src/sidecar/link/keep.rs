//! What outlives the process, in a directory that lives as long as the pod: the last good configuration, the highest
//! term, and the authorities that were told. Nothing in it is secret.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::view::Memory;
use crate::contract::{Configuration, MAX_FRAME, Policy};
use crate::sidecar::source::{self, State, Teller, files};

/// The file's name.
const NAME: &str = "configuration.json";
/// Of what is written here. A file of another version is passed over.
const VERSION: u32 = 1;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Kept {
    version: u32,
    term: u64,
    /// `None` before there was a good one.
    configuration: Option<Configuration>,
    /// Policies that the operator told of no more, which are served on.
    orphans: Vec<Policy>,
    authorities: Option<String>,
}

impl Kept {
    fn new(state: &State, memory: &Memory) -> Self {
        let of = |orphaned| {
            let policies = state.snapshot.policies.iter().filter(move |policy| policy.orphaned == orphaned);
            policies.filter_map(|policy| policy.told.as_deref().cloned()).collect()
        };
        let is_good = state.accepted > 0 || (state.told.is_some() && state.rejection.is_none());
        Self {
            version: VERSION,
            term: memory.term,
            configuration: is_good.then(|| Configuration { term: memory.term, policies: of(false) }),
            orphans: of(true),
            authorities: memory.authorities.clone(),
        }
    }
}

/// Starts with what was kept, else with what the pod was made with (`stamped`), else with nothing. What is broken is
/// said and passed over.
pub fn restore(directory: Option<&Path>, stamped: Option<&Path>, teller: &Teller) -> Memory {
    let kept = directory.and_then(|directory| read(&directory.join(NAME), parse)).unwrap_or_default();
    let mut memory = Memory { term: kept.term, authorities: kept.authorities };
    if let Some(configuration) = kept.configuration {
        tracing::info!(policies = configuration.policies.len(), "starting with the configuration of the last run");
        if !kept.orphans.is_empty() {
            // Told once more and then no more: orphans again.
            let policies = configuration.policies.iter().chain(&kept.orphans).cloned().collect();
            teller.tell(Configuration { policies, ..configuration });
        }
        teller.tell(configuration);
        return memory;
    }
    let stamped = stamped.and_then(|file| read(file, |bytes| Ok(serde_json::from_slice::<Configuration>(bytes)?)));
    if let Some(configuration) = stamped {
        tracing::info!(policies = configuration.policies.len(), "starting with the configuration of the pod");
        memory.term = memory.term.max(configuration.term);
        teller.tell(configuration);
    }
    memory
}

fn parse(bytes: &[u8]) -> io::Result<Kept> {
    let kept: Kept = serde_json::from_slice(bytes)?;
    match kept.version {
        VERSION => Ok(kept),
        other => Err(io::Error::other(format!("is of version {other}, not {VERSION}"))),
    }
}

fn read<T>(file: &Path, parse: impl Fn(&[u8]) -> io::Result<T>) -> Option<T> {
    let found = match files::read(file, 2 * MAX_FRAME) {
        Ok(bytes) if bytes.trim_ascii().is_empty() => return None,
        Ok(bytes) => parse(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => Err(error),
    };
    found.inspect_err(|error| tracing::warn!(file = %file.display(), %error, "not used: it can't be read")).ok()
}

/// Keeps the newest in `directory` until told to stop.
pub async fn run(
    directory: PathBuf,
    mut states: watch::Receiver<source::State>,
    mut memory: watch::Receiver<Memory>,
    stop: CancellationToken,
) {
    let mut written = None;
    loop {
        let kept = Kept::new(&states.borrow_and_update(), &memory.borrow_and_update());
        if written.as_ref() != Some(&kept) {
            let (place, again) = (directory.clone(), kept.clone());
            let result = tokio::task::spawn_blocking(move || write(&place, &again)).await;
            if let Ok(Err(error)) = result {
                tracing::warn!(directory = %directory.display(), %error, "the configuration cannot be kept");
            }
            written = Some(kept);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            changed = memory.changed() => if changed.is_err() { return },
        }
    }
}

/// Whole or not at all, whatever happens meanwhile.
fn write(directory: &Path, kept: &Kept) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let new = directory.join(format!(".{NAME}"));
    let mut file = File::create(&new)?;
    file.write_all(&serde_json::to_vec(kept)?)?;
    file.sync_all()?;
    fs::rename(new, directory.join(NAME))
}

#[cfg(test)]
mod tests;
