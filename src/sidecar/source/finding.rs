//! What is wrong with a configuration, and where.

use std::fmt;

use crate::api::resolve::Problem;
use crate::contract::ReferenceState;

/// A problem and where it was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, `environment`, or `operator` and the policy's name.
    pub file: String,
    /// What is wrong there.
    pub problem: Problem,
    /// Of which kind that is.
    pub fault: Fault,
}

/// What kind of problem it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The policy itself is wrong.
    #[default]
    Policy,
    /// Something that it refers to is not there or can't be used; when it is mended, the policy is taken.
    Reference {
        /// What is wrong with it.
        state: ReferenceState,
        /// Whether the Secret has a directory; a running pod never gets another one.
        mounted: bool,
    },
}

impl Finding {
    /// A policy is wrong.
    pub fn new(file: impl Into<String>, problem: Problem) -> Self {
        Self { file: file.into(), problem, fault: Fault::Policy }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.problem)
    }
}
