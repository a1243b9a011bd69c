//! Which directories must be watched so that no change of a path goes unseen.
//!
//! An atomic rename and the swap of a ConfigMap's `..data` link change a directory, not the file: every link on the
//! way is followed, and the directory of each is watched for the link's name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::files::is_policy_file;

/// The most links that are followed on the way, as the kernel has it.
const MAX_LINKS: usize = 40;

/// Which names in a directory matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// These.
    pub names: BTreeSet<OsString>,
    /// And the files that a directory of policies is read from.
    pub policies: bool,
    /// And every other.
    pub all: bool,
}

impl Interest {
    /// Whether a change of this name matters. A mounted ConfigMap changes by its `..data` link.
    pub fn has(&self, name: &OsStr) -> bool {
        let policy = || is_policy_file(Path::new(name)) || name.as_encoded_bytes().starts_with(b"..");
        self.all || self.names.contains(name) || (self.policies && policy())
    }
}

/// Directories, with what matters in each.
pub type Interests = BTreeMap<PathBuf, Interest>;

/// Adds the directories through which `path` is reached, and returns where it really is (if it is there).
pub fn follow(path: &Path, interests: &mut Interests) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let mut rest: VecDeque<OsString> = path.components().map(|part| part.as_os_str().to_owned()).collect();
    let (mut real, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = rest.pop_front() {
        match Path::new(&part).components().next() {
            Some(Component::Normal(name)) => {
                let next = real.join(name);
                let metadata = fs::symlink_metadata(&next);
                let link = metadata.as_ref().is_ok_and(fs::Metadata::is_symlink);
                if link || metadata.is_err() || rest.is_empty() {
                    interests.entry(real.clone()).or_default().names.insert(name.to_owned());
                }
                metadata.ok()?;
                if !link {
                    real = next;
                    continue;
                }
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                let target = fs::read_link(&next).ok()?;
                for part in target.components().rev() {
                    rest.push_front(part.as_os_str().to_owned());
                }
            }
            Some(Component::ParentDir) => {
                real.pop();
            }
            Some(Component::RootDir) => real = PathBuf::from("/"),
            _ => {}
        }
    }
    Some(real)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    /// The names that matter, by directory below `base`; directories above it are left out.
    fn interests(base: &Path, path: &Path) -> (Option<PathBuf>, Vec<(String, Vec<String>)>) {
        let mut interests = Interests::new();
        let real = follow(path, &mut interests);
        let inside = interests.into_iter().filter_map(|(dir, interest)| {
            let dir = dir.strip_prefix(base).ok()?.display().to_string();
            Some((dir, interest.names.iter().map(|name| name.to_string_lossy().into_owned()).collect()))
        });
        (real, inside.collect())
    }

    #[test]
    fn every_link_on_the_way_is_watched() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("mount/..2024")).unwrap();
        fs::write(base.join("mount/..2024/policy.yaml"), "").unwrap();
        symlink("..2024", base.join("mount/..data")).unwrap();
        symlink("..data/policy.yaml", base.join("mount/policy.yaml")).unwrap();
        symlink(base.join("mount"), base.join("current")).unwrap();
        let (real, found) = interests(&base, &base.join("current/policy.yaml"));
        assert_eq!(real, Some(base.join("mount/..2024/policy.yaml")));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            found,
            [
                (String::new(), names(&["current"])),
                ("mount".into(), names(&["..data", "policy.yaml"])),
                ("mount/..2024".into(), names(&["policy.yaml"])),
            ]
        );
    }

    #[test]
    fn what_is_not_there_is_awaited_where_the_way_ends() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (real, found) = interests(&base, &base.join("a/b.yaml"));
        assert_eq!((real, found), (None, vec![(String::new(), vec!["a".to_owned()])]));
    }

    #[test]
    fn links_that_go_round_end() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        symlink("b", base.join("a")).unwrap();
        symlink("a", base.join("b")).unwrap();
        assert_eq!(interests(&base, &base.join("a")).0, None);
    }

    #[test]
    fn a_directory_of_policies_cares_for_its_policies() {
        let interest = Interest { policies: true, ..Interest::default() };
        for (name, matters) in
            [("a.yaml", true), ("b.yml", true), ("..data", true), (".a.yaml.swp", false), ("x", false)]
        {
            assert_eq!(interest.has(OsStr::new(name)), matters, "{name}");
        }
    }
}
