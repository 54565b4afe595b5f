//! The paths of a route's gates as one tree, so that a document is walked once whatever the number of gates.

use model::policy::{FieldPath, FieldStep};

/// A place in the tree.
pub(crate) type Place = u16;
/// The place of a document's outermost value.
pub(crate) const ROOT: Place = 0;

/// Paths, each belonging to one of at most 32 gates; a set of gates is the bits of a word.
#[derive(Debug)]
pub(crate) struct Paths(Vec<Node>);

#[derive(Debug, Default)]
struct Node {
    /// Sorted.
    names: Vec<(Vec<u8>, Place)>,
    any_name: Option<Place>,
    any_element: Option<Place>,
    /// Gates with a path that ends here.
    ends: u32,
    /// Gates with a path that goes on from here.
    below: u32,
}

/// What a member's name or an element leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Match {
    /// A path ends here, of one of these gates.
    Ends(u32),
    /// Paths may end further in, at the places added.
    Below,
    /// No path comes here.
    Nothing,
}

impl Paths {
    /// From paths with the number of their gate (0 to 31); `spell` is done to names, as it is to those of documents.
    pub(crate) fn new<'a>(
        paths: impl IntoIterator<Item = (usize, &'a FieldPath)>,
        spell: impl Fn(&str) -> String,
    ) -> Self {
        let mut tree = Self(vec![Node::default()]);
        for (gate, path) in paths {
            let bit = 1u32 << (gate % 32);
            let mut at = ROOT;
            for step in path.steps() {
                tree.node(at).below |= bit;
                at = tree.child(at, step, &spell);
            }
            tree.node(at).ends |= bit;
        }
        tree
    }

    fn node(&mut self, at: Place) -> &mut Node {
        &mut self.0[usize::from(at)]
    }

    fn child(&mut self, at: Place, step: &FieldStep, spell: &impl Fn(&str) -> String) -> Place {
        // The catalogue bounds gates, paths and steps so that places fit.
        let next = Place::try_from(self.0.len()).unwrap_or(Place::MAX);
        let node = self.node(at);
        let place = match step {
            FieldStep::AnyName => *node.any_name.get_or_insert(next),
            FieldStep::AnyElement => *node.any_element.get_or_insert(next),
            FieldStep::Name(name) => {
                let name = spell(name).into_bytes();
                match node.names.binary_search_by(|(n, _)| n.cmp(&name)) {
                    Ok(found) => node.names[found].1,
                    Err(room) => {
                        node.names.insert(room, (name, next));
                        next
                    }
                }
            }
        };
        if place == next {
            self.0.push(Node::default());
        }
        place
    }

    fn get(&self, at: Place) -> Option<&Node> {
        self.0.get(usize::from(at))
    }

    /// Whether a path of `gates` goes on from one of the places into an object or an array.
    pub(crate) fn enter(&self, places: &[Place], gates: u32, object: bool) -> bool {
        let step = |n: &Node| match object {
            true => n.any_name.is_some() || !n.names.is_empty(),
            false => n.any_element.is_some(),
        };
        let nodes = places.iter().filter_map(|p| self.get(*p));
        nodes.into_iter().any(|n| n.below & gates != 0 && step(n))
    }

    /// What a member's name leads to from the places; further places are added to `found`.
    pub(crate) fn name(&self, from: &[Place], name: &[u8], gates: u32, found: &mut Vec<Place>) -> Match {
        let nodes = from.iter().filter_map(|p| self.get(*p));
        let by_name = |n: &Node| {
            let found = n.names.binary_search_by(|(own, _)| own.as_slice().cmp(name)).ok()?;
            n.names.get(found).map(|(_, place)| *place)
        };
        let places = nodes.flat_map(|n| n.any_name.into_iter().chain(by_name(n)));
        self.reach(places, gates, found)
    }

    /// What an element leads to from the places; further places are added to `found`.
    pub(crate) fn element(&self, from: &[Place], gates: u32, found: &mut Vec<Place>) -> Match {
        let nodes = from.iter().filter_map(|p| self.get(*p));
        self.reach(nodes.filter_map(|n| n.any_element), gates, found)
    }

    fn reach(&self, places: impl Iterator<Item = Place>, gates: u32, found: &mut Vec<Place>) -> Match {
        let mut ends = 0;
        let before = found.len();
        for place in places {
            let Some(node) = self.get(place) else { continue };
            ends |= node.ends & gates;
            if node.below & gates != 0 {
                found.push(place);
            }
        }
        match (ends, found.len() > before) {
            (0, true) => Match::Below,
            (0, false) => Match::Nothing,
            _ => Match::Ends(ends),
        }
    }
}
