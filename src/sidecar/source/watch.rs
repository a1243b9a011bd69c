//! Notices that files changed. Inotify tells within a millisecond; a look every two seconds is there for file systems
//! and limits that keep it from telling.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tracing::warn;

use super::files;
use super::links::{Interest, Interests, follow};

/// What the source's thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Something changed; with `whole`, no more writes are to be expected (a file was closed, renamed or removed).
    Touched {
        /// The change is complete as far as one can know.
        whole: bool,
    },
    /// Read everything even if nothing changed.
    Reload,
    /// End.
    Stop,
}

/// What is watched.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// A file of policies, or a directory of such files.
    pub policies: Option<PathBuf>,
    /// A directory with a directory per Secret.
    pub secrets: Option<PathBuf>,
    /// Another file.
    pub other: Option<PathBuf>,
}

/// Watches what a configuration is read from.
pub struct Watch {
    targets: Targets,
    watcher: Option<RecommendedWatcher>,
    interests: Arc<Mutex<Interests>>,
    /// Watched directories with device and inode: another directory of the same name needs another watch.
    watched: BTreeMap<PathBuf, Option<(u64, u64)>>,
    seen: BTreeMap<PathBuf, Option<Look>>,
}

/// A file as it was: device, inode, length, time of change.
type Look = (u64, u64, u64, SystemTime);

impl Watch {
    /// Starts to watch; from now on changes are signalled.
    pub fn new(targets: Targets, signals: Sender<Signal>) -> Self {
        let interests = Arc::<Mutex<Interests>>::default();
        let shared = Arc::clone(&interests);
        let handler = move |event: notify::Result<Event>| {
            let interests = shared.lock().unwrap_or_else(PoisonError::into_inner);
            // An error may hide a change.
            let touched = event.map_or(Some(true), |event| touched(&event, &interests));
            if let Some(whole) = touched {
                // The receiver is gone when the source ends.
                let _ = signals.send(Signal::Touched { whole });
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .inspect_err(|error| warn!("files cannot be watched, they are looked at every two seconds: {error}"));
        let (watched, seen) = (BTreeMap::new(), BTreeMap::new());
        let mut watch = Self { targets, watcher: watcher.ok(), interests, watched, seen };
        watch.update();
        watch
    }

    /// Watches what must be watched now. Whether anything looks different from the last time.
    pub fn update(&mut self) -> bool {
        let mut survey = Survey::default();
        if let Some(path) = &self.targets.policies {
            survey.policies(path);
        }
        if let Some(path) = &self.targets.secrets {
            survey.secrets(path);
        }
        if let Some(path) = &self.targets.other {
            survey.see(path);
        }
        let Survey { interests, seen } = survey;
        self.watch(&interests);
        *self.interests.lock().unwrap_or_else(PoisonError::into_inner) = interests;
        let changed = seen != self.seen;
        self.seen = seen;
        changed
    }

    fn watch(&mut self, interests: &Interests) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeMap<_, _> = interests.keys().map(|path| (path.clone(), identity(path))).collect();
        for (path, identity) in &self.watched {
            if wanted.get(path) != Some(identity) {
                // It may have ended by itself.
                let _ = watcher.unwatch(path);
            }
        }
        for (path, identity) in &wanted {
            if self.watched.get(path) == Some(identity) {
                continue;
            }
            if let Err(error) = watcher.watch(path, RecursiveMode::NonRecursive) {
                warn!(path = %path.display(), "cannot be watched, it is looked at every two seconds: {error}");
            }
        }
        self.watched = wanted;
    }
}

/// What is there now, and where changes of it would show.
#[derive(Default)]
struct Survey {
    interests: Interests,
    seen: BTreeMap<PathBuf, Option<Look>>,
}

impl Survey {
    /// Looks at one path; where it really is if it is a directory.
    fn see(&mut self, path: &Path) -> Option<PathBuf> {
        let real = follow(path, &mut self.interests);
        self.seen.insert(path.to_owned(), look(path));
        real.filter(|real| real.is_dir())
    }

    fn policies(&mut self, path: &Path) {
        if let Some(directory) = self.see(path) {
            self.interests.entry(directory).or_default().policies = true;
        }
        for file in files::list(path).unwrap_or_default() {
            self.see(&file);
        }
    }

    fn secrets(&mut self, path: &Path) {
        let Some(directory) = self.see(path) else { return };
        for secret in entries(&directory) {
            let Some(directory) = self.see(&secret) else { continue };
            for file in entries(&directory) {
                self.see(&file);
            }
            self.interests.entry(directory).or_default().all = true;
        }
        self.interests.entry(directory).or_default().all = true;
    }
}

/// What is in a directory, so far as it can be read.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Whether an event matters, and if so, whether the change is whole.
fn touched(event: &Event, interests: &Interests) -> Option<bool> {
    let whole = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        // Reading is no change.
        EventKind::Access(_) => return None,
        EventKind::Modify(ModifyKind::Name(_) | ModifyKind::Metadata(_)) | EventKind::Remove(_) => true,
        // A link is whole when it is there; a file is yet to be written.
        EventKind::Create(_) => event.paths.iter().all(|path| path.is_symlink()),
        _ => event.need_rescan(),
    };
    let matters = |path: &PathBuf| {
        let named = path.parent().and_then(|dir| interests.get(dir)).zip(path.file_name());
        named.is_some_and(|(interest, name): (&Interest, _)| interest.has(name)) || interests.contains_key(path)
    };
    (event.need_rescan() || event.paths.iter().any(matters)).then_some(whole)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn look(path: &Path) -> Option<Look> {
    let metadata = fs::metadata(path).ok()?;
    // A directory changes with every file in it, whether it matters or not.
    let time = if metadata.is_dir() { SystemTime::UNIX_EPOCH } else { metadata.modified().ok()? };
    let length = if metadata.is_dir() { 0 } else { metadata.len() };
    Some((metadata.dev(), metadata.ino(), length, time))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use notify::event::{CreateKind, DataChange, RemoveKind, RenameMode};
    use std::sync::mpsc;

    /// A folder with a policy and a Secret, looked at without inotify.
    fn blind() -> (tempfile::TempDir, Watch) {
        let dir = tempfile::Builder::new().prefix("pk-watch-").tempdir().unwrap();
        fs::create_dir_all(dir.path().join("secrets/db")).unwrap();
        fs::create_dir(dir.path().join("policies")).unwrap();
        for file in ["policies/a.yaml", "secrets/db/password", "root.crt"] {
            fs::write(dir.path().join(file), "x").unwrap();
        }
        let path = |below: &str| Some(dir.path().join(below));
        let targets = Targets { policies: path("policies"), secrets: path("secrets"), other: path("root.crt") };
        let mut watch = Watch::new(targets, mpsc::channel().0);
        watch.watcher = None;
        (dir, watch)
    }

    #[test]
    fn a_look_sees_every_change_that_matters_once() {
        let (dir, mut watch) = blind();
        assert!(!watch.update());
        for file in ["policies/a.yaml", "policies/b.yaml", "secrets/db/password", "secrets/db/username", "secrets/e/f"]
        {
            let file = dir.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "longer").unwrap();
            assert!(watch.update(), "{}", file.display());
            assert!(!watch.update());
        }
        fs::remove_file(dir.path().join("policies/b.yaml")).unwrap();
        assert!(watch.update());
        fs::rename(dir.path().join("root.crt"), dir.path().join("old.crt")).unwrap();
        assert!(watch.update());
        fs::write(dir.path().join("policies/.a.yaml.swp"), "x").unwrap();
        assert!(!watch.update());
    }

    #[test]
    fn events_are_told_apart() {
        let (dir, watch) = blind();
        let base = dir.path().canonicalize().unwrap();
        let interests = watch.interests.lock().unwrap().clone();
        let touched = |kind, path: &str| touched(&Event::new(kind).add_path(base.join(path)), &interests);
        let closed = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        let created = EventKind::Create(CreateKind::File);
        assert_eq!(touched(closed, "policies/a.yaml"), Some(true));
        assert_eq!(touched(renamed, "policies/..data"), Some(true));
        assert_eq!(touched(EventKind::Remove(RemoveKind::File), "secrets/db/password"), Some(true));
        assert_eq!(touched(written, "policies/a.yaml"), Some(false));
        assert_eq!(touched(created, "policies/b.yaml"), Some(false));
        assert_eq!(touched(closed, "policies/.a.yaml.swp"), None);
        assert_eq!(touched(closed, "elsewhere"), None);
        // Our own reading.
        assert_eq!(touched(EventKind::Access(AccessKind::Open(AccessMode::Any)), "policies/a.yaml"), None);
        assert_eq!(touched(EventKind::Access(AccessKind::Close(AccessMode::Read)), "policies/a.yaml"), None);
    }
}
