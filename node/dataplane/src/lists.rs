//! Doubly linked lists over small integers, all memory reserved at start.
//!
//! Guarantees: every operation but iteration is constant-time; an id is in one list at most.

/// Neighbours of a node; an id in no list is its own.
#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

/// `lists` lists over the ids `0..ids`.
#[derive(Debug)]
pub(crate) struct Lists {
    /// Ids first, then one sentinel per list. The two numbers are distances from the node itself:
    /// zeros are empty lists, and memory for zeros is only taken when they change.
    links: Vec<[u32; 2]>,
    ids: u32,
}

impl Lists {
    pub(crate) fn new(ids: u32, lists: u32) -> Self {
        Self { links: vec![[0; 2]; (ids + lists) as usize], ids }
    }

    fn link(&self, node: u32) -> Link {
        let [previous, next] = self.links[node as usize];
        Link { previous: node.wrapping_add(previous), next: node.wrapping_add(next) }
    }

    fn set_previous(&mut self, node: u32, previous: u32) {
        self.links[node as usize][0] = previous.wrapping_sub(node);
    }

    fn set_next(&mut self, node: u32, next: u32) {
        self.links[node as usize][1] = next.wrapping_sub(node);
    }

    /// Takes `id` out of its list, if it is in one.
    pub(crate) fn unlink(&mut self, id: u32) {
        let Link { previous, next } = self.link(id);
        self.set_next(previous, next);
        self.set_previous(next, previous);
        self.links[id as usize] = [0; 2];
    }

    /// Moves `id` to the end of `list`.
    pub(crate) fn push_back(&mut self, list: u32, id: u32) {
        self.unlink(id);
        let sentinel = self.ids + list;
        let last = self.link(sentinel).previous;
        self.set_previous(id, last);
        self.set_next(id, sentinel);
        self.set_next(last, id);
        self.set_previous(sentinel, id);
    }

    /// Moves the whole of `source` to the end of `target`.
    pub(crate) fn append(&mut self, source: u32, target: u32) {
        let (from, to) = (self.ids + source, self.ids + target);
        let Link { previous: last, next: first } = self.link(from);
        if first == from {
            return;
        }
        let end = self.link(to).previous;
        self.set_next(end, first);
        self.set_previous(first, end);
        self.set_next(last, to);
        self.set_previous(to, last);
        self.links[from as usize] = [0; 2];
    }

    /// The first id of `list`.
    pub(crate) fn front(&self, list: u32) -> Option<u32> {
        let first = self.link(self.ids + list).next;
        (first < self.ids).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(lists: &mut Lists, list: u32) -> Vec<u32> {
        let mut ids = Vec::new();
        while let Some(id) = lists.front(list) {
            lists.unlink(id);
            ids.push(id);
        }
        ids
    }

    #[test]
    fn lists_keep_their_order() {
        let mut lists = Lists::new(6, 2);
        for id in [3, 1, 5] {
            lists.push_back(0, id);
        }
        lists.push_back(1, 0);
        lists.push_back(1, 4);
        lists.push_back(0, 3); // to the end
        lists.unlink(1);
        lists.unlink(1); // twice is once
        lists.append(0, 1);
        assert_eq!(lists.front(0), None);
        lists.append(0, 1); // nothing
        assert_eq!(drain(&mut lists, 1), [0, 4, 5, 3]);
        assert_eq!(lists.front(1), None);
    }
}
