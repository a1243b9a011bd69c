//! The pool engine.
