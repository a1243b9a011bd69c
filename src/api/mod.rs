//! What a user writes: the `DbPoolPolicy`, and its one resolution into engine values.

pub mod resolve;
pub mod v1alpha1;
