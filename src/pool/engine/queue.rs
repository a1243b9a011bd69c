//! The line of pending requests: first come, first served; anyone may leave from the middle.
//!
//! A doubly linked list over a vector indexed by [`RequestId`], so that neither joining nor leaving
//! allocates once the vector has grown to the most that ever waited.

use std::time::{Duration, Instant};

use super::RequestId;

/// A request in line.
#[derive(Debug)]
pub(super) struct Pending<K> {
    /// What its connection must have been opened with.
    pub key: K,
    /// When it came.
    pub since: Instant,
    /// How long it may wait.
    pub timeout: Duration,
}

impl<K> Pending<K> {
    /// When its wait is over.
    pub fn deadline(&self) -> Instant {
        self.since + self.timeout
    }
}

#[derive(Debug)]
struct Node<K> {
    pending: Pending<K>,
    before: Option<RequestId>,
    after: Option<RequestId>,
}

/// The line.
#[derive(Debug)]
pub(super) struct Queue<K> {
    nodes: Vec<Option<Node<K>>>,
    first: Option<RequestId>,
    last: Option<RequestId>,
    len: u32,
}

impl<K> Queue<K> {
    pub fn new() -> Self {
        Self { nodes: Vec::new(), first: None, last: None, len: 0 }
    }

    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn first(&self) -> Option<RequestId> {
        self.first
    }

    /// Who comes after `id`.
    pub fn after(&self, id: RequestId) -> Option<RequestId> {
        self.node(id)?.after
    }

    pub fn get(&self, id: RequestId) -> Option<&Pending<K>> {
        self.node(id).map(|node| &node.pending)
    }

    pub fn push_back(&mut self, id: RequestId, pending: Pending<K>) {
        let before = self.last;
        self.put(id, Node { pending, before, after: None });
    }

    pub fn push_front(&mut self, id: RequestId, pending: Pending<K>) {
        let after = self.first;
        self.put(id, Node { pending, before: None, after });
    }

    /// Takes `id` out of the line, if it is in it.
    pub fn remove(&mut self, id: RequestId) -> Option<Pending<K>> {
        let Node { pending, before, after } = self.nodes.get_mut(id.0 as usize)?.take()?;
        match before {
            Some(before) => self.set_after(before, after),
            None => self.first = after,
        }
        match after {
            Some(after) => self.set_before(after, before),
            None => self.last = before,
        }
        self.len -= 1;
        Some(pending)
    }

    fn put(&mut self, id: RequestId, node: Node<K>) {
        let index = id.0 as usize;
        if self.nodes.len() <= index {
            self.nodes.resize_with(index + 1, || None);
        }
        debug_assert!(self.nodes[index].is_none(), "{id:?} is in line already");
        match node.before {
            Some(before) => self.set_after(before, Some(id)),
            None => self.first = Some(id),
        }
        match node.after {
            Some(after) => self.set_before(after, Some(id)),
            None => self.last = Some(id),
        }
        self.nodes[index] = Some(node);
        self.len += 1;
    }

    fn node(&self, id: RequestId) -> Option<&Node<K>> {
        self.nodes.get(id.0 as usize)?.as_ref()
    }

    fn set_after(&mut self, id: RequestId, after: Option<RequestId>) {
        if let Some(Some(node)) = self.nodes.get_mut(id.0 as usize) {
            node.after = after;
        }
    }

    fn set_before(&mut self, id: RequestId, before: Option<RequestId>) {
        if let Some(Some(node)) = self.nodes.get_mut(id.0 as usize) {
            node.before = before;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(key: u32) -> Pending<u32> {
        Pending { key, since: Instant::now(), timeout: Duration::ZERO }
    }

    fn line(queue: &Queue<u32>) -> Vec<u32> {
        let ids: Vec<_> = std::iter::successors(queue.first(), |id| queue.after(*id)).map(|id| id.0).collect();
        assert_eq!(ids.len(), queue.len() as usize);
        assert_eq!(queue.is_empty(), ids.is_empty());
        ids
    }

    #[test]
    fn first_come_first_served_and_anyone_may_leave() {
        let mut queue = Queue::new();
        for id in [3, 0, 7, 5] {
            queue.push_back(RequestId(id), pending(id));
        }
        assert_eq!(line(&queue), [3, 0, 7, 5]);
        queue.push_front(RequestId(1), pending(1));
        assert_eq!(line(&queue), [1, 3, 0, 7, 5]);
        assert_eq!(queue.remove(RequestId(0)).map(|p| p.key), Some(0), "from the middle");
        assert_eq!(line(&queue), [1, 3, 7, 5]);
        assert!(queue.remove(RequestId(0)).is_none(), "twice");
        assert!(queue.remove(RequestId(99)).is_none(), "never there");
        queue.remove(RequestId(1));
        queue.remove(RequestId(5));
        assert_eq!(line(&queue), [3, 7]);
        queue.push_back(RequestId(0), pending(10));
        assert_eq!(line(&queue), [3, 7, 0]);
        assert_eq!(queue.get(RequestId(0)).map(|p| p.key), Some(10));
        for id in [7, 3, 0] {
            queue.remove(RequestId(id));
        }
        assert_eq!(line(&queue), [] as [u32; 0]);
        queue.push_front(RequestId(2), pending(2));
        queue.push_back(RequestId(4), pending(4));
        assert_eq!(line(&queue), [2, 4]);
    }
}
