//! Paths by their segments. Looking one up asks every pattern that fits, the narrowest first, until one is taken.

use model::policy::Segment;

/// A tree of path patterns, each with what lies at it.
#[derive(Debug)]
pub(super) struct Tree<T> {
    /// By the next segment, sorted.
    plain: Vec<(Box<str>, Tree<T>)>,
    parameter: Option<Box<Tree<T>>>,
    /// What takes everything from here on.
    rest: Vec<T>,
    /// What ends here.
    here: Vec<T>,
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self {
            plain: Vec::new(),
            parameter: None,
            rest: Vec::new(),
            here: Vec::new(),
        }
    }
}

impl<T> Tree<T> {
    /// Adds something at a pattern.
    pub(super) fn insert(&mut self, path: &[Segment], value: T) {
        match path {
            [] => self.here.push(value),
            [Segment::Rest(_), ..] => self.rest.push(value),
            [Segment::Parameter(_), then @ ..] => self.parameter.get_or_insert_default().insert(then, value),
            [Segment::Plain(text), then @ ..] => {
                let place = match self.plain.binary_search_by(|(t, _)| (**t).cmp(text)) {
                    Ok(place) => place,
                    Err(place) => {
                        self.plain.insert(place, (text.as_str().into(), Self::default()));
                        place
                    }
                };
                self.plain[place].1.insert(then, value);
            }
        }
    }

    /// Puts what lies at each pattern in order.
    pub(super) fn sort_by_key<K: Ord>(&mut self, key: &impl Fn(&T) -> K) {
        self.rest.sort_by_key(key);
        self.here.sort_by_key(key);
        let below = self.plain.iter_mut().map(|(_, tree)| tree);
        for tree in below.chain(self.parameter.as_deref_mut()) {
            tree.sort_by_key(key);
        }
    }

    /// The first thing taken of all that fit the path: plain segments before parameters, parameters before a rest. A
    /// path has one way to each node, so no node is visited twice.
    pub(super) fn find<R>(&self, path: &str, take: &mut impl FnMut(&T) -> Option<R>) -> Option<R> {
        self.walk(Some(path.strip_prefix('/')?), take)
    }

    /// `left` is what follows the last slash; none behind the last segment.
    fn walk<R>(&self, left: Option<&str>, take: &mut impl FnMut(&T) -> Option<R>) -> Option<R> {
        let Some(left) = left else {
            return self.here.iter().find_map(take);
        };
        let (segment, then) = match left.split_once('/') {
            Some((segment, then)) => (segment, Some(then)),
            None => (left, None),
        };
        if let Ok(place) = self.plain.binary_search_by(|(t, _)| (**t).cmp(segment))
            && let Some(found) = self.plain[place].1.walk(then, take)
        {
            return Some(found);
        }
        if let Some(tree) = self.parameter.as_deref().filter(|_| !segment.is_empty())
            && let Some(found) = tree.walk(then, take)
        {
            return Some(found);
        }
        self.rest.iter().filter(|_| !left.is_empty()).find_map(take)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::policy::segments;
    use proptest::prelude::*;

    fn fits(pattern: &[Segment], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            ([Segment::Rest(_)], [..]) => path.iter().any(|p| !p.is_empty()),
            ([Segment::Parameter(_), p @ ..], [one, rest @ ..]) => !one.is_empty() && fits(p, rest),
            ([Segment::Plain(text), p @ ..], [one, rest @ ..]) => text == one && fits(p, rest),
            _ => false,
        }
    }

    proptest! {
        /// Every pattern that fits is asked, narrower ones first, and no other.
        #[test]
        fn all_that_fit_are_asked_in_order(
            patterns in proptest::collection::btree_set("(/(a|b|\\{x\\})){1,3}(/\\{\\*r\\})?", 1..12),
            path in "(/[abc]){1,4}/?",
        ) {
            let named = |p: &String| p.split('/').enumerate().map(|(i, s)| s.replace('x', &format!("x{i}"))).collect::<Vec<_>>().join("/");
            let patterns: Vec<Vec<Segment>> = patterns.iter().map(|p| segments(&named(p)).unwrap()).collect();
            let mut tree = Tree::default();
            for (i, pattern) in patterns.iter().enumerate() {
                tree.insert(pattern, i);
            }
            let mut asked = Vec::new();
            let taken: Option<()> = tree.find(&path, &mut |i| { asked.push(*i); None });
            prop_assert!(taken.is_none());
            let parts: Vec<&str> = path[1..].split('/').collect();
            let mut expected: Vec<usize> = (0..patterns.len()).filter(|i| fits(&patterns[*i], &parts)).collect();
            let rank = |s: &Segment| match s { Segment::Plain(_) => 0, Segment::Parameter(_) => 1, Segment::Rest(_) => 2 };
            expected.sort_by_key(|i| patterns[*i].iter().map(rank).collect::<Vec<_>>());
            prop_assert_eq!(asked, expected);
        }
    }
}
