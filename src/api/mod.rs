//! What a user writes: the `DbPoolPolicy`, and its one resolution into engine values.

pub mod annotations;
mod cel;
pub mod conditions;
pub mod document;
pub mod duration;
pub mod percent;
pub mod resolve;
pub mod schema;
pub mod v1alpha1;
