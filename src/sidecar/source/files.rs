//! Reading files of bounded size, and the policies in them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::Finding;
use crate::api::document::{self, MAX_BYTES};
use crate::api::resolve::{Problem, Resolved};

/// The most files that a directory of policies may hold.
const MAX_FILES: usize = 1000;

/// Reads a regular file of at most `max` bytes.
///
/// # Errors
/// The system's, and one for what is no regular file or too long.
pub fn read(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(max as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max {
        return Err(io::Error::other(format!("longer than {max} bytes")));
    }
    Ok(bytes)
}

/// The files that a path stands for: itself, or those of the directory that end in .yaml, .yml or .json, by name;
/// hidden ones are not looked at. Nothing if it isn't there.
///
/// # Errors
/// The system's, and one for too many.
pub fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => return Ok(vec![path.to_owned()]),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        _ => {}
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if is_policy_file(&file) && !file.is_dir() {
            files.push(file);
        }
        if files.len() > MAX_FILES {
            return Err(io::Error::other(format!("more than {MAX_FILES} files")));
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a directory's file is read, by its name.
pub fn is_policy_file(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end))
}

/// Every policy below a path, with where it is from.
///
/// # Errors
/// Everything that is wrong in any of the files.
pub fn policies(path: &Path) -> Result<Vec<(String, Resolved)>, Vec<Finding>> {
    let finding = |file: &Path, message: String| Finding::new(file.display().to_string(), Problem::new("", message));
    let files = list(path).map_err(|error| vec![finding(path, format!("cannot be read: {error}"))])?;
    let (mut policies, mut findings) = (Vec::new(), Vec::new());
    for file in &files {
        match read(file, MAX_BYTES).map(String::from_utf8) {
            // Gone since it was listed: as if it had gone before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => findings.push(finding(file, format!("cannot be read: {error}"))),
            Ok(Err(_)) => findings.push(finding(file, "is no text (UTF-8)".into())),
            Ok(Ok(text)) => {
                for (origin, result) in in_text(&file.display().to_string(), &text) {
                    match result {
                        Ok(policy) => policies.push((origin, policy)),
                        Err(problems) => {
                            findings.extend(problems.into_iter().map(|problem| Finding::new(&origin, problem)))
                        }
                    }
                }
            }
        }
    }
    if findings.is_empty() { Ok(policies) } else { Err(findings) }
}

/// The policies of one text; a text without any is a mistake. Where a text holds several documents, each says which
/// one it is.
pub fn in_text(file: &str, text: &str) -> Vec<(String, Result<Resolved, Vec<Problem>>)> {
    let documents = document::read(text);
    if documents.is_empty() {
        return vec![(file.to_owned(), Err(vec![Problem::new("", "holds no policy")]))];
    }
    let several = documents.len() > 1;
    let origin = |number| if several { format!("{file} (document {number})") } else { file.to_owned() };
    documents.into_iter().map(|document| (origin(document.number), document.policy)).collect()
}
