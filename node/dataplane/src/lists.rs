//! Doubly linked lists over small integers, all memory reserved at start.
//!
//! Guarantees: every operation but iteration is constant-time; an id is in one list at most.

/// No node: an id in no list points at itself.
#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

/// `lists` lists over the ids `0..ids`.
#[derive(Debug)]
pub(crate) struct Lists {
    /// Ids first, then one sentinel per list.
    links: Vec<Link>,
    ids: u32,
}

impl Lists {
    pub(crate) fn new(ids: u32, lists: u32) -> Self {
        let links = (0..ids + lists).map(|node| Link { previous: node, next: node }).collect();
        Self { links, ids }
    }

    /// Takes `id` out of its list, if it is in one.
    pub(crate) fn unlink(&mut self, id: u32) {
        let Link { previous, next } = self.links[id as usize];
        self.links[previous as usize].next = next;
        self.links[next as usize].previous = previous;
        self.links[id as usize] = Link { previous: id, next: id };
    }

    /// Moves `id` to the end of `list`.
    pub(crate) fn push_back(&mut self, list: u32, id: u32) {
        self.unlink(id);
        let sentinel = self.ids + list;
        let last = self.links[sentinel as usize].previous;
        self.links[id as usize] = Link { previous: last, next: sentinel };
        self.links[last as usize].next = id;
        self.links[sentinel as usize].previous = id;
    }

    /// Moves the whole of `source` to the end of `target`.
    pub(crate) fn append(&mut self, source: u32, target: u32) {
        let (from, to) = (self.ids + source, self.ids + target);
        let Link { previous: last, next: first } = self.links[from as usize];
        if first == from {
            return;
        }
        let end = self.links[to as usize].previous;
        self.links[end as usize].next = first;
        self.links[first as usize].previous = end;
        self.links[last as usize].next = to;
        self.links[to as usize].previous = last;
        self.links[from as usize] = Link { previous: from, next: from };
    }

    /// The first id of `list`.
    pub(crate) fn front(&self, list: u32) -> Option<u32> {
        let first = self.links[(self.ids + list) as usize].next;
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
