//! What is seen to be defined, on one server's connection.

use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use super::Catalog;
use crate::pg::session::catalog::{brings_code, defines};

/// Sees on one server's connection what defines something.
#[derive(Debug)]
pub struct Witness {
    catalog: Arc<Catalog>,
    /// Something was defined in the transaction that is open.
    open: bool,
    /// Code was.
    code: bool,
}

impl Witness {
    /// For one connection.
    pub fn new(catalog: Arc<Catalog>) -> Self {
        Self { catalog, open: false, code: false }
    }

    /// A statement has completed; `body` is CommandComplete's. What it defined is not visible to others yet.
    #[inline]
    pub fn completed(&mut self, body: &[u8]) {
        let tag = body.strip_suffix(b"\0").unwrap_or(body);
        if !defines(tag) {
            return;
        }
        if brings_code(tag) {
            // Until the catalog says whether a scrub undoes what it does, and how connections to elsewhere are ended.
            self.code = true;
            self.catalog.code.fetch_add(1, Release);
        }
        if !std::mem::replace(&mut self.open, true) {
            self.catalog.state.opened();
        }
        self.catalog.tell_others(self.code);
    }

    /// No transaction is open any more: what was defined is visible, or gone.
    /// True if something was.
    #[inline]
    pub fn ended(&mut self) -> bool {
        let open = std::mem::take(&mut self.open);
        if open {
            let code = std::mem::take(&mut self.code);
            if code {
                // What a reading has not seen yet is there for all from now on.
                self.catalog.code.fetch_add(1, Release);
            }
            self.catalog.state.ended();
            self.catalog.wake.notify_one();
            self.catalog.tell_others(code);
        }
        open
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.ended();
    }
}
